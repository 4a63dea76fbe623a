"""Episodes of images that lie on the device: drawn and gathered inside of compiled programs."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episode_draws import Drawn
from metajax.data.episode_lists import listed_draws
from metajax.data.episode_pixels import Augment, Fetched, Finish
from metajax.data.labelled_images import ImageClasses, rows_of
from metajax.kinds import check_key
from metajax.types import Array, Episode, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # Hashed by identity, so that `jax.jit` takes it.
class ImageEpisodes:
    """A sampler of episodes from images on the device: the pure function `key -> Episode`.

    It is a pytree whose leaves are the data, so that it can be an argument of a compiled function
    instead of a constant inside it. Build it with `image_episodes`, `varying_episodes` or
    `listed_episodes`, which check the numbers.

    Attributes:
      images: `[images, height, width, channels]`.
      starts: `[classes]` the row of each class's first image.
      draw: the pure function `key -> Drawn`, which images make an episode.
      augment: the pure function `(key, images) -> images`, or None.
    """

    images: Array
    starts: Array
    draw: Callable[[Key], Drawn]
    augment: Augment | None

    @property
    def listed(self) -> int | None:
        """The number of listed episodes, or None where they are drawn at random."""
        return getattr(self.draw, "listed", None)

    def __call__(self, key: Key) -> Episode:
        """Draws an episode; the order of the classes, and so their labels, is random."""
        check_key(key)
        return self._drawn(key)

    @jax.jit  # One program and not one an operation, where the caller compiles nothing.
    def _drawn(self, key: Key) -> Episode:
        return self._episode(key, self.draw(key))

    def at(self, key: Key, index: int | Array) -> Episode:
        """The episode `index` of a list; the key only augments it.

        Raises:
          TypeError: the episodes are not listed, or the index is no integer.
          ValueError: a known index is not of the list.
        """
        check_key(key)
        return self._episode(key, listed_draws(self.draw, index).at(index))

    def _episode(self, key: Key, drawn: Drawn) -> Episode:
        support, query = (self.images[self.starts[p.classes] + p.items] for p in drawn)
        return Finish(self.augment)(key, Fetched(drawn, support, query))


def on_device(data: ImageClasses) -> tuple[Array, Array]:
    """The images of the classes alone, and the row where each class starts."""
    images = data.images
    starts = np.cumsum(data.counts) - data.counts
    whole = images.shape[0] == data.counts.sum() and np.array_equal(starts, data.starts)
    if not (whole and isinstance(images, np.ndarray | jax.Array)):
        rows = [np.arange(n) + start for start, n in zip(data.starts, data.counts, strict=True)]
        images = rows_of(images, np.concatenate(rows))
    return jnp.asarray(images), jnp.asarray(starts, jnp.int32)
