"""Omniglot as TensorFlow Datasets prepared it: the same array as from the official files."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.omniglot.archive import (
    BACKGROUND_IDS,
    DRAWERS,
    EVALUATION_IDS,
    PIXELS,
    area_average,
)
from metajax.data.readers.omniglot.splits import class_names, split_rows
from metajax.data.readers.tfds.images import RecordImages
from metajax.data.readers.tfds.reading import tfds_classes
from metajax.user_warnings import warn_user

# The ids of each split's characters, in the order in which the splits are joined.
_IDS = {"train": BACKGROUND_IDS, "test": EVALUATION_IDS}
_DARK = 128


def tfds_omniglot(
    split: str = "train",
    *,
    protocol: str = "vinyals",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    manual_dir: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """The drawings of one split of Omniglot, from the data set `omniglot` of TensorFlow Datasets.

    Equal to `omniglot(folder, split, protocol=protocol)` to the bit, drawers in order. Decoded
    anew by every call.

    Args:
      split: `"train"` (1028 characters), `"validation"` (172) or `"test"` (423) of Vinyals'
        protocol; `"background"` (964) or `"evaluation"` (659) of Lake's.
      protocol: `"vinyals"` or `"lake"`.
      data_dir: see `tfds_classes`.
      download: see `tfds_classes`.
      manual_dir: see `tfds_classes`.

    Returns:
      `[classes, 20, 28, 28, 1]` uint8, 255 where a pixel is all ink and 0 where it is all paper.

    Raises:
      FileNotFoundError: the data set is not prepared.
      ImportError: `tensorflow_datasets` or Pillow is missing.
      ValueError: unknown `protocol` or `split`, or files that are damaged or incomplete.

    Warns:
      RuntimeWarning: the files are in an order that does not tell who drew what; every class is
        complete, but its drawings are in the order of the files.
    """
    rows = split_rows(split, protocol)
    classes = tfds_classes(
        "omniglot",
        "+".join(_IDS),
        data_dir=data_dir,
        cache=False,
        download=download,
        manual_dir=manual_dir,
    )
    return drawings(classes, rows, _IDS)


def drawings(classes: ImageClasses, picked: np.ndarray, ids: dict[str, range]) -> np.ndarray:
    """The drawings of some characters, reduced to 28 x 28 pixels, drawers in order.

    Args:
      classes: all characters, straight from their files.
      picked: `[classes]` which characters, as places in `classes`.
      ids: the official ids of the characters of each split, from 1, in the order of the files.

    Raises:
      ValueError: `classes` are not these characters, by number and by name, drawn by 20 people
        each.
    """
    characters = sum(map(len, ids.values()))
    source = classes.images
    if (
        not isinstance(source, RecordImages)
        or len(classes.names) != characters
        or np.any(classes.counts != DRAWERS)
    ):
        raise ValueError(
            f"the data set holds {len(classes.names)} characters, drawn {min(classes.counts)} to "
            f"{max(classes.counts)} times; expected {characters}, drawn {DRAWERS} times each: "
            "prepare it again"
        )
    _check_names(classes.names, ids)
    rows = np.arange(characters * DRAWERS).reshape(characters, DRAWERS)
    numbers = source.numbers.reshape(characters, DRAWERS)
    expected = _record_numbers(classes.names, ids)
    if np.array_equal(np.sort(expected), numbers):
        rows = np.take_along_axis(rows, np.argsort(np.argsort(expected)), 1)
    else:
        warn_user(
            "the drawings of each character are in the order of the files, not in that of their "
            "drawers, which this preparation of the data set does not tell"
        )
    images = np.empty((len(picked), DRAWERS, PIXELS, PIXELS, 1), np.uint8)
    for image, place in zip(images, picked, strict=True):
        image[..., 0] = area_average(source[rows[place]][..., 0] < _DARK)
    return images


def _check_names(names: tuple[str, ...], ids: dict[str, range]) -> None:
    """Labels that stand for other characters would be split wrongly; they count from 0."""
    published = class_names()
    for name, number in zip(names, (i for part in ids.values() for i in part), strict=True):
        alphabet, character = published[number - 1].split("/character")
        if name != (expected := f"{alphabet}_{int(character) - 1}"):
            raise ValueError(
                f"the label of the character {number} is {name!r}, expected {expected!r}: the "
                "classes are not in the official order; prepare the data set again"
            )


def _record_numbers(names: tuple[str, ...], ids: dict[str, range]) -> np.ndarray:
    """`[characters, drawers]` the number that the record of each drawing should have.

    A record does not tell its drawer, but its place does: TensorFlow Datasets sorts the records of
    a split by the MD5 digest of the split's name and a key, here the character's name and the
    picture's file name, in which the drawer stands.
    """
    numbers, before = [], 0
    for split, characters in ids.items():
        digests = [
            _digest(f"{split}{names[i - 1]}_{i:04d}_{drawer:02d}.png")
            for i in characters
            for drawer in range(1, DRAWERS + 1)
        ]
        order = sorted(range(len(digests)), key=digests.__getitem__)
        numbers.append(before + np.argsort(order).reshape(-1, DRAWERS))
        before += len(digests)
    return np.concatenate(numbers)


def _digest(text: str) -> bytes:
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()
