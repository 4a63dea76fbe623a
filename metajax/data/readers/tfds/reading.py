"""Any image classification data set of TensorFlow Datasets, grouped by class, without TensorFlow.

A first pass over the prepared files reads the labels, a second one decodes every image to its
place in a memory-mapped cache. TensorFlow is needed, if at all, to prepare a data set once.
"""

from __future__ import annotations

import functools
import os
from typing import Literal

import numpy as np

from metajax.checks.numbers import check_integers
from metajax.checks.settings import (
    check_flags,
    check_optional_paths,
    check_optional_texts,
    check_texts,
)
from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import DECODING, MAX_PIXELS, decode, in_parallel, two_sides
from metajax.data.readers.tfds.prepared import open_prepared
from metajax.data.readers.tfds.records import RecordImages, Records


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
    and kept as `image_folder` does, but for a channel of transparency where the images have one.

    Args:
      name: `"name"`, `"name/config"` or `"name/config:1.2.3"`; the default config and the newest
        version unless named.
      split: a split, a part of one, or several joined, such as `"train[:10%]+test"`.
      data_dir: the folder of all data sets; None is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      size: see `image_folder`.
      image_key: the feature that holds the images, of 1, 3 or 4 channels of 8 bits.
      label_key: the feature that holds the labels: class labels, integers or strings.
      group_key: the feature that holds each class's group, such as `"coarse_label"`, or None.
      max_pixels: a picture whose header promises more is an error, and is not unpacked.
      cache: see `image_folder`. False keeps the images in their files and decodes them whenever
        they are read, when pictures that do not fit are an error: for data sets for which there is
        no room twice.
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
    keys = {"image_key": image_key, "label_key": label_key}
    keys |= {} if group_key is None else {"group_key": group_key}
    records, title = Records(builder, split, keys), builder.info.full_name
    asked = {"data set": title, "split": split, **keys, "size": sides, "decoding": DECODING}
    made_from = {**asked, "files": records.states}
    place = cache is not False and cache_folder(cache, title, [str(builder.data_path), asked])
    if place and (kept := read_cache(place, made_from)) is not None:
        return kept

    names, groups, counts, order = records.classes()
    channels = records.features[image_key].shape[2] or 3
    to_array = functools.partial(decode, size=sides, channels=channels, max_pixels=max_pixels)
    images = RecordImages(records, order, to_array)
    if not place:
        return ImageClasses(images, np.cumsum(counts) - counts, counts, names, groups)
    in_files = np.argsort(order)

    def fill(out: np.ndarray) -> tuple[list[int], str]:
        def decode_some(block: range) -> None:
            rows = in_files[block]
            out[rows] = images[rows]

        in_parallel(decode_some, len(order), title)
        return counts.tolist(), ""

    return write_cache(place, made_from, fill, names, counts.tolist(), images.shape[1:], groups)
