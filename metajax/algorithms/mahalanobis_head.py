r"""The classifier of Simple CNAPS: Bateni, Goyal, Masrani, Wood, Sigal, "Improved Few-Shot Visual
Classification", CVPR 2020, arXiv 1912.03432, without its network that adapts the features.

.. math::

  \text{logit}_k(x) = -\tfrac{1}{2} (f(x) - c_k)^\top Q_k^{-1} (f(x) - c_k), \quad
  Q_k = \lambda_k S_k + (1 - \lambda_k) S + \beta I, \quad \lambda_k = \frac{n_k}{n_k + 1},

:math:`c_k` being the mean and :math:`n_k` the number of the embedded support items of class k,
:math:`S_k` their covariance, and S that of the whole support set about its own mean, both with
:math:`n - 1` in the denominator; :math:`S_k` is 0 for a single item. The authors' code has
:math:`\beta = 1`, and leaves out the half, which only changes how sure the classifier is. For a
class of one item it adds the variance over the *features* to every entry of :math:`Q_k`; not here.

:math:`Q_k` has as many rows as there are features, and a rank of no more than the support items
above :math:`\beta I`. Where those are fewer it is never formed. With the centred support set, each
row times the root of its item's weight, as the rows of A,

.. math::

  Q_k = \beta I + A^\top N_k A, \quad
  N_k = \frac{1 - \lambda_k}{n - 1} I + \frac{\lambda_k}{n_k - 1} \Pi_k, \quad
  d^\top Q_k^{-1} d = \min_v \frac{1}{\beta} \|d - A^\top v\|^2 + v^\top N_k^{-1} v,

where :math:`\Pi_k` keeps the rows of class k less their mean. The least v solves
:math:`(\beta N_k^{-1} + A A^\top) v = A d`, as many equations as there are support items
(Woodbury's identity), and a sum of squares is neither negative nor a difference of large numbers.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular

from metajax.checks.episodes import check_embeddings
from metajax.checks.numbers import check_numbers
from metajax.checks.objects import check_model
from metajax.losses import cross_entropy
from metajax.metric import class_sums
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Learner, LossFn, Model, Params

_HIGH = lax.Precision.HIGHEST


class MahalanobisReading(NamedTuple):
    """What is read off a support set.

    Attributes:
      centres: `[ways, features]`, the class means.
      factors: lower Cholesky factors: of `Q_k`, `[ways, features, features]`; or, of more features
        than support items, of `beta N_k^-1 + A A^T`, `[ways, items, items]`.
      rows: A, `[items, features]`, of more features than support items; else None.
      spread: `N_k^-1`, `[ways, items, items]`, there; else None.
    """

    centres: Array
    factors: Array
    rows: Array | None
    spread: Array | None


def mahalanobis_head(
    encoder: Model,
    *,
    strength: float = 1.0,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Mahalanobis distances to class means, each class with a covariance (Bateni et al. 2020).

    The learner's parameters are the encoder's; nothing else is learned. On features of a network
    that stays as it is, it asks for no training at all.

    Args:
      encoder: a model with outputs `[items, features]`.
      strength: beta, what is added to the diagonal of every covariance, above 0. It belongs to the
        scale of the embeddings: features of unit length have variances of far below 1, next to
        which 1 leaves Euclidean distances.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items, and computes as many covariances: pass it with more than one
        shot. Classes without items have the logit `-inf`.
      loss_fn: loss of the scores, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`; a task's `reading` is a
      `MahalanobisReading`.

    Raises:
      TypeError: `encoder` is not a `Model`, or `strength` no number.
      ValueError: `strength` is not a finite number above 0, or `query_batching` unknown. From the
        learner's functions: embeddings with more than one feature axis, labels outside `[0, ways)`,
        a query of a class without support items, or an episode or parameters that do not fit the
        encoder.
    """
    check_model(encoder, "encoder")
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", strength=strength)

    def read(
        params: Params, embeddings: Array, support: Examples, present: Array
    ) -> MahalanobisReading:
        del params
        check_embeddings(embeddings, "mahalanobis_head")
        embeddings = _as_solved(embeddings)
        ways = present.shape[0]
        return _reading(embeddings, support.targets, ways, support.weights, strength)

    def compare(
        params: Params, reading: MahalanobisReading, queries: Array, present: Array
    ) -> Array:
        del params, present
        apart = _as_solved(queries)[None] - reading.centres[:, None]
        return (
            -jax.vmap(_distances, (0, 0, 0, None, None))(
                apart, reading.factors, reading.spread, reading.rows, strength
            ).T
            / 2
        )

    return metric_learner(
        init=encoder.init,
        encoder=encoder,
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        title=f"mahalanobis_head({strength=}, {ways=}, query_batching={query_batching!r})",
    )


def _reading(
    embeddings: Array, targets: Array, ways: int, weights: Array | None, beta: float
) -> MahalanobisReading:
    """Of `[items, features]` embeddings with `[items]` labels."""
    items, features = embeddings.shape
    dtype = embeddings.dtype
    weights = jnp.ones(items, dtype) if weights is None else weights.astype(dtype)
    counted = weights > 0
    # A weight is a square of its row's length; the root has no derivative at 0.
    roots = jnp.where(counted, jnp.sqrt(jnp.where(counted, weights, 1)), 0)
    sums, counts = class_sums(embeddings, targets, ways, weights)
    centres = sums / jnp.where(counts > 0, counts, 1)[:, None]
    total = weights.sum()
    mean = sums.sum(axis=0) / jnp.where(total > 0, total, 1)
    centred = jnp.where(counted[:, None], embeddings - mean[None], 0)
    rows = roots[:, None] * centred
    mixing = counts / (counts + 1)
    shared = (1 - mixing) / _less_one(total)
    own = mixing / _less_one(counts)
    members = (jnp.arange(ways)[:, None] == targets[None]) & counted[None]
    if features <= items:
        covariance = _gram(rows.T)

        def factor(centre: Array, member: Array, shared: Array, own: Array) -> Array:
            apart = jnp.where(member[:, None], roots[:, None] * (embeddings - centre[None]), 0)
            matrix = shared * covariance + own * _gram(apart.T)
            return jnp.linalg.cholesky(matrix + beta * jnp.eye(features, dtype=dtype))

        factors = jax.vmap(factor)(centres, members, shared, own)
        return MahalanobisReading(centres, factors, None, None)
    gram = _gram(rows)

    def narrow(member: Array, count: Array, shared: Array, own: Array) -> tuple[Array, Array]:
        direction = jnp.where(member, roots, 0)
        onto = direction[:, None] * direction[None] / jnp.where(count > 0, count, 1)
        kept = jnp.diag(member.astype(dtype)) - onto
        # A projection has two eigenvalues: 0, where N_k is `shared`, and 1, where `own` is added.
        spread = jnp.eye(items, dtype=dtype) / shared + (1 / (shared + own) - 1 / shared) * kept
        return jnp.linalg.cholesky(beta * spread + gram), spread

    factors, spread = jax.vmap(narrow)(members, counts, shared, own)
    return MahalanobisReading(centres, factors, rows, spread)


def _distances(
    apart: Array, factor: Array, spread: Array | None, rows: Array | None, beta: float
) -> Array:
    """`[queries]`: `d^T Q^-1 d` of `[queries, features]` differences from one class."""
    if rows is None or spread is None:
        return jnp.sum(solve_triangular(factor, apart.T, lower=True) ** 2, axis=0)
    across = cho_solve((factor, True), jnp.matmul(rows, apart.T, precision=_HIGH)).T
    rest = apart - jnp.matmul(across, rows, precision=_HIGH)
    within = jnp.sum(jnp.matmul(across, spread, precision=_HIGH) * across, axis=1)
    return jnp.sum(rest**2, axis=1) / beta + within


def _less_one(count: Array) -> Array:
    """What sums over items are divided by; the sum of one item's deviations is 0 anyway."""
    return jnp.where(count >= 2, count - 1, 1)


def _gram(rows: Array) -> Array:
    return jnp.matmul(rows, rows.T, precision=_HIGH)


def _as_solved(embeddings: Array) -> Array:
    """In the precision to solve in: no factorisation is of halves."""
    return embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
