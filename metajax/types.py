"""The contract: every type that algorithms, data and training share. Imports nothing of metajax."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Key = jax.Array
Params = Any
Task = Any
LossFn = Callable[[Array, Array, Array | None], Array]


class Examples(NamedTuple):
    """One set of labelled items.

    Attributes:
      inputs: `[items, ...]`.
      targets: `[items]` integer labels in `[0, ways)`, or `[items, outputs]` floats.
      weights: `[items]` non-negative; 0 marks padding, so that ways and shots may vary between
        episodes of one shape. None counts every item once. Losses, prototypes and attention weigh
        items by them; batch statistics only leave out items of weight 0.
    """

    inputs: Array
    targets: Array
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
      metrics: named arrays, scores of this set. `query_loss` and names that end in `_per_step` are
        the learner's own.
    """

    outputs: Array | None
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

    outputs: Array | None
    metrics: Mapping[str, Array]


class Model(NamedTuple):
    """Anything with pytree parameters, as a pair of pure functions.

    Attributes:
      init: `(key, inputs [items, ...]) -> params`. Only the shape and dtype of `inputs` matter.
      apply: `(params, inputs [items, ...], weights [items] or None) -> outputs [items, ...]`.
        `weights` matters only to models in which items share statistics: items of weight 0 are
        to be left out of them.
    """

    init: Callable[[Key, Array], Params]
    apply: Callable[[Params, Array, Array | None], Array]


class Objective(NamedTuple):
    """A task's loss as a function of the parameters: all that a gradient-based learner needs.

    `supervised` builds one from a model and a loss function. An objective may just as well draw its
    own data with the key, as a policy-gradient objective does with its roll-outs.

    Attributes:
      init: `(key, inputs) -> params`.
      loss: `(params, examples, key, context) -> (loss, ObjectiveAux)`. `context` is the support
        set when `examples` are queries, None when they are the support set itself.
      predict: `(params, inputs, context) -> outputs`.
    """

    init: Callable[[Key, Array], Params]
    loss: Callable[[Params, Examples, Key | None, Examples | None], tuple[Array, ObjectiveAux]]
    predict: Callable[[Params, Array, Examples | None], Array]


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
      support: the support set, for models in which queries share a batch with it.
    """

    params: Params
    support: Examples


class Init(Protocol):
    """How a learner begins."""

    def __call__(self, key: Key, inputs: Array) -> Params:
        """Initial meta-parameters for inputs `[items, ...]` of this shape and dtype."""
        ...


class MetaLoss(Protocol):
    """A learner's loss of one task."""

    def __call__(
        self, params: Params, episode: Episode, key: Key | None = None
    ) -> tuple[Array, Aux]:
        """The meta-loss `[]`, whose gradient is the meta-gradient, and what is reported."""
        ...


class Adapt(Protocol):
    """How a learner fits one task."""

    def __call__(self, params: Params, support: Examples, key: Key | None = None) -> Task:
        """The task, arrays in a pytree."""
        ...


class Predict(Protocol):
    """How a learner uses a task."""

    def __call__(self, params: Params, task: Task, inputs: Array) -> Array:
        """The outputs `[items, ...]` for inputs `[items, ...]`."""
        ...


class Fit(Protocol):
    """A gradient learner's optimisation of one task, from meta-parameters to the task's own."""

    def __call__(
        self,
        params: Params,
        support: Examples,
        key: Key | None,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        """The adapted parameters and what `observe` saw, as `InnerLoop.run` returns them."""
        ...


class Learner(NamedTuple):
    """An algorithm, as pure functions.

    Attributes:
      init: `(key, inputs [items, ...]) -> params`.
      loss: `(params, episode, key=None) -> (meta_loss, Aux)`. `jax.grad` of it is the
        meta-gradient.
      adapt: `(params, support, key=None) -> task`: fit one task.
      predict: `(params, task, inputs [items, ...]) -> outputs`: use it.
      title: what it is, with its settings; shown in its place.
    """

    init: Init
    loss: MetaLoss
    adapt: Adapt
    predict: Predict
    title: str = "Learner(...)"

    def __repr__(self) -> str:
        return self.title
