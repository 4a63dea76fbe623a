"""Which images make an episode: drawn from a key, before any image is touched.

Everything here is integers, and comparisons of uniform numbers that are exact: a key draws the same
episode on every device, to the bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from metajax.types import Array, Key

Rotations = Literal["none", "classes", "tasks", "episode"]
Groups = bool | Mapping[str, float]


class Places(NamedTuple):
    """The images of one set, by their places in a data set.

    Attributes:
      classes: `[n]` the class of each.
      items: `[n]` which item of its class.
      targets: `[n]` its label in the episode.
      turns: `[n]` quarter turns, counter-clockwise, or None for none.
      weights: `[n]` 1, or 0 for padding; None where there is none.
    """

    classes: Array
    items: Array
    targets: Array
    turns: Array | None = None
    weights: Array | None = None


class Drawn(NamedTuple):
    """One episode by places: no image is in both sets, and none is twice in one.

    Images in different turns, of `rotations="classes"`, count as different.
    """

    support: Places
    query: Places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClassTable:
    """What drawing has to know of the classes.

    Attributes:
      counts: `[classes]` images of each.
      groups: `[classes]` the group of each, or None to draw from all classes.
      bounds: `[groups - 1]` unsigned; group `g` is drawn where random bits are in `[bounds[g - 1],
        bounds[g])`.
      largest: images of the largest class.
    """

    counts: Array
    groups: Array | None
    bounds: Array | None
    largest: int = dataclasses.field(metadata={"static": True})

    def draw_classes(self, key: Key, count: int, *, copies: int = 1) -> tuple[Array, Array]:
        """Up to `count` classes of one group without replacement, in random order.

        Args:
          key: random key.
          count: how many; static.
          copies: of every class, `classes` apart; static.

        Returns:
          `[count]` classes, and how many of the first of them are of the group.
        """
        total = len(self.counts) * copies
        if self.groups is None or self.bounds is None:
            return _draw(key, jnp.array(total), total, count), jnp.array(min(count, total))
        group_key, class_key = jax.random.split(key)
        group = (jax.random.bits(group_key, dtype=jnp.uint32) >= self.bounds).sum()
        of_group = jnp.tile(self.groups == group, copies)
        order = jnp.where(of_group, jax.random.uniform(class_key, (total,), jnp.float32), -1)
        return jax.lax.top_k(order, count)[1], jnp.minimum(of_group.sum(), count)

    def draw_items(self, key: Key, classes: Array, count: int, *, same: bool = False) -> Array:
        """Up to `count` items of each class without replacement, in random order.

        Args:
          key: random key.
          classes: `[ways]`.
          count: how many; static.
          same: the same items of every class; static.

        Returns:
          `[ways, count]`; those beyond a class's number of images mean nothing.
        """
        available = self.counts[classes]
        if same:
            items = _draw(key, available.min(), self.largest, count)
            return jnp.broadcast_to(items, (len(classes), count))
        keys = jax.random.split(key, len(classes))
        return jax.vmap(lambda k, n: _draw(k, n, self.largest, count))(keys, available)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FixedDraws:
    """Episodes of as many ways and shots each: the pure function `key -> Drawn`."""

    table: ClassTable
    ways: int = dataclasses.field(metadata={"static": True})
    shots: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    rotations: Rotations = dataclasses.field(metadata={"static": True})
    same_items: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Drawn:
        """Draws an episode; the order of the classes, and so their labels, is random."""
        class_key, item_key, rotation_key = jax.random.split(key, 3)
        classes = len(self.table.counts)
        copies = 4 if self.rotations == "classes" else 1
        chosen, _ = self.table.draw_classes(class_key, self.ways, copies=copies)
        chosen, turns = turned(rotation_key, chosen, classes, self.rotations)
        items = self.table.draw_items(
            item_key, chosen, self.shots + self.queries, same=self.same_items
        )
        return Drawn(
            by_class(chosen, items[:, : self.shots], turns),
            by_class(chosen, items[:, self.shots :], turns),
        )


def turned(
    key: Key, chosen: Array, classes: int, rotations: Rotations
) -> tuple[Array, Array | None]:
    """`[ways]` classes, and their quarter turns, or None for none.

    Those of `rotations="classes"` are chosen with the classes: copy `c` of class `i` is `i +
    classes * c`.
    """
    if rotations == "none":
        return chosen, None
    turns = chosen // classes
    if rotations == "tasks":
        turns = jax.random.randint(key, chosen.shape, 0, 4, jnp.int32)
    elif rotations == "episode":
        turns = jnp.broadcast_to(jax.random.randint(key, (), 0, 4, jnp.int32), chosen.shape)
    return chosen % classes, turns


def by_class(classes: Array, items: Array, turns: Array | None) -> Places:
    """`[ways, n]` items as places, class by class, labelled by way."""
    ways, n = items.shape
    return Places(
        jnp.repeat(classes, n),
        items.reshape(-1),
        jnp.repeat(jnp.arange(ways), n),
        None if turns is None else jnp.repeat(turns, n),
    )


def _draw(key: Key, available: Array, largest: int, count: int) -> Array:
    """`count` indices below `available`, at most `largest`, without replacement, shuffled."""
    order = jax.random.uniform(key, (largest,), jnp.float32)
    return jax.lax.top_k(jnp.where(jnp.arange(largest) < available, order, -1), count)[1]
