r"""Relation Networks: Sung, Yang, Zhang, Xiang, Torr, Hospedales, "Learning to Compare: Relation
Network for Few-Shot Learning", CVPR 2018, arXiv 1711.06025.

.. math::

  r_{k}(x) = g\Big(\Big[\sum_{i \in S_k} f(x_i), \; f(x)\Big]\Big), \quad
  \text{loss} = \text{mean}_{x, k} \, (r_k(x) - 1[y = k])^2

(equations 1 and 2): embeddings are *summed* over the shots of a class, concatenated in depth with
the query's, and a learned module gives a score in (0, 1).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_model
from metajax.losses import match_error
from metajax.metric import class_sums
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching, apply_queries
from metajax.types import Array, Examples, Key, Learner, LossFn, Model, Params, Sharing


class RelationParams(NamedTuple):
    """Parameters of both modules of a relation network."""

    encoder: Params
    relation: Params


class RelationReading(NamedTuple):
    """What is read off a support set.

    Attributes:
      sums: `[ways, ..., channels]` of the embeddings.
      support: the embeddings `[items, ..., channels]` with their weights, for pairs that share
        statistics.
    """

    sums: Array
    support: Examples


def relation_network(
    encoder: Model,
    relation: Model,
    *,
    ways: int | None = None,
    loss_fn: LossFn = match_error,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Relation networks (Sung et al. 2018).

    The learner's parameters are `RelationParams`. Published training: one episode a step; Omniglot
    5-way with 19 (1-shot) or 15 (5-shot) queries a class; Adam at 1e-3, halved every 100,000
    episodes, each module's gradient clipped at norm 0.5 by itself:

    >>> import optax, metajax
    >>> rate = optax.exponential_decay(1e-3, 100_000, 0.5, staircase=True)
    >>> module = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate))
    >>> labels = metajax.RelationParams("encoder", "relation")
    >>> optimizer = optax.partition({"encoder": module, "relation": module}, labels)

    Args:
      encoder: a model with outputs `[items, ..., channels]`, feature maps as a rule; published as
        `metajax.models.relation_encoder()`.
      relation: a model from `[pairs, ..., 2 channels]` to `[pairs, 1]`, before the sigmoid,
        which is applied here; published as `metajax.models.relation_module()`.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items, and the relation module runs for all of them: pass it with more
        than one shot.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`.
        Published: support and query each in a batch of their own. The relation module batches the
        pairs of items and classes as the items are: under `"support"` the statistics are those of
        the support's pairs.

    Returns:
      A `Learner`. Its outputs are scores `[queries, ways]` in (0, 1), and `-inf` for classes
      without support items.

    Raises:
      TypeError: `encoder` or `relation` is not a `Model`.
      ValueError: `query_batching` is unknown. From the learner's functions: a relation module whose
        output is not `[pairs, 1]`, labels outside `[0, ways)`, a query of a class without support
        items, or an episode or parameters that do not fit.
    """
    check_model(encoder, "encoder")
    check_model(relation, "relation")

    def init(key: Key, inputs: Array) -> RelationParams:
        first, second = jax.random.split(key)
        params = encoder.init(first, inputs)
        embeddings = jax.eval_shape(encoder.apply, params, inputs, None)
        pairs = jnp.zeros((1, *embeddings.shape[1:-1], 2 * embeddings.shape[-1]), embeddings.dtype)
        return RelationParams(params, relation.init(second, pairs))

    def compare_pairs(
        given: tuple[Params, Array, Array],
        embeddings: Array,
        weights: Array | None,
        key: Key | None,
    ) -> Array:
        """Scores `[items, ways]` of embeddings, whose pairs with all classes share a batch."""
        params, sums, present = given
        items, ways = embeddings.shape[0], sums.shape[0]
        shape = (items, ways, *sums.shape[1:])
        pairs = jnp.concatenate(
            [jnp.broadcast_to(sums[None], shape), jnp.broadcast_to(embeddings[:, None], shape)],
            axis=-1,
        )
        pairs = pairs.reshape(-1, *pairs.shape[2:])
        counted = jnp.ones(items, bool) if weights is None else weights > 0
        pair_weights = (counted[:, None] & present[None]).astype(embeddings.dtype).reshape(-1)
        whole = weights is None and relation.sharing(params, pairs) == "batch"
        scores = relation.apply(params, pairs, None if whole else pair_weights, key)
        if whole:  # It would take the pairs of absent classes for others.
            scores = jnp.where(present.all(), scores, jnp.nan)
        if scores.shape != (items * ways, 1):
            raise ValueError(
                f"the relation module gave outputs of shape {scores.shape} for {items * ways} "
                "pairs; expected [pairs, 1]"
            )
        return jax.nn.sigmoid(scores.reshape(items, ways))

    def sharing(given: tuple[Params, Array, Array], embeddings: Array) -> Sharing:
        pairs = jax.eval_shape(lambda x: jnp.concatenate([x, x], axis=-1), embeddings)
        return relation.sharing(given[0], pairs)

    module = Model(relation.init, compare_pairs, sharing=sharing)

    def read(
        params: RelationParams, embeddings: Array, support: Examples, present: Array
    ) -> RelationReading:
        del params
        sums, _ = class_sums(embeddings, support.targets, present.shape[0], support.weights)
        return RelationReading(sums, Examples(embeddings, None, support.weights))

    def compare(
        params: RelationParams,
        reading: RelationReading,
        queries: Array,
        present: Array,
        weights: Array | None,
        batching: Batching,
        key: Key | None,
    ) -> Array:
        sums, support = reading
        given = (params.relation, sums, present)
        alone = batching == "support" and module.sharing(given, queries) == "none"
        context = None if alone else support
        return apply_queries(module, given, queries, weights, context, batching, key)

    return metric_learner(
        init=init,
        encoder=encoder.within(lambda params: params.encoder),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        metrics=metrics,
        loss_fn=loss_fn,
        title=f"relation_network(ways={ways}, query_batching={query_batching!r})",
    )
