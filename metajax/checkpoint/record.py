"""What the record of a checkpoint says: the state, its optimiser, the options, the score."""

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from metajax.checkpoint.arrays import described, named_arrays, named_leaves, written
from metajax.checkpoint.record_file import FORMAT, sealed
from metajax.checks.settings import check_mappings
from metajax.parallel.placement import is_key
from metajax.parallel.processes import texts_of_processes
from metajax.stacked_runs import newest_step
from metajax.training_step import TrainState
from metajax.types import Array

Mode = Literal["max", "min"]
_PARTS = {
    "params": "the parameters differ",
    "opt_state": "the optimiser state differs",
    "step": "the step differs",
    "key": "the key differs",
}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON gives them back.

    Raises:
      TypeError: a name is not a string, or JSON has no such value.
    """
    check_mappings(options=options)
    for name in options:
        if not isinstance(name, str):
            raise TypeError(f"options has the name {name!r}; expected a string")
    return {name: as_json(value, f"options[{name!r}]") for name, value in options.items()}


def as_json(value: Any, name: str) -> Any:
    """What is called `name`, as JSON gives it back.

    Raises:
      TypeError: JSON has no such value.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{name} is {reprlib.repr(value)}; expected what JSON can hold, that is None, a bool, "
            f"finite number or string, or lists and dictionaries of these: {error}"
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
      ValueError: two leaves of the state have one name, or the record is too large.
    """
    arrays = named_arrays(state)
    record = {
        "format": FORMAT,
        "step": newest_step(state),
        "options": dict(options),
        "score": float(score) if score is not None and math.isfinite(score) else None,
        "mode": mode,
        "positions": [json.loads(text) for text in texts_of_processes(json.dumps(position))],
        "classes": _classes(jax.tree.structure(state.opt_state), "opt_state"),
        "leaves": _types(state),
        "arrays": described(arrays),
    }
    return arrays, sealed(record)


def save_args(arrays: Mapping[str, Array], record: Mapping[str, Any]) -> ocp.args.Composite:
    """What orbax is given to write: NumPy's arrays, but for those that are cut over devices.

    Beside a write of JAX's arrays orbax asks tensorstore for its counters, as lists that are never
    freed (tensorstore 0.1.86): some 20 kB a save.
    """
    whole = {
        name: np.asarray(array) if array.is_fully_replicated else array
        for name, array in written(arrays).items()
    }
    return ocp.args.Composite(state=ocp.args.StandardSave(whole), record=ocp.args.JsonSave(record))


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
    here = _types(like)

    def part(leaves: Mapping[str, str], start: str) -> dict[str, str]:
        return {name: type_ for name, type_ in leaves.items() if name.split("/")[0] == start}

    found = [
        _compare(title, part(record["leaves"], start), part(here, start), str)
        for start, title in _PARTS.items()
    ]
    if not any(found):  # Other arrays tell more than the classes that hold them.
        classes = _classes(jax.tree.structure(like.opt_state), "opt_state")
        found.append(_compare("the optimiser is another", record["classes"], classes, str))
    if options is not None:
        found.append(_compare("options differ", record["options"], options, repr))
    return "; ".join(sentence for sentence in found if sentence)


def _types(state: TrainState) -> dict[str, str]:
    return {name: _type(leaf) for name, leaf in named_leaves(state).items()}


def _type(leaf: Any) -> str:
    array = leaf if is_key(leaf) else jnp.asarray(leaf)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _classes(structure: Any, path: str) -> dict[str, str]:
    """The classes of a structure's nodes by path: two optimisers may have arrays of one name.

    Containers are left out: their arrays' names tell them, and which class of dictionary holds the
    parameters does not matter.
    """
    node = structure.node_data()
    if node is None:
        return {}
    kind, keys = node
    names = getattr(kind, "_fields", keys if issubclass(kind, dict) else None)
    children = structure.children()
    if names is None or len(names) != len(children):
        names = range(len(children))
    plain = kind in (tuple, list, type(None)) or issubclass(kind, Mapping)
    found = {} if plain else {path: kind.__name__}
    for name, child in zip(names, children, strict=True):
        found |= _classes(child, f"{path}/{name}")
    return found


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
