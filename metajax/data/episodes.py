"""Few-shot classification episodes, drawn on the device from a class-major array."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax.types import Array, Episode, Examples, Key

Rotations = Literal["none", "classes", "tasks"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # Hashed by identity, so that `jax.jit` takes it.
class ImageEpisodes:
    """A sampler of `N`-way `K`-shot episodes: the pure function `key -> Episode`.

    It is a pytree whose only leaf is the data, so that it can be an argument of a compiled function
    instead of a constant inside it. Build it with `image_episodes`, which checks the numbers.

    Attributes:
      images: `[classes, items, height, width, channels]`.
      ways: classes in an episode.
      shots: support items of a class.
      queries: query items of a class.
      rotations: see `image_episodes`.
    """

    images: Array
    ways: int = dataclasses.field(metadata={"static": True})
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    rotations: Rotations = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Episode:
        """Draws an episode; the order of the classes, and so their labels, is random."""
        class_key, item_key, rotation_key = jax.random.split(key, 3)
        classes, items = self.images.shape[:2]
        turns = 4 if self.rotations == "classes" else 1
        chosen = _draw(class_key, classes * turns, self.ways)
        quarter_turns = chosen // classes
        if self.rotations == "tasks":
            quarter_turns = jax.random.randint(rotation_key, (self.ways,), 0, 4)
        picked = jax.vmap(lambda k: _draw(k, items, self.shots + self.queries))(
            jax.random.split(item_key, self.ways)
        )
        images = self.images[(chosen % classes)[:, None], picked]
        if self.rotations != "none":
            images = jax.vmap(_rotate)(images, quarter_turns)
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = images.astype(jnp.float32) / 255
        return Episode(_labelled(images[:, : self.shots]), _labelled(images[:, self.shots :]))


def image_episodes(
    images: ArrayLike,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: Rotations = "none",
) -> ImageEpisodes:
    """Sampler of few-shot classification episodes from a class-major array of images.

    Classes are drawn without replacement, and so are the items of a class: support and query never
    share an item. Integer images are scaled to `[0, 1]` by 1/255.

    >>> import jax, metajax
    >>> images = metajax.glyphs("test", drawers=6)
    >>> sample = metajax.image_episodes(images, ways=5, shots=1, queries=5)
    >>> sample(jax.random.key(0)).query.inputs.shape
    (25, 28, 28, 1)

    Args:
      images: `[classes, items, height, width, channels]`, integers in `[0, 255]` or floats.
      ways: classes in an episode; static.
      shots: support items of a class; static.
      queries: query items of a class; static.
      rotations: `"classes"` makes the four quarter turns of a class four classes (Vinyals et al.
        2016, Snell et al. 2017); `"tasks"` turns each class of an episode by a random quarter (the
        MAML and Reptile authors' code); `"none"` leaves images as they are.

    Returns:
      An `ImageEpisodes`, the function `key -> Episode`: inputs `[ways * items, height, width,
      channels]` floats, class by class, and targets `[ways * items]` labels in `[0, ways)`.

    Raises:
      ValueError: the array is not class-major images, there are too few classes or items, or
        rotations are asked of images that are not square.
    """
    shape = np.shape(images)
    if len(shape) != 5 or 0 in shape:
        raise ValueError(
            f"images have shape {shape}; expected [classes, items, height, width, channels], "
            "none of them 0"
        )
    classes, items = shape[:2]
    if rotations not in ("none", "classes", "tasks"):
        raise ValueError(f'rotations={rotations!r}; expected "none", "classes" or "tasks"')
    if rotations != "none" and shape[2] != shape[3]:
        raise ValueError(
            f"rotations={rotations!r} of images {shape[2]}x{shape[3]}; expected square images, or "
            'rotations="none"'
        )
    if ways < 1 or shots < 1 or queries < 1:
        raise ValueError(
            f"ways={ways}, shots={shots}, queries={queries}; expected 1 or more of each"
        )
    available = classes * (4 if rotations == "classes" else 1)
    if ways > available:
        raise ValueError(
            f"ways={ways} but the data set has {available} classes; lower ways or pass more classes"
        )
    if shots + queries > items:
        raise ValueError(
            f"shots={shots} + queries={queries} is {shots + queries} but each class has {items} "
            "items; lower shots or queries"
        )
    return ImageEpisodes(jnp.asarray(images), ways, shots, queries, rotations)


def _draw(key: Key, available: int, count: int) -> Array:
    """`count` of `available` indices without replacement, in random order."""
    return jax.lax.top_k(jax.random.uniform(key, (available,)), count)[1]


def _rotate(images: Array, quarter_turns: Array) -> Array:
    """Turns `[items, size, size, channels]` counter-clockwise by `quarter_turns` quarters."""
    turned = [jnp.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    return jnp.stack(turned)[quarter_turns]


def _labelled(images: Array) -> Examples:
    """`[ways, items, ...]` images as `Examples`, labelled by way."""
    ways, items = images.shape[:2]
    targets = jnp.repeat(jnp.arange(ways), items)
    return Examples(images.reshape(ways * items, *images.shape[2:]), targets)
