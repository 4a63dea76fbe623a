"""Any image classification data set of TensorFlow Datasets, grouped by class, without TensorFlow.

A first pass over the prepared files reads the labels, a second one decodes every image to its
place in a memory-mapped cache. TensorFlow is needed, if at all, to prepare a data set once.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import DECODING, require_pillow, two_sides
from metajax.data.readers.tfds.images import RecordImages, image_channels, picture_size
from metajax.data.readers.tfds.labels import Labels, grouped, label_reader
from metajax.data.readers.tfds.prepared import open_prepared
from metajax.data.readers.tfds.preparing import import_tfds
from metajax.data.readers.tfds.records import Records, file_format, open_records, split_files

_BLOCK = 256  # records read at once
_ENDS = 2**16  # bytes at the start and at the end of a file that are part of its digest


def tfds_classes(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    size: int | tuple[int, int] | None = None,
    image_key: str = "image",
    label_key: str = "label",
    group_key: str | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    download: bool = False,
    manual_dir: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """An image classification data set of TensorFlow Datasets, by name.

    Reads `array_record` and `tfrecord` files without TensorFlow. Classes are in the order of the
    label numbers and called by their names, or by their numbers where there are no names; labels
    without images make no class. Within a class the images keep the order of TensorFlow Datasets.
    Pictures are decoded as `image_folder` does: turned upright, and laid on white where they are
    transparent, unless the images have a channel for it.

    Args:
      name: `"name"`, `"name/config"` or `"name/config:1.2.3"`; the newest version unless named.
      split: a split, or several joined, such as `"train+test"`.
      data_dir: the folder of all data sets; None is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      size: side, or (height, width), that every image is resized to (Lanczos, proportions not
        kept); None keeps the size, which then has to be the same for all.
      image_key: the feature that holds the images, of 1, 3 or 4 channels of 8 bits.
      label_key: the feature that holds the labels: class labels, integers or strings.
      group_key: the feature that holds each class's group, such as `"coarse_label"`, or None.
      cache: a folder of caches, in which the decoded images are kept; None is `metajax` in
        `$XDG_CACHE_HOME`, or in `~/.cache`. Made anew, with a `RuntimeWarning`, where the prepared
        files have changed. False keeps the images in their files and decodes them whenever they are
        read: for data sets for which there is no room twice.
      download: prepare the data set where it is not prepared yet: downloads it, and mostly needs
        TensorFlow. Otherwise nothing waits on a network.
      manual_dir: a folder of files downloaded by hand, for `download`.

    Raises:
      ImportError: `tensorflow_datasets`, Pillow, or what preparing needs, is missing.
      RuntimeError: Pillow is told to pass truncated files off as whole ones.
      FileNotFoundError: the data set is not prepared; a file of it is missing.
      ValueError: an unknown name, split or feature; images of several sizes and no `size`, or that
        cannot be decoded; labels outside of the range, or missing; a class of two groups.
      OSError: there is no room for the cache.
    """
    return read_prepared(
        name,
        split,
        data_dir=data_dir,
        size=size,
        image_key=image_key,
        label_key=label_key,
        group_key=group_key,
        cache=cache,
        download=download,
        manual_dir=manual_dir,
    )


def read_prepared(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    size: int | tuple[int, int] | None = None,
    image_key: str = "image",
    label_key: str = "label",
    group_key: str | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None,
    download: bool,
    manual_dir: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """Does what `tfds_classes` does, for whoever asks."""
    sides = two_sides(size)
    builder = open_prepared(name, data_dir=data_dir, download=download, manual_dir=manual_dir)
    features = builder.info.features
    keys = {"image_key": image_key, "label_key": label_key, "group_key": group_key}
    for argument, key in keys.items():
        if key is not None and key not in features:
            raise ValueError(f"{argument}={key!r}; {name!r} has the features {sorted(features)}")
    stored, channels = image_channels(features, image_key)
    made_from = _made_from(builder, split, {**keys, "size": sides})
    asked = [str(builder.data_path), *(made_from[key] for key in made_from if key != "files")]
    folder = None if cache is False else cache_folder(cache, made_from["data set"], asked)
    if folder is not None and (kept := read_cache(folder, made_from)):
        return kept

    require_pillow()
    records = open_records(builder, split)
    encoded = _image_reader(features, image_key)
    sizes = encoded if sides is None and stored is None else None
    labels, found = _first_pass(records, label_reader(features, label_key, group_key), sizes)
    target = sides or stored or _one_size(found, name)
    names, groups, counts, order = grouped(labels, features, label_key, group_key)
    images = RecordImages(records, encoded, order, (*target, channels), resize=sides is not None)
    if folder is None:
        return ImageClasses(images, np.cumsum(counts) - counts, counts, names, groups)
    return write_cache(
        folder,
        made_from,
        lambda out: _fill(out, images, counts, name),
        names=names,
        counts=counts.tolist(),
        image_shape=images.shape[1:],
        groups=groups,
    )


def _first_pass(
    records: Records, read: Callable[[bytes], Any], encoded: Callable[[bytes], bytes] | None
) -> tuple[Labels, Counter]:
    """The labels of all records, and, with `encoded`, how many images have each (height, width)."""
    labels, sizes = [], Counter()
    for start in tqdm(range(0, len(records), _BLOCK), "labels", disable=None, leave=False):
        keys = list(range(start, min(start + _BLOCK, len(records))))
        for key, record in zip(keys, records.__getitems__(keys), strict=True):
            labels.append(read(record))
            if encoded:
                sizes[picture_size(encoded(record), key)] += 1
    return labels, sizes


def _one_size(found: Counter, name: str) -> tuple[int, int]:
    if len(found) > 1:
        (first, many), (second, fewer) = found.most_common(2)
        raise ValueError(
            f"the images of {name!r} have {len(found)} sizes, such as {first[0]} x {first[1]} "
            f"({many} images) and {second[0]} x {second[1]} ({fewer}); pass size= to resize all"
        )
    return next(iter(found))


def _fill(out: np.ndarray, images: RecordImages, counts: np.ndarray, name: str) -> Sequence[int]:
    """Decodes all images into `out`, in the order of the files and on all cores."""
    rows = np.argsort(images.numbers)
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]

    def write(block: np.ndarray) -> int:
        out[block] = images[block]
        return len(block)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(rows), desc=name, unit="image", disable=None, leave=False) as bar,
    ):
        for done in pool.map(write, blocks):
            bar.update(done)
    return counts.tolist()


def _image_reader(features: Any, image_key: str) -> Callable[[bytes], bytes]:
    """Takes the encoded picture out of a record."""
    tfds = import_tfds()
    only = tfds.features.FeaturesDict({image_key: features[image_key]})
    skip = {image_key: tfds.decode.SkipDecoding()}
    return lambda record: only.deserialize_example_np(record, decoders=skip)[image_key]


def _made_from(builder: Any, split: str, options: dict[str, Any]) -> dict[str, Any]:
    """What decides the content of a cache; digests of files stand for their content."""
    info, kind = builder.info, file_format(builder)
    folder = Path(builder.data_path)
    files = [*folder.glob("*.json"), *folder.glob("*.labels.txt")]
    files += [Path(file.filename) for file in split_files(builder, split)]
    return {
        "data set": info.full_name,
        "split": split,
        **options,
        "decoding": DECODING,
        "file format": kind,
        "files": {path.name: _digest(path) for path in files},
    }


def _digest(path: Path) -> str:
    """Changes when a file is written to: of its size, its time of change and its two ends."""
    stat = path.stat()
    with path.open("rb") as file:
        content = file.read(_ENDS)
        file.seek(max(stat.st_size - _ENDS, 0))
        content += file.read()
    digest = hashlib.sha256(content + stat.st_mtime_ns.to_bytes(16, "little", signed=True))
    return f"{stat.st_size} bytes, {digest.hexdigest()[:16]}"
