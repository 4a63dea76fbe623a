"""From fetched images to an episode: scaled, turned, augmented, padding blacked out."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episode_draws import Drawn, Places
from metajax.keys import augmentation_key
from metajax.kinds import in_brief
from metajax.types import Array, Episode, Examples, Key

Augment = Callable[[Key, Array], Array]


class Fetched(NamedTuple):
    """An episode's images as they are stored, and where they were.

    Attributes:
      drawn: the places.
      support: `[n, height, width, channels]`, or `[n, features]`.
      query: the same.
    """

    drawn: Drawn
    support: Array | np.ndarray
    query: Array | np.ndarray


@dataclasses.dataclass(frozen=True)  # Equal where its augmentation is: compiled once.
class Finish:
    """The pure function `(key, fetched) -> Episode`. Integers are scaled to `[0, 1]` by 1/255.

    Attributes:
      augment: see `ImageEpisodes`.
    """

    augment: Augment | None

    def __call__(self, key: Key, fetched: Fetched) -> Episode:
        """The episode of fetched images; the key is the episode's."""
        places = jax.tree.map(jnp.asarray, fetched.drawn)
        # Padding is black for the augmentation too, which may mix the images.
        support, query = (
            _without_padding(_turned(_scaled(jnp.asarray(images)), p.turns), p.weights)
            for images, p in zip(fetched[1:], places, strict=True)
        )
        if self.augment is not None:
            whole = jnp.concatenate([support, query])
            both = self.augment(augmentation_key(key), whole)
            shape = getattr(both, "shape", ())
            if len(shape) != whole.ndim or shape[:1] != whole.shape[:1]:
                raise ValueError(
                    f"augment made {in_brief(both)} of shape {shape} of images {whole.shape}; "
                    "expected an array of as many images, in their order"
                )
            support, query = both[: len(support)], both[len(support) :]
        return Episode(_examples(support, places.support), _examples(query, places.query))


def _scaled(images: Array) -> Array:
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255
    return images


def _turned(images: Array, turns: Array | None) -> Array:
    """Turns each of `[n, size, size, channels]` counter-clockwise by its quarters."""
    if turns is None:
        return images
    turned = jnp.stack([jnp.rot90(images, quarters, axes=(1, 2)) for quarters in range(4)])
    return turned[turns, jnp.arange(len(images))]


def _examples(images: Array, places: Places) -> Examples:
    images = _without_padding(images, places.weights)
    return Examples(images, places.targets, places.weights)


def _without_padding(images: Array, weights: Array | None) -> Array:
    if weights is None:
        return images
    return jnp.where(weights.reshape(-1, *[1] * (images.ndim - 1)) > 0, images, 0)
