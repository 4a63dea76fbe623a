"""Batch normalisation by the statistics of the batch at hand."""

import flax.linen as nn
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
        scale = None
        if self.use_scale:
            scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        counted = None if weights is None else (weights > 0)[:, None, None, None]
        return normalize(inputs, scale, bias, counted, self.epsilon)


def normalize(
    inputs: Array, scale: Array | None, bias: Array, counted: Array | None, epsilon: float
) -> Array:
    r"""Each channel to mean `bias` and standard deviation `scale`.

    .. math::

      y = a (x - s) + b - a \overline{x - s}, \quad
      a = \gamma \, (\overline{(x - s)^2} - \overline{x - s}^2 + \epsilon)^{-1/2}

    In this form, a sum, a sum of squares and one affine map, the derivative is two sums and one
    affine map as well, of any order few passes over the array: written with deviations from the
    mean it is about twice as many. The shift s is any one sample of the channel. It changes nothing
    but the rounding: without it, a mean far from 0 would cancel the variance away.

    Args:
      inputs: `[..., channels]` floats.
      scale: `[channels]`, or None for 1.
      bias: `[channels]`.
      counted: boolean, of `inputs`' shape or broadcasting to it: what the means are taken over.
        None counts everything.
      epsilon: added to the variance.

    Returns:
      `[..., channels]`.
    """
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    axes = tuple(range(inputs.ndim - 1))
    wide = wide - lax.stop_gradient(wide[(slice(1),) * len(axes)])
    mean = wide.mean(axes, where=counted)
    variance = (wide * wide).mean(axes, where=counted) - mean * mean
    slope = lax.rsqrt(jnp.maximum(variance, 0) + epsilon)
    if scale is not None:
        slope = slope * scale.astype(wide.dtype)
    offset = bias.astype(wide.dtype) - mean * slope
    aligned = (1,) * len(axes) + (-1,)
    return (wide * slope.reshape(aligned) + offset.reshape(aligned)).astype(inputs.dtype)
