"""Max-pooling that is quick to differentiate, and whose gradient cannot lose its maximum."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from metajax.kinds import as_array, check_words
from metajax.types import Array


def max_pool_2x2(images: Array, *, padding: Literal["VALID", "SAME"] = "VALID") -> Array:
    """Maximum over 2x2 windows, an odd last row or column left out or in a window of its own.

    The derivative goes to the place of the maximum, the first of equals, which is found by
    comparing inputs. The derivative of `jnp.max` compares them with the output: where the compiler
    computes the input twice, rounded differently, it finds no equal, divides by their number, and
    gives NaN. (Windowed reductions are slow to differentiate on CPU besides.)

    Args:
      images: `[items, height, width, channels]`, height and width at least 2, with `"SAME"` 1.
      padding: `"VALID"` leaves out an odd last row or column; `"SAME"` gives it a window, half of
        it empty, as Flax's and TensorFlow's pooling do.

    Returns:
      `[items, new height, new width, channels]`, half the old, with `"VALID"` rounded down and with
      `"SAME"` up.

    Raises:
      TypeError: `images` are no array.
      ValueError: the images are smaller than a window, or `padding` is another word.
    """
    images = as_array(images, "images")
    check_words(("VALID", "SAME"), padding=padding)
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {images.shape}; expected [items, height, width, channels]"
        )
    items, height, width, channels = images.shape
    if padding == "SAME" and min(height, width) > 0:
        # The last row and column once more: no maximum changes, and of equals the first has the
        # derivative.
        odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        images = jnp.pad(images, odd, mode="edge")
        height, width = images.shape[1:3]
    if min(height, width) < 2:
        raise ValueError(
            f"images shrank to {height}x{width} before a 2x2 pooling; use fewer blocks or larger "
            "images"
        )
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return _largest(even.reshape(items, height // 2, 2, width // 2, 2, channels))


@jax.custom_jvp
def _largest(windows: Array) -> Array:
    """`[items, rows, 2, columns, 2, channels]` to `[items, rows, columns, channels]`."""
    one, two, three, four = _corners(windows)
    return jnp.maximum(jnp.maximum(one, two), jnp.maximum(three, four))


@_largest.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # A byte a window, kept: left alone, XLA finds the places anew for every use of the derivative.
    place = lax.optimization_barrier(_place(*primals))
    return _largest(*primals), _at_place(place, tangents[0])


@partial(jax.checkpoint, prevent_cse=False)  # Kept is the place, not what it compares to.
def _at_place(place: Array, windows: Array) -> Array:
    """What stands at each window's place. The transpose is one broadcast and selection."""
    corner = jnp.arange(4, dtype=place.dtype).reshape(1, 1, 2, 1, 2, 1)
    return jnp.where(place[:, :, None, :, None, :] == corner, windows, 0).sum(axis=(2, 4))


def _corners(windows: Array) -> list[Array]:
    return [windows[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]


def _place(windows: Array) -> Array:
    """Which of its window's four places each maximum has."""
    one, two, three, four = _corners(windows)
    upper = jnp.maximum(one, two) >= jnp.maximum(three, four)
    place = jnp.where(upper, jnp.where(one >= two, 0, 1), jnp.where(three >= four, 2, 3))
    return place.astype(jnp.int8)
