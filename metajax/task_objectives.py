"""A task's loss as a function of the parameters: built from a model, or brought by the user."""

from collections.abc import Mapping

from metajax.checks import check_labels, check_metric_names, check_model, check_ways
from metajax.losses import accuracy, cross_entropy
from metajax.query_batching import Batching, apply_queries, check_batching
from metajax.types import Array, Examples, Key, LossFn, Model, Objective, ObjectiveAux, Params


def supervised(
    model: Model,
    loss_fn: LossFn = cross_entropy,
    *,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Objective:
    """The objective `loss_fn(model(inputs), targets)` of classification and regression.

    Args:
      model: the model.
      loss_fn: `(outputs, targets, weights) -> []`, such as `cross_entropy` or `squared_error`.
      metrics: scores reported beside the loss, each a function like `loss_fn`. None means
        `accuracy` for `cross_entropy` and nothing for other losses.
      query_batching: which items share a batch when queries are classified; see
        `metajax.apply_queries`. Support items always form a batch of their own.

    Returns:
      An `Objective`.

    Raises:
      TypeError: `model` is not a `Model`.
      ValueError: `query_batching` is unknown, or a metric has a name of the library's own.
    """
    check_model(model, "model")
    check_batching(query_batching)
    if metrics is None:
        metrics = {"accuracy": accuracy} if loss_fn is cross_entropy else {}
    check_metric_names([*metrics], "loss", "query_loss", "grad_norm")

    def loss(
        params: Params, examples: Examples, key: Key | None, context: Examples | None
    ) -> tuple[Array, ObjectiveAux]:
        del key
        inputs, targets, weights = examples
        outputs = apply_queries(model, params, inputs, weights, context, query_batching)
        if loss_fn is cross_entropy and outputs.ndim == 2:
            if context is None:
                check_ways(examples, outputs.shape[-1])
            else:
                check_labels(examples, outputs.shape[-1], "query")
        value = loss_fn(outputs, targets, weights)
        scores = {name: score(outputs, targets, weights) for name, score in metrics.items()}
        return value, ObjectiveAux(outputs, scores)

    def predict(params: Params, inputs: Array, context: Examples | None) -> Array:
        return apply_queries(model, params, inputs, None, context, query_batching)

    return Objective(model.init, loss, predict)


def as_objective(
    model: Model | Objective,
    loss_fn: LossFn,
    metrics: Mapping[str, LossFn] | None,
    query_batching: Batching,
    *,
    default_batching: Batching = "separate",
) -> Objective:
    """`model` itself if it is an `Objective`, else `supervised(model, ...)`.

    `default_batching` is the algorithm's own: an `Objective` that comes with another is an error.
    """
    if not isinstance(model, Objective):
        return supervised(model, loss_fn, metrics=metrics, query_batching=query_batching)
    if loss_fn is not cross_entropy or metrics is not None or query_batching != default_batching:
        raise ValueError(
            "an Objective brings its own loss, metrics and batching; drop loss_fn, metrics and "
            "query_batching, or pass a Model"
        )
    return model
