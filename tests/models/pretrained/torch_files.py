"""Files of PyTorch's legacy format, written out by hand."""

import pickle
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "u1": "Byte"}
HEAD = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
DICT = b"ccollections\nOrderedDict\n)R"


class Shown(NamedTuple):
    """A tensor that shows a part of a storage, in elements."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"\x8a\x09" + struct.pack("<qx", x) for x in values) + b"t"


def tensor(shown: Shown, storage: np.ndarray, count: int | None = None) -> bytes:
    kind = _STORAGES[storage.dtype.str[1:]]
    count = len(storage) if count is None else count
    pointer = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(shown.storage)
    pointer += text("cpu") + integers((count,))[1:-1] + b"NtQ"
    numbers = integers((shown.offset,))[1:-1] + integers(shown.shape) + integers(shown.strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pointer + numbers + b"\x89" + DICT + b"tR"


def items(named: Mapping[str, bytes]) -> bytes:
    """A pickle of a dict."""
    entries = b"".join(text(name) + value for name, value in named.items())
    return b"\x80\x02" + DICT + b"(" + entries + b"u."


def tail(storages: Mapping[str, np.ndarray]) -> bytes:
    """What follows the dict: the keys, and the storages themselves."""
    stored = [struct.pack("<q", len(x)) + x.tobytes() for x in storages.values()]
    return pickle.dumps(list(storages), 2) + b"".join(stored)


def saved(tensors: Mapping[str, Shown], storages: Mapping[str, np.ndarray]) -> bytes:
    named = {name: tensor(x, storages[x.storage]) for name, x in tensors.items()}
    return HEAD + items(named) + tail(storages)


def contiguous(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Each tensor whole, in a storage of its own."""
    shown: dict[str, Any] = {}
    for name, x in tensors.items():
        strides = tuple(step // x.itemsize for step in np.ascontiguousarray(x).strides)
        shown[name] = Shown(name, 0, x.shape, strides)
    return saved(shown, {name: x.ravel() for name, x in tensors.items()})
