"""What learners that compare share: embed both sets, read the support set, compare the queries."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checked_learners import make_learner
from metajax.checks import (
    check_classes,
    check_optional_integers,
    check_parameters,
)
from metajax.losses import accuracy, cross_entropy
from metajax.metric import count_ways, present_classes
from metajax.query_batching import (
    Batching,
    apply_queries,
    check_batching,
    joined_weights,
    without_padding,
)
from metajax.types import Array, Aux, Episode, Examples, Key, Learner, LossFn, Model, Params


class MetricTask(NamedTuple):
    """A task as a learner that compares holds it.

    Attributes:
      support: the support set, where queries share a batch with it; else None.
      reading: what was read off the support set (prototypes, say); None where that has to wait for
        the queries, under `query_batching="joint"`.
      present: `[ways]` booleans, which classes have a support item.
    """

    support: Examples | None
    reading: Any
    present: Array


def metric_learner(
    *,
    init: Callable[[Key, Array], Params],
    encoder: Model,
    read: Callable[[Params, Array, Examples, Array], Any],
    compare: Callable[[Params, Any, Array, Array | None, Array], Array],
    ways: int | None,
    query_batching: Batching,
    support_encoder: Model | None = None,
    loss_fn: LossFn = cross_entropy,
    arrange: Callable[[Examples, Key | None], Examples] = lambda support, key: support,
    title: str = "metric_learner(...)",
) -> Learner:
    """Builds a learner that compares embedded queries with what it read off the support set.

    Args:
      init: `(key, inputs) -> params`.
      encoder: embeds items; its `apply` takes the learner's whole parameters.
      read: `(params, support embeddings, support, present) -> reading`. `present`, `[ways]`
        booleans, says which classes have a support item; its length is the number of ways.
      compare: `(params, reading, query embeddings, query weights, present) -> [queries, ways]`
        scores. Those of classes that are not present are replaced by `-inf` here.
      ways: the most ways there may be, or None.
      query_batching: which items share a batch; see `metajax.apply_queries`. Under `"joint"` the
        support set is embedded in the queries' batch, else in one of its own.
      support_encoder: embeds the support set, where it is not `encoder`.
      loss_fn: loss of the scores.
      arrange: reorders the support set with the key, before it is embedded.
      title: what the learner is, with its settings.

    Returns:
      A `Learner` whose tasks are `MetricTask`s.

    Raises:
      TypeError: a number is no integer.
      ValueError: `ways` is below 1, or `query_batching` unknown, or `"joint"` with two encoders.
    """
    check_batching(query_batching)
    check_optional_integers(1, ways=ways)
    joint = query_batching == "joint"
    if joint and support_encoder is not None:
        raise ValueError(
            'query_batching="joint" embeds both sets at once, but support and query have encoders '
            'of their own; expected "separate" or "single"'
        )

    def fit(params: Params, support: Examples, key: Key | None) -> MetricTask:
        check_parameters(jax.eval_shape(init, jax.random.key(0), support.inputs), params)
        check_classes(support, ways=ways)
        support = arrange(without_padding(support), key)
        present = present_classes(support, count_ways(support, ways))
        if joint:
            return MetricTask(support, None, present)
        embed = (support_encoder or encoder).apply
        embedded = embed(params, support.inputs, support.weights)
        kept = support if query_batching == "single" else None
        return MetricTask(kept, read(params, embedded, support, present), present)

    def classify(params: Params, task: MetricTask, queries: Array, weights: Array | None) -> Array:
        reading, embedded = pair(params, task, queries, weights)
        scores = compare(params, reading, embedded, weights, task.present)
        if scores.shape != (len(queries), len(task.present)):
            raise ValueError(
                f"compare returned scores of shape {scores.shape} for {len(queries)} queries and "
                f"{len(task.present)} ways; expected [queries, ways]"
            )
        return jnp.where(task.present[None], scores, -jnp.inf)

    def pair(
        params: Params, task: MetricTask, queries: Array, weights: Array | None
    ) -> tuple[Any, Array]:
        if not joint:
            return task.reading, apply_queries(
                encoder, params, queries, weights, task.support, query_batching
            )
        support = task.support
        assert support is not None
        both = encoder.apply(
            params,
            jnp.concatenate([support.inputs, queries]),
            joined_weights(support, weights, len(queries)),
        )
        first, second = both[: len(support.inputs)], both[len(support.inputs) :]
        return read(params, first, support, task.present), second

    def loss(params: Params, episode: Episode, key: Key | None) -> tuple[Array, Aux]:
        support, query = episode
        check_classes(support, query, ways=ways)
        query = without_padding(query)
        outputs = classify(params, fit(params, support, key), query.inputs, query.weights)
        value = loss_fn(outputs, query.targets, query.weights)
        scores = {
            "query_loss": value,
            "accuracy": accuracy(outputs, query.targets, query.weights),
        }
        return value, Aux(outputs, scores)

    def predict(params: Params, task: MetricTask, inputs: Array) -> Array:
        return classify(params, task, inputs, None)

    return make_learner(init, loss, fit, predict, title=title)
