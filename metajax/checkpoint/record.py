"""A checkpoint on disk: arrays by name, and a record in JSON that describes and proves them.

orbax gives flipped bytes of an array back without an error, so the record holds a digest of every
array's bytes, and one of itself.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from metajax.checks.settings import check_mappings
from metajax.parallel.placement import is_key, to_host
from metajax.parallel.processes import texts_of_processes
from metajax.training_step import TrainState
from metajax.types import Array

FORMAT = 1
Mode = Literal["max", "min"]
_PARTS = {
    "params": "the parameters differ",
    "opt_state": "the optimiser state differs",
    "step": "the step differs",
    "key": "the key differs",
}


class DamagedError(Exception):
    """A checkpoint that cannot be read, or that does not hold what was written."""


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON gives them back.

    Raises:
      TypeError: a name is not a string, or JSON has no such value.
    """
    check_mappings(options=options)
    out = {}
    for name, value in options.items():
        place = f"options[{name!r}]"
        if not isinstance(name, str):
            raise TypeError(f"{place} is named by a {type(name).__name__}; expected a string")
        out[name] = as_json(value, place)
    return out


def as_json(value: Any, name: str) -> Any:
    """What is called `name`, as JSON gives it back.

    Raises:
      TypeError: JSON has no such value.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {value!r}; expected what JSON can hold, that is None, a bool, number or "
            f"string, or lists and dictionaries of these: {error}"
        ) from error


def describe(
    state: TrainState,
    options: Mapping[str, Any],
    score: float | None,
    mode: Mode,
    position: Any,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of a state by name, and the record to store with them.

    Raises:
      ValueError: two leaves of the state have one name.
    """
    leaves = named_leaves(state)
    arrays = {name: _data(leaf) for name, leaf in leaves.items()}
    record = {
        "format": FORMAT,
        "options": dict(options),
        "score": None if score is None else float(score),
        "mode": mode,
        "positions": [json.loads(text) for text in texts_of_processes(json.dumps(position))],
        "leaves": {name: _type(leaf) for name, leaf in leaves.items()},
        "digests": {name: zlib.crc32(x.tobytes()) for name, x in to_host(arrays).items()},
    }
    return arrays, {**record, "digest": _digest(record)}


def save_args(arrays: Mapping[str, Array], record: Mapping[str, Any]) -> ocp.args.Composite:
    """What orbax is given to write."""
    return ocp.args.Composite(
        state=ocp.args.StandardSave(_written(arrays)), record=ocp.args.JsonSave(record)
    )


def read_record(path: Path) -> dict[str, Any]:
    """The record of the checkpoint in the folder `path`.

    Raises:
      DamagedError: it is missing, unreadable or changed.
      ValueError: it is of a format that this version does not know.
    """
    try:
        record = dict(ocp.JsonCheckpointHandler().restore(epath.Path(path / "record")))
        version, digest = int(record["format"]), record.pop("digest")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"its record: {short(error)}") from error
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise ValueError(
            f"{path} is of format {version}, and this metajax reads format {FORMAT}: read it with "
            f"{age} metajax"
        )
    if digest != _digest(record):
        raise DamagedError("its record: the digest is another")
    return record


def read_state(path: Path, record: Mapping[str, Any], like: TrainState) -> TrainState:
    """The state in the folder `path`, whose arrays go where those of `like` are.

    Raises:
      DamagedError: an array is missing, unreadable or changed.
    """
    places = {name: _data(leaf) for name, leaf in named_leaves(like).items()}
    empty = {name: np.empty(place.shape, place.dtype) for name, place in places.items()}
    try:
        arrays = ocp.StandardCheckpointHandler().restore(
            epath.Path(path / "state"), args=ocp.args.StandardRestore(_written(empty))
        )
    except MemoryError:
        raise
    except Exception as error:  # Bad metadata ends in an AttributeError or anything else.
        raise DamagedError(f"its arrays: {short(error)}") from error
    arrays = {**empty, **arrays}
    for name, digest in record["digests"].items():
        array, place = arrays[name], places[name]
        if array.shape != place.shape or digest != zlib.crc32(array.tobytes()):
            raise DamagedError(f"its array {name}: the digest is another")
    placed = [_place(arrays[name], places[name], leaf) for name, leaf in named_leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def differences(
    record: Mapping[str, Any], like: TrainState, options: Mapping[str, Any] | None
) -> str:
    """What a checkpoint's record has that `like` and `options` have not, and the reverse.

    Args:
      record: from `read_record`.
      like: the state to restore.
      options: from `checked_options`; None compares the state alone.

    Returns:
      A sentence for the error message; empty where nothing differs.
    """
    here = {name: _type(leaf) for name, leaf in named_leaves(like).items()}

    def part(leaves: Mapping[str, str], start: str) -> dict[str, str]:
        return {name: type_ for name, type_ in leaves.items() if name.split("/")[0] == start}

    found = [
        _compare(title, part(record["leaves"], start), part(here, start), str)
        for start, title in _PARTS.items()
    ]
    if options is not None:
        found.append(_compare("options differ", record["options"], options, repr))
    return "; ".join(sentence for sentence in found if sentence)


def short(error: Exception) -> str:
    """Both ends of an error; those of orbax fill a screen, and the cause comes last."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:100]} ... {text[-130:]}"


def _compare(
    title: str, stored: Mapping[str, Any], here: Mapping[str, Any], show: Callable[[Any], str]
) -> str:
    found = []
    for name in sorted(stored.keys() | here.keys()):
        if name not in here:
            found.append(f"{name!r} is {show(stored[name])} in the checkpoint and missing here")
        elif name not in stored:
            found.append(f"{name!r} is missing in the checkpoint and {show(here[name])} here")
        elif stored[name] != here[name]:
            was, now = show(stored[name]), show(here[name])
            found.append(f"{name!r} is {was} in the checkpoint and {now} here")
    if len(found) > 5:
        found[5:] = [f"and {len(found) - 5} more"]
    return f"{title}: {'; '.join(found)}" if found else ""


def named_leaves(state: TrainState) -> dict[str, Any]:
    """The leaves of a state by their paths.

    Raises:
      ValueError: two leaves have one name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError(
            f"{len(leaves) - len(named)} leaves of the state have the name of another, such as "
            f"'a/b' beside 'a' with 'b' inside; expected one name a leaf: rename the parameters"
        )
    return named


def _written(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that orbax can write: those that are not empty."""
    return {name: array for name, array in arrays.items() if array.size}


def _data(leaf: Any) -> Array:
    return jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf)


def _type(leaf: Any) -> str:
    array = leaf if is_key(leaf) else jnp.asarray(leaf)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _place(array: np.ndarray, place: Array, leaf: Any) -> Array:
    """The array where `place` is, and a key where `leaf` is one."""
    if place.committed:
        out = jax.make_array_from_callback(array.shape, place.sharding, lambda index: array[index])
    else:
        out = jnp.array(array)
    return jax.random.wrap_key_data(out, impl=jax.random.key_impl(leaf)) if is_key(leaf) else out


def _digest(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
