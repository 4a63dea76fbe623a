r"""A linear probe: logistic regression on the embedded support set, the head of Chen, Liu, Kira,
Wang, Huang, "A Closer Look at Few-shot Classification", ICLR 2019, arXiv 1904.04232 (their
"Baseline"), and of Tian, Wang, Krishnan, Tenenbaum, Isola, "Rethinking Few-Shot Image
Classification: a Good Embedding Is All You Need?", ECCV 2020, arXiv 2003.11539.

.. math::

  W, b = \text{argmin} \; \sum_i w_i \, H(y_i, \text{softmax}(x_i W + b)) +
  \frac{\lambda}{2} \|W\|^2

over the support items, H being the cross-entropy. It is the problem of scikit-learn's
`LogisticRegression(C=1/strength)`, of two classes that of `C=2/strength`, since that has one column
for both. It has one solution, but for a constant added to all biases, which is fixed by
:math:`\sum_k b_k = 0`. It is found by Newton's method, whose last steps square
the error. The derivative of that solution, of any order, follows from its equations
:math:`\nabla = 0`: no step is differentiated.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from metajax.checks.episodes import check_embeddings
from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.objects import check_model
from metajax.checks.settings import check_flags
from metajax.losses import cross_entropy
from metajax.metric import dot_products
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Key, Learner, LossFn, Model, Params


class LinearProbeParams(NamedTuple):
    """What a linear probe learns.

    Attributes:
      encoder: the encoder's parameters.
      log_strength: `[]`, the logarithm of the strength; None where it is not learned.
    """

    encoder: Params
    log_strength: Array | None


class LinearProbeReading(NamedTuple):
    """The classifier that was fitted to a support set.

    Attributes:
      weights: `[features, ways]`, 0 for a class without support items.
      biases: `[ways]`, of which those of the classes that there are add up to 0; 0 for the others.
      residual: `[]` the length of the gradient that is left, over the greatest that its items could
        give: of the order of rounding, unless `max_steps` were too few.
    """

    weights: Array
    biases: Array
    residual: Array


def linear_probe(
    encoder: Model,
    *,
    strength: float = 1.0,
    learn_strength: bool = False,
    max_steps: int = 50,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Logistic regression on the embedded support set (Chen et al. 2019, Tian et al. 2020).

    The learner's parameters are `LinearProbeParams`. Both papers train the encoder to classify all
    training classes, and fit the probe at test alone: over a frozen network nothing has to be
    learned. The gradient of its loss is exact, with respect to the encoder's parameters and to the
    strength, so that both can be meta-trained.

    Published: Tian et al. fit scikit-learn's `LogisticRegression` with C = 1 to features of length
    1 (`metajax.models.centred` makes such), which is `strength=1`; the code of Chen et al. takes
    steps of SGD for 100 epochs, in batches of 4, with a weight decay of 1e-3. The strength belongs
    to the length of the features: those of length s with the strength s^2 classify as those of
    length 1 with 1 do.

    To give a learned strength a rate of its own, or none, label it for `optax.partition`; weight
    decay would pull its logarithm to 0:

    >>> from metajax import LinearProbeParams
    >>> labels = LinearProbeParams("encoder", "strength")

    Args:
      encoder: a model with outputs `[items, features]`.
      strength: of the penalty on the weights, above 0; where it starts, if it is learned. It is
        beside a loss that is the sum over items, 1/C of scikit-learn (2/C of two classes); beside
        their mean, the same penalty has the strength `strength / items`. Biases go without.
      learn_strength: learn the strength; static.
      max_steps: the most Newton steps; static. Some ten reach the solution to rounding, where the
        fit stops; `learner.adapt(params, support).reading.residual` says how far it came.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items, and fits a column for each: pass it with more than one shot.
        Classes without items are not in the fit's softmax and have the logit `-inf`.
      loss_fn: loss of the logits of the queries, see `metajax.supervised`; the fit's is the
        cross-entropy.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`.

    Raises:
      TypeError: `encoder` is not a `Model`, `strength` no number, `max_steps` no integer, or
        `learn_strength` no bool.
      ValueError: `strength` is not above 0 or not finite, `max_steps` below 1, or `query_batching`
        unknown. From the learner's functions: embeddings with more than one feature axis, labels
        outside `[0, ways)`, a query of a class without support items, or an episode or parameters
        that do not fit the encoder.
    """
    check_model(encoder, "encoder")
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", strength=strength)
    check_flags(learn_strength=learn_strength)
    check_integers(1, max_steps=max_steps)

    def init(key: Key, inputs: Array) -> LinearProbeParams:
        params = encoder.init(key, inputs)
        if not learn_strength:
            return LinearProbeParams(params, None)
        dtype = _solved_in(jax.eval_shape(encoder.apply, params, inputs, None).dtype)
        return LinearProbeParams(params, jnp.asarray(math.log(strength), dtype))

    def read(
        params: LinearProbeParams, embeddings: Array, support: Examples, present: Array
    ) -> LinearProbeReading:
        check_embeddings(embeddings, "linear_probe")
        features = embeddings.astype(_solved_in(embeddings.dtype))
        learned = params.log_strength
        penalty = strength if learned is None else jnp.exp(learned)
        return _fit(features, support, present, penalty, max_steps)

    def compare(
        params: LinearProbeParams, reading: LinearProbeReading, queries: Array, present: Array
    ) -> Array:
        del params, present
        return dot_products(queries, reading.weights.T) + reading.biases[None]

    return metric_learner(
        init=init,
        encoder=encoder.within(lambda params: params.encoder),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        title=(
            f"linear_probe({strength=}, {learn_strength=}, {max_steps=}, {ways=}, "
            f"query_batching={query_batching!r})"
        ),
    )


class _Line(NamedTuple):
    """`[features, ways]` weights and `[ways]` biases."""

    weights: Array
    biases: Array


_Loss = Callable[[_Line], Array]


def _solved_in(dtype: Any) -> Any:
    """The type to solve in: half precision has no factorisations."""
    return jnp.promote_types(dtype, jnp.float32)


def _fit(
    features: Array, support: Examples, present: Array, strength: float | Array, max_steps: int
) -> LinearProbeReading:
    """The classifier of `features` `[items, features]`, differentiable in them and the strength.

    Biases are free, so that it is the classifier of features less any mean and of any unit, too, in
    which the mean is 0 and lengths are about 1: far from there, gradients are lost in rounding.
    """
    weights = jnp.ones(features.shape[0], features.dtype)
    if support.weights is not None:
        weights = support.weights.astype(features.dtype)
        features = jnp.where((weights > 0)[:, None], features, 0)
    # Of no influence on the solution, they have no derivatives.
    mean, length = lax.stop_gradient(_mean_and_length(features, weights))
    # No shorter than leaves the penalty of the size of the loss: it could be out of range, else.
    least = lax.stop_gradient(jnp.sqrt(strength / weights.sum())).astype(features.dtype)
    unit = jnp.maximum(length, least)
    near = (features - mean[None]) / unit
    if support.weights is not None:
        near = jnp.where((weights > 0)[:, None], near, 0)
    hits = jax.nn.one_hot(support.targets, present.shape[0], dtype=near.dtype)
    line, residual = _fit_near(near, hits, weights, present, strength / unit**2, max_steps)
    moved = line.weights / unit
    return LinearProbeReading(moved, line.biases - _product(mean[None], moved)[0], residual)


def _mean_and_length(features: Array, weights: Array) -> tuple[Array, Array]:
    """`[features]` mean, and the root of the mean squared distance from it, or 1 if it is 0."""
    total = weights.sum()
    shares = weights / jnp.where(total > 0, total, 1)
    mean = _product(shares[None], features)[0]
    # In two steps, since the square of the largest feature may be out of range.
    apart = jnp.abs(features - mean[None])
    most = jnp.max(jnp.where((weights > 0)[:, None], apart, 0))
    most = jnp.where(most > 0, most, 1)
    length = most * jnp.sqrt(jnp.sum(shares[:, None] * (apart / most) ** 2))
    return mean, jnp.where(length > 0, length, 1)


def _fit_near(
    features: Array,
    hits: Array,
    weights: Array,
    present: Array,
    strength: float | Array,
    max_steps: int,
) -> tuple[_Line, Array]:
    """The classifier of features of the mean 0 and of length 1 at most, and the residual."""
    items, width = features.shape
    ways, dtype = present.shape[0], features.dtype

    def loss_of(features: Array) -> _Loss:
        return partial(_loss, features, hits, weights, present, strength)

    def solve(slope: Callable[[_Line], _Line], start: _Line) -> tuple[_Line, Array]:
        del slope
        scale = jnp.sum(weights * jnp.sqrt(jnp.sum(features**2, axis=1) + 1))
        if width <= items:
            return _descend(loss_of(features), start, scale, max_steps)
        # Weights are a sum of the features of items: in an orthonormal basis of those, the problem
        # is the same one in fewer numbers.
        basis, coordinates = jnp.linalg.qr(features.T)
        start = _Line(start.weights[:items], start.biases)
        line, residual = _descend(loss_of(coordinates.T), start, scale, max_steps)
        return line._replace(weights=_product(basis, line.weights)), residual

    def solve_linear(product: Callable[[_Line], _Line], target: _Line) -> _Line:
        # As one vector: JAX transposes no solve of which a part of the target is known, as the
        # biases' is where nothing but the strength is learned.
        vector, line_of = ravel_pytree(target)

        def flat_product(vector: Array) -> Array:
            return ravel_pytree(product(line_of(vector)))[0]

        def divide(flat_product: Callable[[Array], Array], vector: Array) -> Array:
            def product(line: _Line) -> _Line:
                return line_of(flat_product(ravel_pytree(line)[0]))

            eps = float(jnp.finfo(dtype).eps)
            return ravel_pytree(_divide(product, line_of(vector), eps, min(items, width)))[0]

        return line_of(lax.custom_linear_solve(flat_product, vector, divide, symmetric=True))

    start = _Line(jnp.zeros((width, ways), dtype), jnp.zeros(ways, dtype))
    slope = jax.grad(loss_of(features))
    return lax.custom_root(slope, start, solve, solve_linear, has_aux=True)


def _loss(
    features: Array,
    hits: Array,
    weights: Array,
    present: Array,
    strength: float | Array,
    line: _Line,
) -> Array:
    """The penalised loss, with a term more that makes its minimum one: 0 for `sum_k b_k = 0`.

    Numbers of absent classes are in penalties alone, and stay 0.
    """
    logits = _product(features, line.weights) + line.biases[None]
    # Of the others over the right one: of items that are told apart, its slope is no difference.
    others = jnp.where(present[None] & (hits == 0), logits, jnp.finfo(logits.dtype).min / 4)
    wrong = jax.nn.softplus(jax.nn.logsumexp(others, axis=1) - jnp.sum(hits * logits, axis=1))
    there = present.astype(logits.dtype)
    total, absent = jnp.sum(there * line.biases), (1 - there) * line.biases
    fixed = total**2 / jnp.sum(there) + jnp.sum(absent**2)
    return jnp.sum(weights * wrong) + (strength * jnp.sum(line.weights**2) + fixed) / 2


class _Point(NamedTuple):
    """A classifier, with the loss and its gradient there."""

    line: _Line
    value: Array
    slope: _Line


class _State(NamedTuple):
    """Where Newton's method is.

    Attributes:
      step: `[]` the number of steps taken.
      point: the last.
      going: `[]` bool, whether there is anything left to gain.
    """

    step: Array
    point: _Point
    going: Array


def _descend(loss: _Loss, start: _Line, scale: Array, max_steps: int) -> tuple[_Line, Array]:
    """The minimum, by Newton's method with a line search, and the gradient there over `scale`."""
    eps = jnp.finfo(scale.dtype).eps
    rank = start.weights.shape[0]

    def at(line: _Line) -> _Point:
        return _Point(line, *jax.value_and_grad(loss)(line))

    def step(state: _State) -> _State:
        before = state.point
        length = _length(before.slope)
        product = jax.linearize(jax.grad(loss), before.line)[1]
        # Roughly at first, and the better the closer, or the last steps would not square the error.
        exactness = jnp.clip(length / scale, eps, 0.1)
        move = _divide(product, jax.tree.map(jnp.negative, before.slope), exactness, rank)
        gain = -_dot(before.slope, move)
        rounding = 8 * eps * jnp.abs(before.value)

        def too_far(tried: tuple[Array, _Point]) -> Array:
            rate, point = tried
            high = point.value > before.value - 1e-4 * rate * gain + rounding
            return (rate > 1) | high & (rate > 1e-6)

        def nearer(tried: tuple[Array, _Point]) -> tuple[Array, _Point]:
            rate = tried[0] / 2
            return rate, at(jax.tree.map(lambda x, d: x + rate * d, before.line, move))

        after = lax.while_loop(too_far, nearer, (jnp.full_like(gain, 2), before))[1]
        # Where the loss no longer sees a step, the gradient still does, until it is rounding too.
        seen = gain > rounding
        better = seen | (_length(after.slope) < length)
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), after, before)
        return _State(state.step + 1, point, seen | (_length(after.slope) < length / 2))

    begun = at(start)
    some = _length(begun.slope) > eps * scale
    found = lax.while_loop(
        lambda state: state.going & (state.step < max_steps),
        step,
        _State(jnp.zeros((), jnp.int32), begun, some),
    ).point
    return found.line, _length(found.slope) / scale


def _divide(
    product: Callable[[_Line], _Line], target: _Line, exactness: Array | float, rank: int
) -> _Line:
    """Solves `product(x) = target` by conjugate gradients, to a residual of `exactness` of it.

    Without rounding, as many steps as there are ways times the features' `rank` and 1 are enough.
    """
    most = 4 * (rank + 1) * target.biases.shape[0]
    return cg(product, target, tol=exactness, maxiter=most)[0]  # pyright: ignore


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _dot(x: _Line, y: _Line) -> Array:
    return jnp.sum(x.weights * y.weights) + jnp.sum(x.biases * y.biases)


def _length(x: _Line) -> Array:
    return jnp.sqrt(_dot(x, x))
