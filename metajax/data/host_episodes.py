"""Episodes of images that stay on the host, in memory or in a file, and are fetched by threads."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from metajax.data.episode_draws import Drawn, Places
from metajax.data.episode_lists import ListedDraws, listed_draws
from metajax.data.episode_pixels import Augment, Fetched, Finish
from metajax.data.labelled_images import ImageClasses, ImageSource
from metajax.data.memory_map_rows import read_rows
from metajax.kinds import check_key, check_keys
from metajax.streaming import keys_on_host
from metajax.types import Array, Episode, Key


@dataclasses.dataclass(frozen=True, eq=False)
class HostEpisodes:
    """A sampler of episodes from images on the host; the same key, the same episode.

    What an episode is made of is drawn as on the device. Its images are then read by `fetch`, ahead
    of the computation where `train`, `evaluate` and `stream_episodes` do it, and `finish` makes an
    episode of them on the device. Called with a key it does all of it at once, outside of compiled
    programs only. Keys are to be JAX's default, threefry: what others draw under `jax.vmap` depends
    on how many there are.

    Attributes:
      data: the images.
      draw: the pure function `key -> Drawn`, which images make an episode.
      augment: the pure function `(key, images) -> images`, or None.
      readers: the threads that read.
    """

    data: ImageClasses
    draw: Callable[[Key], Drawn]
    augment: Augment | None
    readers: Executor

    @property
    def images(self) -> ImageSource:
        """`[images, height, width, channels]`."""
        return self.data.images

    @property
    def listed(self) -> int | None:
        """The number of listed episodes, or None where they are drawn at random."""
        return getattr(self.draw, "listed", None)

    def __call__(self, key: Key) -> Episode:
        """Draws an episode.

        Raises:
          ValueError: inside of a compiled program.
        """
        return self._one(key, None)

    def at(self, key: Key, index: int) -> Episode:
        """The episode `index` of a list; the key only augments it.

        Raises:
          TypeError: the episodes are not listed, or the index is no integer.
          ValueError: inside of a compiled program, or the index is not of the list.
        """
        return self._one(key, np.asarray(index)[None])

    def _one(self, key: Key, index: np.ndarray | None) -> Episode:
        check_key(key)
        if isinstance(key, Tracer):
            raise ValueError(
                "episodes from the host cannot be drawn inside a compiled program (jit, vmap, "
                "scan); expected train, evaluate or stream_episodes, which read ahead of it, or "
                'place="device"'
            )
        fetched = jax.tree.map(lambda x: x[0], self.fetch(keys_on_host(key)[None], index))
        return self.finish(key, fetched)

    def fetch(self, keys: Key, indices: np.ndarray | None = None) -> Fetched:
        """Reads the images of many episodes; thread-safe.

        Args:
          keys: `[...]` keys, one an episode.
          indices: `[...]` which of the listed episodes to take, in place of drawing one.

        Returns:
          Numpy arrays, `[..., n]` places and `[..., n, height, width, channels]` images, unscaled.
        """
        check_keys(keys, None)
        keys = keys_on_host(keys)
        draw, of = self.draw, keys
        if indices is not None:
            of = np.asarray(indices)
            draw = jax.tree_util.Partial(ListedDraws.at, listed_draws(draw, of))
        drawn = jax.tree.map(np.asarray, _draw_all(draw, of.reshape(-1)))
        images = self.data.images
        read: list[np.ndarray] = []
        jobs = []
        for places in drawn:
            into = np.zeros((*places.classes.shape, *images.shape[1:]), images.dtype)
            read.append(into)
            jobs += [self.readers.submit(self._read, places, i, into) for i in range(len(into))]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
        return jax.tree.map(
            lambda x: x.reshape(*keys.shape, *x.shape[1:]), Fetched(drawn, read[0], read[1])
        )

    @property
    def finish(self) -> Finish:
        """The pure function `(key, fetched) -> Episode`, for the device."""
        return Finish(self.augment)

    def _read(self, places: Places, episode: int, into: np.ndarray) -> None:
        classes, items = places.classes[episode], places.items[episode]
        rows = self.data.starts[classes] + items
        if places.weights is None:
            into[episode] = read_rows(self.data.images, rows)
        else:
            real = np.asarray(places.weights[episode]) > 0
            into[episode][real] = read_rows(self.data.images, rows[real])


@jax.jit
def _draw_all(draw: Callable[[Any], Drawn], of: Key | Array) -> Drawn:
    return jax.vmap(draw)(of)
