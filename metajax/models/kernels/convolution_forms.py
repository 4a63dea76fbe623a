"""Ways to compute a convolution and its two gradients, and which of them is fast on CPU.

Everything here is for one task: images `[items, height, width, channels]`, weights
`[kernel height, kernel width, channels, filters]`, outputs `[items, height, width, filters]`.
The choices come from measurements on two AVX-512 cores, inside a scan; the rates below are for 75
images of 42x42 with 32 channels unless something else is said.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from metajax.models.kernels.few_at_a_time import in_groups
from metajax.types import Array

# Below so many channels, copies of a few floats each dominate.
_FEW_CHANNELS = 8
# Neighbouring outputs whose inputs are copied at once, where channels are few.
_BLOCK = 4
# Operations below which a convolution is done before several threads have started.
_WORTH_THREADS = 100_000_000
# The weight gradient copies its operands in groups of images of about this size, to stay in cache.
_GROUP_BYTES = 8_000_000


class Window(NamedTuple):
    """What a convolution looks at: sizes (height, width), strides, padding (before, after)."""

    images: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    precision: Any

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        height, width = (
            max(0, (size + sum(pads) - kernel) // stride + 1)
            for size, kernel, stride, pads in zip(
                self.images, self.kernel, self.strides, self.padding, strict=True
            )
        )
        return height, width


def window_of(
    images: Array,
    weights: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    precision: lax.PrecisionLike = None,
) -> Window:
    """The window of a convolution; padding is `"SAME"`, `"VALID"` or two pairs (before, after)."""
    size, kernel = images.shape[1:3], weights.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, kernel, strides, padding)
    (top, bottom), (left, right) = padding
    return Window(
        images=(size[0], size[1]),
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        padding=((top, bottom), (left, right)),
        precision=precision,
    )


def forward(images: Array, weights: Array, window: Window) -> Array:
    """XLA's own (240 GFLOP/s), or with few channels, where that makes 24, blocks (75)."""
    form = _form(weights.shape[2])
    return (_stock_on_all_cores if form is stock else form)(images, weights, window)


def input_gradient(outputs: Array, weights: Array, window: Window) -> Array:
    """A convolution by the flipped weights."""
    padding = []
    for size, kernel, (before, _), outer in zip(
        window.images, window.kernel, window.padding, window.outputs, strict=True
    ):
        low = kernel - 1 - before
        padding.append((low, size - outer - low + kernel - 1))
    mirrored = window._replace(images=window.outputs, padding=(padding[0], padding[1]))
    return _stock_on_all_cores(outputs, weights[::-1, ::-1].swapaxes(2, 3), mirrored)


def weight_gradient(images: Array, outputs: Array, window: Window) -> Array:
    """A balanced product (78 GFLOP/s; patches times outputs: 50), or with few channels blocks."""
    form = _form(images.shape[-1])
    if form is stock:
        return _balanced_weight_gradient(images, outputs, window)
    return weight_gradient_of(form, images, outputs, window)


def stock(images: Array, weights: Array, window: Window) -> Array:
    """XLA's convolution."""
    return lax.conv_general_dilated(
        images,
        weights,
        window.strides,
        window.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=window.precision,
    )


def _stock_on_all_cores(images: Array, weights: Array, window: Window) -> Array:
    """XLA's convolution, by several threads if there is work for them.

    Where the padding is `"SAME"` or `"VALID"` XLA takes a library that runs on one thread (130
    GFLOP/s). With a row of outputs more, which is dropped, it takes one that runs on all.
    """
    # Where their number is a symbol, there is one image at least.
    items = images.shape[0] if isinstance(images.shape[0], int) else 1
    operations = 2 * items * math.prod(window.outputs) * math.prod(weights.shape)
    if operations < _WORTH_THREADS or _cores() < 2:
        return stock(images, weights, window)
    (top, bottom), columns = window.padding
    taller = window._replace(padding=((top, bottom + 1), columns))
    return stock(images, weights, taller)[:, : window.outputs[0]]


def _cores() -> int:
    """Those that this process may use, where the system says it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def patches_times_weights(images: Array, weights: Array, window: Window) -> Array:
    """A copy of every patch, and one matrix product."""
    padded = pad_images(images, window)
    (down, across), (height, width) = window.strides, window.outputs
    shifts = [
        padded[:, i : i + (height - 1) * down + 1 : down, j : j + (width - 1) * across + 1 : across]
        for i in range(window.kernel[0])
        for j in range(window.kernel[1])
    ]
    patches = jnp.concatenate(shifts, axis=-1).reshape(-1, math.prod(weights.shape[:-1]))
    product = jnp.matmul(
        patches, weights.reshape(-1, weights.shape[-1]), precision=window.precision
    )
    return product.reshape(images.shape[0], height, width, -1)


def blocks_times_weights(images: Array, weights: Array, window: Window) -> Array:
    """Stride 1: neighbouring outputs of a row at once, from one copy of all that they see.

    The weights are spread over the block with zeros between them: more arithmetic, but the copies
    are longer and fewer.
    """
    filters = weights.shape[-1]
    seen = seen_by_blocks(pad_images(images, window), window, _BLOCK)
    spread = jnp.stack(
        [
            jnp.pad(weights, ((0, 0), (place, _BLOCK - 1 - place), (0, 0), (0, 0)))
            for place in range(_BLOCK)
        ],
        axis=3,
    )
    product = jnp.matmul(
        seen.reshape(-1, seen.shape[-1]),
        spread.reshape(-1, _BLOCK * filters),
        precision=window.precision,
    )
    height, width = window.outputs
    return product.reshape(images.shape[0], height, -1, filters)[:, :, :width]


def seen_by_blocks(padded: Array, window: Window, block: int) -> Array:
    """All that each `block` of neighbouring outputs sees of padded images.

    Returns:
      `[items, output height, blocks a row, kernel height x span x channels]`; the span is that of
      the block in columns. Where the last block is not full, what its missing outputs see means
      nothing.
    """
    items, _, columns, channels = padded.shape
    (tall, wide), (down, across) = window.kernel, window.strides
    height, width = window.outputs
    step, span, blocks = block * across, (block - 1) * across + wide, -(-width // block)
    pieces = -(-span // step)
    missing = max(0, (blocks - 1 + pieces) * step - columns)
    rows = jnp.pad(padded, ((0, 0), (0, 0), (0, missing), (0, 0))).reshape(*padded.shape[:2], -1)
    parts = [
        rows[:, :, piece * step * channels : (piece + blocks) * step * channels].reshape(
            items, -1, blocks, step * channels
        )
        for piece in range(pieces)
    ]
    seen = jnp.concatenate(parts, axis=-1)[..., : span * channels]
    return jnp.concatenate(
        [seen[:, i : i + (height - 1) * down + 1 : down] for i in range(tall)], axis=-1
    )


def input_gradient_of(form: Callable, outputs: Array, weights: Array, window: Window) -> Array:
    """The transpose of `form` with respect to the images."""
    shape = (outputs.shape[0], *window.images, weights.shape[2])
    images = jax.ShapeDtypeStruct(shape, outputs.dtype)
    return jax.linear_transpose(lambda x: form(x, weights, window), images)(outputs)[0]


def weight_gradient_of(form: Callable, images: Array, outputs: Array, window: Window) -> Array:
    """The transpose of `form` with respect to the weights."""
    shape = (*window.kernel, images.shape[-1], outputs.shape[-1])
    weights = jax.ShapeDtypeStruct(shape, outputs.dtype)
    return jax.linear_transpose(lambda w: form(images, w, window), weights)(outputs)[0]


def _form(channels: int) -> Callable[[Array, Array, Window], Array]:
    return stock if channels >= _FEW_CHANNELS else blocks_times_weights


def pad_images(images: Array, window: Window) -> Array:
    """The images in their frame of zeros, or cropped where the window's padding is negative."""
    # `lax.pad` crops where padding is negative, as convolutions do.
    zero = jnp.zeros((), images.dtype)
    return lax.pad(images, zero, ((0, 0, 0), *((*pads, 0) for pads in window.padding), (0, 0, 0)))


def _balanced_weight_gradient(images: Array, outputs: Array, window: Window) -> Array:
    """Images shifted sideways times outputs shifted up and down, a few images at a time.

    One product of [kernel width x channels] by [kernel height x filters] in place of one of
    [kernel height x kernel width x channels] by [filters]: less to copy, and a squarer result.
    """
    kernel_height, kernel_width = window.kernel
    height, width = window.outputs
    padded = pad_images(images, window)
    channels, filters = images.shape[-1], outputs.shape[-1]
    tall = padded.shape[1]
    # Sums over the groups in half precision would lose what each of them keeps.
    wide = jnp.promote_types(images.dtype, jnp.float32)

    def product(group: tuple[Array, Array]) -> Array:
        images, outputs = group
        sideways = jnp.concatenate([images[:, :, j : j + width] for j in range(kernel_width)], -1)
        up_and_down = jnp.concatenate(
            [
                jnp.pad(outputs, ((0, 0), (i, tall - height - i), (0, 0), (0, 0)))
                for i in range(kernel_height)
            ],
            axis=-1,
        )
        return jnp.matmul(
            sideways.reshape(-1, kernel_width * channels).T,
            up_and_down.reshape(-1, kernel_height * filters),
            precision=window.precision,
            preferred_element_type=wide,
        )[None]

    floats = tall * width * (kernel_width * channels + kernel_height * filters)
    group = max(1, _GROUP_BYTES // (floats * images.dtype.itemsize))
    total = in_groups(product, (padded, outputs), group).sum(0)
    parts = total.reshape(kernel_width, channels, kernel_height, filters)
    return parts.transpose(2, 0, 1, 3).astype(outputs.dtype)
