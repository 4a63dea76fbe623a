"""From lists of image files to `ImageClasses`: decoded once, then read from the cache."""

import contextlib
import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.checks.numbers import check_integers, check_optional_integers, is_integer
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.cache import cache_folder, file_state, read_cache, write_cache
from metajax.data.readers.decoding import (
    ASPECTS,
    DECODING,
    BadImage,
    check_shape,
    decode,
    in_parallel,
    require_pillow,
    two_sides,
)
from metajax.kinds import check_words
from metajax.regular_files import read_regular

_SMALL_FILE = 2**24  # Bytes that a picture may have whatever its size: of colour profiles, say.


@dataclasses.dataclass
class Decoding:
    """How image files become arrays; `image_folder` describes the arguments."""

    size: Any
    channels: int | None
    cache: str | os.PathLike[str] | None
    corrupt: str
    max_pixels: int
    workers: int | None
    aspect: str = "stretch"

    def __post_init__(self) -> None:
        self.size = two_sides(self.size)
        grey_or_rgb = is_integer(self.channels, 1) and self.channels in (1, 3)
        if self.channels is not None and not grey_or_rgb:
            raise ValueError(
                f"channels={self.channels!r}; expected 1 for grey, 3 for RGB, or None for images "
                "as they are"
            )
        check_words(("error", "skip"), corrupt=self.corrupt)
        check_words(ASPECTS, aspect=self.aspect)
        if self.size is None and self.aspect != "stretch":
            raise ValueError(
                f"aspect={self.aspect!r} with size=None; expected a size, such as size=84, since "
                "images that are left as they are are not fitted into any"
            )
        check_integers(1, max_pixels=self.max_pixels)
        check_optional_integers(1, workers=self.workers)
        # NumPy's integers are no JSON.
        self.channels = None if self.channels is None else int(self.channels)
        self.max_pixels = int(self.max_pixels)

    def record(self) -> dict[str, Any]:
        """What decides the pixels, as JSON: part of what a cache is made from."""
        decides = ["size", "channels", "corrupt", "max_pixels"]
        if self.aspect != "stretch":
            decides.append("aspect")
        return {"decoding": DECODING} | {name: getattr(self, name) for name in decides}

    def decoded(self, path: str) -> np.ndarray:
        """The picture of a file, see `decode`."""
        try:
            content = read_regular(path, _SMALL_FILE + 16 * self.max_pixels)
        except ValueError as error:
            raise BadImage(str(error)) from None
        return decode(
            content, self.size, self.channels, aspect=self.aspect, max_pixels=self.max_pixels
        )

    def decode_into(self, images: np.ndarray, paths: Sequence[str], title: str) -> dict[int, str]:
        """Writes the pictures of files to `images` `[files, ...]`; why of those it could not."""
        bad: dict[int, str] = {}

        def decode_some(rows: range) -> None:
            for row in rows:
                try:
                    image = self.decoded(paths[row])
                except BadImage as error:
                    bad[row] = str(error)
                    continue
                check_shape(image, images.shape[1:], repr(paths[row]))
                images[row] = image

        in_parallel(decode_some, len(paths), title, self.workers)
        return dict(sorted(bad.items()))


def require_folder(folder: Path, holding: str) -> None:
    """Raises where a folder that should hold something is missing or is a file."""
    if not folder.is_dir():
        kind = NotADirectoryError if folder.exists() else FileNotFoundError
        raise kind(f"{str(folder)!r} is no folder; expected one with {holding}")


def require_split(split: str, there: Collection[str], where: Path) -> None:
    """Raises where there is no such split."""
    if split not in there:
        raise ValueError(
            f"there is no split {split!r} in {str(where)!r}; expected one of its splits, "
            f"{in_short(sorted(there)) or 'none'}, or split=None for all classes"
        )


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
    how = options.record()
    made_from = {**how, "classes": files_digests(files, title)}
    folder = cache_folder(options.cache, title, [how, origin])
    if (kept := read_cache(folder, made_from)) is not None:
        return kept
    require_pillow()
    every = [path for paths in files.values() for path in paths]
    counts = [len(paths) for paths in files.values()]

    shape = (1, 1, 1)
    for path in every:
        with contextlib.suppress(BadImage):  # If none is whole, decoding will say so.
            shape = options.decoded(path).shape
            break

    def fill(images: np.ndarray) -> tuple[list[int], str]:
        bad = options.decode_into(images, every, title)
        named = in_short({every[row]: why for row, why in bad.items()})
        remark = f"{len(bad)} of {len(every)} images cannot be decoded: {named}" if bad else ""
        if bad and options.corrupt == "error":
            raise ValueError(
                f"{remark}; replace or remove them, or pass corrupt='skip' to leave them out"
            )
        kept, start = [], 0
        for count in counts:
            good = [row for row in range(start, start + count) if row not in bad]
            if len(good) < count:
                images[start : start + len(good)] = images[good]
            kept.append(len(good))
            start += count
        if empty := [name for name, count in zip(files, kept, strict=True) if not count]:
            raise ValueError(
                f"{remark}; none is left of {len(empty)} classes: {in_short(empty)}; replace the "
                "images, or remove the classes"
            )
        return kept, remark and f"{remark}; they are left out"

    return write_cache(folder, made_from, fill, list(files), counts, shape, groups)


def files_digests(files: Mapping[str, Sequence[str]], title: str) -> dict[str, str]:
    """Of each class: changes when a file is added, removed or written to."""
    digests, missing = {}, []
    for name, paths in files.items():
        digest = hashlib.sha256()
        for path in paths:
            try:
                digest.update(f"{path}\0{file_state(path)}\0".encode(errors="surrogateescape"))
            except (FileNotFoundError, NotADirectoryError, ValueError):  # A name holds a zero byte.
                missing.append(path)
        digests[name] = digest.hexdigest()[:16]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {sum(map(len, files.values()))} images of {title!r} do not "
            f"exist, or are links to what does not: {in_short(missing)}; expected image files, and "
            "/ between folders"
        )
    return digests
