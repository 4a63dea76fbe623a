"""What metric-based learners are made of: class sums and means, distances, attention."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from metajax.checks.episodes import check_weights
from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.checks.settings import check_flags
from metajax.given_data import as_examples
from metajax.kinds import arrays_of, as_array, weights_of
from metajax.types import Array, Examples

__all__ = [
    "centred_features",
    "class_log_probabilities",
    "class_sums",
    "cosine_distances",
    "cosine_similarities",
    "count_ways",
    "dot_products",
    "linear_reading",
    "log_attention",
    "present_classes",
    "prototypes",
    "squared_distances",
    "unit_vectors",
]


def class_sums(
    embeddings: Array, targets: Array, ways: int, weights: Array | None = None
) -> tuple[Array, Array]:
    """Sums of the support embeddings of each class, and how many items each has.

    Args:
      embeddings: `[items, ...]`.
      targets: `[items]` integer labels in `[0, ways)`.
      ways: number of classes; static.
      weights: `[items]`; items of weight 0 are ignored. None counts every item once.

    Returns:
      `[ways, ...]` sums and `[ways]` counts. A class with no item of positive weight has zeros.
    """
    embeddings, targets, weights = _labelled("embeddings", embeddings, targets, ways, weights)
    (embeddings,) = _floats(embeddings=embeddings)
    shares = _members(targets, ways, weights).astype(embeddings.dtype)
    if weights is not None:
        shares = shares * weights[None].astype(shares.dtype)
        kept = (weights > 0).reshape(-1, *[1] * (embeddings.ndim - 1))
        embeddings = jnp.where(kept, embeddings, 0)
    sums = jnp.tensordot(shares, embeddings, axes=1, precision=lax.Precision.HIGHEST)
    return sums, shares.sum(axis=1)


def prototypes(embeddings: Array, targets: Array, ways: int, weights: Array | None = None) -> Array:
    """Class means of the support embeddings (Snell et al. 2017, eq. 1).

    Args:
      embeddings: `[items, features]`.
      targets: `[items]` integer labels in `[0, ways)`.
      ways: number of classes; static.
      weights: `[items]`; items of weight 0 are ignored. None counts every item once.

    Returns:
      `[ways, features]`. A class with no item of positive weight is a zero vector.
    """
    sums, counts = class_sums(embeddings, targets, ways, weights)
    return sums / jnp.where(counts > 0, counts, 1)[:, None]


def linear_reading(centres: Array) -> tuple[Array, Array]:
    """The linear classifier that squared distances to prototypes amount to: `W = 2c, b = -||c||^2`.

    `x @ W + b` is `-||x - c||^2` plus `||x||^2`, which is the same for every class (Snell et al.
    2017, section 2.4, eq. 8). Proto-MAML starts its head from it (Triantafillou et al. 2020).

    Args:
      centres: `[ways, features]` prototypes.

    Returns:
      `[features, ways]` weights and `[ways]` biases.
    """
    (centres,) = _floats(centres=centres)
    return 2 * centres.T, -jnp.sum(centres**2, axis=-1)


def squared_distances(points: Array, centres: Array) -> Array:
    """Squared Euclidean distances, from the differences, so that none is negative.

    Args:
      points: `[points, features]`.
      centres: `[centres, features]`.

    Returns:
      `[points, centres]`.
    """
    points, centres = _floats(points=points, centres=centres)
    return jnp.sum((points[:, None] - centres[None]) ** 2, axis=-1)


def unit_vectors(vectors: Array) -> Array:
    """Vectors brought to length 1.

    A zero vector stays one, and those shorter than 1e-12 are left as they are, with a finite
    gradient.

    Args:
      vectors: `[..., features]`.

    Returns:
      `[..., features]`.
    """
    (vectors,) = _floats(vectors=vectors)
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    # Below this the derivative of the square root overflows float32.
    return vectors * lax.rsqrt(jnp.where(squared > 1e-24, squared, 1))


def centred_features(features: Array, mean: Array | None = None, unit: bool = True) -> Array:
    """Features less a mean of many, brought to length 1.

    With the mean of the training classes' features this is the "CL2N" of SimpleShot (Wang, Chao,
    Weinberger, van der Maaten 2019, arXiv 1911.04623, section 3.2), and without a mean its "L2N".

    Args:
      features: `[..., features]`; integers are taken as floats.
      mean: `[features]`, finite; None takes nothing away.
      unit: bring to length 1, see `unit_vectors`.

    Returns:
      `[..., features]`.

    Raises:
      TypeError: features or the mean are no arrays, or `unit` is no flag.
      ValueError: the mean is not one finite number a feature.
    """
    (features,) = _floats(features=features)
    check_flags(unit=unit)
    if mean is not None:
        mean = as_mean(mean)
        if features.shape[-1:] != mean.shape:
            raise ValueError(
                f"the mean has shape {mean.shape} and features {features.shape}; expected [..., "
                f"{mean.shape[0]}] features, or the mean of features such as these"
            )
        features = features - mean.astype(features.dtype).reshape(*[1] * (features.ndim - 1), -1)
    return unit_vectors(features) if unit else features


def as_mean(mean: Array) -> Array:
    """A mean of features as an array, `[features]` floats.

    Raises:
      TypeError: it is no array.
      ValueError: it is of another rank, or known not to be finite.
    """
    (mean,) = _floats(mean=mean)
    if mean.ndim != 1:
        raise ValueError(
            f"the mean has shape {mean.shape}; expected [features], features.mean(axis=0) of many"
        )
    if isinstance(mean, Tracer):
        return mean
    known = np.asarray(mean, np.float64)  # What JAX computes of it within a program is not known.
    if not np.isfinite(known).all():
        wrong = int(np.argmin(np.isfinite(known)))
        raise ValueError(
            f"the mean is {known[wrong]} at feature {wrong}; expected finite numbers: is one of "
            "the features that it was taken of not finite?"
        )
    return mean


def cosine_similarities(points: Array, centres: Array) -> Array:
    """Cosines of the angles between vectors, in `[-1, 1]`.

    A zero vector has the cosine 0 with everything, with a finite gradient; so, all but, has one
    shorter than 1e-12.

    Args:
      points: `[points, features]`.
      centres: `[centres, features]`.

    Returns:
      `[points, centres]`.
    """
    points, centres = _floats(points=points, centres=centres)  # Errors by their own names.
    return dot_products(unit_vectors(points), unit_vectors(centres))


def cosine_distances(points: Array, centres: Array) -> Array:
    """`1 - cosine_similarities`, in `[0, 2]`.

    Args:
      points: `[points, features]`.
      centres: `[centres, features]`.

    Returns:
      `[points, centres]`.
    """
    return 1 - cosine_similarities(points, centres)


def dot_products(points: Array, centres: Array) -> Array:
    """Inner products, the linear kernel.

    Args:
      points: `[points, features]`.
      centres: `[centres, features]`.

    Returns:
      `[points, centres]`.
    """
    points, centres = _floats(points=points, centres=centres)
    return jnp.matmul(points, centres.T, precision=lax.Precision.HIGHEST)


def log_attention(scores: Array, weights: Array | None = None) -> Array:
    """Logarithm of the softmax over support items, `log (w_i exp s_i / sum_j w_j exp s_j)`.

    Args:
      scores: `[queries, items]`.
      weights: `[items]`; items of weight 0 get no attention. None weighs all alike.

    Returns:
      `[queries, items]`, `-inf` for items of weight 0.
    """
    (scores,), weights = _floats(scores=scores), weights_of(weights)
    if weights is None:
        return scores - _log_sum_exp(scores, None)
    check_weights(weights, scores.shape[1:], "weights", some=False)
    mask = (weights > 0)[None]
    scores = jnp.where(mask, scores, 0) + jnp.log(jnp.where(mask, weights[None], 1))
    return jnp.where(mask, scores - _log_sum_exp(scores, mask), -jnp.inf)


def class_log_probabilities(
    log_weights: Array, targets: Array, ways: int, weights: Array | None = None
) -> Array:
    """Attention summed over the items of each class, `log sum_i a_i [y_i = k]`.

    Args:
      log_weights: `[queries, items]` from `log_attention`.
      targets: `[items]` integer labels in `[0, ways)`.
      ways: number of classes; static.
      weights: `[items]` or None, as in `log_attention`.

    Returns:
      `[queries, ways]`, `-inf` for a class without items.
    """
    log_weights, targets, weights = _labelled(
        "log_weights", log_weights, targets, ways, weights, axis=-1
    )
    members = _members(targets, ways, weights)
    totals = _log_sum_exp(log_weights[:, None, :], members[None])[..., 0]
    return jnp.where(members.any(axis=1)[None], totals, -jnp.inf)


def lower_factor(matrix: Array) -> Array:
    """Lower Cholesky factor of a matrix that is positive definite, if need be but for rounding.

    Vectors that are alike make a Gram matrix singular, and what is added to its diagonal may be
    less than rounding is: what the errors of a factorisation come to, relative to every entry of
    the diagonal and the size of the matrix, is added to it.

    Args:
      matrix: `[size, size]` floats, symmetric.

    Returns:
      `[size, size]`.
    """
    share = matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    return jnp.linalg.cholesky(matrix + lax.stop_gradient(jnp.diag(share * jnp.diag(matrix))))


def present_classes(support: Examples, ways: int) -> Array:
    """`[ways]` booleans: which classes have a support item of positive weight."""
    check_integers(1, ways=ways)
    support = as_examples(support, "support")
    return _members(support.targets, ways, support.weights).any(axis=1)


def count_ways(support: Examples, ways: int | None) -> int:
    """`ways`, or without it the most that there can be: one class a support item."""
    check_optional_integers(1, ways=ways)
    items = as_examples(support, "support").targets.shape[0]
    return items if ways is None else ways


def _labelled(
    name: str, values: Array, targets: Array, ways: int, weights: Array | None, *, axis: int = 0
) -> tuple[Array, Array, Array | None]:
    """The arguments as arrays; `axis` of those called `name` is that of items.

    Raises:
      TypeError: one is no array, the labels are no integers, or `ways` is none.
      ValueError: `ways` is below 1, there is not one label an item, or for the weights see
        `check_weights`.
    """
    check_integers(1, ways=ways)
    values, targets = as_array(values, name), as_array(targets, "targets")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise TypeError(f"targets are {targets.dtype}; expected [items] integer labels")
    if not values.ndim or targets.shape != (values.shape[axis],):
        raise ValueError(
            f"targets have shape {targets.shape} with {name} of shape {values.shape}; expected "
            "one integer label an item"
        )
    if weights is not None:
        weights = as_array(weights, "weights")
        check_weights(weights, targets.shape, "weights", some=False)
    return values, targets, weights


def _floats(**given: Array) -> tuple[Array, ...]:
    """The arguments as floats: pixels of 8 bits would overflow, and shares of them be 0."""
    arrays = arrays_of(**given)
    return tuple(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float) for x in arrays)


def _members(targets: Array, ways: int, weights: Array | None) -> Array:
    """`[ways, items]` booleans: which items count for which class."""
    members = jnp.arange(ways)[:, None] == targets[None]
    return members if weights is None else members & (weights > 0)[None]


def _log_sum_exp(values: Array, mask: Array | None) -> Array:
    """Over the last axis, which is kept; 0 where the mask leaves nothing, with a zero gradient."""
    if mask is None:
        top = lax.stop_gradient(values.max(axis=-1, keepdims=True))
        return top + jnp.log(jnp.exp(values - top).sum(axis=-1, keepdims=True))
    # Masked entries are replaced before every function whose derivative they could spoil.
    floor = jnp.finfo(values.dtype).min
    top = lax.stop_gradient(jnp.where(mask, values, floor).max(axis=-1, keepdims=True))
    parts = jnp.where(mask, jnp.exp(jnp.where(mask, values - top, 0)), 0)
    total = parts.sum(axis=-1, keepdims=True)
    some = mask.any(axis=-1, keepdims=True)
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), 0)
