r"""Matching Networks: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching Networks for
One Shot Learning", NIPS 2016, arXiv 1606.04080.

.. math::

  P(y \mid x, S) = \sum_i a(x, x_i) y_i, \quad
  a(x, x_i) = \text{softmax}_i(\cos(f(x), g(x_i)))

(equation 1 and section 2.1.1). The loss is the negative logarithm of P. With Full Context
Embeddings f and g also see the whole support set (section 2.1.2), see
`metajax.models.full_context`.

Code that others published divides by the length of :math:`g(x_i)` alone, which makes the attention
of :math:`|f(x)| \cos(f(x), g(x_i))`: see `normalize` of `matching_network`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax

from metajax.checks.episodes import check_embeddings
from metajax.checks.numbers import check_temperature
from metajax.checks.objects import check_instance, check_model
from metajax.items import count, take
from metajax.kinds import check_optional_functions, check_words
from metajax.losses import cross_entropy
from metajax.metric import (
    class_log_probabilities,
    cosine_similarities,
    dot_products,
    log_attention,
    unit_vectors,
)
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, FullContext, Key, Learner, LossFn, Model, Params


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


class MatchingReading(NamedTuple):
    """What is read off a support set: it itself, embedded.

    Attributes:
      embeddings: `[items, features]`, with full context where there is one.
      targets: `[items]` integer labels.
      weights: `[items]` or None.
    """

    embeddings: Array
    targets: Array
    weights: Array | None


def matching_network(
    encoder: Model,
    *,
    support_encoder: Model | None = None,
    full_context: FullContext | None = None,
    normalize: Literal["both", "support"] | None = None,
    similarity: Callable[[Array, Array], Array] | None = None,
    temperature: float | Array | None = None,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Matching networks (Vinyals et al. 2016), with or without Full Context Embeddings.

    A cosine is bounded, so without a temperature P is too: at most 0.65 at 5-way 1-shot and 0.28 at
    20-way 1-shot. That is the paper's text. `normalize="support"`, which lets a query's length
    sharpen its attention, is what the code of Meta-Dataset does ("undocumented in the paper, but
    *very important*"), and Antoniou's re-implementation, with which a user reports 93.5 % on
    Omniglot at 20-way 1-shot. With the cosine of the text, oscarknagg's (few-shot) came to 92.0,
    93.2, 75.6 and 77.8 % at 5-way 1- and 5-shot and 20-way 1- and 5-shot, where 98.1, 98.9, 93.8
    and 98.5 are published. The paper's own code is not. A temperature below 1 lifts the bound as
    well.

    With Full Context Embeddings the result depends on the order of the support set. Given a key,
    `loss` and `adapt` shuffle it.

    Args:
      encoder: f, with outputs `[items, features]`.
      support_encoder: g; None shares f's. With one, or with full context, the learner's parameters
        are `MatchingParams`; otherwise they are the encoder's.
      full_context: Full Context Embeddings, from `metajax.models.full_context(features)`.
      normalize: which embeddings are divided by their lengths before the inner product; static.
        `"both"` makes it the cosine of the paper; `"support"` leaves the queries as long as they
        are, `metajax.metric.dot_products(queries, metajax.metric.unit_vectors(support))`. With full
        context the lengths are those of the embeddings in it. None is `"both"`, or with a
        `similarity` leaves that to it.
      similarity: `(queries [queries, features], support [items, features]) -> [queries, items]`, in
        place of these, such as `metajax.metric.dot_products`; None is the inner product that
        `normalize` says.
      temperature: divides the similarities; may be traced. None is 1, as published.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items; classes without items have the log-probability `-inf`.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`.

    Returns:
      A `Learner`. Its outputs are log-probabilities `[queries, ways]`.

    Raises:
      TypeError: an encoder is not a `Model`, `full_context` no `FullContext`, `similarity` no
        function, or `temperature` no number.
      ValueError: `normalize` or `query_batching` is unknown, there are `normalize` and `similarity`
        at once, `"joint"` with two encoders, or a known `temperature` is not above 0. From the
        learner's functions: embeddings with more than one feature axis or of another width than
        `full_context`, labels outside `[0, ways)`, a query of a class without support items, or an
        episode or parameters that do not fit.
    """
    check_model(encoder, "encoder")
    if support_encoder is not None:
        check_model(support_encoder, "support_encoder")
    if full_context is not None:
        made = "what metajax.models.full_context(features) returns, or None"
        check_instance(full_context, FullContext, "full_context", made)
    check_optional_functions(similarity=similarity)
    if normalize is not None:
        check_words(("both", "support"), normalize=normalize)
        if similarity is not None:
            raise ValueError(
                f"normalize={normalize!r} with a similarity, which is given the embeddings as they "
                "are; expected one of the two (a similarity may divide by lengths with "
                "metajax.metric.unit_vectors)"
            )
    check_temperature(temperature)
    if similarity is None:
        similarity = _dot_unit_support if normalize == "support" else cosine_similarities
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

    def read(
        params: Params, embeddings: Array, support: Examples, present: Array
    ) -> MatchingReading:
        del present
        check_embeddings(embeddings, "matching_network")
        if full_context is not None:
            embeddings = full_context.support(params.full_context, embeddings, support.weights)
        return MatchingReading(embeddings, support.targets, support.weights)

    def compare(params: Params, reading: MatchingReading, queries: Array, present: Array) -> Array:
        if full_context is not None:
            queries = full_context.query(
                params.full_context, queries, reading.embeddings, reading.weights
            )
        scores = similarity(queries, reading.embeddings)
        if temperature is not None:
            scores = scores / temperature
        attention = log_attention(scores, reading.weights)
        return class_log_probabilities(
            attention, reading.targets, present.shape[0], reading.weights
        )

    def shuffle(support: Examples, key: Key | None) -> Examples:
        if full_context is None or key is None:
            return support
        return take(support, jax.random.permutation(key, count(support.inputs)))

    settings = f"ways={ways}, query_batching={query_batching!r}"
    if normalize is not None:
        settings += f", normalize={normalize!r}"
    if full_context is not None:
        settings += ", full_context=..."
    return metric_learner(
        init=init,
        encoder=encoder.within(lambda params: params.encoder) if wrapped else encoder,
        support_encoder=(
            None
            if support_encoder is None
            else support_encoder.within(lambda params: params.support_encoder)
        ),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        arrange=shuffle,
        title=f"matching_network({settings})",
    )


def _dot_unit_support(queries: Array, support: Array) -> Array:
    """`[queries, items]`: the cosine times the length of the query."""
    return dot_products(queries, unit_vectors(support))
