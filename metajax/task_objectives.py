"""A task's loss as a function of the parameters: built from a model, or brought by the user."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from metajax.checks.labels import check_labels, is_labels
from metajax.checks.numbers import check_optional_integers
from metajax.checks.objects import check_model
from metajax.losses import (
    accuracy,
    as_loss,
    as_scores,
    cross_entropy,
    is_classification,
    nan_unless_labelled,
)
from metajax.query_batching import Batching, apply_queries, check_batching, kept_support
from metajax.types import (
    Array,
    Examples,
    Inputs,
    Key,
    LossFn,
    Model,
    Objective,
    ObjectiveAux,
    Outputs,
    Params,
    Targets,
)


def supervised(
    model: Model,
    loss_fn: LossFn = cross_entropy,
    *,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    ways: int | None = None,
) -> Objective:
    """The objective `loss_fn(model(inputs), targets)` of classification and regression.

    Where there are classes, an episode may lack some, in either set, and is trained on. A label
    outside `[0, outputs)` is an error where labels are known; in compiled programs see
    `cross_entropy` and `ways`.

    Args:
      model: the model.
      loss_fn: `(outputs, targets) -> [items, ...]`, one value an item, of which the mean by the
        items' weights is taken, such as optax's losses; `(outputs, targets, weights) -> []`, such
        as `cross_entropy` or `squared_error`; or, for episodes without weights,
        `(outputs, targets) -> []`.
      metrics: scores reported beside the loss, each a function like `loss_fn`; for a loss of logits
        and integer labels, `accuracy` is among them anyway.
      query_batching: which items share a batch when the loss of queries is taken; see
        `metajax.apply_queries`. Support items always form a batch of their own, and `predict`
        answers each query on its own.
      ways: number of classes, where there are classes. Then a model of another number of outputs is
        an error, in compiled programs too, and there the query loss of an episode is NaN if a label
        of its support set lies outside `[0, ways)`, not only if one of its query set does.

    Returns:
      An `Objective`.

    Raises:
      TypeError: `model` is not a `Model`, a function cannot be called so, or `ways` no integer.
      ValueError: `query_batching` is unknown, `ways` below 1, or a metric has a name of the
        library's own.
    """
    check_model(model, "model")
    check_batching(query_batching)
    check_optional_integers(1, ways=ways)
    classifies = is_classification(loss_fn)
    loss_of = as_loss(loss_fn)
    scores_of = as_scores(metrics, {"accuracy": accuracy} if classifies else {})

    def loss(
        params: Params,
        examples: Examples,
        key: Key | None,
        context: Examples | None,
        training: bool = False,
    ) -> tuple[Array, ObjectiveAux]:
        inputs, targets, weights = examples
        drawn = key if training else None
        outputs = apply_queries(model, params, inputs, weights, context, query_batching, drawn)
        if classifies and not hasattr(outputs, "ndim"):
            raise ValueError(
                f"the model gave a {type(outputs).__name__}; expected the logits [items, ways] "
                "alone: a module that returns no more, or a loss_fn of all that it returns"
            )
        if ways is not None:
            _check_width(outputs, targets, ways)
        if classifies and outputs.ndim == 2:
            check_labels(examples, outputs.shape[-1], "support" if context is None else "query")
        value = loss_of(outputs, targets, weights)
        if ways is not None and context is not None:
            value = nan_unless_labelled(value, jnp.ones(ways, bool), context, examples)
        return value, ObjectiveAux(outputs, scores_of(outputs, targets, weights))

    def predict(params: Params, inputs: Inputs, kept: Examples | None) -> Outputs:
        return apply_queries(model, params, inputs, None, kept, "support")

    return Objective(
        model.init,
        loss,
        predict,
        lambda params, support: kept_support(model, params, support),
        batched=lambda batching: supervised(
            model, loss_fn, metrics=metrics, query_batching=batching, ways=ways
        ),
    )


def as_objective(
    model: Model | Objective,
    loss_fn: LossFn,
    metrics: Mapping[str, LossFn] | None,
    query_batching: Batching,
    ways: int | None,
    *,
    default_batching: Batching = "separate",
) -> Objective:
    """`model` itself if it is an `Objective`, else `supervised(model, ...)`.

    `default_batching` is the algorithm's own: an `Objective` that comes with another is an error.
    """
    if not isinstance(model, Objective):
        return supervised(model, loss_fn, metrics=metrics, query_batching=query_batching, ways=ways)
    given = (metrics, ways, query_batching) != (None, None, default_batching)
    if loss_fn is not cross_entropy or given:
        raise ValueError(
            "an Objective brings its own loss, metrics, batching and ways; drop loss_fn, metrics, "
            "query_batching and ways, or pass a Model"
        )
    return model


def _check_width(outputs: Outputs, targets: Targets, ways: int) -> None:
    """Raises unless there is one output a way, and one integer label an item."""
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[-1] != ways:
        raise ValueError(
            f"the model gave outputs of shape {shape} with ways={ways}; expected [items, {ways}], "
            "one output a way"
        )
    if not is_labels(targets):
        shown = jax.tree.map(lambda x: f"{x.dtype}{[*x.shape]}", targets)
        raise ValueError(
            f"targets are {shown} with ways={ways}; expected [items] integer labels: "
            "leave ways out where there are no classes"
        )
