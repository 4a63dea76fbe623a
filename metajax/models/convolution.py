"""A convolution that stays fast when every task has weights of its own.

Under `jax.vmap` over weights a stock convolution becomes a grouped one, which XLA runs naively on
CPU, and so it does weight gradients inside `jax.lax.scan`. Written as a copy of the patches and one
matrix product, the convolution and all its derivatives, of any order, are matrix products.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from metajax.types import Array


def patch_convolution(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: object = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> Array:
    """Two-dimensional convolution as patches times weights.

    Takes the arguments of `jax.lax.conv_general_dilated` that Flax passes, so it can be given to
    any `flax.linen.Conv` as `conv_general_dilated=patch_convolution`. Images are channels-last.

    Args:
      lhs: `[items, height, width, channels]` images.
      rhs: `[kernel height, kernel width, channels, filters]` weights.
      window_strides: two strides, 1 or more.
      padding: `"SAME"`, `"VALID"` or two pairs (before, after).
      lhs_dilation: only 1 is supported.
      rhs_dilation: only 1 is supported.
      dimension_numbers: what Flax passes for channels-last images; not read.
      feature_group_count: only 1 is supported.
      precision: of the matrix product.

    Returns:
      `[items, new height, new width, filters]`.

    Raises:
      ValueError: the images are not two-dimensional, or an unsupported option is asked for.
    """
    del dimension_numbers
    if lhs.ndim != 4:
        raise ValueError(
            f"patch_convolution got images of shape {lhs.shape}; expected "
            "[items, height, width, channels]"
        )
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    if any(dilation != 1 for dilation in dilations) or feature_group_count != 1:
        raise ValueError(
            f"patch_convolution got lhs_dilation={lhs_dilation}, rhs_dilation={rhs_dilation}, "
            f"feature_group_count={feature_group_count}; expected 1 for all of them: leave "
            "conv_general_dilated at its default for such a layer"
        )
    kernel = rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], kernel, window_strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    height, width = (
        (size - window) // stride + 1
        for size, window, stride in zip(padded.shape[1:3], kernel, window_strides, strict=True)
    )
    down, across = window_strides
    shifts = [
        padded[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    patches = jnp.concatenate(shifts, axis=-1).reshape(-1, rhs[..., 0].size)
    product = jnp.matmul(patches, rhs.reshape(-1, rhs.shape[-1]), precision=precision)
    return product.reshape(lhs.shape[0], height, width, rhs.shape[-1])
