"""What users call labels: texts, integers or booleans, one a picture, of one kind."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from metajax.kinds import in_brief
from metajax.user_warnings import warn_user

_KINDS = {"U": "texts", "O": "texts", "i": "integers", "u": "integers", "b": "booleans"}


def labels_of(y: Any) -> np.ndarray:
    """`[n]` labels; floats that are whole numbers as they are.

    Raises:
      TypeError: they are no array, or of no such kind or of several.
      ValueError: they have another shape, are numbers that are no classes, or no Unicode.
    """
    try:
        labels = np.asarray(y)
    except ValueError as error:  # A ragged list.
        raise ValueError(f"y is {in_brief(y)}; expected [n] labels, one a picture") from error
    if labels.ndim != 1:
        raise ValueError(
            f"y is {in_brief(y)}, of the shape {labels.shape}; expected [n] labels, one a picture"
        )
    kind = labels.dtype.kind
    if kind in "UO":
        _check_texts(y if isinstance(y, list | tuple) else labels)  # NumPy makes texts of numbers.
    if kind == "f" and (wrong := labels[~(np.isfinite(labels) & (labels == np.rint(labels)))]).size:
        raise ValueError(
            f"y has numbers like {wrong[0]}; expected labels of classes: texts, integers or "
            "booleans"
        )
    if kind not in "UOiubf":
        raise TypeError(f"y is of {labels.dtype}; expected texts, integers or booleans")
    return labels


def _check_texts(labels: Iterable[Any]) -> None:
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(
                f"y has the label {in_brief(label)}; expected texts alone, or integers or booleans "
                "that are no objects"
            )
        try:
            label.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"y has the label {label!r}, which is no Unicode: the name of a folder that is not "
                "of UTF-8, perhaps; expected texts: give it another name"
            ) from error


def check_as_many(pictures: Any, labels: np.ndarray) -> None:
    """Raises a ValueError unless there is one label a picture."""
    if len(pictures) != len(labels):
        raise ValueError(
            f"X has {len(pictures)} pictures and y {len(labels)} labels; expected one label a "
            "picture"
        )


def check_classes(labels: np.ndarray) -> None:
    """Raises a ValueError unless there are several classes."""
    if (labels == labels[:1]).all():
        raise ValueError(
            f"y has one class, {labels.tolist()[0]!r}; expected two or more, to tell "
            "apart: add pictures of something else"
        )


def check_same_kind(labels: np.ndarray, known: np.ndarray) -> None:
    """Raises a ValueError unless labels are of the kind of those that were fitted."""
    kind, fitted = (_KINDS.get(each.dtype.kind, "numbers") for each in (labels, known))
    if kind != fitted:
        raise ValueError(
            f"y has {kind}, such as {labels[0]!r}, and the labels that were fitted are {fitted}, "
            f"such as {known[0]!r}; expected one kind of labels"
        )
    if kind == "integers" and np.result_type(labels, known).kind == "f":
        raise ValueError(
            f"y is of {labels.dtype}, and the labels that were fitted are of {known.dtype}: no "
            f"integers of NumPy are both; expected np.asarray(y, {str(known.dtype)!r})"
        )


def warn_of_strangers(labels: np.ndarray, classes: np.ndarray) -> None:
    """Warns where there are labels of no fitted class, to whose pictures every answer is wrong."""
    strange = np.unique(labels[~np.isin(labels, classes)]).tolist()
    if strange:
        shown = ", ".join(map(repr, strange[:3])) + (", ..." if strange[3:] else "")
        warn_user(
            f"y has labels that were not fitted, {shown}: answers to their pictures count as "
            "wrong; expected those of classes_, or a call of add(X, y) before"
        )


def shares_of(sample_weight: Any, count: int) -> np.ndarray | None:
    """`[n]` weights of items, or None.

    Raises:
      ValueError: they are no finite numbers of 0 or more, one an item, of which one is above 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, np.float64)
        fits = weights.shape == (count,) and np.isfinite(weights).all() and (weights >= 0).all()
    except (TypeError, ValueError):
        weights, fits = np.zeros(0), False
    if not fits or not weights.sum() > 0:
        raise ValueError(
            f"sample_weight is {in_brief(sample_weight)}; expected {count} numbers of 0 or more, "
            "one a picture and not all 0, or None"
        )
    return weights
