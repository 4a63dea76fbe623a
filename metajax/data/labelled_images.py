"""Images grouped by class, of any number each: what every data set becomes before it is sampled."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.settings import check_mappings, check_names
from metajax.kinds import as_array_of_host, in_brief


class ImageSource(Protocol):
    """Images at random access: a numpy array, memory-mapped or not, or whatever acts like one.

    Attributes:
      shape: `(images, height, width, channels)`, or `(images, features)` of what a network made of
        them.
      dtype: unsigned 8-bit integers in `[0, 255]`, or floats.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The images `[n, ...]` of `rows`, `[n]` integers."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images grouped by class: those of class `c` are `images[starts[c] : starts[c] + counts[c]]`.

    Built by `group_by_label`, `image_folder` and the other readers; checked when it is made. In the
    place of images there may be their features, one vector each.

    Attributes:
      images: the images of all classes, `[images, height, width, channels]` or `[images,
        features]`.
      starts: `[classes]` the row of each class's first image.
      counts: `[classes]` images of each class, 1 or more.
      names: a name a class, all different.
      groups: the group of each class (an alphabet, a superclass, a data set), or None.
      sources: `[images]` integers or texts: who or what made the image in each row (a drawer, a
        designer, a camera), or None.

    Raises:
      TypeError: names or groups are no texts, starts or counts no integers, sources neither.
      ValueError: a class without images, outside of them, or with one of another class; numbers
        that differ, or a name that comes twice.
    """

    images: ImageSource
    starts: np.ndarray
    counts: np.ndarray
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    sources: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_names(names=self.names)
        if self.groups is not None:
            check_names(groups=self.groups)
        shape = getattr(self.images, "shape", None)
        if not isinstance(shape, tuple) or not hasattr(self.images, "dtype"):
            raise TypeError(f"images is {in_brief(self.images)}; expected an array of images")
        if len(shape) not in (2, 4) or 0 in shape:
            raise ValueError(
                f"images have shape {shape}; expected an array [images, height, width, channels], "
                "or [images, features], none of them 0"
            )
        fields = {
            "starts": _integers(self.starts, "starts"),
            "counts": _integers(self.counts, "counts"),
            "names": tuple(self.names),
            "groups": None if self.groups is None else tuple(self.groups),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        numbers = {field: len(value) for field, value in fields.items() if value is not None}
        if not self.names or len({*numbers.values()}) > 1:
            raise ValueError(f"there are {numbers}; expected one of each a class, and some class")
        if len({*self.names}) < len(self.names):
            repeated = next(name for i, name in enumerate(self.names) if name in self.names[:i])
            raise ValueError(f"two classes are called {repeated!r}; expected different names")
        if empty := [name for name, n in zip(self.names, self.counts, strict=True) if n < 1]:
            raise ValueError(
                f"{len(empty)} classes have no image: {in_short(empty)}; leave them out"
            )
        if self.sources is not None:
            object.__setattr__(self, "sources", _checked_sources(self.sources, shape[:1]))
        order = np.argsort(self.starts)
        starts, ends = self.starts[order], (self.starts + self.counts)[order]
        last = max(map(sum, zip(self.starts.tolist(), self.counts.tolist(), strict=True)))
        if starts[0] < 0 or last > shape[0]:  # NumPy's sums may have overflowed.
            raise ValueError(
                f"classes reach from row {starts[0]} to {last}; expected rows of the {shape[0]} "
                "images"
            )
        if (shared := np.flatnonzero(ends[:-1] > starts[1:])).size:
            one, other = (self.names[place] for place in order[shared[0] :][:2])
            raise ValueError(
                f"the classes {one!r} and {other!r} share the image in row "
                f"{starts[shared[0] + 1]}; expected every image in one class"
            )

    def __getitem__(self, name: str) -> np.ndarray:
        """All images of the class `name`, `[items, ...]`.

        Raises:
          KeyError: there is no such class.
        """
        index = _places(self.names, [name])[0]
        return rows_of(self.images, np.arange(self.counts[index]) + self.starts[index])

    def mean(self) -> np.ndarray:
        """The mean of the images of its classes, `[height, width, channels]` or `[features]`.

        Every image counts once, and those of other classes, of which `images` may have some, do
        not. Floats of 32 bits, or of more where the images are such.
        """
        total = np.zeros(self.images.shape[1:])
        for start, count in zip(self.starts, self.counts, strict=True):
            found = np.asarray(rows_of(self.images, start + np.arange(count)))
            total += found.sum(axis=0, dtype=np.float64)
        return (total / self.counts.sum()).astype(np.result_type(self.images.dtype, np.float32))

    def select(self, names: Sequence[str]) -> "ImageClasses":
        """The classes of these names, in their order; the images are not copied.

        Raises:
          KeyError: there is no class of a name.
          ValueError: there is no name, or one is given twice.
        """
        check_names(names=names)
        places = _places(self.names, names)
        groups = None if self.groups is None else tuple(self.groups[i] for i in places)
        return ImageClasses(
            self.images,
            self.starts[places],
            self.counts[places],
            tuple(names),
            groups,
            self.sources,
        )

    def split(self, shares: Mapping[str, float], *, seed: int = 0) -> "dict[str, ImageClasses]":
        """Cuts the classes at random into parts that share none.

        Args:
          shares: the share of the classes of each part, such as `{"train": 0.64, "validation":
            0.16, "test": 0.2}`; they add up to 1.
          seed: chooses the classes; the same seed, names and shares always give the same parts,
            whatever the order of the classes.

        Raises:
          TypeError: the seed is no integer, or a share no number.
          ValueError: the shares are not above 0 or do not add up to 1, or a part would have no
            class.
        """
        check_integers(0, seed=seed)
        check_mappings(shares=shares)
        numbers = {f"shares[{part!r}]": share for part, share in shares.items()}
        check_numbers(lambda x: x > 0, "a share above 0", **numbers)
        if not abs(sum(numbers.values()) - 1) <= 1e-6:
            raise ValueError(f"shares={dict(shares)}; expected shares above 0 that add up to 1")
        shuffled = np.random.default_rng(seed).permutation(np.array(sorted(self.names), object))
        ends = np.rint(np.cumsum(list(shares.values())) * len(shuffled)).astype(int)
        parts = dict(zip(shares, map(set, np.split(shuffled, ends[:-1])), strict=True))
        if missing := [part for part, names in parts.items() if not names]:
            raise ValueError(
                f"the part {missing[0]!r} would have none of the {len(shuffled)} classes; expected "
                "a larger share, or more classes"
            )
        return {
            part: self.select([name for name in self.names if name in names])
            for part, names in parts.items()
        }


def image_classes(
    images: ArrayLike | ImageSource,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    sources: ArrayLike | None = None,
) -> ImageClasses:
    """Classes of equally many images from one class-major array.

    Args:
      images: `[classes, items, height, width, channels]`, integers in `[0, 255]` or floats; or
        features `[classes, items, features]`.
      names: a name a class; None numbers them.
      groups: the group of each class, or None.
      sources: `[classes, items]` who or what made each image, integers or texts, or None.

    Raises:
      ValueError: the shapes or numbers do not fit.
    """
    for field, given in {"names": names, "groups": groups}.items():
        if given is not None:
            check_names(**{field: given})
    if not hasattr(images, "shape"):
        images = as_array_of_host(images, "images")
    shape = [*np.shape(images)]  # type: ignore[arg-type]
    if len(shape) not in (3, 5) or 0 in shape:
        raise ValueError(
            f"images have shape {(*shape,)}; expected [classes, items, height, width, channels], "
            "or [classes, items, features], none of them 0"
        )
    rows = images if isinstance(images, np.ndarray | jax.Array) else np.asarray(images)
    if isinstance(rows, np.memmap) and not rows.flags.c_contiguous:
        raise ValueError(
            f"the memory-mapped images {(*shape,)} are a part of a larger array that skips some, "
            "and would be copied into memory; expected a whole array, or a part along its first "
            "axis"
        )
    if sources is not None:
        sources = _checked_sources(sources, (*shape[:2],)).reshape(-1)
    return ImageClasses(
        rows.reshape(-1, *shape[2:]),  # type: ignore[arg-type]
        np.arange(shape[0]) * shape[1],
        np.full(shape[0], shape[1]),
        [*map(str, range(shape[0]))] if names is None else names,  # type: ignore[arg-type]
        groups,  # type: ignore[arg-type]
        sources,
    )


def group_by_label(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    sources: ArrayLike | None = None,
) -> ImageClasses:
    """Classes from images in any order and the label of each.

    Within a class the images keep their order. Labels that no image has make no class.

    Args:
      images: `[images, height, width, channels]`, integers in `[0, 255]` or floats, or features
        `[images, features]`; copied.
      labels: `[images]`, integers or strings.
      names: the name of every label, where labels are integers; None calls a class by its label.
      sources: `[images]` who or what made each image, integers or texts, or None.

    Raises:
      ValueError: the numbers of images and labels differ, labels are floats, or one has no name.
    """
    images, labels = as_array_of_host(images, "images"), as_array_of_host(labels, "labels")
    if names is not None:
        check_names(names=names)
    if labels.shape != images.shape[:1] or not labels.size:
        raise ValueError(
            f"images have shape {images.shape} and labels {labels.shape}; expected one label an "
            "image, and at least one image"
        )
    if np.issubdtype(labels.dtype, np.inexact):
        raise ValueError(f"labels are {labels.dtype}; expected integers or strings")
    found, counts = np.unique(labels, return_counts=True)
    if names is not None:
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"names of {labels.dtype} labels; expected integer labels, or no names"
            )
        if found[0] < 0 or found[-1] >= len(names):
            raise ValueError(
                f"labels from {found[0]} to {found[-1]} but {len(names)} names; expected labels in "
                f"[0, {len(names)})"
            )
    called = map(str, found) if names is None else (str(names[label]) for label in found)
    order = np.argsort(labels, kind="stable")
    if sources is not None:
        sources = _checked_sources(sources, labels.shape)[order]
    starts = np.cumsum(counts) - counts
    return ImageClasses(images[order], starts, counts, tuple(called), sources=sources)


def rows_of(images: ImageSource, rows: np.ndarray) -> Any:
    """`images[rows]`, of `[n]` integers, found to be what a source promises.

    Raises:
      ValueError: other shapes or another type, which would be broadcast or cut off.
    """
    found: Any = images[rows]
    kind = getattr(found, "dtype", type(found).__name__)
    expected = (len(rows), *images.shape[1:])
    if np.shape(found) != expected or kind != images.dtype:
        raise ValueError(
            f"images[rows] of {len(rows)} rows is {kind} of shape {np.shape(found)}; expected "
            f"{np.dtype(images.dtype)} of shape {expected}, as images.dtype and images.shape say"
        )
    return found


def is_square(data: ImageClasses) -> bool:
    """Whether there are images, which a quarter turn leaves of one shape."""
    shape = data.images.shape[1:]
    return len(shape) == 3 and shape[0] == shape[1]


def in_short(names: Sequence[str] | Mapping[str, object], most: int = 10) -> str:
    """The first names, with what is said of each where they map to it, and how many more."""
    said = names if isinstance(names, Mapping) else {}
    shown = [f"{n!r} ({said[n]})" if n in said else repr(n) for n in [*names][:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def _integers(numbers: Any, what: str) -> np.ndarray:
    numbers = as_array_of_host(numbers, what)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise TypeError(
            f"{what} are {numbers.dtype}{[*numbers.shape]}; expected [classes] integers"
        )
    return numbers.astype(np.int64)


def _checked_sources(sources: Any, shape: tuple[int, ...]) -> np.ndarray:
    sources = as_array_of_host(sources, "sources")
    if sources.dtype.kind not in "iuU":
        raise TypeError(f"sources are {sources.dtype}; expected integers or texts")
    if sources.shape != shape:
        raise ValueError(
            f"sources have shape {sources.shape}; expected {shape}, the source of every image"
        )
    return sources


def _places(known: Sequence[str], names: Sequence[str]) -> list[int]:
    place = {name: index for index, name in enumerate(known)}
    if strangers := [name for name in names if name not in place]:
        raise KeyError(
            f"no class is called {in_short(strangers)}; there are {len(known)}: {in_short(known)}; "
            "expected some of these names"
        )
    return [place[name] for name in names]
