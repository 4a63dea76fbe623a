"""Labels of a prepared data set of TensorFlow Datasets, and the classes that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metajax.data.readers.tfds.prepared import DAMAGED, explained, import_tfds


def check_features(features: Any, name: str, keys: Mapping[str, str | None]) -> None:
    """Raises a `ValueError` unless the features that arguments name are pictures and labels."""
    tfds = import_tfds()
    for argument, key in keys.items():
        if argument == "group_key" and key is None:
            continue
        feature: Any = dict(features).get(key)
        shape: Any = getattr(feature, "shape", None)
        if argument == "image_key":
            expected = "uint8 images [height, width, 1, 3 or 4 channels]"
            fits = isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
            fits = fits and len(shape) == 3 and shape[2] in (None, 1, 3, 4)
        else:
            expected = "one integer or string an image"
            fits = shape == () and np.dtype(feature.np_dtype).kind in "iuOSUT"
        if not fits:
            raise ValueError(
                f"{argument}={key!r} is {feature or 'no feature'}; expected {expected}; {name!r} "
                f"has the features {sorted(features)}"
            )


def grouped(
    labels: Mapping[str, Sequence[Any]], features: Any, label_key: str, group_key: str | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None, np.ndarray, np.ndarray]:
    """The classes of labelled images.

    Returns:
      The name of each class; its group, or None; `[classes]` how many images it has; `[images]` the
      records' numbers, class by class.

    Raises:
      ValueError: a label is -1 or out of the range; a class has images of two groups.
    """
    of_image = labels[label_key]
    names = _names(of_image, features[label_key], label_key)
    place = {label: number for number, label in enumerate(names)}
    places = np.array([place[label] for label in of_image])
    counts, order = np.bincount(places), np.argsort(places, kind="stable")
    if group_key is None:
        return tuple(names.values()), None, counts, order
    called = _names(labels[group_key], features[group_key], group_key)
    group_of: dict[Any, Any] = {}
    for label, group in zip(of_image, labels[group_key], strict=True):
        if (other := group_of.setdefault(label, group)) != group:
            raise ValueError(
                f"the class {names[label]!r} has images of two groups, {called[other]!r} and "
                f"{called[group]!r}; expected a group_key that is the same for all images of a "
                f"class, but got {group_key!r}"
            )
    groups = tuple(called[group_of[label]] for label in names)
    return tuple(names.values()), groups, counts, order


def _names(labels: Sequence[Any], feature: Any, key: str) -> dict[Any, str]:
    """What each label is called, in their order."""
    found = sorted(set(labels))
    if not isinstance(feature, import_tfds().features.ClassLabel):
        return {label: str(label) for label in found}
    if found[0] == -1:
        raise ValueError(
            f"{labels.count(-1)} of {len(labels)} images have the label -1 in {key!r}, which "
            "stands for no label; use a split whose images are labelled"
        )
    with explained(f"the labels {key!r} cannot be used", DAMAGED):
        if found[0] < 0 or found[-1] >= feature.num_classes:
            raise ValueError(
                f"they reach from {found[0]} to {found[-1]}, expected [0, {feature.num_classes})"
            )
        return {label: feature.int2str(label) for label in found}
