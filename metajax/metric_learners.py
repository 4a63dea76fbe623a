"""What learners that compare share: embed both sets, read the support set, compare the queries."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checked_learners import make_learner
from metajax.checks.labels import check_classes
from metajax.checks.numbers import check_optional_integers
from metajax.checks.objects import check_model
from metajax.checks.parameters import check_parameters
from metajax.checks.settings import check_flags, check_texts
from metajax.inspection.within_tasks import BATCHINGS, inspect_comparison
from metajax.items import count, join, take, without_padding
from metajax.keys import encoder_keys
from metajax.kinds import check_functions
from metajax.losses import accuracy, as_loss, as_scores, cross_entropy, nan_unless_labelled
from metajax.metric import count_ways, present_classes
from metajax.query_batching import (
    Batching,
    apply_queries,
    check_batching,
    joined_weights,
    kept_support,
)
from metajax.signatures import called_by_name, takes
from metajax.types import (
    Array,
    Aux,
    Episode,
    Examples,
    Inputs,
    Inspection,
    Key,
    Learner,
    LossFn,
    Model,
    Params,
)


class MetricTask(NamedTuple):
    """A task as a learner that compares holds it.

    Attributes:
      support: inputs and weights of the support set, where queries share a batch with it; else
        None.
      reading: what was read off the support set (prototypes, say).
      present: `[ways]` booleans, which classes have a support item; None where targets are numbers.
    """

    support: Examples | None
    reading: Any
    present: Array | None


def metric_learner(
    *,
    init: Callable[[Key, Inputs], Params],
    encoder: Model,
    read: Callable[[Params, Array, Examples, Any], Any],
    compare: Callable[..., Array],
    ways: int | None,
    query_batching: Batching,
    support_encoder: Model | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    regression: bool = False,
    arrange: Callable[[Examples, Key | None], Examples] = lambda support, key: support,
    title: str = "metric_learner(...)",
) -> Learner:
    """Builds a learner that compares embedded queries with what it read off the support set.

    Labels lie in `[0, ways)`, without `ways` in `[0, support items)`. Any of those classes may lack
    a support item and is masked then; no query may be of one. Where labels are known, what does not
    fit is an error. In compiled programs, the loss is not finite where a query is of such a class;
    with `ways`, it and its gradient are NaN there, and where a label of the support lies outside.

    Args:
      init: `(key, inputs) -> params`.
      encoder: embeds items; its `apply` takes the learner's whole parameters.
      read: `(params, support embeddings, support, present) -> reading`. `present`, `[ways]`
        booleans, says which classes have a support item; its length is the number of ways.
      compare: `(params, reading, query embeddings, present) -> [queries, ways]` scores. Those of
        classes that are not present are replaced by `-inf` here. Where it has parameters of these
        names it is given `weights`, of the queries or None; `batching`, how queries are to share a
        batch in a model of its own, see `apply_queries`; and `key`, of which to draw, or None.
      ways: the most ways there may be; static. None is one a support item.
      query_batching: which items share a batch; see `metajax.apply_queries`. Under `"joint"` the
        support set is embedded in the queries' batch, else in one of its own.
      support_encoder: embeds the support set, where it is not `encoder`.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      regression: take episodes too whose targets are floats, `[items, ...]`: `read` and `compare`
        get None for `present`, scores are predictions of the shape of the queries' targets, and
        there is no accuracy. Integers are labels all the same.
      arrange: reorders the support set with the key, before it is embedded.
      title: what the learner is, with its settings.

    Returns:
      A `Learner` whose tasks are `MetricTask`s.

    Raises:
      TypeError: a number is no integer, an encoder no `Model`, `regression` no bool, or a function
        cannot be called so.
      ValueError: `ways` is below 1, or `query_batching` unknown, or `"joint"` with two encoders, or
        a metric has a name of the library's own. From the learner's functions: labels that do not
        fit.
    """
    check_functions(init=init, read=read, arrange=arrange)
    check_model(encoder, "encoder")
    if support_encoder is not None:
        check_model(support_encoder, "support_encoder")
    check_texts(title=title)
    check_flags(regression=regression)
    check_batching(query_batching)
    check_optional_integers(1, ways=ways)
    if query_batching == "joint" and support_encoder is not None:
        raise ValueError(
            'query_batching="joint" embeds both sets at once, but support and query have encoders '
            'of their own; expected "separate", "single" or "support"'
        )
    given = ("params", "reading", "queries", "present")
    compared = called_by_name(compare, "compare", given, ("weights", "batching", "key"))
    loss_of = as_loss(loss_fn)
    scores_of_classes = as_scores(metrics, {"accuracy": accuracy})
    scores_of_numbers = as_scores(metrics, {})

    def check_targets(*sets: Examples) -> bool:
        """Whether targets are numbers and not the labels of classes."""
        if regression and all(_are_floats(examples.targets) for examples in sets):
            return True
        check_classes(*sets, ways=ways)
        return False

    def prepare(
        params: Params, support: Examples, key: Key | None
    ) -> tuple[Examples, Array | None]:
        """The support set as it is read, and the classes that are present."""
        check_parameters(jax.eval_shape(init, jax.random.key(0), support.inputs), params)
        numbers = check_targets(support)
        support = arrange(without_padding(support), key)
        return support, None if numbers else present_classes(support, count_ways(support, ways))

    def embed_support(params: Params, support: Examples, key: Key | None) -> Array:
        embed = (support_encoder or encoder).apply
        return embed(params, support.inputs, support.weights, key)

    def classify(
        params: Params,
        reading: Any,
        present: Array | None,
        embedded: Array,
        weights: Array | None,
        batching: Batching,
        key: Key | None,
    ) -> Array:
        scores = compared(
            params, reading, embedded, present, weights=weights, batching=batching, key=key
        )
        if present is None:
            return scores
        if scores.shape != (embedded.shape[0], present.shape[0]):
            raise ValueError(
                f"compare returned scores of shape {scores.shape} for {embedded.shape[0]} queries "
                f"and {present.shape[0]} ways; expected [queries, ways]"
            )
        return jnp.where(present[None], scores, -jnp.inf)

    def loss_under(
        batching: Batching, params: Params, episode: Episode, key: Key | None, training: bool
    ) -> tuple[Array, Aux]:
        numbers = check_targets(*episode)
        support, present = prepare(params, episode.support, key)
        query = without_padding(episode.query)
        first, second, third = encoder_keys(key if training else None)
        if batching == "joint":
            weights = joined_weights(support, query.weights, count(query.inputs))
            both = encoder.apply(params, join(support.inputs, query.inputs), weights, first)
            items = count(support.inputs)
            known, embedded = take(both, slice(items)), take(both, slice(items, None))
        else:
            known = embed_support(params, support, first)
            embedded = apply_queries(
                encoder, params, query.inputs, query.weights, support, batching, second
            )
        reading = read(params, known, support, present)
        outputs = classify(params, reading, present, embedded, query.weights, batching, third)
        value = loss_of(outputs, query.targets, query.weights)
        if ways is not None and present is not None:
            value = nan_unless_labelled(value, present, support, query)
        scores_of = scores_of_numbers if numbers else scores_of_classes
        scores = scores_of(outputs, query.targets, query.weights)
        return value, Aux(outputs, {**scores, "query_loss": value})

    def adapt(params: Params, support: Examples, key: Key | None, training: bool) -> MetricTask:
        support, present = prepare(params, support, key)
        known = embed_support(params, support, encoder_keys(key if training else None)[0])
        kept = kept_support(encoder, params, support)
        return MetricTask(kept, read(params, known, support, present), present)

    def predict(params: Params, task: MetricTask, inputs: Inputs) -> Array:
        embedded = apply_queries(encoder, params, inputs, None, task.support, "support")
        return classify(params, task.reading, task.present, embedded, None, "support", None)

    def inspect(params: Params, episode: Episode, key: Key | None) -> Inspection:
        support = prepare(params, episode.support, key)[0]
        batchings: tuple[Batching, ...] = BATCHINGS
        if kept_support(encoder, params, support) is None and not takes(compare, "batching"):
            batchings = ()
        elif support_encoder is not None:
            batchings = tuple(name for name in BATCHINGS if name != "joint")
        return inspect_comparison(
            lambda batching: loss_under(batching, params, episode, key, False),
            without_padding(episode.query),
            query_batching,
            batchings,
            None if query_batching == "joint" else lambda: embed_support(params, support, None),
        )

    loss = partial(loss_under, query_batching)
    return make_learner(
        init, loss, adapt, predict, title=title, task_kind=MetricTask, inspect=inspect
    )


def _are_floats(targets: Any) -> bool:
    dtype = getattr(targets, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)
