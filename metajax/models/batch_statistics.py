"""Batch normalisation by the statistics of the batch at hand."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from metajax.checks.numbers import check_numbers
from metajax.models.kernels.channel_moments import channel_moments
from metajax.types import Array


def check_epsilon(epsilon: Any) -> None:
    """Raises unless it is a number that keeps a division by a deviation of 0 finite."""
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", epsilon=epsilon)


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
      epsilon: added to the variance, above 0. Flax's and PyTorch's default is 1e-5, TensorFlow's
        1e-3, which damps layers whose outputs have a variance of about that, the first of a network
        say.
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
