r"""Relation Networks: Sung, Yang, Zhang, Xiang, Torr, Hospedales, "Learning to Compare: Relation
Network for Few-Shot Learning", CVPR 2018, arXiv 1711.06025.

.. math::

  r_{k}(x) = g\Big(\Big[\sum_{i \in S_k} f(x_i), \; f(x)\Big]\Big), \quad
  \text{loss} = \text{mean}_{x, k} \, (r_k(x) - 1[y = k])^2

(equations 1 and 2): embeddings are *summed* over the shots of a class, concatenated in depth with
the query's, and a learned module gives a score in (0, 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks import check_model
from metajax.losses import match_error
from metajax.metric import class_sums
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Key, Learner, Model, Params


class RelationParams(NamedTuple):
    """Parameters of both modules of a relation network."""

    encoder: Params
    relation: Params


def relation_network(
    encoder: Model,
    relation: Model,
    *,
    ways: int | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Relation networks (Sung et al. 2018).

    The learner's parameters are `RelationParams`. Published training: Adam at 1e-3, halved every
    100,000 episodes, each module's gradient clipped at norm 0.5, one episode a step; Omniglot 5-way
    with 19 (1-shot) or 15 (5-shot) queries a class.

    Args:
      encoder: a model with outputs `[items, ..., channels]`, feature maps as a rule; published as
        `metajax.models.relation_encoder()`.
      relation: a model from `[pairs, ..., 2 channels]` to `[pairs, 1]`, before the sigmoid,
        which is applied here; published as `metajax.models.relation_module()`.
      ways: number of classes; static. None takes as many as there are support items, the most
        possible, and the relation module runs for all of them: pass it with more than one shot.
      query_batching: which items share a batch in the encoder; see `metajax.apply_queries`.
        Published: support and query each in a batch of their own. In the relation module all
        pairs of an episode share one; under `"single"` the pairs of one query.

    Returns:
      A `Learner`. Its outputs are scores `[queries, ways]` in (0, 1), and `-inf` for classes
      without support items.

    Raises:
      TypeError: `encoder` or `relation` is not a `Model`.
      ValueError: `query_batching` is unknown. From the learner's functions: a relation module whose
        output is not `[pairs, 1]`, a class without support items, labels that skip a class, or an
        episode or parameters that do not fit.
    """
    check_model(encoder, "encoder")
    check_model(relation, "relation")

    def init(key: Key, inputs: Array) -> RelationParams:
        first, second = jax.random.split(key)
        params = encoder.init(first, inputs)
        embeddings = jax.eval_shape(encoder.apply, params, inputs, None)
        pairs = jnp.zeros((1, *embeddings.shape[1:-1], 2 * embeddings.shape[-1]), embeddings.dtype)
        return RelationParams(params, relation.init(second, pairs))

    def embed(params: RelationParams, inputs: Array, weights: Array | None) -> Array:
        return encoder.apply(params.encoder, inputs, weights)

    def read(params: RelationParams, embeddings: Array, support: Examples, present: Array) -> Array:
        del params
        return class_sums(embeddings, support.targets, len(present), support.weights)[0]

    def compare(
        params: RelationParams, sums: Array, queries: Array, weights: Array | None, present: Array
    ) -> Array:
        if query_batching == "single" and len(queries) > 1:
            one = jax.vmap(lambda query: compare(params, sums, query[None], None, present)[0])
            return one(queries)
        shape = (len(queries), len(sums), *sums.shape[1:])
        pairs = jnp.concatenate(
            [jnp.broadcast_to(sums[None], shape), jnp.broadcast_to(queries[:, None], shape)],
            axis=-1,
        )
        counted = jnp.ones(len(queries), bool) if weights is None else weights > 0
        pair_weights = (counted[:, None] & present[None]).astype(queries.dtype)
        scores = relation.apply(
            params.relation, pairs.reshape(-1, *pairs.shape[2:]), pair_weights.reshape(-1)
        )
        if scores.shape != (len(queries) * len(sums), 1):
            raise ValueError(
                f"the relation module gave outputs of shape {scores.shape} for "
                f"{len(queries) * len(sums)} pairs; expected [pairs, 1]"
            )
        return jax.nn.sigmoid(scores.reshape(len(queries), len(sums)))

    return metric_learner(
        init=init,
        encoder=Model(init, embed),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=match_error,
        title=f"relation_network(ways={ways}, query_batching={query_batching!r})",
    )
