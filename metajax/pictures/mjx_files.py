"""A classifier as one file, `.mjx`: arrays by name and a record, and nothing that could be run.

It is a file of safetensors whose metadata has two texts: `metajax`, an object of JSON with the
format, the version that wrote it and the record; and `sha256`, the digest of that text and of all
arrays. A digest tells damage, not malice: who writes another file computes it, too. So whatever
reads a record checks each field of it, as this module checks that it is plain JSON.
"""

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from metajax.kinds import in_brief
from metajax.regular_files import open_regular
from metajax.version import VERSION

FORMAT = 1
_MOST_BYTES = 4 * 2**30
_MOST_HEADER = 32 * 2**20  # Bytes: names and shapes of the arrays, and the record.
_MOST_ARRAYS = 10_000
_DEEPEST = 32  # Objects and lists within each other.
_MOST_AXES = 32
_NAME = re.compile(r"[A-Za-z0-9_.:/+-]{1,200}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DTYPES = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


def write_mjx(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> None:
    """Writes a file whole or not at all: what was there before stays until the new one is on disk.

    Args:
      path: of the file; what is there is replaced.
      arrays: by names of letters, digits and `_.:/+-`; booleans, integers, floats of 64, 32 or 16
        bits or bfloat16, which may be NaN or infinite.
      record: what JSON holds: texts, finite numbers, booleans, None, and lists and dictionaries of
        them, at most 31 within each other. Texts are Unicode: without halves of surrogate pairs,
        such as Python's names of files have that are not of UTF-8.

    Raises:
      ImportError: safetensors is missing.
      OSError: the folder is not there, or cannot be written to.
      TypeError: an array is none, or the record holds something else.
      ValueError: a name or a value is none that a file holds, or there is too much of it.
    """
    package = require_safetensors()
    values = {name: _checked_array(name, value) for name, value in arrays.items()}
    if len(values) > _MOST_ARRAYS:
        raise ValueError(f"there are {len(values)} arrays; expected at most {_MOST_ARRAYS}")
    if not isinstance(record, Mapping):
        raise TypeError(f"record is {in_brief(record)}; expected a dictionary")
    whole = {"format": FORMAT, "version": VERSION, "record": record}
    _check_plain(whole)
    text = json.dumps(whole)
    data = package.save(values, {"metajax": text, "sha256": _digest(text, values)})
    header = int.from_bytes(data[:8], "little")
    for what, size, most in (("header", header, _MOST_HEADER), ("file", len(data), _MOST_BYTES)):
        if size > most:
            raise ValueError(f"the {what} would have {size} bytes; expected at most {most}")
    _replace(Path(path), data)


def read_mjx(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the record that `write_mjx` was given. Nothing of the file is run.

    All that is known of the record is that it is JSON of limited depth with finite numbers, of the
    arrays that they have dtypes that are written.

    Args:
      path: of the file.

    Returns:
      The arrays by name, and the record.

    Raises:
      ImportError: safetensors is missing.
      OSError: the file is not there, may not be read, or is no regular one.
      ValueError: it is no `.mjx` file, is damaged or cut off, or was made by another version.
    """
    package = require_safetensors()
    where = os.fspath(path)
    try:
        with open_regular(path) as file:
            head, header = _header(file)
            metadata = header.pop("__metadata__", None)
            if not _is_texts(metadata) or "metajax" not in metadata:
                raise _OtherFileError("its header has no text of metajax")
            _check_entries(header)
            data = head + file.read(_MOST_BYTES)
        try:
            tensors = dict(package.deserialize(data))
        except package.SafetensorError as error:
            raise _DamagedError(str(error)) from error
        del data
        if tensors.keys() != header.keys():
            raise _DamagedError("its arrays are others than its header says")
        arrays = {name: _array(tensors.pop(name), name) for name in list(tensors)}
        return arrays, _record(metadata, arrays)
    except _OtherFileError as error:
        raise ValueError(
            f"{where!r} is no .mjx file ({error}); expected one that FewShotClassifier.save or "
            "`metajax fit` wrote"
        ) from error
    except _OtherFormatError as error:
        raise ValueError(f"{where!r} {error}") from error
    except _DamagedError as error:
        raise ValueError(
            f"{where!r} is damaged or cut off: {error}; copy it anew, or fit and save it again"
        ) from error


class _OtherFileError(Exception):
    """A file that is something else."""


class _OtherFormatError(Exception):
    """A file of another version of the library."""


class _DamagedError(Exception):
    """A file that is not as it was written."""


class _Package(NamedTuple):
    """What is needed of safetensors."""

    save: Callable[..., bytes]
    deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]]
    SafetensorError: type[Exception]


def require_safetensors() -> _Package:
    """What files are written and read by.

    Raises:
      ImportError: it is not installed.
    """
    try:
        from safetensors import SafetensorError, deserialize
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(
            f".mjx files need safetensors, which cannot be imported ({error}); "
            'run: pip install "metajax[pictures]"'
        ) from error
    return _Package(save, deserialize, SafetensorError)


def _checked_array(name: Any, value: Any) -> np.ndarray:
    """The array as it is written: contiguous, the low byte first."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "__metadata__":
        raise ValueError(
            f"an array is called {in_brief(name)}; expected up to 200 letters, digits and _.:/+-"
        )
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {in_brief(value)}; expected an array of NumPy")
    dtype = value.dtype.newbyteorder("<") if value.dtype.kind in "iuf" else value.dtype
    if dtype not in _DTYPES.values():
        raise ValueError(
            f"{name} is of {value.dtype}; expected booleans, integers, or floats of 64, 32 or 16 "
            "bits or bfloat16"
        )
    return np.require(value, dtype, "C")


def _header(file: BinaryIO) -> tuple[bytes, dict[str, Any]]:
    """The bytes up to the end of the header, and what it says: an object of JSON."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8:
        raise _OtherFileError(f"it has {len(head)} bytes")
    if length > _MOST_HEADER:  # What other files have there is larger, as a rule.
        raise _OtherFileError(f"its header would have {length} bytes, {_MOST_HEADER} at most")
    if size > _MOST_BYTES:
        raise _OtherFileError(f"it has {size} bytes, {_MOST_BYTES} at most")
    if length > size - 8:
        raise _DamagedError(f"it has {size} bytes, and its header alone {length}")
    text = file.read(length)
    try:
        header = _parsed(text)
    except ValueError as error:
        if not text.startswith(b'{"'):
            raise _OtherFileError("it does not begin as one") from error
        raise _DamagedError(f"its header: {error}") from error
    if not isinstance(header, dict):
        raise _OtherFileError("it does not begin as one")
    return head + text, header


def _check_entries(header: Mapping[str, Any]) -> None:
    """Raises unless the header's entries are of arrays that are written; offsets are not read."""
    if len(header) > _MOST_ARRAYS:
        raise _DamagedError(f"it has {len(header)} arrays; at most {_MOST_ARRAYS} are written")
    for name, entry in header.items():
        if not _NAME.fullmatch(name):
            raise _DamagedError(f"an array is called {in_brief(name)}")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _DamagedError(f"{name} is described by {in_brief(entry)}")
        dtype, shape = entry["dtype"], entry["shape"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise _DamagedError(f"{name} is of {in_brief(dtype)}, which is not written")
        if not isinstance(shape, list) or len(shape) > _MOST_AXES:
            raise _DamagedError(f"{name} has the shape {in_brief(shape)}")


def _array(tensor: Mapping[str, Any], name: str) -> np.ndarray:
    """A tensor, whose bytes safetensors found to be as many as its shape and dtype say."""
    try:
        return np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise _DamagedError(f"{name}: {error}") from error


def _record(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The record, proved."""
    text, digest = metadata["metajax"], metadata.get("sha256", "")
    try:
        whole = _parsed(text.encode())
    except ValueError as error:
        raise _DamagedError(f"its record: {error}") from error
    proved = _DIGEST.fullmatch(digest) is not None and digest == _digest(text, arrays)
    if not isinstance(whole, dict):
        raise _DamagedError("its record is no object")
    if type(found := whole.get("format")) is int and found != FORMAT:
        doubt = "" if proved else ", or is damaged"
        if found > FORMAT:
            raise _OtherFormatError(
                f"was made by a newer metajax{doubt}: it is of format {found}, and this one reads "
                f"format {FORMAT}; run: pip install -U metajax"
            )
        raise _OtherFormatError(
            f"is of format {found}{doubt}, and this metajax reads format {FORMAT}; fit and save "
            "the classifier again"
        )
    if not proved:
        raise _DamagedError("its digest is another")
    if whole.keys() != {"format", "version", "record"} or metadata.keys() != {"metajax", "sha256"}:
        raise _DamagedError("its record lacks parts, or has others")
    if type(found) is not int or not isinstance(whole["version"], str):
        raise _DamagedError("its format or version is none")
    if not isinstance(whole["record"], dict):
        raise _DamagedError("its record is no object")
    return whole["record"]


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Of a text and of names, dtypes, shapes and bytes of arrays, each after its length."""
    digest = hashlib.sha256()

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(text.encode())
    for name, value in sorted(arrays.items()):
        add(f"{name} {value.dtype.name} {[*value.shape]}".encode())
        add(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _parsed(text: bytes) -> Any:
    """A text of JSON; raises a ValueError unless it is plain, see `_check_plain`."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    _check_plain(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _check_plain(value: Any) -> None:
    """Raises unless it is what JSON holds, its numbers finite, its texts Unicode, and not too deep.

    Raises:
      TypeError: something in it is of another kind.
      ValueError: something is out of range.
    """
    left = [(value, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError(f"it is deeper than {_DEEPEST} objects and lists")
        if isinstance(value, Mapping):
            left += [(part, depth + 1) for pair in value.items() for part in pair]
            if others := [name for name in value if not isinstance(name, str)]:
                raise TypeError(f"a name is {in_brief(others[0])}; expected texts")
        elif isinstance(value, list | tuple):
            left += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the text {in_brief(value)} is no Unicode") from error
        elif type(value) is float:
            if not math.isfinite(value):
                raise ValueError(f"it holds {value}; expected finite numbers")
        elif type(value) is int:
            if not -(2**63) <= value < 2**64:
                raise ValueError("an integer has more than 64 bits")
        elif value is not None and type(value) is not bool:
            raise TypeError(
                f"it holds {in_brief(value)}; expected texts, numbers, booleans, None, and lists "
                "and dictionaries of them"
            )


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _replace(path: Path, data: bytes) -> None:
    """Puts the bytes in the place of a file, on disk before they are seen there."""
    if path.exists():
        open_regular(path).close()  # A device or a folder is not replaced.
        path = path.resolve()  # Nor is a link to a file.
    temporary = path.with_name(f".{path.name[:50]}-{secrets.token_hex(8)}")  # 255 bytes.
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
