"""From lists of image files to `ImageClasses`: decoded once, then read from the cache."""

import contextlib
import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import (
    DECODING,
    BadImage,
    decode,
    picture_shape,
    require_pillow,
    two_sides,
)
from metajax.regular_files import read_regular
from metajax.user_warnings import warn_user

_FILES_A_JOB = 32
_SMALL_FILE = 2**24  # Bytes that a picture may have whatever its size: of colour profiles, say.


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How image files become arrays; `image_folder` describes the arguments."""

    size: Any
    channels: int | None
    cache: str | os.PathLike[str] | None
    corrupt: str
    max_pixels: int
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
        check_integers(1, max_pixels=self.max_pixels)
        check_optional_integers(1, workers=self.workers)
        for name in ("channels", "max_pixels"):  # NumPy's integers are no JSON.
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))


def require_folder(folder: Path, holding: str) -> None:
    """Raises where a folder that should hold something is missing or is a file."""
    if not folder.exists():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist; expected {holding}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; expected a folder with {holding}")


def normal(name: str) -> str:
    """The name in one Unicode form: file systems keep accents composed or decomposed."""
    return unicodedata.normalize("NFC", name)


def decoded_classes(
    files: Mapping[str, Sequence[str]],
    groups: Sequence[str] | None,
    options: Decoding,
    origin: Sequence[str | None],
    title: str,
) -> ImageClasses:
    """The images at the paths of each class, from the cache where it holds them.

    `origin` is the reader and what was read, such as the absolute folder and the split: with the
    options it names the cache. `title` is a readable name of the data.
    """
    asked = ("size", "channels", "corrupt", "max_pixels")
    how = {"decoding": DECODING} | {name: getattr(options, name) for name in asked}
    made_from = {**how, "classes": _digests(files, title)}
    folder = cache_folder(options.cache, title, [how, origin])
    counts = [len(paths) for paths in files.values()]
    if (kept := read_cache(folder, made_from)) is not None:
        _warn_of_left_out(kept, counts, folder)
        return kept
    require_pillow()
    every = [path for paths in files.values() for path in paths]

    shape = (1, 1, 1)
    for path in every:
        with contextlib.suppress(BadImage):  # If none is whole, decoding will say so.
            shape = _shape(_content(path, options), options)
            break

    def act(row: int, images: np.ndarray) -> str | None:
        try:
            content = _content(every[row], options)
            if (found := _shape(content, options)) != shape:
                raise ValueError(
                    f"the images have different shapes (height, width, channels): {every[row]!r} "
                    f"{found}, others {shape}; pass a size to resize them to, such as size=84, and "
                    "channels=3 or channels=1"
                )
            images[row] = decode(content, shape[2], shape[:2], max_pixels=options.max_pixels)
        except BadImage as error:
            return str(error)
        return None

    def fill(images: np.ndarray) -> list[int]:
        causes = _in_parallel(lambda row: act(row, images), len(every), options.workers, title)
        bad = {row: cause for row, cause in enumerate(causes) if cause is not None}
        kept = _leave_out(bad, every, images, counts, options.corrupt) if bad else counts
        if empty := [name for name, count in zip(files, kept, strict=True) if not count]:
            raise ValueError(
                f"no image of {len(empty)} classes can be decoded: {in_short(empty)}; replace the "
                "images, or remove the classes"
            )
        return kept

    return write_cache(folder, made_from, fill, list(files), counts, shape, groups)


def _digests(files: Mapping[str, Sequence[str]], title: str) -> dict[str, str]:
    """Of each class: changes when a file is added, removed or written to."""
    digests, missing = {}, []
    for name, paths in files.items():
        digest = hashlib.sha256()
        for path in paths:
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError, ValueError):  # A name holds a zero byte.
                missing.append(path)
                continue
            entry = f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0"
            digest.update(entry.encode(errors="surrogateescape"))
        digests[name] = digest.hexdigest()[:16]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {sum(map(len, files.values()))} images of {title!r} do not "
            f"exist, or are links to what does not: {in_short(missing)}; expected image files, and "
            "/ between folders"
        )
    return digests


def _content(path: str, options: Decoding) -> bytes:
    try:
        return read_regular(path, _SMALL_FILE + 16 * options.max_pixels)
    except ValueError as error:
        raise BadImage(str(error)) from None


def _shape(content: bytes, options: Decoding) -> tuple[int, int, int]:
    """What a picture becomes; it is looked at where it is to be left as it is."""
    if options.size is not None and options.channels is not None:
        return (*options.size, options.channels)
    found = picture_shape(content, max_pixels=options.max_pixels)
    height, width = options.size or found[:2]
    return height, width, options.channels or found[2]


def _leave_out(
    bad: Mapping[int, str], paths: list[str], images: np.ndarray, counts: list[int], corrupt: str
) -> list[int]:
    """Moves the good images of each class together; returns how many of each there are."""
    named = [f"{paths[row]!r} ({cause})" for row, cause in list(bad.items())[:10]]
    more = f" and {len(bad) - len(named)} more" if len(bad) > len(named) else ""
    text = f"{len(bad)} of {len(paths)} images cannot be decoded: {', '.join(named)}{more}"
    if corrupt == "error":
        raise ValueError(
            f"{text}; replace or remove them, or pass corrupt='skip' to leave them out"
        )
    warn_user(f"{text}; they are left out")
    kept, start = [], 0
    for count in counts:
        good = [row for row in range(start, start + count) if row not in bad]
        images[start : start + len(good)] = images[good]
        kept.append(len(good))
        start += count
    return kept


def _warn_of_left_out(kept: ImageClasses, counts: list[int], folder: Path) -> None:
    lost = np.array(counts) - kept.counts
    if lost.any():
        classes = [f"{kept.names[at]} ({lost[at]})" for at in np.flatnonzero(lost)]
        warn_user(
            f"{lost.sum()} images that cannot be decoded are left out of the cache "
            f"{str(folder)!r}, of the classes {in_short(classes)}; corrupt='error' names them"
        )


def _in_parallel(
    act: Callable[[int], str | None], total: int, workers: int | None, title: str
) -> list[str | None]:
    """`act(0)`, `act(1)` and so on, in order."""

    def job(start: int) -> list[str | None]:
        return [act(row) for row in range(start, min(start + _FILES_A_JOB, total))]

    results: list[str | None] = []
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with tqdm(total=total, desc=title, unit="image", delay=2) as bar:
            for some in pool.map(job, range(0, total, _FILES_A_JOB)):
                results += some
                bar.update(len(some))
    finally:
        # Waited for: the memory they write to may be unmapped next.
        pool.shutdown(wait=True, cancel_futures=True)
    return results
