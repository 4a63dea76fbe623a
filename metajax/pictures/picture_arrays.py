"""Pictures that users hold: arrays of any kind, and pictures of Pillow."""

import sys
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import numpy as np

from metajax.data.readers.decoding import as_seen, require_pillow
from metajax.kinds import in_brief

Shape = tuple[int, int, int]  # (height, width, channels)
_ARRAYS = "pictures [n, height, width] or [n, height, width, channels] of 1, 3 or 4 channels"
_ONE_ARRAY = "[height, width] or [height, width, channels] of 1, 3 or 4 channels"


def listed(pictures: Any) -> tuple[np.ndarray | list[Any], str]:
    """One array of numbers, or the pictures one by one, and what they all are."""
    several = isinstance(pictures, Iterable) and not isinstance(pictures, Mapping)
    if (one := _kind(pictures)) in ("path", "Pillow") or not several:
        advice = "[X] for one picture" if one else f"a list of paths, or {_ARRAYS}"
        raise TypeError(f"X is {in_brief(pictures)}; expected several, {advice}")
    if one != "array":
        given = list(pictures)
    elif (array := np.asarray(pictures)).dtype.kind not in "OU":
        return array, "array"
    elif array.ndim == 1:
        given = array.tolist()
    else:
        raise ValueError(f"X is {array.dtype}{[*array.shape]}; expected paths [n], or {_ARRAYS}")
    if not given:
        raise ValueError("X holds no picture; expected one or more")
    kinds = [_kind(picture) for picture in given]
    row = next((row for row, kind in enumerate(kinds) if kind is None or kind != kinds[0]), None)
    if row is not None:
        beside = f", X[0] {in_brief(given[0])}" if row else ""
        raise TypeError(
            f"X[{row}] is {in_brief(given[row])}{beside}; expected paths alone, arrays alone, or "
            "pictures of Pillow alone"
        )
    return given, str(kinds[0])


def _kind(picture: Any) -> str | None:
    """Of one picture, or of several."""
    pillow = sys.modules.get("PIL.Image")  # Whoever has a picture of it has imported it.
    if isinstance(picture, str | PathLike):
        return "path"
    if pillow is not None and isinstance(picture, pillow.Image):
        return "Pillow"
    return "array" if hasattr(picture, "__array__") else None


def from_arrays(given: np.ndarray | list[Any], shape: Shape, aspect: str) -> np.ndarray:
    """Pictures of one array, or of a list of arrays, as `[n, *shape]` uint8."""
    if isinstance(given, np.ndarray):
        arrays = _in_8_bits(given, "X", 4, _ARRAYS)
        if arrays.shape[1:] == shape:
            return arrays
    else:
        arrays = [
            _in_8_bits(np.asarray(one), f"X[{row}]", 3, _ONE_ARRAY) for row, one in enumerate(given)
        ]
    return np.stack([_fitted(array, shape, aspect) for array in arrays])


def from_pillow(
    given: np.ndarray | list[Any], shape: Shape, aspect: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Pictures of Pillow as `[n, *shape]` uint8, of any content where one is bad, and why it is."""
    require_pillow()
    from PIL import ImageOps

    images, bad = np.zeros((len(given), *shape), np.uint8), {}
    for row, picture in enumerate(given):
        try:
            images[row] = as_seen(ImageOps.exif_transpose(picture), shape[:2], shape[2], aspect)
        except MemoryError:
            raise
        except Exception as error:  # What was opened may not have been unpacked, see `decode`.
            bad[row] = f"{type(error).__name__}: {error}"
    return images, bad


def _in_8_bits(array: np.ndarray, name: str, rank: int, expected: str) -> np.ndarray:
    """What is called `name` as uint8, with an axis of channels."""
    channels = array.shape[-1] if name == "X" and array.ndim == 3 else 0
    if channels in (3, 4) and min(array.shape[:2]) > channels:
        raise ValueError(
            f"X has the shape {array.shape}, of one picture in colour or of many grey ones; "
            "expected [X] for the one, or X[..., None] for the many"
        )
    shaped = array[..., None] if array.ndim == rank - 1 else array
    if shaped.ndim != rank or 0 in shaped.shape or shaped.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{name} has the shape {array.shape}; expected {expected}, none empty")
    if array.dtype == np.uint8:
        return shaped
    numbers = "integers in [0, 255], or floats in [0, 1]"
    if array.dtype.kind not in "uif":
        raise TypeError(f"{name} is of {array.dtype}; expected {numbers}")
    most = 1 if array.dtype.kind == "f" else 255
    if (outside := shaped[~((shaped >= 0) & (shaped <= most))]).size:
        raise ValueError(
            f"{name} is of {array.dtype} and holds {outside[0]}; expected {numbers}: divide by the "
            "largest number that there can be"
        )
    return (np.rint(shaped * 255.0) if most == 1 else shaped).astype(np.uint8)


def _fitted(array: np.ndarray, shape: Shape, aspect: str) -> np.ndarray:
    if array.shape == shape:
        return array
    require_pillow()
    from PIL import Image

    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return as_seen(picture, shape[:2], shape[2], aspect)
