"""Random changes of an episode's images, on the device: a pure function of a key."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.settings import check_flags
from metajax.kinds import as_array, check_key, check_words
from metajax.types import Array, Key

Per = Literal["item", "episode"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)  # Equal settings are equal: `jax.jit` compiles them once.
class Augmentation:
    """The pure function `(key, images) -> images`.

    It is a pytree without leaves: as an argument of a compiled function its settings are part of
    the program. Build it with `augmentation`, which checks them and says what they mean.
    """

    shift: int
    flip: bool
    rotation: float
    crop: float
    noise: float
    per: Per
    fill: float

    def __call__(self, key: Key, images: ArrayLike) -> Array:
        """Augments `[items, height, width, channels]` floats; shape and dtype stay as they are.

        Raises:
          ValueError: images of another rank, with an axis of 0, of a dtype that is not floating,
            or no larger than the shift.
        """
        check_key(key)
        images = as_array(images, "images")
        _check_images(images, self.shift)
        if not (self.shift or self.flip or self.rotation or self.crop < 1 or self.noise):
            return images
        return self._all(key, images)

    @jax.jit  # One program and not one an operation, where the caller compiles nothing.
    def _all(self, key: Key, images: Array) -> Array:
        if self.per == "episode":
            return jax.vmap(self._one, (None, 0))(key, images)
        # Folded in, not split: an item's draw must not depend on how many items there are.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
        return jax.vmap(self._one)(keys, images)

    def _one(self, key: Key, image: Array) -> Array:
        """Augments one image `[height, width, channels]`."""
        # What is off is drawn with its neighbours: switching it on leaves their draws as they were.
        # Types are named: the draws are the same where 64 bits are the default.
        resample_key, move_key, noise_key = jax.random.split(key, 3)
        dtype = image.dtype
        if self.rotation or self.crop < 1:
            draws = jax.random.uniform(resample_key, (4,), jnp.float32)
            degrees = self.rotation * (2 * draws[0] - 1)
            area = 1 - (1 - self.crop) * draws[1]
            image = resample(image, degrees, area, draws[2:], self.fill)
        if self.shift or self.flip:
            most = np.array([self.shift, self.shift, self.flip], np.int32)
            least = -most * np.array([1, 1, 0], np.int32)
            moves = jax.random.randint(move_key, (3,), least, most + 1, jnp.int32)
            image = _move(image, moves[:2], moves[2] == 1, self.fill)
        if self.noise:
            image = image + self.noise * jax.random.normal(noise_key, image.shape, _working(dtype))
        return image.astype(dtype)


def augmentation(
    *,
    shift: int = 0,
    flip: bool = False,
    rotation: float = 0.0,
    crop: float = 1.0,
    noise: float = 0.0,
    per: Per = "item",
    fill: float = 0.0,
) -> Augmentation:
    """Augmentation of images `[items, height, width, channels]`, drawn from a key.

    Crop and rotation come first, as one bilinear resampling; then shift and flip, which move whole
    pixels and so give the same bits on every device; then noise. What is off costs nothing, and
    with all of it off the images come back untouched.

    >>> import jax, metajax
    >>> images = metajax.data.glyphs("test", drawers=2)[0] / 255.0
    >>> augment = metajax.data.augmentation(shift=2, rotation=10, crop=0.8)
    >>> augment(jax.random.key(0), images).shape
    (2, 28, 28, 1)

    Args:
      shift: the most pixels by which an image moves, rows and columns each by an integer uniform in
        `[-shift, shift]`; below height and width. What leaves is lost, what enters is `fill`.
      flip: mirrors left and right with probability 1/2.
      rotation: the most degrees, 0 to 180, by which an image turns about its centre; uniform in
        `[-rotation, rotation]`, positive is counter-clockwise. Beyond the image is `fill`.
      crop: the smallest share of the area that is kept, above 0 to 1. The share is uniform in
        `[crop, 1]`, the place uniform where the crop fits, the aspect the image's; the crop is
        enlarged to the image's size. With a rotation the crop turns about its own centre, so that
        its corners show what lies around it, and `fill` only beyond the image.
      noise: standard deviation of the Gaussian noise added to every pixel, in the units of the
        pixels: 0.1 is a tenth of the range of images in `[0, 1]`. The sum is not clipped, which
        would bias black and white pixels; clip it after if the model needs that.
      per: `"item"` draws for every image, image `i` from `fold_in(key, i)` whatever their number;
        `"episode"` draws once for all images, the noise too.
      fill: the pixel value where there is no image.

    Returns:
      An `Augmentation`, the function `(key, images) -> images`.

    Raises:
      TypeError: `shift` is not an integer or `flip` not a bool.
      ValueError: a number is outside its range, or `per` is unknown.
    """
    check_integers(0, shift=shift)
    check_flags(flip=flip)
    check_numbers(
        lambda x: 0 <= x <= 180, "degrees, 0 to 180: the most either way", rotation=rotation
    )
    check_numbers(lambda x: 0 < x <= 1, "a share of the area, above 0 to 1 (no crop)", crop=crop)
    check_numbers(
        lambda x: 0 <= x < math.inf, "a finite standard deviation, 0 or more", noise=noise
    )
    check_numbers(math.isfinite, "a finite pixel value", fill=fill)
    check_words(("item", "episode"), per=per)
    # Converted, so that settings that are equal are also hashable whatever kind of number they are.
    return Augmentation(
        int(shift), bool(flip), float(rotation), float(crop), float(noise), per, float(fill)
    )


def resample(image: Array, degrees: Array, area: Array, place: Array, fill: float) -> Array:
    """A crop of an image, turned about the crop's centre and enlarged to the image's size.

    Args:
      image: `[height, width, channels]` floats.
      degrees: scalar; the content turns counter-clockwise.
      area: scalar, the crop's share of the area, above 0 to 1.
      place: `[2]` in `[0, 1]`, where the crop lies: 0 at the top or left edge, 1 at the other.
      fill: the value of pixels whose centre falls beyond the image's edge. Up to the edge, half a
        pixel beyond the outermost centres, the outermost values hold.

    Returns:
      `[height, width, channels]`, float32 or wider.
    """
    height, width = image.shape[:2]
    dtype = _working(image.dtype)
    side, angle = jnp.sqrt(area.astype(dtype)), jnp.deg2rad(degrees.astype(dtype))
    down = (jnp.arange(height, dtype=dtype) - (height - 1) / 2)[:, None]
    right = (jnp.arange(width, dtype=dtype) - (width - 1) / 2)[None]
    room = (place.astype(dtype) - 0.5) * (1 - side)
    cos, sin = side * jnp.cos(angle), side * jnp.sin(angle)
    rows = cos * down + sin * right + (room[0] * height + (height - 1) / 2)
    columns = cos * right - sin * down + (room[1] * width + (width - 1) / 2)
    # As fast on a CPU as four gathers written out, and its gradient is faster.
    sampled = jax.vmap(
        lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="nearest"), -1, -1
    )(image.astype(dtype))
    beyond = (abs(rows - (height - 1) / 2) > height / 2) | (
        abs(columns - (width - 1) / 2) > width / 2
    )
    return jnp.where(beyond[..., None], fill, sampled)


def _move(image: Array, moves: Array, mirrored: Array, fill: float) -> Array:
    """Moves an image by `moves` (rows, columns), then mirrors it."""
    height, width = image.shape[:2]
    rows, columns = jnp.arange(height), jnp.arange(width)
    # One look-up whose last step is the move: after a pad, or with the mirror last, XLA draws the
    # noise twice on a CPU (jax 0.10).
    columns = jnp.where(mirrored, width - 1 - columns, columns) - moves[1]
    return image.at[(rows - moves[0])[:, None], columns[None]].get(
        mode="fill", fill_value=fill, wrap_negative_indices=False
    )


def _working(dtype: np.dtype) -> np.dtype:
    """What to compute in: coordinates and noise are too coarse in half precision."""
    return jnp.promote_types(dtype, jnp.float32)


def _check_images(images: Array, shift: int) -> None:
    shape = images.shape
    if len(shape) != 4 or 0 in shape or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype} of shape {shape}; expected floats [items, height, width, "
            "channels], none of them 0: scale integers first, images.astype(jnp.float32) / 255"
        )
    height, width = images.shape[1:3]
    if shift >= min(height, width):
        raise ValueError(
            f"shift={shift} of images {height}x{width}; expected less than height and width, or "
            "nothing of an image may be left"
        )
