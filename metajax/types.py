"""The contract: every type that algorithms, data and training share."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from metajax import kinds
from metajax.signatures import called_by_name, takes

Array = jax.Array
Key = jax.Array
Params = Any
Task = Any
# Pytrees whose arrays share one leading axis of items.
Inputs = Any
Targets = Any
Outputs = Any
# Values that a model keeps beside its parameters, running averages say.
State = Any
LossFn = Callable[..., Array]
Sharing = Literal["none", "weighted", "batch"]
# Named arrays, and lists and dictionaries of them; see `Inspect`.
Inspection = Mapping[str, Any]


class Examples(NamedTuple):
    """One set of labelled items.

    Attributes:
      inputs: arrays `[items, ...]`: one, or a pytree of them (tokens and a mask, say).
      targets: `[items]` integer labels in `[0, ways)`, `[items, outputs]` floats, or what else the
        loss takes, a pytree too.
      weights: `[items]` finite, 0 or more; 0 marks padding, so that ways and shots may vary between
        episodes of one shape. None counts every item once. Losses, prototypes and attention weigh
        items by them; batch statistics only leave out items of weight 0.
    """

    inputs: Inputs
    targets: Targets
    weights: Array | None = None


class Episode(NamedTuple):
    """One task: adapt on `support`, be judged on `query`."""

    support: Examples
    query: Examples


class ObjectiveAux(NamedTuple):
    """What an objective's loss returns beside the loss of one set of items.

    Attributes:
      outputs: `[items, ...]` the model's outputs, or None where the objective has none (a policy,
        say).
      metrics: named arrays, scores of this set. `loss`, `query_loss`, `grad_norm`, names that end
        in `_per_step` and the fields of `train`'s records are the library's own.
    """

    outputs: Outputs | None
    metrics: Mapping[str, Array]


class Aux(NamedTuple):
    """What a learner's loss reports beside the meta-loss of one task.

    Attributes:
      outputs: `[items, ...]` the model's outputs on the query set, or None where the objective has
        none.
      metrics: named arrays. `query_loss` is always among them, then the objective's scores of the
        query set; names that end in `_per_step` are `[num_steps + 1]`, before adaptation and after
        each inner step.
    """

    outputs: Outputs | None
    metrics: Mapping[str, Array]


class Model:
    """Anything with pytree parameters, as a pair of pure functions as people write them.

    >>> import jax, metajax
    >>> model = metajax.Model(
    ...     lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 5))},
    ...     lambda params, x: x @ params["w"])

    Attributes:
      init: `(key, inputs) -> params`.
      statistics: `(params, state, inputs, weights) -> state`, see the argument; or None.
    """

    def __init__(
        self,
        init: Callable[..., Params],
        apply: Callable[..., Outputs],
        *,
        sharing: Sharing | Callable[[Params, Inputs], Sharing] | None = None,
        statistics: Callable[[Params, State, Inputs, Array | None], State] | None = None,
    ) -> None:
        """Takes the functions.

        Args:
          init: `(key, inputs) -> params`, or `(key) -> params`. Inputs are arrays `[items, ...]`,
            one or a pytree of them; only their shapes and dtypes matter here.
          apply: `(params, inputs) -> outputs`, arrays `[items, ...]`. Where it has parameters of
            these names it is given `weights`, `[items]` or None: items of weight 0 are to be left
            out of what items share; and `key`: what it draws (dropout) it draws from it, and None
            is a model that draws nothing.
          sharing: what the outputs of an item depend on beside it: on nothing of its batch
            (`"none"`), on statistics of it that leave out items of weight 0 (`"weighted"`), or on
            the whole batch, which weights do not change (`"batch"`); or the function of parameters
            and inputs that says it. None is `"weighted"` where `apply` takes `weights`, else
            `"none"`.
          statistics: how the values that a model keeps beside its parameters, the running averages
            of batch normalisation say, change with a batch, from None on; see
            `metajax.models.estimate_statistics`. None is a model without them.

        Raises:
          TypeError: a function cannot be called so, or `sharing` is `"weighted"` and `apply` takes
            no `weights`.
          ValueError: `sharing` is unknown.
        """
        self._apply = called_by_name(apply, "apply", ("params", "inputs"), ("weights", "key"))
        if sharing is None:
            sharing = "weighted" if takes(apply, "weights") else "none"
        if not callable(sharing):
            kinds.check_words(("none", "weighted", "batch"), sharing=sharing)
        if sharing == "weighted" and not takes(apply, "weights"):
            raise TypeError(
                'sharing="weighted", but apply has no parameter weights; expected one, by which it '
                'leaves out items of weight 0, or sharing="batch"'
            )
        kinds.check_optional_functions(statistics=statistics)
        self._sharing: Sharing | Callable[[Params, Inputs], Sharing] = sharing
        self.init: Callable[[Key, Inputs], Params] = _init_of(init)
        self.statistics = statistics

    def apply(
        self,
        params: Params,
        inputs: Inputs,
        weights: Array | None = None,
        key: Key | None = None,
    ) -> Outputs:
        """The outputs, arrays `[items, ...]`, of inputs `[items, ...]`.

        Args:
          params: the parameters.
          inputs: the items.
          weights: `[items]`; those of weight 0 are left out of what items share. None counts all.
          key: of what is drawn, as dropout does; None draws nothing.

        Raises:
          TypeError: inputs or weights are no arrays, or the key is none.
          ValueError: the outputs are not one an item, or there are weights and the items share
            what cannot leave any out.
        """
        kinds.check_batch(key, weights, inputs=inputs)
        if weights is not None and self._sharing == "batch":
            raise ValueError(
                "the items have weights, and the model's items see each other whatever those are; "
                "expected episodes without padding, or a model whose apply takes weights"
            )
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(inputs))
        try:
            outputs = self._apply(params, inputs, weights=weights, key=key)
        except Exception as error:
            said = [str(error), *getattr(error, "__notes__", ())]
            if not any("expected" in text.lower() for text in said):  # As the library's errors say.
                error.add_note(
                    f"The model was applied to inputs of shape {shapes}; expected [items, ...]. Is "
                    "it one item without an axis of items, inputs[None]?"
                )
            raise
        items = {leaf.shape[0] for leaf in jax.tree.leaves(inputs)}
        for leaf in jax.tree.leaves(outputs):
            if jnp.shape(leaf)[:1] not in {(count,) for count in items}:
                raise ValueError(
                    f"the model gave outputs of shape {jnp.shape(leaf)} for inputs of shape "
                    f"{shapes}; expected [items, ...] of both: is it one item without an axis of "
                    "items, inputs[None], or a model of one item, jax.vmap(model)?"
                )
        return outputs

    def within(self, part: Callable[[Params], Params]) -> "Model":
        """The same model as one of several: `apply` takes parameters of which it picks its own.

        Args:
          part: from those of the whole to the model's, such as `lambda params: params.encoder`.
        """
        kinds.check_functions(part=part)
        return Model(
            self.init,
            lambda params, inputs, weights, key: self.apply(part(params), inputs, weights, key),
            sharing=lambda params, inputs: self.sharing(part(params), inputs),
        )

    def sharing(self, params: Params, inputs: Inputs) -> Sharing:
        """What the outputs of an item depend on beside it, see `Model`."""
        return self._sharing(params, inputs) if callable(self._sharing) else self._sharing


def _init_of(init: Callable[..., Params]) -> Callable[[Key, Inputs], Params]:
    try:
        call, takes_inputs = called_by_name(init, "init", ("key", "inputs")), True
    except TypeError as error:
        try:
            call, takes_inputs = called_by_name(init, "init", ("key",)), False
        except TypeError:
            raise error from None

    def checked(key: Key, inputs: Inputs) -> Params:
        kinds.check_key(key)
        return call(key, inputs) if takes_inputs else call(key)

    return checked


class Objective:
    """A task's loss as a function of the parameters: all that a gradient-based learner needs.

    `supervised` builds one from a model and a loss function. An objective may just as well draw its
    own data with the key, as a policy-gradient objective does with its roll-outs.

    Attributes:
      init: `(key, inputs) -> params`.
      loss: `(params, examples, key, context, training=...) -> (loss, ObjectiveAux)`.
      predict: `(params, inputs, kept) -> outputs`.
      keep: `(params, support) -> kept`.
      batched: `query_batching -> Objective`, or None.
    """

    def __init__(
        self,
        init: Callable[..., Params],
        loss: Callable[..., tuple[Array, ObjectiveAux]],
        predict: Callable[[Params, Inputs, Any], Outputs],
        keep: Callable[[Params, Examples], Any] = lambda params, support: support,
        *,
        batched: Callable[[Any], "Objective"] | None = None,
    ) -> None:
        """Takes the functions.

        Args:
          init: `(key, inputs) -> params`, or `(key) -> params`.
          loss: `(params, examples, key, context) -> (loss, ObjectiveAux)`. `context` is the support
            set when `examples` are queries, None when they are the support set itself. If it has a
            parameter `training` it is given whether models are in training mode; the key says what
            is drawn, in evaluation too.
          predict: `(params, inputs, kept) -> outputs`.
          keep: what of the support set a task holds on to for `predict`; the default is all of it.
          batched: from a `query_batching`, see `apply_queries`, to the same objective under it.
            Only `diagnose` asks; None is an objective that has no such choice.

        Raises:
          TypeError: a function cannot be called so.
        """
        given = ("params", "examples", "key", "context")
        self.init: Callable[[Key, Inputs], Params] = _init_of(init)
        self.loss = called_by_name(loss, "loss", given, ("training",))
        self.predict = called_by_name(predict, "predict", ("params", "inputs", "kept"))
        self.keep = called_by_name(keep, "keep", ("params", "support"))
        named = None if batched is None else called_by_name(batched, "batched", ("batching",))
        self.batched: Callable[[Any], Objective] | None = named


class FullContext(NamedTuple):
    """Full Context Embeddings (Vinyals et al. 2016, section 2.1.2), as pure functions.

    Attributes:
      init: `key -> params`.
      support: `(params, embeddings [items, features], weights [items] or None) -> [items,
        features]`: g, in the order of the items.
      query: `(params, embeddings [queries, features], support [items, features], weights [items] or
        None) -> [queries, features]`: f, given what `support` returned.
    """

    init: Callable[[Key], Params]
    support: Callable[[Params, Array, Array | None], Array]
    query: Callable[[Params, Array, Array, Array | None], Array]


class AdaptedTask(NamedTuple):
    """A task as a gradient-based learner holds it after adaptation.

    Attributes:
      params: the adapted parameters.
      kept: what `predict` needs of the support set, see `Objective`: for most models nothing.
    """

    params: Params
    kept: Any


class Init(Protocol):
    """How a learner begins."""

    def __call__(self, key: Key, inputs: Inputs) -> Params:
        """Initial meta-parameters for inputs `[items, ...]` of this shape and dtype."""
        ...


class MetaLoss(Protocol):
    """A learner's loss of one task."""

    def __call__(
        self,
        params: Params,
        episode: Episode,
        key: Key | None = None,
        training: bool | None = None,
    ) -> tuple[Array, Aux]:
        """The meta-loss `[]`, whose gradient is the meta-gradient, and what is reported."""
        ...


class Adapt(Protocol):
    """How a learner fits one task."""

    def __call__(
        self, params: Params, support: Examples, key: Key | None = None, training: bool = False
    ) -> Task:
        """The task, arrays in a pytree."""
        ...


class Predict(Protocol):
    """How a learner uses a task."""

    def __call__(self, params: Params, task: Task, inputs: Inputs) -> Outputs:
        """The outputs `[items, ...]` for inputs `[items, ...]`, each as if asked alone."""
        ...


class Fit(Protocol):
    """A gradient learner's optimisation of one task, from meta-parameters to the task's own."""

    def __call__(
        self,
        params: Params,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        """The adapted parameters and what `observe` saw, as `InnerLoop.run` returns them."""
        ...


class Inspect(Protocol):
    """What happens within one task, for `diagnose`; models are not in training mode."""

    def __call__(self, params: Params, episode: Episode, key: Key | None = None) -> Inspection:
        """Named arrays, of which a learner gives those that it has.

        - `query_loss`, `query_accuracy`: `[num_steps + 1]`, before adaptation and after each step;
          `[1]` where there are no steps.
        - `support_loss`, `support_accuracy`: the same of the support set.
        - `gradient_norm`: by the path of a parameter leaf, `[num_steps + 1]` norms of the support
          loss's gradient.
        - `moved`: by path, `[]` booleans, whether adaptation changed the leaf.
        - `zero_gradient`: `[]`, the share of exactly zero entries of the first inner gradient.
        - `uphill`: `[]`, whether the first step went along the gradient, not against it.
        - `active_units`: a list of `[units]` booleans, one a ReLU.
        - `batchings`: by `query_batching`, `[]` the accuracy of the adapted task, or its query loss
          where there is none; empty where items do not see each other.

        Accuracies are left out where there are no classes.
        """
        ...


class Learner(NamedTuple):
    """An algorithm, as pure functions.

    Attributes:
      init: `(key, inputs [items, ...]) -> params`.
      loss: `(params, episode, key=None, training=None) -> (meta_loss, Aux)`. `jax.grad` of it is
        the meta-gradient. The key says what is drawn; whether models are in training mode, dropout
        say, `training`: None is if there is a key.
      adapt: `(params, support, key=None, training=False) -> task`: fit one task.
      predict: `(params, task, inputs [items, ...]) -> outputs`: use it. The answer for an item does
        not depend on what else is asked.
      title: what it is, with its settings; shown in its place.
      inspect: `(params, episode, key=None) -> named arrays`: what happens within one task, of which
        `diagnose` makes its report; None of a learner that does not say.
    """

    init: Init
    loss: MetaLoss
    adapt: Adapt
    predict: Predict
    title: str = "Learner(...)"
    inspect: Inspect | None = None

    def __repr__(self) -> str:
        return self.title
