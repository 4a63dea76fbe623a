r"""Ridge regression as the head of a network: R2-D2, Bertinetto, Henriques, Torr, Vedaldi,
"Meta-learning with differentiable closed-form solvers", ICLR 2019, arXiv 1805.08136, and
MetaOptNet-RR, Lee, Maji, Ravichandran, Soatto, "Meta-Learning with Differentiable Convex
Optimization", CVPR 2019, arXiv 1904.03758.

.. math::

  W &= \arg\min_W \|X W - Y\|^2 + \lambda \|W\|^2
     = (X^\top X + \lambda I)^{-1} X^\top Y = X^\top (X X^\top + \lambda I)^{-1} Y, \\
  \text{logits}(x) &= a \, f(x)^\top W + b,

where the rows of X are the support embeddings :math:`f(x_i)`, with a 1 behind each for a bias, and
those of Y the labels, one-hot. The system that is solved is the smaller one: of as many equations
as there are support items, or features. The meta-gradient goes through the solution;
:math:`\lambda` and the scale a are learned as their logarithms, b as it is.

The sum of squares is over items, so that :math:`\lambda` is the variance of noise over that of the
weights *a priori*, and W the posterior mean: it need not change with the number of shots.
MetaOptNet's :math:`\lambda = 50` is that (its quadratic program doubles the logits). The code of
R2-D2 divides X, the ones with it, and Y by :math:`\sqrt{n}`, n being the number of support items:
its :math:`\lambda = 50` is `strength=50 * n` here.

With targets that are numbers instead of labels, Y is the targets: Bayesian linear regression on
learned features, of which this is the mean.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve

from metajax.checks.episodes import check_embeddings
from metajax.checks.numbers import check_numbers
from metajax.checks.objects import check_model
from metajax.checks.settings import check_flags
from metajax.losses import cross_entropy, is_classification, squared_error
from metajax.metric_learners import metric_learner
from metajax.query_batching import Batching
from metajax.types import Array, Examples, Key, Learner, LossFn, Model, Params


class RidgeParams(NamedTuple):
    """What a ridge head learns.

    Attributes:
      encoder: the encoder's parameters.
      log_strength: `[]`, the logarithm of the strength; None where it is not learned.
      log_scale: `[]`, the logarithm of what outputs are multiplied by; None where it is not
        learned.
      offset: `[]`, what is then added to them; None where the scale is not learned.
    """

    encoder: Params
    log_strength: Array | None
    log_scale: Array | None
    offset: Array | None


def ridge_head(
    encoder: Model,
    *,
    strength: float = 50.0,
    learn_strength: bool = True,
    scale: float | None = None,
    learn_scale: bool = True,
    bias: bool = True,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
) -> Learner:
    """Ridge regression on embeddings (Bertinetto et al. 2019; Lee et al. 2019), in closed form.

    The learner's parameters are `RidgeParams`. Published training of R2-D2: 20-way (CIFAR-FS) or
    60-way (Omniglot) episodes of 1 to 10 shots, one a step, Adam at 5e-3, halved every 20 epochs of
    100 episodes; of MetaOptNet: 5-way, 15 shots and 6 queries a class, 8 episodes a step, Nesterov
    momentum at 0.1. Every class is a regression of its own, so that training on more ways than at
    test, and on other shots, fits.

    Targets may be numbers: a `loss_fn` of such, as `metajax.squared_error`, fits floats `[items]`
    or `[items, outputs]`, and predictions have that shape.

    Adam moves logarithms by its whole step too: a strength of 50 by a factor of 2.7 in a thousand
    steps of 1e-3. To give them a rate of their own, or none, label them for `optax.partition`:

    >>> from metajax import RidgeParams
    >>> labels = RidgeParams("encoder", "strength", "scale", "scale")

    Args:
      encoder: a model with outputs `[items, features]`.
      strength: of the regularisation, above 0; where it starts, if it is learned. It belongs to the
        scale of the embeddings: of unit length they ask for about 1.
      learn_strength: learn the strength, as the paper of R2-D2 does; its code and MetaOptNet leave
        it at 50.
      scale: what outputs are multiplied by, above 0; where it starts, if it is learned. None is
        10, R2-D2's on Omniglot and CIFAR-FS, and with `metajax.squared_error` 1. MetaOptNet starts
        from 1. R2-D2's 1e-4 on mini-ImageNet, which it does not learn by its logarithm, would leave
        logits flat for long.
      learn_scale: learn the scale, and the offset from 0. An offset that all logits share does not
        change their cross-entropy, but another loss, or a regression.
      bias: append a 1 to every embedding, as R2-D2 does; its weight is regularised with the others.
        MetaOptNet has none.
      ways: the most classes there may be, see `metajax.metric_learner`; static. None takes as many
        as there are support items. It may be more than that: classes without items have the logit
        `-inf`, and a query of one is an error.
      loss_fn: loss of the outputs, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch; see `metajax.apply_queries`. Published: R2-D2
        trains on support and query in one batch, and tests on running statistics.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`, or predictions of the targets' shape. A
      task's `reading` is W, `[features + 1, ...]` or `[features, ...]` without the bias.

    Raises:
      TypeError: `encoder` is not a `Model`, a number none, or a flag no bool.
      ValueError: `strength` or `scale` is not a finite number above 0, or `query_batching` unknown.
        From the learner's functions: embeddings with more than one feature axis, labels outside
        `[0, ways)`, a query of a class without support items, targets of more than two axes, or an
        episode or parameters that do not fit the encoder.
    """
    check_model(encoder, "encoder")
    if scale is None:
        scale = 1.0 if loss_fn is squared_error else 10.0
    above = "a finite number above 0"
    check_numbers(lambda x: 0 < x < math.inf, above, strength=strength, scale=scale)
    check_flags(learn_strength=learn_strength, learn_scale=learn_scale, bias=bias)

    def init(key: Key, inputs: Array) -> RidgeParams:
        params = encoder.init(key, inputs)
        dtype = _solved_in(jax.eval_shape(encoder.apply, params, inputs, None).dtype)

        def number(value: float, learned: bool) -> Array | None:
            return jnp.asarray(value, dtype) if learned else None

        return RidgeParams(
            params,
            number(math.log(strength), learn_strength),
            number(math.log(scale), learn_scale),
            number(0.0, learn_scale),
        )

    def read(
        params: RidgeParams, embeddings: Array, support: Examples, present: Array | None
    ) -> Array:
        embeddings = _rows(embeddings)
        targets = support.targets
        if present is not None:
            targets = jax.nn.one_hot(targets, present.shape[0], dtype=embeddings.dtype)
        if targets.ndim > 2:
            raise ValueError(
                f"ridge_head got targets of shape {targets.shape}; expected [items] or [items, "
                "outputs] numbers"
            )
        learned = params.log_strength
        ridge = strength if learned is None else jnp.exp(learned)
        columns = targets.astype(embeddings.dtype).reshape(targets.shape[0], -1)
        solution = _ridge(embeddings, columns, ridge, support.weights)
        return solution.reshape(-1, *targets.shape[1:])

    def compare(
        params: RidgeParams, reading: Array, queries: Array, present: Array | None
    ) -> Array:
        del present
        outputs = jnp.matmul(_rows(queries), reading, precision=lax.Precision.HIGHEST)
        if params.log_scale is None or params.offset is None:
            return scale * outputs
        return jnp.exp(params.log_scale) * outputs + params.offset

    def _rows(embeddings: Array) -> Array:
        check_embeddings(embeddings, "ridge_head")
        embeddings = embeddings.astype(_solved_in(embeddings.dtype))
        if not bias:
            return embeddings
        ones = jnp.ones((embeddings.shape[0], 1), embeddings.dtype)
        return jnp.concatenate([embeddings, ones], axis=1)

    return metric_learner(
        init=init,
        encoder=encoder.within(lambda params: params.encoder),
        read=read,
        compare=compare,
        ways=ways,
        query_batching=query_batching,
        loss_fn=loss_fn,
        metrics=metrics,
        regression=not is_classification(loss_fn),
        title=(
            f"ridge_head({strength=}, {learn_strength=}, {scale=}, {bias=}, "
            f"{ways=}, query_batching={query_batching!r})"
        ),
    )


def _ridge(rows: Array, targets: Array, strength: float | Array, weights: Array | None) -> Array:
    """`[columns, outputs]`, of the smaller of the two systems.

    Args:
      rows: `[items, columns]`.
      targets: `[items, outputs]`.
      strength: above 0.
      weights: `[items]` or None; one of 0 has no gradient.
    """
    if weights is not None:
        # A weight is a square of its row's length; the root has no derivative at 0.
        counts = (weights > 0)[:, None]
        root = jnp.where(counts, jnp.sqrt(jnp.where(counts, weights[:, None], 1)), 0)
        root = root.astype(rows.dtype)
        rows, targets = (root * jnp.where(counts, x, 0) for x in (rows, targets))
    high = lax.Precision.HIGHEST
    items, columns = rows.shape
    dual = items <= columns
    first, second = (rows, rows.T) if dual else (rows.T, rows)
    gram = jnp.matmul(first, second, precision=high)
    # Items that are alike make it singular but for the strength, which rounding may swallow: on the
    # diagonal, what the errors of a factorisation of this size come to.
    size = gram.shape[0]
    rounding = lax.stop_gradient(size * jnp.finfo(rows.dtype).eps * jnp.diag(gram))
    factor = cho_factor(gram + jnp.diag(strength + rounding))
    if dual:
        return jnp.matmul(rows.T, cho_solve(factor, targets), precision=high)
    return cho_solve(factor, jnp.matmul(rows.T, targets, precision=high))


def _solved_in(dtype: jnp.dtype) -> jnp.dtype:
    """The precision to solve in: no factorisation is of halves."""
    return jnp.promote_types(dtype, jnp.float32)
