"""The block of the few-shot literature's networks: convolution, batch statistics, ReLU, pooling.

A block is `max_pool_2x2(relu(BatchStatistics()(Conv(inputs))))`, or does not pool, or pools before
the statistics. How it is computed is chosen for few passes over memory, which on CPU take longer
than the arithmetic.
"""

import math
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.models.batch_statistics import BatchStatistics
from metajax.models.initializers import LECUN_NORMAL, checked
from metajax.models.kernels import convolution_forms as forms
from metajax.models.kernels.channel_moments import channel_moments
from metajax.models.kernels.convolution_forms import Window
from metajax.models.kernels.convolutions import convolution, is_placed
from metajax.models.kernels.few_at_a_time import in_groups
from metajax.models.kernels.max_pooling import max_pool_2x2
from metajax.models.kernels.patch_moments import patch_moments
from metajax.types import Array

Pool = Literal["VALID", "SAME"]
# The first convolution's outputs are computed and pooled in groups of images of about this size.
_GROUP_BYTES = 4_000_000
# Inputs of one output up to which the batch statistics are found from the inputs' covariance.
_FEW_INPUTS = 36


class Conv(nn.Module):
    """The kernel of a convolution, for whoever applies it; named so that it is `Conv_0/kernel`.

    Attributes:
      filters: channels of the outputs.
      kernel_init: the kernel's initializer.
    """

    filters: int
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL

    @nn.compact
    def __call__(self, channels: int) -> Array:
        """`[3, 3, channels, filters]`."""
        shape = (3, 3, channels, self.filters)
        return self.param("kernel", checked(self.kernel_init, "kernel_init"), shape, jnp.float32)


def conv_block(
    inputs: Array,
    weights: Array | None,
    *,
    filters: int,
    stride: int = 1,
    padding: str = "SAME",
    pool: Pool | None = None,
    pool_first: bool = False,
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
) -> Array:
    """One block, its parameters those of the Flax module that calls it.

    Args:
      inputs: `[items, height, width, channels]` floats.
      weights: `[items]`; items of weight 0 do not count in the statistics. None counts all.
      filters: channels of the outputs.
      stride: of the convolution.
      padding: of the convolution.
      pool: take the maximum over 2x2 windows at the end, with this `padding` of `max_pool_2x2`;
        None does not.
      pool_first: take it before the batch statistics, which are then those of the maxima.
      use_scale: see `BatchStatistics`.
      epsilon: see `BatchStatistics`.
      kernel_init: initializer of the convolution's kernel.

    Returns:
      `[items, new height, new width, filters]`.

    Raises:
      ValueError: the images have become smaller than a pooling window.
    """
    kernel = Conv(filters, kernel_init)(inputs.shape[-1])
    statistics = BatchStatistics(use_scale, epsilon)
    dtype = jnp.result_type(inputs, kernel)
    inputs = inputs.astype(dtype)
    window = forms.window_of(inputs, kernel, (stride, stride), padding)
    if not pool_first and _by_moments(inputs, kernel, window):
        moments = patch_moments(inputs, weights, window)
        variance = moments.output_variance(kernel)
        slope, bias = statistics.affine(jnp.zeros_like(variance), variance)
        kernel = kernel * slope
        return _few_inputs(inputs, kernel, bias - moments.output_mean(kernel), window, pool)
    hidden = convolution(inputs, kernel, window.strides, window.padding)
    if pool is None:
        return nn.relu(statistics(hidden, weights))
    if pool_first:
        return nn.relu(statistics(max_pool_2x2(hidden, padding=pool), weights))
    origin, mean, variance = channel_moments(hidden, weights)
    slope, offset = statistics.affine(mean, variance)
    # The map is monotone, so it is left to the largest of each window, or the smallest.
    sign = jnp.where(slope < 0, -1, 1).astype(dtype)
    largest = max_pool_2x2(hidden * sign, padding=pool) * sign
    return nn.relu(((largest - origin) * slope + offset).astype(dtype))


def _by_moments(inputs: Array, kernel: Array, window: Window) -> bool:
    """Whether statistics come from the inputs' moments: on CPU, where memory is what is slow.

    Half precision, and what accelerators make of single precision by default, have too few digits
    for what then cancels. Arrays that lie over devices cannot be cut into groups.
    """
    few = math.prod(kernel.shape[:3]) <= _FEW_INPUTS
    precise = jax.default_backend() == "cpu" and inputs.dtype.itemsize >= 4
    empty = 0 in (*inputs.shape, *kernel.shape, *window.outputs)
    return few and precise and not empty and not is_placed(inputs)


@partial(jax.jit, static_argnums=(3, 4))  # So that calls outside `jit` compile the groups once.
def _few_inputs(
    images: Array, kernel: Array, offset: Array, window: Window, pool: Pool | None
) -> Array:
    """Convolution, offset, ReLU and pooling, a few images at a time."""

    def block(images: Array) -> Array:
        hidden = convolution(images, kernel, window.strides, window.padding)
        hidden = hidden if pool is None else max_pool_2x2(hidden, padding=pool)
        return nn.relu(hidden + offset)

    size = math.prod(window.outputs) * kernel.shape[-1] * images.dtype.itemsize
    return in_groups(block, images, max(1, _GROUP_BYTES // size))
