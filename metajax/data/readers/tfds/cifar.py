"""CIFAR-FS and FC100: the classes of CIFAR-100, split in two ways for few-shot learning.

The images are those of the data set `cifar100` of TensorFlow Datasets, its training and test images
together: 600 of 32 x 32 pixels a class. CIFAR-100: Krizhevsky, "Learning multiple layers of
features from tiny images" (2009).
"""

from __future__ import annotations

import os
from importlib import resources
from typing import Any, Literal

from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.tfds.reading import tfds_classes
from metajax.kinds import check_words


def cifar_fs(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    download: bool = False,
) -> ImageClasses:
    """CIFAR-FS: 64, 16 and 20 classes of CIFAR-100, chosen at random once for all.

    Args:
      split: `"train"` (64 classes), `"validation"` (16) or `"test"` (20).
      data_dir: see `tfds_classes`.
      cache: see `tfds_classes`; one cache serves all splits, and FC100.
      download: see `tfds_classes`.

    Returns:
      Classes of 600 images `[32, 32, 3]`, in CIFAR-100's order; groups are its 20 superclasses,
      which the splits share.

    Raises:
      ValueError: unknown `split`; others as `tfds_classes` has them.

    Source: Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (2019),
    section 4.2.
    """
    return _part("cifar_fs", split, data_dir=data_dir, cache=cache, download=download)


def fc100(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    download: bool = False,
) -> ImageClasses:
    """FC100: 60, 20 and 20 classes of CIFAR-100, whole superclasses each, so that splits differ.

    Args:
      split: `"train"` (60 classes of 12 superclasses), `"validation"` (20 of 4) or `"test"` (20 of
        4).
      data_dir: see `tfds_classes`.
      cache: see `cifar_fs`.
      download: see `tfds_classes`.

    Returns:
      As `cifar_fs`, but the splits share no superclass.

    Raises:
      ValueError: see `cifar_fs`.

    Source: Oreshkin et al., "TADAM: Task dependent adaptive metric for improved few-shot learning"
    (2018), supplementary material.
    """
    return _part("fc100", split, data_dir=data_dir, cache=cache, download=download)


def cifar100_listing() -> list[dict[str, str]]:
    """CIFAR-100's classes in order: the `class`, its `superclass`, its `cifar_fs` and `fc100`."""
    listing = resources.files("metajax.data.readers.tfds") / "cifar100_splits.txt"
    columns = ("class", "superclass", "cifar_fs", "fc100")
    lines = listing.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _part(paper: str, split: str, **options: Any) -> ImageClasses:
    check_words(("train", "validation", "test"), split=split)
    everything = tfds_classes("cifar100", "train+test", group_key="coarse_label", **options)
    return everything.select([row["class"] for row in cifar100_listing() if row[paper] == split])
