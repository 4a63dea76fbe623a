"""A checkpoint's record as a file: bounded, proved and checked before anything in it is believed.

It is an object of JSON in which `digest` proves the rest, in this format and in any other.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from metajax.regular_files import open_regular

FORMAT = 2
LARGEST = 64 * 2**20  # Bytes: a record has two short lines an array, and where the data stands.
_DIGEST = 40  # Bytes that it takes.


class DamagedError(Exception):
    """A checkpoint that cannot be read, or that does not hold what was written."""


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest.

    Raises:
      ValueError: it is larger than what is read again.
    """
    text = _text(record)
    if len(text) + _DIGEST > LARGEST:
        raise ValueError(
            f"the record of the checkpoint has {len(text)} bytes; expected at most {LARGEST}: make "
            "the options smaller, or what tells where the data stands"
        )
    return {**record, "digest": zlib.crc32(text)}


def read_record(path: Path) -> dict[str, Any]:
    """The record of the checkpoint in the folder `path`, whose name is its step.

    Raises:
      DamagedError: it is missing, unreadable or changed.
      ValueError: it is of a format that this version does not know.
    """
    try:
        record = _proved(path / "record" / "metadata")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"its record: {short(error)}") from error
    version = record.get("format")
    if type(version) is int and version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise ValueError(
            f"{path} is of format {version}, and this metajax reads format {FORMAT}: read it with "
            f"{age} metajax"
        )
    wrong = [name for name, holds in _FIELDS.items() if not holds(record.get(name))]
    wrong += sorted(record.keys() ^ _FIELDS.keys())
    if wrong:
        raise DamagedError(f"its record: {wrong[0]!r} is not what a checkpoint has there")
    if record["leaves"].keys() != record["arrays"].keys():
        raise DamagedError("its record: the leaves have other names than the arrays")
    if str(record["step"]) != path.name:
        raise DamagedError(f"its record: it is of step {record['step']}")
    return record


def short(error: Exception) -> str:
    """Both ends of an error; those of orbax fill a screen, and the cause comes last."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:100]} ... {text[-130:]}"


def _proved(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"it has {size} bytes; expected at most {LARGEST}")
        record = json.loads(file.read(size), parse_constant=_refuse)
    if not isinstance(record, dict) or "digest" not in record:
        raise ValueError("it is no object with a digest")
    if record.pop("digest") != zlib.crc32(_text(record)):
        raise ValueError("the digest is another")
    return record


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, allow_nan=False).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"dtype", "shape", "digest"}
        and isinstance(value["dtype"], str)
        and re.fullmatch(r"[a-z]\w*", value["dtype"], re.ASCII) is not None
        and isinstance(value["shape"], list)
        and all(map(_is_count, [*value["shape"], value["digest"]]))
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": _is_count,
    "step": _is_count,
    "options": lambda value: isinstance(value, dict),
    "score": lambda value: value is None or type(value) is float,
    "mode": lambda value: value in ("max", "min"),
    "positions": lambda value: isinstance(value, list),
    "classes": _is_texts,
    "leaves": _is_texts,
    "arrays": lambda value: isinstance(value, dict) and all(map(_is_array, value.values())),
}
