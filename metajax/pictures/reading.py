"""What users call pictures, as arrays of one shape: paths, arrays, and pictures of Pillow."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_flags, check_optional_paths, check_paths
from metajax.data.labelled_images import in_short
from metajax.data.readers.decoding import ASPECTS, MAX_PIXELS, require_pillow
from metajax.data.readers.files.decoded_files import Decoding, require_folder
from metajax.data.readers.files.folder import files_of_classes, refuse_splits
from metajax.kinds import check_words
from metajax.pictures.picture_arrays import Shape, from_arrays, from_pillow, listed
from metajax.pictures.picture_files import decoded_now, decoded_once, why_unopened


@dataclasses.dataclass(frozen=True)
class Look:
    """How a picture becomes an array `[side, side, channels]`; all of it is JSON.

    Attributes:
      side: height and width in pixels, 1 or more.
      channels: 3 for RGB, 1 for grey.
      aspect: of pictures that are no squares, see `image_folder`: `"crop"` to the largest square
        around the centre, `"pad"` with white to a square, or `"stretch"`.
      invert: whether black becomes white, as of ink that the network learned as light; done last,
        so that white borders become black.
    """

    side: int
    channels: int
    aspect: str = "crop"
    invert: bool = False

    def __post_init__(self) -> None:
        check_integers(1, side=self.side, channels=self.channels)
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels!r}; expected 1 for grey, or 3 for RGB")
        check_words(ASPECTS, aspect=self.aspect)
        check_flags(invert=self.invert)
        # NumPy's numbers are no JSON.
        for name, kind in (("side", int), ("channels", int), ("invert", bool)):
            object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def shape(self) -> Shape:
        """Of a picture's array."""
        return self.side, self.side, self.channels

    def seen(self, images: Any) -> Any:
        """Arrays of 8 bits, of NumPy or JAX, inverted where that is asked for."""
        return 255 - images if self.invert else images


class LabelledPictures(NamedTuple):
    """The pictures of a folder, sorted by class and name.

    Attributes:
      paths: of each picture.
      labels: of each picture the name of its class.
    """

    paths: list[str]
    labels: list[str]


class Read(NamedTuple):
    """Pictures that could be read, and what became of the others.

    Attributes:
      images: `[kept, side, side, channels]` uint8, not to be written to: it may be a cache, or the
        array that was given.
      kept: `[kept]` the rows, of what was given, of the images.
      bad: why the other rows could not be read.
    """

    images: np.ndarray
    kept: np.ndarray
    bad: dict[int, str]


def labelled_pictures(folder: str | os.PathLike[str]) -> LabelledPictures:
    """The pictures in `folder/class/`, each with its class: what a classifier is fitted on.

    Classes and pictures are found and sorted as `metajax.data.image_folder` does; none is opened.

    Args:
      folder: that holds two classes or more, a folder each.

    Raises:
      OSError: the folder is missing or cannot be read, or a link in it leads nowhere.
      TypeError: `folder` is no path.
      ValueError: there are fewer than two classes, one has no picture, pictures lie beside folders
        or in `folder` itself, its folders are splits, or links lead to one folder twice.
    """
    check_paths(folder=folder)
    root = Path(os.path.abspath(folder))
    require_folder(root, "a folder a class with pictures in it")
    files = files_of_classes(root)
    refuse_splits(root, files, lambda name: repr(str(root / name)))
    if len(files) < 2:
        raise ValueError(
            f"{str(root)!r} holds the one class {in_short([*files])}; expected two or more, each a "
            "folder with its pictures: add what is to be told from it, such as a folder of others"
        )
    named = [(path, name) for name, paths in files.items() for path in paths]
    return LabelledPictures([path for path, _ in named], [name for _, name in named])


def read_pictures(
    pictures: Any,
    look: Look,
    *,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    corrupt: str = "error",
) -> Read:
    """Pictures of any kind and size as arrays of one shape.

    Files are decoded as `metajax.data.image_folder` does, by threads, and kept: the same files are
    not decoded a second time. Other pictures go the same way, floats rounded to 8 bits; arrays that
    have the shape of `look` are taken as they are, without Pillow.

    Args:
      pictures: called X in errors. Paths; or an array `[n, height, width]` or `[n, height, width,
        channels]` of 1, 3 or 4 channels, integers in [0, 255] or floats in [0, 1]; or a list of
        such arrays without `n`, of any sizes; or of pictures of Pillow.
      look: the shape, and how it is reached.
      cache: the folder of caches, see `image_folder`; False reads and writes none.
      corrupt: `"error"`, or `"skip"` to leave out files that are missing, no pictures or damaged.

    Raises:
      ImportError: Pillow is needed and not installed.
      OSError: files cannot be opened, or the cache not written.
      TypeError: `pictures` are of no kind or of several.
      ValueError: there is none, arrays have other shapes or numbers, or pictures are corrupt.
    """
    check_words(("error", "skip"), corrupt=corrupt)
    if cache is not False:
        check_optional_paths(cache=cache)
    given, kind = listed(pictures)
    names, bad = [], {}
    if kind == "path":
        names = [os.path.abspath(one) for one in given]
        images, bad = _from_files(names, look, cache, corrupt)
    elif kind == "Pillow":
        names = [f"X[{row}]" for row in range(len(given))]
        images, bad = from_pillow(given, look.shape, look.aspect)
    else:
        images = from_arrays(given, look.shape, look.aspect)
    if corrupt == "error":
        _refuse(bad, names, ValueError)
    kept = np.array([row for row in range(len(images)) if row not in bad], np.int64)
    images = images[kept] if bad else images
    return Read(look.seen(images), kept, bad)


def thumbnails_of(images: np.ndarray, side: int = 96) -> list[bytes]:
    """Small pictures as files, JPEG of colours and PNG of grey.

    Args:
      images: `[n, height, width, channels]` uint8 of 1 or 3 channels.
      side: pixels that none is wider or higher than; smaller ones stay as they are.
    """
    require_pillow()
    from PIL import Image

    files = []
    for image in images:
        grey = image.shape[2] == 1
        picture = Image.fromarray(image[..., 0] if grey else image)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "PNG" if grey else "JPEG", **({} if grey else {"quality": 85}))
        files.append(stream.getvalue())
    return files


def _from_files(
    paths: list[str],
    look: Look,
    cache: str | os.PathLike[str] | Literal[False] | None,
    corrupt: str,
) -> tuple[np.ndarray, dict[int, str]]:
    """The pictures `[paths, ...]`, of any content where they are bad, and why they are."""
    bad = {row: why for row, path in enumerate(paths) if (why := why_unopened(path))}
    if corrupt == "error":
        _refuse(bad, paths, OSError)
    folder = None if cache is False else cache
    # A cache is the same with both: it knows which are bad.
    options = Decoding(look.side, look.channels, folder, "skip", MAX_PIXELS, None, look.aspect)
    read = decoded_now if cache is False else decoded_once
    if not bad:
        return read(paths, look.shape, options)
    images = np.zeros((len(paths), *look.shape), np.uint8)
    if rows := [row for row in range(len(paths)) if row not in bad]:
        images[rows], damaged = read([paths[row] for row in rows], look.shape, options)
        bad |= {rows[place]: why for place, why in damaged.items()}
    return images, dict(sorted(bad.items()))


def _refuse(bad: Mapping[int, str], names: Sequence[str], kind: type[Exception]) -> None:
    """Raises where there is any that could not be read."""
    if bad:
        said = in_short({names[row]: why for row, why in bad.items()})
        raise kind(
            f"{len(bad)} of {len(names)} pictures cannot be read: {said}; replace them, or leave "
            "them out"
        )
