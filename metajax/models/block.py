"""The block of the few-shot literature's networks: convolution, batch statistics, ReLU, pooling.

What these compute is `max_pool_2x2(relu(BatchStatistics()(Conv(inputs))))`; how is chosen for few
passes over memory, which on CPU take longer than the arithmetic.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.models import convolution_forms as forms
from metajax.models.convolution import convolution
from metajax.models.convolution_forms import Window
from metajax.models.grouping import in_groups
from metajax.models.normalization import BatchStatistics, channel_moments
from metajax.models.patch_moments import patch_moments
from metajax.models.pooling import max_pool_2x2
from metajax.types import Array

# The first convolution's outputs are computed and pooled in groups of images of about this size.
_GROUP_BYTES = 4_000_000
# Inputs of one output up to which the batch statistics are found from the inputs' covariance.
_FEW_INPUTS = 36


class Conv(nn.Module):
    """The weights of a convolution, for whoever applies them; named so that they are `Conv_0`.

    Attributes:
      filters: channels of the outputs.
    """

    filters: int

    @nn.compact
    def __call__(self, channels: int) -> Array:
        """`[3, 3, channels, filters]`."""
        shape = (3, 3, channels, self.filters)
        return self.param("kernel", nn.initializers.lecun_normal(), shape)


def conv_block(
    inputs: Array,
    weights: Array | None,
    *,
    filters: int,
    stride: int = 1,
    padding: str = "SAME",
    pooled: bool = False,
    use_scale: bool = True,
) -> Array:
    """One block, its parameters those of the Flax module that calls it.

    Args:
      inputs: `[items, height, width, channels]` floats.
      weights: `[items]`; items of weight 0 do not count in the statistics. None counts all.
      filters: channels of the outputs.
      stride: of the convolution.
      padding: of the convolution.
      pooled: take the maximum over 2x2 windows at the end.
      use_scale: see `BatchStatistics`.

    Returns:
      `[items, new height, new width, filters]`.
    """
    kernel = Conv(filters)(inputs.shape[-1])
    statistics = BatchStatistics(use_scale)
    dtype = jnp.result_type(inputs, kernel)

    def convolve(images: Array, kernel: Array) -> Array:
        return convolution(images, kernel, (stride, stride), padding)

    window = forms.window_of(inputs, kernel, (stride, stride), padding)
    if _by_moments(kernel, window, dtype):
        moments = patch_moments(inputs, weights, window)
        variance = moments.output_variance(kernel)
        slope, bias = statistics.affine(jnp.zeros_like(variance), variance)
        kernel = kernel * slope
        offset = bias - moments.output_mean(kernel)

        def rest(images: Array) -> Array:
            hidden = convolve(images, kernel)
            hidden = max_pool_2x2(hidden) if pooled else hidden
            return nn.relu(hidden + offset)

        size = math.prod(window.outputs) * filters * dtype.itemsize
        return in_groups(rest, inputs, max(1, _GROUP_BYTES // size))
    hidden = convolve(inputs, kernel)
    if not pooled:
        return nn.relu(statistics(hidden, weights))
    origin, mean, variance = channel_moments(hidden, weights)
    slope, offset = statistics.affine(mean, variance)
    # The map is monotone, so it is left to the largest of each window, or the smallest.
    sign = jnp.where(slope < 0, -1, 1).astype(dtype)
    largest = max_pool_2x2(hidden * sign) * sign
    return nn.relu(((largest - origin) * slope + offset).astype(dtype))


def _by_moments(kernel: Array, window: Window, dtype: jnp.dtype) -> bool:
    """Whether statistics come from the inputs' moments: on CPU, where memory is what is slow.

    Half precision, and what accelerators make of single precision by default, have too few digits
    for the means that then cancel.
    """
    few = math.prod(kernel.shape[:3]) <= _FEW_INPUTS
    precise = jax.default_backend() == "cpu" and dtype.itemsize >= 4
    return few and precise and 0 not in window.outputs
