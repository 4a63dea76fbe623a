"""Tensors of a file in the safetensors format, read by name.

Format (github.com/huggingface/safetensors): the length of the header as eight bytes, the header,
JSON of `{name: {"dtype", "shape", "data_offsets"}}`, and the tensors' bytes, without gaps. Nothing
of it is run.
"""

import json
import math
import os
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from metajax.regular_files import open_regular

_MOST_HEADER = 100_000_000  # As the format's own reader has it.
_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class _Place(NamedTuple):
    """Where a tensor lies, in bytes of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(
    path: str | os.PathLike[str], wanted: Callable[[list[str]], list[str]]
) -> dict[str, np.ndarray]:
    """Tensors of a file, by name; only theirs of its bytes are read.

    Args:
      path: of the file.
      wanted: from the names of all tensors to those to read.

    Raises:
      OSError: the file is not there, may not be read, or is no regular one.
      ValueError: it is damaged or of another format, or has a tensor of a dtype that NumPy lacks.
    """
    with open_regular(path) as file:
        try:
            places = _places(file)
            return {name: _read(file, places[name]) for name in wanted(list(places))}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged, or no file of safetensors: {error}; copy it anew"
            ) from error


def _places(file: BinaryIO) -> dict[str, _Place]:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MOST_HEADER):
        raise ValueError(f"its header of {length} bytes does not fit its {size}")
    header = json.loads(file.read(length).decode())
    header.pop("__metadata__", None)
    begin = 8 + length
    places = {name: _place(name, given, begin) for name, given in header.items()}
    end = begin
    for place in sorted(places.values(), key=lambda place: (place.start, place.stop)):
        if place.start != end:
            raise ValueError("its tensors overlap, or leave bytes out")
        end = place.stop
    if end != size:
        raise ValueError(f"it has {size} bytes, and its header says {end}")
    return places


def _place(name: str, given: Any, begin: int) -> _Place:
    dtype, shape, (start, stop) = given["dtype"], given["shape"], given["data_offsets"]
    if dtype not in _DTYPES:
        raise ValueError(f"{name} is {dtype}; expected one of {', '.join(_DTYPES)}")
    numbers = (*shape, start, stop)
    whole = all(type(number) is int and number >= 0 for number in numbers)
    if not whole or stop - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"{name} of shape {shape} has not as many bytes as that takes")
    return _Place(_DTYPES[dtype], tuple(shape), begin + start, begin + stop)


def _read(file: BinaryIO, place: _Place) -> np.ndarray:
    file.seek(place.start)
    return np.frombuffer(file.read(place.stop - place.start), place.dtype).reshape(place.shape)
