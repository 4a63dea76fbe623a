"""Tensors of a file that PyTorch saved, read without PyTorch and without running what it says.

Such a file is a pickle, which may call any function by its name. Here no name in it is ever looked
up: of pickle's instructions those that a dict of tensors is made of are carried out, each by a few
lines below, and anything else is refused.

Format: the legacy one of `torch.save` (PyTorch before 1.6 wrote no other): five pickles (a magic
number, the protocol, the sizes of the machine's types, the dict, the keys of the storages in order)
and then every storage: the number of its elements as eight bytes, and these.
"""

import hashlib
import io
import os
import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from metajax.regular_files import read_regular

_MOST_BYTES = 1 << 30
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"


class _Name(str):
    """A name that a pickle asks for: text, and no more."""


class _Storage(NamedTuple):
    """Numbers that lie elsewhere in the file."""

    dtype: np.dtype
    key: str
    elements: int


class _Tensor(NamedTuple):
    """What a tensor shows of its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_weights(
    path: str | os.PathLike[str], *, sha256: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a state dict that `torch.save` wrote in its legacy format, by name.

    Strides and offsets are honoured; arrays are read-only, and may be views of another's memory.

    Args:
      path: of the file.
      sha256: of its bytes, in hexadecimal; None takes any.

    Raises:
      OSError: the file is not there, may not be read, or is no regular one.
      ValueError: it has other bytes, is in another format, is cut short, does not hold together, or
        holds or asks for anything but tensors in a dict. Nothing of it has been run.
    """
    where = os.fspath(path)
    whole = read_regular(path, _MOST_BYTES)
    if sha256 is not None and (got := hashlib.sha256(whole).hexdigest()) != sha256:
        raise ValueError(
            f"{where!r} has the sha256 {got}; expected {sha256}: it is damaged, or another file; "
            "install or copy it anew"
        )
    if whole.startswith(b"PK\x03\x04"):
        raise ValueError(
            f"{where!r} is in the zip format of torch.save; expected the legacy one: "
            "torch.save(torch.load(path, weights_only=True), new_path, "
            "_use_new_zipfile_serialization=False)"
        )
    file = io.BytesIO(whole)
    try:
        return _tensors(file)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{where!r} is damaged, or no dict of tensors in the legacy format of torch.save: "
            f"{error}; expected what torch.save(model.state_dict(), path, "
            "_use_new_zipfile_serialization=False) writes"
        ) from error


def _tensors(file: io.BytesIO) -> dict[str, np.ndarray]:
    if _value(file) != _MAGIC:
        raise ValueError("it does not begin with PyTorch's magic number")
    if _value(file) != _PROTOCOL:
        raise ValueError(f"its protocol is not {_PROTOCOL}")
    machine = _value(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it was not written on a little-endian machine")
    named, keys = _value(file), _value(file)
    if not isinstance(named, dict) or not all(isinstance(x, _Tensor) for x in named.values()):
        raise ValueError("it holds something else than a dict of tensors by name")
    storages = {tensor.storage.key: tensor.storage for tensor in named.values()}
    of_texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not of_texts or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages is not that of its tensors")
    values = {key: _stored(file, storages[key]) for key in keys}
    if rest := file.read():
        raise ValueError(f"{len(rest)} bytes follow the last storage")
    return {name: _shown(tensor, values, name) for name, tensor in named.items()}


def _stored(file: io.BytesIO, storage: _Storage) -> np.ndarray:
    """The next storage of the file."""
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.elements:
        raise ValueError(
            f"storage {storage.key} has {count} elements, and its tensors say {storage.elements}"
        )
    size = count * storage.dtype.itemsize
    read = file.read(size)
    if len(read) != size:
        raise ValueError(f"storage {storage.key} ends after {len(read)} of {size} bytes")
    return np.frombuffer(read, storage.dtype)


def _shown(tensor: _Tensor, values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The view of its storage that a tensor is."""
    storage = values[tensor.storage.key]
    if tensor.storage.dtype != storage.dtype:
        raise ValueError(f"tensor {name!r} reads a storage of {storage.dtype} as another dtype")
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    elements = int(np.prod(np.array(tensor.shape, object)))
    if elements and (last >= len(storage) or elements > len(storage)):
        raise ValueError(
            f"tensor {name!r} of shape {tensor.shape} reaches beyond its storage of "
            f"{len(storage)} elements"
        )
    if not elements:
        return np.zeros(tensor.shape, storage.dtype)
    bytes_apart = tuple(stride * storage.itemsize for stride in tensor.strides)
    start = tensor.offset * storage.itemsize
    return np.ndarray(tensor.shape, storage.dtype, storage.data, start, bytes_apart)


def _value(file: io.BytesIO) -> Any:
    """What the next pickle of a file builds, of the instructions that are known here."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for name, given in _instructions(file):
        if name in ("PROTO", "STOP"):
            continue
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[given] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[given])
        elif name in ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"):
            stack.append(given)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "GLOBAL":
            stack.append(_Name(given))
        elif name in _TUPLES:
            _fold(stack, len(stack) - _TUPLES[name], tuple)
        elif name == "TUPLE":
            _fold(stack, marks.pop(), tuple)
        elif name in ("APPEND", "APPENDS"):
            start = marks.pop() if name == "APPENDS" else len(stack) - 1
            added = _cut(stack, start)
            _of_kind(stack[-1], list).extend(added)
        elif name in ("SETITEM", "SETITEMS"):
            start = marks.pop() if name == "SETITEMS" else len(stack) - 2
            added = _cut(stack, start)
            names = [_of_kind(key, str) for key in added[::2]]
            _of_kind(stack[-1], dict).update(zip(names, added[1::2], strict=True))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = _of_kind(stack.pop(), tuple)
            stack.append(_built(stack.pop(), arguments))
        elif name == "BUILD":
            stack.pop()  # What PyTorch notes of versions beside the dict.
            _of_kind(stack[-1], dict)
        else:
            raise ValueError(f"its pickle has the instruction {name}, which no dict of tensors has")
    if len(stack) != 1:
        raise ValueError("its pickle does not build one value")
    return stack[0]


_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
}


def _instructions(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """Up to the one that ends a pickle, each with what it is given."""
    for instruction, given, _ in pickletools.genops(file):
        yield instruction.name, given


def _cut(stack: list[Any], start: int) -> list[Any]:
    """Takes what is on the stack from `start` on."""
    if not 0 <= start <= len(stack):
        raise ValueError("its pickle takes more than it has put down")
    taken = stack[start:]
    del stack[start:]
    return taken


def _fold(stack: list[Any], start: int, kind: type) -> None:
    stack.append(kind(_cut(stack, start)))


def _of_kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has {type(value).__name__} where {kind.__name__} belongs")
    return value


def _storage(given: Any) -> _Storage:
    """Of `("storage", type, key, device, count, None)`."""
    kind, dtype, key, _, count, view = _of_kind(given, tuple)
    if kind != "storage" or not isinstance(key, str) or not _is_count(count) or view is not None:
        raise ValueError("its pickle points at something else than a storage")
    if not isinstance(dtype, _Name) or dtype not in _DTYPES:
        shown = repr(str(dtype)) if isinstance(dtype, _Name) else type(dtype).__name__
        raise ValueError(f"it has a storage of {shown}; expected one of {', '.join(_DTYPES)}")
    return _Storage(_DTYPES[dtype], key, count)


def _built(name: Any, arguments: tuple[Any, ...]) -> Any:
    """What one of the two functions that are known gives."""
    if isinstance(name, _Name) and name == _DICT and not arguments:
        return {}
    if isinstance(name, _Name) and name == _TENSOR:
        storage, offset, shape, strides, *_ = arguments
        numbers = (offset, *_of_kind(shape, tuple), *_of_kind(strides, tuple))
        if not all(map(_is_count, numbers)) or len(shape) != len(strides):
            raise ValueError("a tensor's offset, sizes or strides are no whole numbers")
        return _Tensor(_of_kind(storage, _Storage), offset, shape, strides)
    shown = repr(str(name)) if isinstance(name, _Name) else type(name).__name__
    raise ValueError(f"its pickle asks for a call of {shown}, which was not made")


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 62
