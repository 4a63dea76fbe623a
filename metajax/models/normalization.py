"""Batch normalisation by the statistics of the batch at hand, with a cheap derivative."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from metajax.types import Array


class BatchStatistics(nn.Module):
    """Batch normalisation by the statistics of the batch at hand; it carries no state.

    The statistics are taken over items and space, in float32 at least. The variance is the biased
    one.

    Attributes:
      use_scale: learn a scale beside the offset. The MAML authors' code has none.
      epsilon: added to the variance.
    """

    use_scale: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, inputs: Array, weights: Array | None = None) -> Array:
        """`[items, height, width, channels]` to the same; items of weight 0 do not count."""
        shape = (inputs.shape[-1],)
        counted = None if weights is None else (weights > 0)[:, None, None, None]
        outputs = standardize(inputs, counted, self.epsilon)
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones, shape)
            outputs = outputs * scale.astype(inputs.dtype)[None, None, None]
        bias = self.param("bias", nn.initializers.zeros, shape)
        return outputs + bias.astype(inputs.dtype)[None, None, None]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def standardize(inputs: Array, counted: Array | None, epsilon: float) -> Array:
    r"""Each channel to mean 0 and variance 1.

    .. math::

      y = r (x - \bar x), \quad r = (\overline{(x - \bar x)^2} + \epsilon)^{-1/2}, \quad
      dy = r (dx - \overline{dx} - y \, \overline{y \, dx})

    The derivative is written out: it and its transpose are two sums and one pass over the array,
    where JAX would differentiate both means and come to about twice that.

    Args:
      inputs: `[..., channels]`.
      counted: boolean, `inputs`' shape or one that broadcasts to it: what the means are taken over.
        None counts everything.
      epsilon: added to the variance.

    Returns:
      `[..., channels]`.
    """
    return _standardize(inputs, counted, epsilon)[0]


@standardize.defjvp
def _derivative(
    epsilon: float, primals: tuple[Array, Array | None], tangents: tuple[Array, Array | None]
) -> tuple[Array, Array]:
    inputs, counted = primals
    outputs, rate = _standardize(inputs, counted, epsilon)
    tangent = tangents[0].astype(rate.dtype)
    wide = outputs.astype(rate.dtype)
    along = wide * _mean(wide * tangent, counted)
    change = rate * (tangent - _mean(tangent, counted) - along)
    return outputs, change.astype(inputs.dtype)


def _standardize(inputs: Array, counted: Array | None, epsilon: float) -> tuple[Array, Array]:
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    centred = wide - _mean(wide, counted)
    rate = lax.rsqrt(_mean(centred**2, counted) + epsilon)
    return (centred * rate).astype(inputs.dtype), rate


def _mean(values: Array, counted: Array | None) -> Array:
    axes = tuple(range(values.ndim - 1))
    return values.mean(axes, keepdims=True, where=counted)
