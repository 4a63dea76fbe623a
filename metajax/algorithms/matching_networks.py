r"""Matching Networks: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for
One Shot Learning", NIPS 2016, arXiv 1606.04080.

.. math::

  P(y \mid x, S) = \sum_i a(x, x_i) y_i, \quad
  a(x, x_i) = \text{softmax}_i(\cos(f(x), g(x_i)))

(equation 1 and section 2.1.1). The loss is the negative logarithm of P. With Full Context
Embeddings f and g also see the whole support set (section 2.1.2), see
`metajax.models.full_context`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from metajax.checks import check_embeddings, check_model, check_temperature
from metajax.metric import class_log_probabilities, cosine_similarities, log_attention
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, FullContext, Key, Learner, Model, Params


class MatchingParams(NamedTuple):
    """Parameters of a matching network that has more than one shared encoder.

    Attributes:
      encoder: of f (and g, where they are shared).
      support_encoder: of g, or None where it is f.
      full_context: of the LSTMs, or None without.
    """

    encoder: Params
    support_encoder: Params
    full_context: Params


class _Reading(NamedTuple):
    embeddings: Array
    targets: Array
    weights: Array | None


def matching_network(
    encoder: Model,
    *,
    support_encoder: Model | None = None,
    full_context: FullContext | None = None,
    similarity: Callable[[Array, Array], Array] = cosine_similarities,
    temperature: float | Array | None = None,
    ways: int | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Matching networks (Vinyals et al. 2016), with or without Full Context Embeddings.

    A cosine is bounded, so without a temperature P is too: at most 0.65 at 5-way 1-shot and 0.28 at
    20-way 1-shot. That is as published; a temperature below 1 lifts the bound.

    With Full Context Embeddings the result depends on the order of the support set. Given a key,
    `loss` and `adapt` shuffle it.

    Args:
      encoder: f, with outputs `[items, features]`.
      support_encoder: g; None shares f's. With one, or with full context, the learner's parameters
        are `MatchingParams`; otherwise they are the encoder's.
      full_context: Full Context Embeddings, from `metajax.models.full_context(features)`.
      similarity: `(queries [queries, features], support [items, features]) -> [queries, items]`;
        the cosine as published, or `metajax.metric.dot_products`.
      temperature: divides the similarities; may be traced. None is 1, as published.
      ways: number of classes; static. None takes as many as there are support items, the most
        possible; classes without items then have the log-probability `-inf`.
      query_batching: which items share a batch; see `metajax.apply_queries`.

    Returns:
      A `Learner`. Its outputs are log-probabilities `[queries, ways]`.

    Raises:
      TypeError: an encoder is not a `Model`.
      ValueError: `query_batching` is unknown, or `"joint"` with two encoders, or a known
        `temperature` is not above 0. From the learner's functions: embeddings with more than one
        feature axis or of another width than `full_context`, a class without support items, labels
        that skip a class, or an episode or parameters that do not fit.
    """
    check_model(encoder, "encoder")
    if support_encoder is not None:
        check_model(support_encoder, "support_encoder")
    check_temperature(temperature)
    wrapped = support_encoder is not None or full_context is not None

    def init(key: Key, inputs: Array) -> Params:
        if not wrapped:
            return encoder.init(key, inputs)
        first, second, third = jax.random.split(key, 3)
        return MatchingParams(
            encoder.init(first, inputs),
            None if support_encoder is None else support_encoder.init(second, inputs),
            None if full_context is None else full_context.init(third),
        )

    def embed_query(params: Params, inputs: Array, weights: Array | None) -> Array:
        return encoder.apply(params.encoder if wrapped else params, inputs, weights)

    def embed_support(params: Params, inputs: Array, weights: Array | None) -> Array:
        assert support_encoder is not None
        return support_encoder.apply(params.support_encoder, inputs, weights)

    def read(params: Params, embeddings: Array, support: Examples, present: Array) -> _Reading:
        del present
        check_embeddings(embeddings, "matching_network")
        if full_context is not None:
            embeddings = full_context.support(params.full_context, embeddings, support.weights)
        return _Reading(embeddings, support.targets, support.weights)

    def compare(
        params: Params, reading: _Reading, queries: Array, weights: Array | None, present: Array
    ) -> Array:
        del weights
        if full_context is not None:
            queries = full_context.query(
                params.full_context, queries, reading.embeddings, reading.weights
            )
        scores = similarity(queries, reading.embeddings)
        if temperature is not None:
            scores = scores / temperature
        attention = log_attention(scores, reading.weights)
        return class_log_probabilities(attention, reading.targets, len(present), reading.weights)

    def shuffle(support: Examples, key: Key | None) -> Examples:
        if full_context is None or key is None:
            return support
        order = jax.random.permutation(key, len(support.inputs))
        return jax.tree.map(lambda x: x[order], support)

    settings = f"ways={ways}, query_batching={query_batching!r}"
    if full_context is not None:
        settings += ", full_context=..."
    return metric_learner(
        init=init,
        encoder=Model(init, embed_query),
        support_encoder=None if support_encoder is None else Model(init, embed_support),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        arrange=shuffle,
        title=f"matching_network({settings})",
    )
