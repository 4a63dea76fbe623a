"""What samplers are given, found to fit the data set before anything is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax.checks.numbers import check_numbers
from metajax.data.episode_draws import ClassTable, Groups, Rotations
from metajax.data.labelled_images import ImageClasses, image_classes, in_short, is_square
from metajax.kinds import check_words


def checked_classes(images: ArrayLike | ImageClasses) -> ImageClasses:
    """Images grouped by class, floats or integers that may be scaled by 1/255.

    Raises:
      ValueError: the array is not class-major images, or its numbers are in another range, or of
        another machine's byte order.
    """
    data = images if isinstance(images, ImageClasses) else image_classes(images)
    held: Any = data.images
    dtype = np.dtype(held.dtype)
    if not dtype.isnative:
        raise ValueError(
            f"images are {dtype}; expected numbers in this machine's byte order, "
            "images.astype(images.dtype.newbyteorder('='))"
        )
    if jnp.issubdtype(dtype, jnp.floating) or dtype == np.uint8:
        return data
    whole = isinstance(held, np.ndarray | jax.Array) and jnp.issubdtype(dtype, jnp.integer)
    if not whole or held.min() < 0 or held.max() > 255:
        raise ValueError(
            f"images are {dtype}; expected floats, or integers from 0 to 255: convert them first, "
            "such as images.astype(np.float32) / images.max()"
        )
    return data


def check_rotations(data: ImageClasses, rotations: Rotations) -> None:
    """Raises unless the word is known, and the images can be turned by quarters where they are."""
    check_words(get_args(Rotations), rotations=rotations)
    if rotations != "none" and not is_square(data):
        raise ValueError(
            f"rotations={rotations!r} of images of shape {data.images.shape[1:]}; expected square "
            'images, or rotations="none"'
        )


def checked_table(
    data: ImageClasses, groups: Groups, *, ways: int, copies: int, items: int
) -> ClassTable:
    """What drawing has to know, once the data set is found to be enough for it.

    Args:
      data: the data set.
      groups: see `checked_weights`.
      ways: classes that an episode may need.
      copies: that count as classes of their own.
      items: images of a class that an episode may need.

    Raises:
      TypeError: the groups are of another type, or a weight is no number.
      ValueError: too few classes, or classes with too few images, named with their counts; groups
        that there are not, or a weight that is not finite and above 0.
    """
    weights = checked_weights(data, groups, ways=ways, copies=copies)
    of_classes = zip(data.names, data.counts, data.groups or data.names, strict=True)
    few = {
        name: count
        for name, count, group in of_classes
        if count < items and (weights is None or group in weights)
    }
    if few:
        raise ValueError(
            f"an episode takes {items} items of a class, but {len(few)} of {len(data.names)} "
            f"classes have fewer: {in_short(few)}; lower shots or queries, or leave these classes "
            "out with select"
        )
    counts, largest = jnp.asarray(data.counts, jnp.int32), int(data.counts.max())
    if weights is None:
        return ClassTable(counts, None, None, largest)
    codes, bounds = group_codes(data, weights), upper_bounds([*weights.values()])
    return ClassTable(counts, jnp.asarray(codes), jnp.asarray(bounds), largest)


def checked_weights(
    data: ImageClasses, groups: Groups, *, ways: int, copies: int
) -> dict[str, float] | None:
    """The weight of each group that episodes are drawn from, or None for all classes alike.

    Args:
      data: the data set.
      groups: draw the classes of an episode from one group; a mapping weighs the groups, and leaves
        out those that are not in it.
      ways: classes that an episode may need.
      copies: that count as classes of their own.

    Raises:
      TypeError: the groups are of another type, or a weight is no number.
      ValueError: too few classes, groups that there are not, or a weight that is not finite and
        above 0.
    """
    if not isinstance(groups, bool | Mapping):
        raise TypeError(
            f"groups={groups!r}; expected True, False, or a mapping from group to weight"
        )
    if groups is False:
        if ways > len(data.names) * copies:
            raise ValueError(
                f"ways={ways} but the data set has {len(data.names) * copies} classes; lower ways "
                "or pass more classes"
            )
        return None
    if data.groups is None:
        raise ValueError(f"groups={groups!r} but the data set has none; expected groups=False")
    return _group_weights(data.groups, groups, ways=ways, copies=copies)


def group_codes(data: ImageClasses, weights: Mapping[str, float]) -> np.ndarray:
    """`[classes]` the place of each class's group among the weights, -1 where it has none."""
    place = {name: index for index, name in enumerate(weights)}
    return np.array([place.get(name, -1) for name in data.groups or ()], np.int32)


def upper_bounds(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """`[n - 1]` bounds of 32 random bits, between which each of `[n]` is drawn by its weight."""
    ends = np.cumsum(np.asarray(weights, np.float64))
    return np.minimum(np.rint(ends[:-1] / ends[-1] * 2.0**32), 2.0**32 - 1).astype(np.uint32)


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
    if not weights:
        raise ValueError("groups={}; expected at least one, with its weight")
    given = {f"groups[{name!r}]": weight for name, weight in weights.items()}
    check_numbers(lambda x: 0 < x <= 1e100, "a finite weight above 0, up to 1e100", **given)
    sizes = {name: of_classes.count(name) * copies for name in weights}
    if small := {name: size for name, size in sizes.items() if size < ways}:
        raise ValueError(
            f"an episode takes {ways} classes of a group, but {len(small)} have fewer: "
            f"{in_short(small)}; lower ways, or pass the groups to draw from with their weights"
        )
    return weights
