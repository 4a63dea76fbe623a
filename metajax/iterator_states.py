"""Where an iterator stands, as JSON: saved beside a run's state, so that it can go on from there.

Grain's iterators have `get_state` and `set_state`; loaders of torchdata and data sets of Hugging
Face `state_dict` and `load_state_dict`. An iterator of one's own may have either.
"""

import base64
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_LARGEST = 16 * 2**20  # Characters, of one process: it is read again as part of a record.
_PAIRS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))


def iterate(source: Any, epoch: int) -> Iterator[Any]:
    """A pass over an iterable, or over what has a length and items.

    Args:
      source: it is told the epoch if it has `set_epoch`, as data sets of Hugging Face have, which
        shuffle by it.
      epoch: how many passes there were before.
    """
    if hasattr(source, "set_epoch"):
        source.set_epoch(epoch)
    if hasattr(source, "__iter__"):
        return iter(source)
    return (source[index] for index in range(len(source)))


def can_tell(source: Any, iterator: Any) -> bool:
    """Whether an iterable or its iterator can tell where it stands, and be set to it."""
    return _keeper(source, iterator) is not None


def tell(source: Any, iterator: Any) -> Any:
    """Where the iterator stands, as JSON has it.

    Raises:
      TypeError: its state holds what JSON cannot, or is too large for a checkpoint's record.
    """
    keeper, (get, _) = _keeper(source, iterator)
    state = _encoded(getattr(keeper, get)())
    if (size := len(json.dumps(state))) > _LARGEST:
        raise TypeError(
            f"the state of the iterator has {size} characters; expected at most {_LARGEST}"
        )
    return state


def set_to(source: Any, iterator: Any, state: Any, epoch: int) -> Iterator[Any]:
    """The iterator that goes on from a state that `tell` told in that epoch."""
    keeper, (_, put) = _keeper(source, iterator)
    getattr(keeper, put)(_decoded(state))
    return iterate(source, epoch) if keeper is source else iterator


def _keeper(source: Any, iterator: Any) -> Any:
    for each in (source, iterator):
        for pair in _PAIRS:
            if all(callable(getattr(each, name, None)) for name in pair):
                return each, pair
    return None


def _encoded(state: Any) -> Any:
    if isinstance(state, float) and not math.isfinite(state):  # The best loss so far, say.
        return {"float": str(float(state))}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    if isinstance(state, Mapping):
        return {"items": [[_encoded(key), _encoded(value)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        kind = "tuple" if isinstance(state, tuple) else "list"
        return {kind: [_encoded(each) for each in state]}
    if isinstance(state, np.bool_ | np.integer | np.floating):
        return _encoded(state.item())
    array = np.asarray(state) if isinstance(state, np.ndarray) or _is_tensor(state) else None
    if array is not None and array.dtype.kind in "biufc":
        kind = "tensor" if _is_tensor(state) else "array"
        data = base64.b64encode(array.tobytes()).decode()
        return {kind: data, "dtype": str(array.dtype), "shape": array.shape}
    raise TypeError(
        f"the state of the iterator holds a {type(state).__name__}; expected numbers, texts, "
        "bytes, arrays, lists and dictionaries of these"
    )


def _decoded(state: Any) -> Any:
    if not isinstance(state, Mapping):
        return state
    (kind, held), *_ = state.items()
    if kind == "float":
        return float(held)
    if kind == "bytes":
        return base64.b64decode(held)
    if kind == "items":
        return {_decoded(key): _decoded(value) for key, value in held}
    if kind in ("list", "tuple"):
        each = (_decoded(value) for value in held)
        return tuple(each) if kind == "tuple" else [*each]
    array = np.frombuffer(bytearray(base64.b64decode(held)), state["dtype"])
    array = array.reshape(state["shape"])
    return sys.modules["torch"].from_numpy(array) if kind == "tensor" else array


def _is_tensor(value: Any) -> bool:
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)
