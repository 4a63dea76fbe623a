"""A fixed list of episodes: the same ones every time, to be scored one by one or drawn from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episode_draws import Drawn, Places
from metajax.data.labelled_images import ImageClasses
from metajax.types import Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ListedDraws:
    """One of a list of episodes, each as likely: the pure function `key -> Drawn`.

    Attributes:
      drawn: arrays `[episodes, n]`.
    """

    drawn: Drawn

    @property
    def listed(self) -> int:
        """The number of episodes."""
        return len(self.drawn.support.classes)

    def __call__(self, key: Key) -> Drawn:
        """Draws one at random."""
        return self.at(jax.random.randint(key, (), 0, self.listed, jnp.int32))

    def at(self, index: int | Array) -> Drawn:
        """The episode `index` of the list."""
        return jax.tree.map(lambda x: x[index], self.drawn)


def listed_draws(draw: Any) -> ListedDraws:
    """`draw` itself.

    Raises:
      TypeError: it is no list.
    """
    if not isinstance(draw, ListedDraws):
        raise TypeError(
            f"the episodes are drawn by {type(draw).__name__}, without end; expected a list of "
            "them, made with listed_episodes"
        )
    return draw


def checked_places(data: ImageClasses, drawn: Drawn) -> Drawn:
    """A list of episodes as arrays, found to fit a data set.

    Raises:
      TypeError: it is no `Drawn` of two `Places`.
      ValueError: shapes that do not fit, places that are no whole numbers, a class, item, label or
        turn that is not there, or an image twice in one episode.
    """
    if not isinstance(drawn, Drawn) or not all(isinstance(places, Places) for places in drawn):
        raise TypeError(
            f"drawn is {drawn!r}; expected metajax.data.Drawn(Places(...), Places(...))"
        )
    sets: Any = [[x if x is None else np.asarray(x) for x in places] for places in drawn]
    drawn = Drawn(*(Places(*fields) for fields in sets))
    for name, places in zip(Drawn._fields, drawn, strict=True):
        shapes = {np.shape(x) for x in places if x is not None}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or 0 in shape:
            raise ValueError(
                f"{name} places have shapes {sorted(np.shape(x) for x in places if x is not None)};"
                " expected [episodes, n] each, at least one of both"
            )
        if len(places.classes) != len(drawn.support.classes):
            raise ValueError(
                f"{len(drawn.support.classes)} support sets and {len(places.classes)} query sets; "
                "expected one of each an episode"
            )
        for what, x in places._asdict().items():
            if what != "weights" and x is not None and not np.issubdtype(x.dtype, np.integer):
                raise ValueError(f"{name} {what} are {x.dtype}; expected whole numbers")
        classes, items = places.classes, places.items
        real = np.ones(items.shape, bool) if places.weights is None else places.weights > 0
        for what, x, count in (
            ("classes", classes, len(data.names)),
            ("turns", places.turns, 4),
            ("targets", places.targets, drawn.support.classes.shape[1]),
        ):
            if x is not None and (x.min() < 0 or x.max() >= count):
                raise ValueError(
                    f"{name} has {what} from {x.min()} to {x.max()}; expected numbers in [0, "
                    f"{count})"
                )
        bad = np.argwhere(real & ((items < 0) | (items >= data.counts[classes])))
        if len(bad):
            where = tuple(bad[0])
            raise ValueError(
                f"{name} of episode {where[0]} has item {items[where]} of class "
                f"{data.names[classes[where]]!r}, which has {data.counts[classes[where]]} items, "
                "counted from 0"
            )
    if repeated := _first_repeated(drawn):
        episode, label, item = repeated
        raise ValueError(
            f"episode {episode} has item {item} of class {data.names[label]!r} twice; expected "
            "different images in support and query"
        )
    return drawn


def _first_repeated(drawn: Drawn) -> tuple[int, int, int] | None:
    """Episode, class and item of the first image that is in an episode twice."""

    def rows(places: Places) -> np.ndarray:
        turns = np.zeros_like(places.classes) if places.turns is None else places.turns
        return np.stack([places.classes, places.items, turns], axis=-1)

    counted = [
        np.ones(p.classes.shape, bool) if p.weights is None else p.weights > 0 for p in drawn
    ]
    for episode, (images, real) in enumerate(
        zip(
            np.concatenate([rows(p) for p in drawn], axis=1),
            np.concatenate(counted, axis=1),
            strict=True,
        )
    ):
        found, counts = np.unique(images[real], axis=0, return_counts=True)
        if (counts > 1).any():
            label, item, _ = found[counts > 1][0].tolist()
            return episode, label, item
    return None
