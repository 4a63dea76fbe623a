"""A fixed list of episodes: the same ones every time, to be scored one by one or drawn from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metajax.checks.episodes import check_weights
from metajax.data.episode_draws import Drawn, Places
from metajax.data.labelled_images import ImageClasses, is_square
from metajax.given_data import as_arrays
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


def listed_draws(draw: Any, indices: Any) -> ListedDraws:
    """`draw` itself, found to hold the episodes at `indices`, integers in any shape.

    Raises:
      TypeError: it is no list, or an index no integer.
      ValueError: a known index is not of the list.
    """
    if not isinstance(draw, ListedDraws):
        raise TypeError(
            f"the episodes are drawn by {type(draw).__name__}, without end; expected a list of "
            "them, made with listed_episodes"
        )
    if not isinstance(indices, Tracer):
        known = np.asarray(indices)
        if not np.issubdtype(known.dtype, np.integer):
            raise TypeError(f"the index is {known.dtype}; expected an integer")
        for outside in known[(known < 0) | (known >= draw.listed)][:1]:
            raise ValueError(f"index={outside}; expected an episode in [0, {draw.listed})")
    return draw


def checked_places(data: ImageClasses, drawn: Drawn) -> Drawn:
    """A list of episodes as NumPy arrays, found to fit a data set and itself; padding is 0.

    Raises:
      TypeError: it is no `Drawn` of two `Places` of arrays.
      ValueError: shapes that do not fit, places that are no whole numbers, a class, item, label or
        turn that is not there, an image twice in one episode, labels that are not one a class, or
        turns of images that are not square.
    """
    if not isinstance(drawn, Drawn) or not all(isinstance(places, Places) for places in drawn):
        raise TypeError(
            f"drawn is {drawn!r}; expected metajax.data.Drawn(Places(...), Places(...))"
        )
    support, query = drawn = Drawn(*map(_as_places, drawn, Drawn._fields))
    if len(support.classes) != len(query.classes):
        raise ValueError(
            f"{len(support.classes)} support sets and {len(query.classes)} query sets; expected "
            "one of each an episode"
        )
    for name, places in drawn._asdict().items():
        ways = support.classes.shape[1]
        _check_within(f"{name} classes", places.classes, len(data.names))
        _check_within(f"{name} items", places.items, data.counts[places.classes])
        _check_within(f"{name} targets", places.targets, ways)
        _check_within(f"{name} turns", places.turns, 4)
        if places.turns is not None and not is_square(data):
            raise ValueError(
                f"{name} has turns of images of shape {data.images.shape[1:]}; expected square "
                "images, or turns that are None"
            )
    _check_labels(data, drawn)
    return drawn


def _as_places(places: Places, name: str) -> Places:
    """The same of arrays, all `[episodes, n]`."""
    arrays = {
        field: as_arrays(x, f"{name} {field}", lists=True, asarray=np.asarray)
        for field, x in places._asdict().items()
        if x is not None
    }
    shapes = {field: np.shape(x) for field, x in arrays.items()}
    shape = shapes["classes"]
    if len(shape) != 2 or 0 in shape or len({*shapes.values()}) > 1:
        raise ValueError(
            f"{name} places have the shapes {shapes}; expected [episodes, n] each, at least one of "
            "both"
        )
    weights = arrays.pop("weights", None)
    if weights is not None:
        for episode, row in enumerate(weights):
            check_weights(row, shape[1:], f"{name} weights of episode {episode}")
    for field, x in arrays.items():
        if not np.issubdtype(x.dtype, np.integer):
            raise ValueError(f"{name} {field} are {x.dtype}; expected whole numbers")
        arrays[field] = np.where(True if weights is None else weights > 0, x, 0).astype(np.int64)
    return Places(**arrays, weights=weights)


def _check_within(name: str, numbers: Any, most: Any) -> None:
    """Raises unless numbers `[episodes, n]`, or None, are in `[0, most)`."""
    if numbers is not None and (where := _first((numbers < 0) | (numbers >= most))):
        raise ValueError(
            f"{name} of episode {where[0]} hold {numbers[where]} at place {where[1]}; expected "
            f"numbers in [0, {np.broadcast_to(most, numbers.shape)[where]})"
        )


def _check_labels(data: ImageClasses, drawn: Drawn) -> None:
    """Raises unless no image is in an episode twice, and its labels are one a class."""

    def both(of: Callable[[Places], Any]) -> np.ndarray:
        """`[episodes, n]` of the support set, then of the query set."""
        parts = [np.broadcast_to(of(places), places.classes.shape) for places in drawn]
        return np.concatenate(parts, axis=1)

    classes, items, targets = (both(lambda p, i=i: p[i]) for i in range(3))
    # Turned, a class of images counts as another.
    turned = 4 * classes + both(lambda p: 0 if p.turns is None else p.turns)
    padding = both(lambda p: False if p.weights is None else p.weights == 0)
    place = np.arange(classes.shape[1])
    for keys, values, expected in (
        (turned * data.counts.max() + items, place, "different images in support and query"),
        (turned, targets, "one label a class, the same in both sets"),
        (targets, classes, "one label a class, of no other"),
    ):
        keys, values = np.where(padding, -1 - place, keys), np.broadcast_to(values, keys.shape)
        order = np.lexsort((values, keys))
        step, other = (np.diff(np.take_along_axis(x, order, axis=1)) for x in (keys, values))
        if where := _first((step == 0) & (other != 0)):
            two = order[where[0]][where[1] : where[1] + 2]
            shown = " and ".join(
                f"item {items[where[0], p]} of class {data.names[classes[where[0], p]]!r} with "
                f"label {targets[where[0], p]}"
                for p in two
            )
            raise ValueError(f"episode {where[0]} has {shown}; expected {expected}")


def _first(found: np.ndarray) -> tuple[int, int] | None:
    """Where the first is, of `[episodes, n]` booleans."""
    places = np.argwhere(found)
    return tuple(places[0].tolist()) if len(places) else None
