r"""SimpleShot: Wang, Chao, Weinberger, van der Maaten, "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", arXiv 1911.04623, 2019.

.. math::

  z(x) = \frac{f(x) - m}{\|f(x) - m\|}, \quad
  c_k = \frac{1}{|S_k|} \sum_{i \in S_k} z(x_i), \quad
  \text{logit}_k(x) = -\|z(x) - c_k\|^2,

m being the mean of the features of the *training* classes: what all images have in common tells no
classes apart (the paper's "CL2N"). The paper takes the nearest mean, for which the square of the
distance does not matter; with it the logits are those of prototypical networks of the features z.
"""

from collections.abc import Mapping

from metajax.checks.episodes import check_embeddings
from metajax.checks.objects import check_model
from metajax.checks.settings import check_flags
from metajax.losses import cross_entropy
from metajax.metric import as_mean, centred_features, prototypes, squared_distances
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Learner, LossFn, Model, Params


def nearest_class_mean(
    encoder: Model,
    *,
    mean: Array | None = None,
    unit: bool = True,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """The nearest mean of centred features of unit length (SimpleShot, Wang et al. 2019).

    The learner's parameters are the encoder's. The paper trains the network as a classifier of the
    training classes and learns nothing else. Squared distances of unit vectors lie between 0 and 4,
    so that probabilities are flat: calibrate them before they are read as such.

    Args:
      encoder: a model with outputs `[items, features]`.
      mean: `[features]`, finite: what is taken from every embedding, the mean of the *training*
        classes' features and not of those at hand. None takes nothing ("L2N").
      unit: bring embeddings to length 1; static. Without it and a mean this is
        `metajax.prototypical_network`.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items; classes without items have the logit `-inf`.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`; a task's `reading` is the class means
      `[ways, features]`, which are not of unit length.

    Raises:
      TypeError: `encoder` is not a `Model`, `mean` no array, or `unit` no bool.
      ValueError: `mean` is not one finite number a feature, or `query_batching` unknown. From the
        learner's functions: embeddings of another width than `mean` or with more than one feature
        axis, labels outside `[0, ways)`, a query of a class without support items, or an episode or
        parameters that do not fit the encoder.
    """
    check_model(encoder, "encoder")
    check_flags(unit=unit)
    common = None if mean is None else as_mean(mean)

    def read(params: Params, embeddings: Array, support: Examples, present: Array) -> Array:
        del params
        check_embeddings(embeddings, "nearest_class_mean")
        points = centred_features(embeddings, common, unit)
        return prototypes(points, support.targets, present.shape[0], support.weights)

    def compare(params: Params, centres: Array, queries: Array, present: Array) -> Array:
        del params, present
        return -squared_distances(centred_features(queries, common, unit), centres)

    centred = "..." if mean is not None else None
    return metric_learner(
        init=encoder.init,
        encoder=encoder,
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        title=f"nearest_class_mean(mean={centred}, {unit=}, {ways=}, {query_batching=})",
    )
