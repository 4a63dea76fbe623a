"""Batch normalisation by the statistics of the batch at hand."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from metajax.types import Array


class BatchStatistics(nn.Module):
    r"""Batch normalisation by the statistics of the batch at hand; it carries no state.

    The statistics are taken over items and space, in float32 at least. The variance is the biased
    one.

    .. math::

      y = a x + b - a \bar x, \quad a = \gamma \, (\overline{x^2} - \bar x^2 + \epsilon)^{-1/2}

    In this form, a sum, a sum of squares and one affine map, the derivative is two sums and one
    affine map as well, of any order few passes over the array: written with deviations from the
    mean it is about twice as many.

    Attributes:
      use_scale: learn a scale beside the offset. The MAML authors' code has none.
      epsilon: added to the variance.
    """

    use_scale: bool = True
    epsilon: float = 1e-5

    def __call__(self, inputs: Array, weights: Array | None = None) -> Array:
        """`[items, ..., channels]` to the same; items of weight 0 `[items]` do not count."""
        origin, mean, variance = channel_moments(inputs, weights)
        slope, offset = self.affine(mean, variance)
        return ((inputs - origin) * slope + offset).astype(inputs.dtype)

    @nn.compact
    def affine(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """The map that normalises what has this mean and variance, both `[1, ..., channels]`.

        Returns:
          Slope and offset, of the same shape.
        """
        slope = lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)

        def learned(name: str, initial: nn.initializers.Initializer) -> Array:
            values = self.param(name, initial, mean.shape[-1:])
            return values.astype(slope.dtype).reshape(mean.shape)

        bias = learned("bias", nn.initializers.zeros)
        if self.use_scale:
            slope = slope * learned("scale", nn.initializers.ones)
        return slope, bias - mean * slope


def channel_moments(inputs: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Mean and variance of each channel, relative to an origin.

    The origin is one sample of the channel, see `sample_of`: without it, a mean far from 0 would
    cancel the variance away.

    Args:
      inputs: `[items, ..., channels]`.
      weights: `[items]`; items of weight 0 do not count. None counts everything.

    Returns:
      Origin, mean of `inputs - origin`, and variance, each `[1, ..., channels]`, in float32 at
      least.
    """
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    axes = tuple(range(wide.ndim - 1))
    origin = sample_of(wide, weights)
    counted = None if weights is None else (weights > 0).reshape(-1, *(1 for _ in inputs.shape[1:]))
    wide = wide - origin
    # XLA computes cheap arithmetic of channels anew for every element of the loops it is fused
    # into, and this form's derivatives have much of it. A division by what XLA does not know to be
    # 1 is dear enough to be done beforehand.
    one = 1 + 0 * origin
    mean = wide.mean(axes, where=counted, keepdims=True) / one
    square = (wide * wide).mean(axes, where=counted, keepdims=True) / one
    return origin, mean, square - mean * mean


def sample_of(inputs: Array, weights: Array | None) -> Array:
    """One sample of each channel `[1, ..., channels]`, of an item that counts; not differentiated.

    Args:
      inputs: `[items, ..., channels]`; where there are no samples the result is 0.
      weights: `[items]`; items of weight 0 do not count. None counts everything.
    """
    axes = tuple(range(inputs.ndim - 1))
    if 0 in inputs.shape:
        return jnp.zeros((*(1 for _ in axes), inputs.shape[-1]), inputs.dtype)
    first = 0 if weights is None else jnp.argmax(weights > 0)
    item = lax.dynamic_slice_in_dim(inputs, first, 1)
    return lax.stop_gradient(item[(slice(1),) * len(axes)])
