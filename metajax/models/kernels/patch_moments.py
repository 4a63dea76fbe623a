"""Mean and variance of a convolution's outputs, found without computing them.

An output is linear in the patch that it sees, y = w'p, so over all of them the mean is w'E[p] and
the variance w'Cov[p]w. Where a patch is a few numbers, as in the first layer of a network, whose
outputs are its largest array, this saves every pass over them that statistics and their derivatives
take; and the covariance does not depend on the weights.

The rounding is relative to the patches' variance, not to the outputs': in single precision the
variance of a filter that hardly responds is off by some 1e-7 of its squared length times that.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.models.kernels import convolution_forms as forms
from metajax.models.kernels.channel_moments import sample_of
from metajax.models.kernels.convolution_forms import Window
from metajax.models.kernels.few_at_a_time import in_groups
from metajax.types import Array

# Images are looked at in groups whose patches are about so large, to stay in the cache.
_GROUP_BYTES = 2_000_000


class PatchMoments(NamedTuple):
    """Moments of the patches that a convolution sees, over items and space.

    A patch is [kernel height x kernel width x channels] long.

    Attributes:
      mean: `[length]`.
      covariance: `[length, length]`.
    """

    mean: Array
    covariance: Array

    def output_mean(self, kernel: Array) -> Array:
        """Mean of each channel `[1, 1, 1, filters]` of the outputs under this kernel."""
        return (self.mean @ self._flat(kernel))[None, None, None]

    def output_variance(self, kernel: Array) -> Array:
        """Variance of each channel `[1, 1, 1, filters]` of the outputs under this kernel."""
        flat = self._flat(kernel)
        return (flat * (self.covariance @ flat)).sum(0)[None, None, None]

    def _flat(self, kernel: Array) -> Array:
        return kernel.astype(self.mean.dtype).reshape(-1, kernel.shape[-1])


@partial(jax.jit, static_argnums=2)  # So that calls outside `jit` compile the groups once.
def patch_moments(images: Array, weights: Array | None, window: Window) -> PatchMoments:
    """Moments of the patches that the window sees, in float32 at least.

    Args:
      images: `[items, height, width, channels]`, none of them 0.
      weights: `[items]`; items of weight 0 do not count. None counts all.
      window: of the convolution.

    Returns:
      Mean and covariance of the patches of the items that count.
    """
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    channels = images.shape[-1]
    (tall, wide), across = window.kernel, window.strides[1]
    block = next(size for size in (4, 3, 2, 1) if window.outputs[1] % size == 0)
    # As in batch statistics, a guard against a mean far from 0.
    origin = sample_of(images, weights)
    counted = None if weights is None else weights > 0

    def sums(group: tuple[Array, Array | None]) -> tuple[Array, Array]:
        images, counted = group
        seen = forms.seen_by_blocks(forms.pad_images(images, window) - origin, window, block)
        if counted is not None:
            seen = jnp.where(counted[:, None, None, None], seen, 0)
        seen = seen.reshape(-1, seen.shape[-1])
        return seen.sum(0)[None], (seen.T @ seen)[None]

    span = (block - 1) * across + wide
    length = tall * span * channels
    positions = window.outputs[0] * window.outputs[1]
    size = positions // block * length * images.dtype.itemsize
    parts = in_groups(sums, (images, counted), max(1, _GROUP_BYTES // size))
    total, products = (part.sum(0) for part in parts)
    # A patch is some columns of what its block sees.
    total = total.reshape(tall, span, channels)
    products = products.reshape(tall, span, channels, tall, span, channels)
    columns = [slice(place * across, place * across + wide) for place in range(block)]
    length = tall * wide * channels
    count = positions * (images.shape[0] if counted is None else counted.sum())
    means = [total[:, own].reshape(length) for own in columns]
    squares = [products[:, own, :, :, own].reshape(length, length) for own in columns]
    mean, square = (jnp.stack(parts).sum(0) / count for parts in (means, squares))
    moved = jnp.broadcast_to(origin[0, 0], (tall, wide, channels)).reshape(length)
    return PatchMoments(mean + moved, square - jnp.outer(mean, mean))
