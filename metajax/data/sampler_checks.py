"""What samplers are given, found to fit the data set before anything is drawn."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax.data.episode_draws import ClassTable, Drawn, Groups, Places, Rotations
from metajax.data.labelled_images import ImageClasses, image_classes, in_short
from metajax.kinds import check_words


def checked_classes(images: ArrayLike | ImageClasses) -> ImageClasses:
    """Images grouped by class, floats or integers that may be scaled by 1/255.

    Raises:
      ValueError: the array is not class-major images, or its numbers are in another range.
    """
    data = images if isinstance(images, ImageClasses) else image_classes(images)
    _check_range(data)
    return data


def check_rotations(data: ImageClasses, rotations: Rotations) -> None:
    """Raises unless the word is known, and the images can be turned by quarters where they are."""
    check_words(("none", "classes", "tasks"), rotations=rotations)
    height, width = data.images.shape[1:3]
    if rotations != "none" and height != width:
        raise ValueError(
            f"rotations={rotations!r} of images {height}x{width}; expected square images, or "
            'rotations="none"'
        )


def checked_table(
    data: ImageClasses, groups: Groups, *, ways: int, copies: int, items: int
) -> ClassTable:
    """What drawing has to know, once the data set is found to be enough for it.

    Args:
      data: the data set.
      groups: draw the classes of an episode from one group; a mapping weighs the groups, and leaves
        out those that are not in it.
      ways: classes that an episode may need.
      copies: that count as classes of their own.
      items: images of a class that an episode may need.

    Raises:
      ValueError: too few classes, or classes with too few images, named with their counts; groups
        that there are not.
    """
    if not isinstance(groups, bool | Mapping):
        raise TypeError(
            f"groups={groups!r}; expected True, False, or a mapping from group to weight"
        )
    left_out: set[str] = set()
    if isinstance(groups, Mapping) and data.groups is not None:
        of = zip(data.names, data.groups, strict=True)
        left_out = {name for name, group in of if group not in groups}
    if few := [
        f"{name!r} ({count})"
        for name, count in zip(data.names, data.counts, strict=True)
        if count < items and name not in left_out
    ]:
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        raise ValueError(
            f"an episode takes {items} items of a class, but {len(few)} of {len(data.names)} "
            f"classes have fewer: {', '.join(few[:10])}{more}; lower shots or queries, or leave "
            "these classes out with select"
        )
    counts = jnp.asarray(data.counts, jnp.int32)
    largest = int(data.counts.max())
    if groups is False:
        if ways > len(data.names) * copies:
            raise ValueError(
                f"ways={ways} but the data set has {len(data.names) * copies} classes; lower ways "
                "or pass more classes"
            )
        return ClassTable(counts, None, None, largest)
    if data.groups is None:
        raise ValueError(f"groups={groups!r} but the data set has none; expected groups=False")
    weights = _group_weights(data.groups, groups, ways=ways, copies=copies)
    place = {name: index for index, name in enumerate(weights)}
    ends = np.cumsum(np.array(list(weights.values()), np.float64))
    bounds = np.minimum(np.rint(ends[:-1] / ends[-1] * 2.0**32), 2.0**32 - 1).astype(np.uint32)
    codes = np.array([place.get(name, -1) for name in data.groups], np.int32)
    return ClassTable(counts, jnp.asarray(codes), jnp.asarray(bounds), largest)


def _group_weights(
    of_classes: tuple[str, ...], groups: Groups, *, ways: int, copies: int
) -> dict[str, float]:
    """The weight of each group that is drawn from, found to have enough classes."""
    known = sorted(set(of_classes))
    weights = dict(groups) if isinstance(groups, Mapping) else dict.fromkeys(known, 1.0)
    if strangers := sorted(weights.keys() - set(known)):
        raise ValueError(
            f"no group is called {in_short(strangers)}; there are {len(known)}: {in_short(known)}"
        )
    if not weights or not all(0 < weight < np.inf for weight in weights.values()):
        raise ValueError(f"groups={weights}; expected finite weights above 0, at least one")
    sizes = {name: of_classes.count(name) * copies for name in weights}
    if small := [f"{name!r} ({size})" for name, size in sizes.items() if size < ways]:
        raise ValueError(
            f"an episode takes {ways} classes of a group, but {len(small)} have fewer: "
            f"{', '.join(small)}; lower ways, or pass the groups to draw from with their weights"
        )
    return weights


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


def _check_range(data: ImageClasses) -> None:
    """Raises unless images are floats, or integers that may be scaled by 1/255."""
    images, dtype = data.images, data.images.dtype
    if jnp.issubdtype(dtype, jnp.floating) or dtype == np.uint8:
        return
    held = isinstance(images, np.ndarray | jax.Array) and jnp.issubdtype(dtype, jnp.integer)
    if not held or images.min() < 0 or images.max() > 255:  # type: ignore[union-attr]
        raise ValueError(
            f"images are {dtype}; expected floats, or integers from 0 to 255: convert them first, "
            "such as images.astype(np.float32) / images.max()"
        )
