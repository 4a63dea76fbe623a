r"""Prototypical Networks: Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning",
NIPS 2017, arXiv 1703.05175.

.. math::

  c_k = \frac{1}{|S_k|} \sum_{i \in S_k} f(x_i), \quad
  p(y = k \mid x) = \text{softmax}_k(-\|f(x) - c_k\|^2)

(equations 1 and 2). The distance is the *squared* one; leaving the square out is another loss.
"""

from collections.abc import Callable, Mapping

from metajax.checks.episodes import check_embeddings
from metajax.checks.objects import check_model
from metajax.kinds import check_functions
from metajax.losses import cross_entropy
from metajax.metric import prototypes, squared_distances
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Learner, LossFn, Model, Params


def prototypical_network(
    encoder: Model,
    *,
    distance: Callable[[Array, Array], Array] = squared_distances,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "joint",
) -> Learner:
    """Prototypical networks (Snell et al. 2017, algorithm 1).

    The learner's parameters are the encoder's. Published training: Adam at 1e-3, halved every 2,000
    episodes, one episode a step, of more ways than at test: Omniglot 60-way with 5 queries a class,
    the four rotations being classes of their own (`rotations="classes"`); mini-ImageNet 30-way
    (1-shot) or 20-way (5-shot) with 15.

    Args:
      encoder: a model with outputs `[items, features]`; published as four blocks of 64 filters with
        max-pooling, `metajax.models.embedding_net()`.
      distance: `(points [points, features], centres [ways, features]) -> [points, ways]`;
        `metajax.metric.squared_distances` as published, or `metajax.metric.cosine_distances`.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items; classes without items have the logit `-inf`.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`. Published: support
        and query in one batch.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`.

    Raises:
      TypeError: `encoder` is not a `Model`, or `distance` no function.
      ValueError: `query_batching` is unknown. From the learner's functions: embeddings with more
        than one feature axis, labels outside `[0, ways)`, a query of a class without support items,
        or an episode or parameters that do not fit the encoder.
    """
    check_model(encoder, "encoder")
    check_functions(distance=distance)

    def read(params: Params, embeddings: Array, support: Examples, present: Array) -> Array:
        del params
        check_embeddings(embeddings, "prototypical_network")
        return prototypes(embeddings, support.targets, present.shape[0], support.weights)

    def compare(params: Params, centres: Array, queries: Array, present: Array) -> Array:
        del params, present
        return -distance(queries, centres)

    return metric_learner(
        init=encoder.init,
        encoder=encoder,
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        title=f"prototypical_network(ways={ways}, query_batching={query_batching!r})",
    )
