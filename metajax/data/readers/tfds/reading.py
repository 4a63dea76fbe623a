"""Any image classification data set of TensorFlow Datasets, grouped by class, without TensorFlow.

A first pass over the prepared files reads the labels, a second one decodes every image to its
place in a memory-mapped cache. TensorFlow is needed, if at all, to prepare a data set once.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from metajax.checks.numbers import check_integers
from metajax.checks.settings import (
    check_flags,
    check_optional_paths,
    check_optional_texts,
    check_texts,
)
from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import (
    DECODING,
    MAX_PIXELS,
    picture_shape,
    require_pillow,
    two_sides,
)
from metajax.data.readers.tfds.labels import check_features, grouped
from metajax.data.readers.tfds.prepared import DAMAGED, explained, open_prepared
from metajax.data.readers.tfds.records import RecordImages, Records

_BLOCK = 256  # records read at once


def tfds_classes(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int | tuple[int, int] | None = None,
    image_key: str = "image",
    label_key: str = "label",
    group_key: str | None = None,
    max_pixels: int = MAX_PIXELS,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    download: bool = False,
    manual_dir: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """An image classification data set of TensorFlow Datasets, by name.

    Reads `array_record` files without TensorFlow. Classes are in the order of the label numbers and
    called by their names, or by their numbers where there are no names; labels without images make
    no class. Within a class the images keep the order of TensorFlow Datasets. Pictures are decoded
    as `image_folder` does: turned upright, and laid on white where they are transparent, unless the
    images have a channel for it.

    Args:
      name: `"name"`, `"name/config"` or `"name/config:1.2.3"`; the default config and the newest
        version unless named.
      split: a split, a part of one, or several joined, such as `"train[:10%]+test"`.
      data_dir: the folder of all data sets; None is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      size: side, or (height, width), that every image is resized to (Lanczos, proportions not
        kept); None keeps the size, which then has to be the same for all.
      image_key: the feature that holds the images, of 1, 3 or 4 channels of 8 bits.
      label_key: the feature that holds the labels: class labels, integers or strings.
      group_key: the feature that holds each class's group, such as `"coarse_label"`, or None.
      max_pixels: a picture whose header promises more is an error, and is not unpacked.
      cache: a folder of caches, in which the decoded images are kept; None is `metajax` in
        `$XDG_CACHE_HOME`, or in `~/.cache`. Made anew, with a `RuntimeWarning`, where the prepared
        files have changed. False keeps the images in their files and decodes them whenever they are
        read: for data sets for which there is no room twice.
      download: prepare the data set where it is not prepared yet: downloads it, and mostly needs
        TensorFlow. Otherwise nothing waits on a network.
      manual_dir: a folder of files downloaded by hand, for `download`.

    Raises:
      ImportError: `tensorflow_datasets`, `array_record`, Pillow or what preparing needs is missing.
      FileNotFoundError: the data set is not prepared, or unknown; a file of it is missing.
      OSError: preparing failed; a file cannot be read; there is no room for the cache.
      RuntimeError: Pillow is told to pass truncated files off as whole ones.
      TypeError: an argument is of another kind.
      ValueError: an unknown split or feature; files of another format, or damaged; images of
        several sizes and no `size`, or that cannot be decoded; labels outside of the range, or
        missing; a class of two groups.
    """
    check_texts(name=name, split=split, image_key=image_key, label_key=label_key)
    check_optional_texts(group_key=group_key)
    check_optional_paths(data_dir=data_dir, manual_dir=manual_dir)
    check_flags(download=download)
    sides = two_sides(size)
    check_integers(1, max_pixels=max_pixels)
    builder = open_prepared(name, data_dir, download=download, manual_dir=manual_dir)
    keys = {"image_key": image_key, "label_key": label_key, "group_key": group_key}
    features, title = builder.info.features, builder.info.full_name
    check_features(features, name, keys)
    records = Records(builder, split, image_key, [key for key in (label_key, group_key) if key])
    asked = {"data set": title, "split": split, **keys, "size": sides, "decoding": DECODING}
    made_from = {**asked, "files": _states(builder, records.files)}
    folder = None
    if cache is not False:
        folder = cache_folder(cache, title, [str(builder.data_path), asked])
        if (kept := read_cache(folder, made_from)) is not None:
            return kept

    require_pillow()
    *stored, channels = features[image_key].shape
    labels, sizes = _first_pass(records, max_pixels if sides is None and None in stored else None)
    names, groups, counts, order = grouped(labels, features, label_key, group_key)
    height, width = sides or _one_size(sizes, name) or stored
    shape = (height, width, channels or 3)
    images = RecordImages(records, order, shape, max_pixels, resize=sides is not None)
    if folder is None:
        return ImageClasses(images, np.cumsum(counts) - counts, counts, names, groups)
    return write_cache(
        folder,
        made_from,
        functools.partial(_decode_all, images, counts.tolist(), title),
        names=names,
        counts=counts.tolist(),
        image_shape=shape,
        groups=groups,
    )


def _states(builder: Any, files: Sequence[Path]) -> dict[str, str]:
    """Of all files that decide what is read: each changes when the file is written to."""
    folder = Path(builder.data_path)
    paths = [*folder.glob("*.json"), *folder.glob("*.labels.txt"), *files]
    stats = {path.name: path.stat() for path in paths}
    return {name: f"{s.st_size} bytes, changed {s.st_mtime_ns}" for name, s in stats.items()}


def _first_pass(records: Records, max_pixels: int | None) -> tuple[dict[str, list[Any]], Counter]:
    """The labels of all records and, unless it is None, how many have each (height, width)."""
    labels, sizes = {key: [] for key in records.label_keys}, Counter()
    total = len(records)
    for start in tqdm(range(0, total, _BLOCK), "labels", disable=None, leave=False):
        numbers = range(start, min(start + _BLOCK, total))
        for number, example in zip(numbers, records.read(numbers), strict=True):
            for key, found in labels.items():
                found.append(example[key])
            if max_pixels is not None:
                with explained(f"the image of record {number} cannot be decoded", DAMAGED):
                    content = example[records.image_key]
                    sizes[picture_shape(content, max_pixels=max_pixels)[:2]] += 1
    return labels, sizes


def _one_size(sizes: Counter, name: str) -> tuple[int, int] | None:
    if len(sizes) > 1:
        (first, many), (second, fewer) = sizes.most_common(2)
        raise ValueError(
            f"the images of {name!r} have {len(sizes)} sizes, such as {first[0]} x {first[1]} "
            f"({many} images) and {second[0]} x {second[1]} ({fewer}); pass size= to resize all"
        )
    return next(iter(sizes), None)


def _decode_all(images: RecordImages, counts: list[int], title: str, out: np.ndarray) -> list[int]:
    """Decodes all images into `out`, in the order of the files and on all cores."""
    rows = np.argsort(images.numbers)
    starts = range(0, len(rows), _BLOCK)

    def decode_block(start: int) -> None:
        block = rows[start : start + _BLOCK]
        out[block] = images[block]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(decode_block, starts)
        list(tqdm(done, title, len(starts), disable=None, leave=False))
    return counts
