"""Labels of a prepared data set of TensorFlow Datasets, and the classes that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metajax.data.readers.tfds.preparing import import_tfds

# The label of each record, and the label of its group, or None.
Labels = Sequence[tuple[Any, Any]]


def label_reader(
    features: Any, label_key: str, group_key: str | None
) -> Callable[[bytes], tuple[Any, Any]]:
    """Takes the label, and the group's label, out of a record; nothing else is decoded.

    Raises:
      ValueError: a feature is neither a class label, nor one integer or string an image.
    """
    tfds = import_tfds()
    keys = [key for key in (label_key, group_key) if key is not None]
    for key in keys:
        feature = features[key]
        kind = np.dtype(feature.np_dtype).kind if feature.shape == () else ""
        if kind not in tuple("iuOSUT"):
            raise ValueError(
                f"the labels {key!r} are {feature!r}; expected one integer or string an image"
            )
    only = tfds.features.FeaturesDict({key: features[key] for key in keys})

    def read(record: bytes) -> tuple[Any, Any]:
        example = only.deserialize_example_np(record)
        return _plain(example[label_key]), group_key and _plain(example[group_key])

    return read


def grouped(
    labels: Labels, features: Any, label_key: str, group_key: str | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None, np.ndarray, np.ndarray]:
    """The classes of labelled images.

    Returns:
      The name of each class; its group, or None; `[classes]` how many images it has; `[images]` the
      records' numbers, class by class.

    Raises:
      ValueError: a label is -1 or out of the range; a class has images of two groups.
    """
    of_image = np.array([label for label, _ in labels])
    found, counts = np.unique(of_image, return_counts=True)
    names = _names(found, counts, features[label_key], label_key)
    order = np.argsort(of_image, kind="stable")
    if group_key is None:
        return names, None, counts, order
    group_of_image = np.array([group for _, group in labels])
    kinds, group_counts = np.unique(group_of_image, return_counts=True)
    called = dict(
        zip(
            kinds.tolist(), _names(kinds, group_counts, features[group_key], group_key), strict=True
        )
    )
    in_order = group_of_image[order]
    first = in_order[np.cumsum(counts) - counts]
    strangers = np.flatnonzero(in_order != np.repeat(first, counts))
    if len(strangers):
        place = np.searchsorted(np.cumsum(counts), strangers[0], side="right")
        raise ValueError(
            f"the class {names[place]!r} has images of two groups, {called[first[place].item()]!r} "
            f"and {called[in_order[strangers[0]].item()]!r}; expected a group_key that is the same "
            f"for all images of a class, but got {group_key!r}"
        )
    return names, tuple(called[label] for label in first.tolist()), counts, order


def _names(found: np.ndarray, counts: np.ndarray, feature: Any, key: str) -> tuple[str, ...]:
    """What the labels are called."""
    if not isinstance(feature, import_tfds().features.ClassLabel):
        return tuple(map(str, found.tolist()))
    if found[0] == -1:
        raise ValueError(
            f"{counts[0]} of {counts.sum()} images have the label -1 in {key!r}, which stands for "
            "no label; use a split whose images are labelled"
        )
    if found[0] < 0 or found[-1] >= feature.num_classes:
        raise ValueError(
            f"the labels {key!r} reach from {found[0]} to {found[-1]}; expected labels in [0, "
            f"{feature.num_classes}): the files may be damaged, prepare the data set again"
        )
    return tuple(feature.int2str(label) for label in found.tolist())


def _plain(label: Any) -> Any:
    return label.decode() if isinstance(label, bytes) else label
