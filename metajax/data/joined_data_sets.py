"""Several data sets as one, for episodes from a mixture of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metajax.checks.objects import check_instance
from metajax.checks.settings import check_flags, check_mappings
from metajax.data.labelled_images import ImageClasses, ImageSource
from metajax.data.memory_map_rows import read_rows


class JoinedImages:
    """The images of several sources, one after the other; none is copied.

    Attributes:
      shape: `(images, height, width, channels)`.
      dtype: of them all.
    """

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self._ends = np.cumsum([source.shape[0] for source in sources])
        self.shape = (int(self._ends[-1]), *sources[0].shape[1:])
        self.dtype = sources[0].dtype

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The images `[n, height, width, channels]` of `rows`, `[n]` integers."""
        rows = np.asarray(rows)
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        of = np.searchsorted(self._ends, rows, side="right")
        for index in np.unique(of):
            first = self._ends[index] - self._sources[index].shape[0]
            images[of == index] = read_rows(self._sources[index], rows[of == index] - first)
        return images


def join_classes(data: Mapping[str, ImageClasses], *, keep_groups: bool = False) -> ImageClasses:
    """Several data sets as one, each of them a group.

    A mixture is then `image_episodes(joined, groups=True)`, or `groups={"omniglot": 1, "glyphs":
    3}`: all classes of an episode come from one data set, which is drawn by weight. Where all of
    them have sources, these are kept, as "name/source".

    Args:
      data: by name. A class is called "name/class". Parts of one data set may be several of them,
        if they share no class.
      keep_groups: where a data set has groups of its own, keep them, as "name/group".

    Raises:
      TypeError: one is no `ImageClasses`.
      ValueError: no data set, images of different shapes or types, or a class or a group that two
        of them hold.
    """
    check_mappings(data=data)
    check_flags(keep_groups=keep_groups)
    for name, part in data.items():
        check_instance(part, ImageClasses, f"data[{name!r}]", "metajax.data.ImageClasses")
    if not data:
        raise ValueError("there is no data set to join; expected at least one")
    kinds = {
        name: (part.images.shape[1:], np.dtype(part.images.dtype)) for name, part in data.items()
    }
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name!r} {dtype} {shape}" for name, (shape, dtype) in kinds.items())
        raise ValueError(
            f"the data sets have images of different kinds: {listed}; expected one shape and type: "
            "read them with one size"
        )
    names: list[str] = []
    groups: list[str] = []
    holder: dict[str, str] = {}
    for name, part in data.items():
        names += [f"{name}/{label}" for label in part.names]
        own = part.groups if keep_groups else None
        here = [name] * len(part.names) if own is None else [f"{name}/{group}" for group in own]
        for group in here:
            if (other := holder.setdefault(group, name)) != name:
                raise ValueError(
                    f"data[{other!r}] and data[{name!r}] would both have the group {group!r}; "
                    "expected names of data sets by which their groups differ"
                )
        groups += here
    # Parts of one data set get the same rows, so that a class that two hold is found.
    sources = {_place(part.images): part.images for part in data.values()}
    lengths = [source.shape[0] for source in sources.values()]
    firsts = dict(zip(sources, np.cumsum(lengths) - lengths, strict=True))
    return ImageClasses(
        JoinedImages([*sources.values()]),
        np.concatenate([part.starts + firsts[_place(part.images)] for part in data.values()]),
        np.concatenate([part.counts for part in data.values()]),
        tuple(names),
        tuple(groups),
        _sources(data),
    )


def _sources(data: Mapping[str, ImageClasses]) -> np.ndarray | None:
    """Those of all images, where all data sets have them."""
    of_images: dict[Any, np.ndarray] = {}
    for name, part in data.items():
        if part.sources is None:
            return None
        called = [f"{name}/{source}" for source in part.sources.tolist()]
        of_images.setdefault(_place(part.images), np.array(called))
    return np.concatenate([*of_images.values()])


def _place(images: ImageSource) -> Any:
    """What two names of the same images have in common."""
    if isinstance(images, np.ndarray):
        return images.ctypes.data, images.shape, images.strides
    return id(images)
