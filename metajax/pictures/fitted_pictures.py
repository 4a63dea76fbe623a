"""What a classifier keeps of the pictures that it was fitted on, as arrays and a record, and back.

What a file has is from anyone: each field is checked before anything is made of it.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metajax.calibration.deployed import Calibration
from metajax.calibration.rejection import KINDS
from metajax.pictures.fitting import HeldOut
from metajax.pictures.record_fields import Fields

_MOST = 2**31
_LABELS = ("str", "object", "bool", "float16", "float32", "float64")
_LABELS += tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_FILES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # How JPEG and PNG begin.


class FittedPictures(NamedTuple):
    """The attributes of a `FewShotClassifier` of these names, with `_` behind."""

    classes: np.ndarray
    rows: np.ndarray
    items: np.ndarray
    names: list[str]
    thumbnails: list[bytes] | None
    calibration: Calibration
    held_out: HeldOut | None


def as_record(pictures: FittedPictures) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by name, and JSON.

    Raises:
      ValueError: a class is no text, number or boolean, of which JSON has one.
    """
    arrays = {"items": pictures.items, "rows": pictures.rows.astype(np.int64)}
    if pictures.thumbnails is not None:
        ends = np.cumsum([len(each) for each in pictures.thumbnails])
        arrays["thumbnails"] = np.frombuffer(b"".join(pictures.thumbnails), np.uint8)
        arrays["thumbnail_ends"] = ends.astype(np.int64)
    classes = pictures.classes.tolist()
    if not all(map(_is_label, classes)):
        wrong = next(label for label in classes if not _is_label(label))
        raise ValueError(f"classes_ has {wrong!r}; expected texts, integers, booleans or numbers")
    held_out, dtype = pictures.held_out, pictures.classes.dtype
    return arrays, {
        "classes": classes,
        "label_dtype": "str" if dtype.kind == "U" else dtype.name,
        "names": list(pictures.names),
        "calibration": pictures.calibration._asdict(),
        "held_out": None if held_out is None else held_out._asdict(),
    }


def of_record(arrays: Mapping[str, np.ndarray], fields: Fields) -> FittedPictures:
    """What `as_record` was given.

    Raises:
      ValueError: an array or a field is none that it writes.
    """
    classes = _classes(fields)
    items, rows = (_array(arrays, name, fields) for name in ("items", "rows"))
    pictures = items.ndim == 4 and items.dtype == np.uint8
    vectors = items.ndim == 2 and items.dtype == np.float32
    if not (pictures or vectors) or 0 in items.shape or not np.isfinite(items).all():
        fields.refuse(
            f"has items of {items.dtype} and shape {items.shape}",
            "finite float32 features [n, features], or uint8 pictures [n, side, side, channels]",
        )
    count = len(items)
    fits = rows.dtype == np.int64 and rows.shape == (count,)
    if not fits or {*rows.tolist()} != {*range(len(classes))}:
        fields.refuse(
            f"has rows of {rows.dtype} and shape {rows.shape}",
            f"for each of the {count} items a place among the {len(classes)} classes, each of "
            "which has one",
        )
    names = fields.several("names", lambda name: isinstance(name, str), "texts")
    if (different := len({*names})) != len(names) or different != count:
        fields.refuse(f"has {len(names)} names, {different} different", f"{count}, one an item")
    thumbnails = _thumbnails(arrays, fields, count) if "thumbnails" in arrays else None
    calibration, held_out = _calibration(fields, len(classes)), None
    if fields.has("held_out"):
        within = fields.within("held_out")
        held_out = HeldOut(
            within.number("accuracy", lambda x: 0 <= x <= 1, "a share"),
            within.integer("items", 1, _MOST),
        )
    return FittedPictures(classes, rows, items, names, thumbnails, calibration, held_out)


def _classes(fields: Fields) -> np.ndarray:
    dtype = fields.text("label_dtype", _LABELS)
    values = fields.several("classes", _is_label, "texts, numbers or booleans")
    try:
        classes = np.array(values, dtype)
        known = classes.tolist() == values and (np.unique(classes) == classes).all()
    except (OverflowError, TypeError, ValueError):
        known, classes = False, np.array([])
    if len(classes) < 2 or not known:
        fields.refuse(
            f"has {len(values)} classes", "two or more of one kind, each once and in order"
        )
    return classes


def _calibration(fields: Fields, ways: int) -> Calibration:
    within = fields.within("calibration")
    threshold = kept = None
    if within.has("threshold"):
        threshold = within.number("threshold", math.isfinite, "a number")
    if within.has("kept"):
        kept = within.number("kept", lambda x: 0 < x < 1, "a number between 0 and 1")
    temperature = within.number("temperature", lambda x: x > 0, "a number above 0")
    kind: Any = within.text("kind", KINDS)
    return Calibration(temperature, threshold, kind, kept, within.integer("ways", ways, ways))


def _thumbnails(arrays: Mapping[str, np.ndarray], fields: Fields, count: int) -> list[bytes]:
    files, ends = (_array(arrays, name, fields) for name in ("thumbnails", "thumbnail_ends"))
    fits = files.dtype == np.uint8 and files.ndim == 1
    fits &= ends.dtype == np.int64 and ends.shape == (count,)
    if fits:
        places = [0, *ends.tolist()]
        whole = files.tobytes()
        if places == sorted(places) and places[-1] == len(whole):
            found = [whole[start:end] for start, end in itertools.pairwise(places)]
            if all(each.startswith(_FILES) for each in found):
                return found
    return fields.refuse("has other thumbnails", f"{count} files of JPEG or PNG")


def _array(arrays: Mapping[str, np.ndarray], name: str, fields: Fields) -> np.ndarray:
    if name not in arrays:
        fields.refuse(f"has no array {name!r}", "one")
    return arrays[name]


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
