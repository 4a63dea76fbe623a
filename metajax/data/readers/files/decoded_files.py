"""From listed image files to `ImageClasses`: decoded once, then read from the cache."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.checks.numbers import check_optional_integers
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import DECODING, require_pillow, two_sides
from metajax.data.readers.files.files_by_class import ListedClass
from metajax.data.readers.files.parallel_decoding import decode_files, shapes_of_files
from metajax.user_warnings import warn_user


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How image files become arrays; `image_folder` describes the arguments.

    Raises:
      ValueError: an option is not one of those described.
    """

    size: Any
    channels: int | None
    cache: str | os.PathLike[str] | None
    corrupt: str
    workers: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", two_sides(self.size))
        if self.channels not in (1, 3, None):
            raise ValueError(
                f"channels={self.channels!r}; expected 1 for grey, 3 for RGB, or None for images "
                "as they are"
            )
        if self.corrupt not in ("error", "skip"):
            raise ValueError(f"corrupt={self.corrupt!r}; expected 'error' or 'skip'")
        check_optional_integers(1, workers=self.workers)


def decoded_classes(
    classes: Mapping[str, ListedClass],
    groups: Sequence[str] | None,
    options: Decoding,
    *,
    kind: str,
    origin: Sequence[str | None],
    title: str,
) -> ImageClasses:
    """The images of listed files, from the cache where it holds them.

    Args:
      classes: the files of each class.
      groups: of the classes, or None.
      options: of decoding.
      kind: of the reader.
      origin: what was read, such as the absolute folder and the split: with the options it names
        the cache.
      title: a readable name of the data.

    Raises:
      ImportError: images have to be decoded and Pillow is not installed.
      OSError: a file cannot be read, or the cache cannot be written.
      ValueError: images are corrupt, or differ in what was asked to be left as it is.
    """
    how = {
        "kind": kind,
        "size": options.size,
        "channels": options.channels,
        "corrupt": options.corrupt,
        "decoding": DECODING,
    }
    made_from = {**how, "classes": {name: listed.digest for name, listed in classes.items()}}
    folder = cache_folder(options.cache, title, [how, origin])
    kept = read_cache(folder, made_from)
    counts = [len(listed.names) for listed in classes.values()]
    if kept is not None:
        _warn_of_left_out(kept, counts, folder)
        return kept
    require_pillow()
    paths = [path for listed in classes.values() for path in listed.paths]
    shape = _common_shape(paths, options, title)

    def fill(images: np.ndarray) -> list[int]:
        causes = decode_files(paths, images, workers=options.workers, title=title)
        if causes:
            _judge(paths, causes, options.corrupt)
        return _close_gaps(images, list(classes), counts, causes)

    return write_cache(
        folder,
        made_from,
        fill,
        names=list(classes),
        counts=counts,
        image_shape=shape,
        groups=groups,
    )


def _common_shape(paths: list[str], options: Decoding, title: str) -> tuple[int, int, int]:
    """The one shape of all images; corrupt ones are left to decoding."""
    if options.size is not None and options.channels is not None:
        return (*options.size, options.channels)
    found = shapes_of_files(paths, workers=options.workers, title=f"{title}, sizes")
    seen = [(shape, path) for shape, path in zip(found, paths, strict=True) if shape is not None]
    if not seen:
        return (1, 1, 1)
    height, width = options.size or _only(
        [((height, width), path) for (height, width, _), path in seen],
        "sizes (height, width)",
        "pass a size to resize them to, such as size=84",
    )
    channels = options.channels or _only(
        [(channels, path) for (_, _, channels), path in seen],
        "numbers of channels",
        "pass channels=3 or channels=1",
    )
    return height, width, channels


def _only(seen: list[tuple[Any, str]], what: str, remedy: str) -> Any:
    counts, examples = Counter(value for value, _ in seen), dict(seen)
    if len(counts) > 1:
        (most, many), *_, (least, few) = counts.most_common()
        raise ValueError(
            f"the images have {len(counts)} different {what}: {most} ({many} images, such as "
            f"{examples[most]!r}), {least} ({few}, such as {examples[least]!r}); {remedy}"
        )
    return next(iter(counts))


def _judge(paths: list[str], causes: Mapping[int, str], corrupt: str) -> None:
    named = [f"{paths[row]!r} ({cause})" for row, cause in list(causes.items())[:10]]
    more = f" and {len(causes) - len(named)} more" if len(causes) > len(named) else ""
    text = f"{len(causes)} of {len(paths)} images cannot be decoded: {', '.join(named)}{more}"
    if corrupt == "error":
        raise ValueError(
            f"{text}; replace or remove them, or pass corrupt='skip' to leave them out"
        )
    warn_user(f"{text}; they are left out")


def _close_gaps(
    images: np.ndarray, names: list[str], counts: list[int], causes: Mapping[int, str]
) -> list[int]:
    """Moves the images of each class together; returns how many of each there are."""
    kept, start = [], 0
    for count in counts:
        good = [row for row in range(start, start + count) if row not in causes]
        if len(good) < count:
            images[start : start + len(good)] = images[good]
        kept.append(len(good))
        start += count
    if empty := [name for name, count in zip(names, kept, strict=True) if not count]:
        raise ValueError(
            f"no image of {len(empty)} classes can be decoded: {in_short(empty)}; replace the "
            "images, or remove the classes"
        )
    return kept


def _warn_of_left_out(kept: ImageClasses, counts: list[int], folder: Path) -> None:
    left_out = {
        name: count - int(there)
        for name, count, there in zip(kept.names, counts, kept.counts, strict=True)
        if there < count
    }
    if left_out:
        classes = [f"{name} ({count})" for name, count in left_out.items()]
        warn_user(
            f"{sum(left_out.values())} images that cannot be decoded are left out of the cache "
            f"{str(folder)!r}, of the classes {in_short(classes)}; corrupt='error' names them"
        )
