"""Emoji, each drawn by several designers: colour images of 1,579 classes, from one file."""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_paths
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.area_average import area_average
from metajax.kinds import check_words
from metajax.regular_files import open_regular

PIXELS = 72
FILE = "emoji72.npz"

# Unicode's groups of emoji. Variants of one person share a picture's idea: these only train.
SPLITS = {
    "train": ("People & Body", "Objects", "Symbols", "Smileys & Emotion", "Flags"),
    "validation": ("Activities", "Travel & Places"),
    "test": ("Animals & Nature", "Food & Drink"),
}
# Sets of one designer's, of which the second is the older.
_GENERATIONS = {"noto-v1": "noto"}

_MOST_IMAGES = 2**15
_LONGEST_TEXT = 2**8
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BLOCK = 256  # Images that are reduced at once.


class _Contents(NamedTuple):
    """The arrays of the file: three of images, three of classes, and the names of designs."""

    images: np.ndarray
    class_index: np.ndarray
    design_index: np.ndarray
    code_points: np.ndarray
    names: np.ndarray
    categories: np.ndarray
    designs: np.ndarray


def emoji(path: str | os.PathLike[str], split: str = "train", *, pixels: int = 72) -> ImageClasses:
    """Emoji as several designers drew them, from a file the caller already has.

    Colour images of 1,579 emoji, 4 to 8 of each, in the vector graphics of Google (two
    generations), Microsoft, Twitter, OpenMoji, EmojiOne, Mozilla and Streamline, drawn on white.
    `benchmarks/build_emoji.py` of metajax's repository makes the file from their packages, which
    have licences of their own. The whole file, 146 MB of pixels, is unpacked in memory; nothing is
    cached.

    Splits are by Unicode's groups, so that what is tested is of another kind than what is trained
    on. What is told apart across designers is the honest number: `image_episodes(...,
    across_sources=True)`, for a class's drawings by one designer share their style, and those of
    Google's two generations are one designer's.

    Args:
      path: the file, or the folder that holds it as `emoji72.npz`.
      split: `"train"` (People & Body, Objects, Symbols, Smileys & Emotion and Flags: 988 classes),
        `"validation"` (Activities and Travel & Places: 303), `"test"` (Animals & Nature and Food &
        Drink: 288), or `"all"`.
      pixels: the side of the images, up to 72; smaller ones are exact area averages.

    Returns:
      `ImageClasses` of `[images, pixels, pixels, 3]` uint8. A class is called by its code points
      and Google's name for it, such as `1f98a fox`; its group is Unicode's. Sources are designers,
      by the name of their set, `noto` for both of Google's.

    Raises:
      FileNotFoundError: the file is missing.
      OSError: it is no regular file.
      TypeError: an argument is of another kind.
      ValueError: unknown `split`, `pixels` outside of 1 to 72, or a file that is damaged or is
        another.
    """
    check_paths(path=path)
    check_words((*SPLITS, "all"), split=split)
    check_integers(1, pixels=pixels)
    if pixels > PIXELS:
        raise ValueError(f"pixels={pixels}; expected at most {PIXELS}, as the images are")
    file = Path(os.path.abspath(path))
    file = file / FILE if file.is_dir() else file
    if not file.exists():
        raise FileNotFoundError(
            f"the path {str(file)!r} is not there; expected {FILE}, as benchmarks/build_emoji.py "
            "of metajax's repository makes it"
        )
    held = _read(file)
    wanted = [
        group for name, groups in SPLITS.items() if split in (name, "all") for group in groups
    ]
    classes = np.flatnonzero(np.isin(held.categories, wanted))
    order = np.argsort(held.class_index, kind="stable")
    order = order[np.isin(held.class_index[order], classes)]
    counts = np.bincount(held.class_index, minlength=len(held.names))[classes]
    designers = np.array([_GENERATIONS.get(name, name) for name in held.designs.tolist()])
    images = np.empty((len(order), pixels, pixels, 3), np.uint8)
    for first in range(0, len(order), _BLOCK):
        rows = order[first : first + _BLOCK]
        images[first : first + _BLOCK] = area_average(held.images[rows], int(pixels))
    return ImageClasses(
        images,
        np.cumsum(counts) - counts,
        counts,
        tuple(f"{held.code_points[c]} {held.names[c]}" for c in classes),
        tuple(held.categories[classes].tolist()),
        designers[held.design_index[order]],
    )


def _read(file: Path) -> _Contents:
    """The arrays, found to fit each other."""
    with open_regular(file) as stream:
        try:
            archive = zipfile.ZipFile(stream)
            held = _Contents(*(_array(archive, name) for name in _Contents._fields))
            _check(held)
        except MemoryError:
            raise
        except Exception as error:  # Damaged zips raise nearly everything.
            raise ValueError(
                f"{str(file)!r} ({file.stat().st_size} bytes) cannot be read: {error}; expected "
                f"{FILE}, complete, as benchmarks/build_emoji.py makes it: copy it or make it again"
            ) from error
    return held


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of the file, of a size that it may have."""
    member = archive.getinfo(f"{name}.npy")
    most = _MOST_IMAGES * (PIXELS**2 * 3 if name == "images" else 4 * _LONGEST_TEXT)
    if member.file_size > most:
        raise ValueError(f"{name} would have {member.file_size} bytes, more than {most}")
    if member.compress_type not in _PACKED:
        raise ValueError(f"{name} is packed by the method {member.compress_type}, not deflated")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is in another format than NumPy's first")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        content = stream.read(most)  # To the end, where zipfile proves its digest.
    if by_column or dtype.hasobject or dtype.kind not in "iuU":
        raise ValueError(f"{name} is {dtype}, by {'columns' if by_column else 'rows'}")
    return np.frombuffer(content, dtype).reshape(shape)


def _check(held: _Contents) -> None:
    """Raises where arrays do not fit each other."""
    images, classes, designs = (len(held.images), len(held.names), len(held.designs))
    shapes = {
        "images": (images, PIXELS, PIXELS, 3),
        **dict.fromkeys(("class_index", "design_index"), (images,)),
        **dict.fromkeys(("code_points", "names", "categories"), (classes,)),
        "designs": (designs,),
    }
    for (name, array), kind in zip(held._asdict().items(), ("u", "iu", "iu", *"UUUU"), strict=True):
        if array.shape != shapes[name] or array.dtype.kind not in kind:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {shapes[name]}")
    if held.images.dtype != np.uint8:
        raise ValueError(f"images are {held.images.dtype}")
    for name, most in (("class_index", classes), ("design_index", designs)):
        numbers = getattr(held, name)
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= most:
            raise ValueError(f"{name} has numbers outside of [0, {most})")
    if len({*held.class_index.tolist()}) < classes or not images:
        raise ValueError(f"{classes} classes of {images} images, some without any")
    if len({*held.code_points.tolist()}) < classes:
        raise ValueError("code_points has some twice")
    known = {group for groups in SPLITS.values() for group in groups}
    if strangers := sorted({*held.categories.tolist()} - known):
        raise ValueError(f"categories has {in_short(strangers)}, which are in no split")
    for groups in SPLITS.values():
        if not np.isin(held.categories, groups).any():
            raise ValueError(f"categories has none of {in_short(groups)}")
