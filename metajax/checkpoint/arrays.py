"""A checkpoint's arrays: by name, each described and proved by the record.

orbax gives flipped bytes of an array back without an error, and makes room for whatever shape its
own files tell.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from metajax.checkpoint.record_file import LARGEST, DamagedError, short
from metajax.parallel.placement import is_key, to_host
from metajax.regular_files import check_regular
from metajax.training_step import TrainState
from metajax.types import Array


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


def named_arrays(state: TrainState) -> dict[str, Array]:
    """The arrays of a state by name: its leaves, and of keys their data."""
    return {name: _data(leaf) for name, leaf in named_leaves(state).items()}


def described(arrays: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """What the record says of the arrays."""
    return {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "digest": zlib.crc32(array.tobytes()),
        }
        for name, array in to_host(dict(arrays)).items()
    }


def written(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that orbax can write: those that are not empty."""
    return {name: array for name, array in arrays.items() if array.size}


def read_arrays(path: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in the folder `path` by name, on the host.

    Raises:
      DamagedError: one is missing, unreadable or changed.
    """
    folder = path / "state"
    try:
        check_regular(path)
        empty = {name: _without_bytes(entry) for name, entry in record["arrays"].items()}
        wanted = written(empty)
        size = sum(file.stat().st_size for file in folder.rglob("*"))
        expected = 2 * sum(array.nbytes for array in wanted.values()) + LARGEST
        if size > expected:
            raise ValueError(f"they have {size} bytes; expected at most {expected}")
        handler = ocp.StandardCheckpointHandler()
        _check_shapes(handler.metadata(epath.Path(folder)), wanted)
        arrays = handler.restore(epath.Path(folder), args=ocp.args.StandardRestore(wanted))
    except MemoryError:
        raise
    except Exception as error:  # Bad metadata ends in an AttributeError or anything else.
        raise DamagedError(f"its arrays: {short(error)}") from error
    arrays = {**empty, **arrays}
    for name, entry in record["arrays"].items():
        array = arrays[name]
        alike = (array.dtype, array.shape) == (empty[name].dtype, empty[name].shape)
        if not alike or zlib.crc32(array.tobytes()) != entry["digest"]:
            raise DamagedError(f"its array {name}: the digest is another")
    return arrays


def placed(arrays: Mapping[str, np.ndarray], like: TrainState) -> TrainState:
    """The state of these arrays, which go where those of `like` are."""
    leaves = [_place(arrays[name], leaf) for name, leaf in named_leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _without_bytes(entry: Mapping[str, Any]) -> np.ndarray:
    """An array of a dtype and shape that takes no memory."""
    return np.broadcast_to(np.empty((), jnp.dtype(entry["dtype"])), entry["shape"])


def _check_shapes(stored: Any, wanted: Mapping[str, np.ndarray]) -> None:
    """Raises where orbax would make room for other arrays, or other pieces of them."""
    if set(stored) != set(wanted):
        raise ValueError(f"there are others: {sorted(set(stored) ^ set(wanted))[0]}")
    for name, array in wanted.items():
        found, chunks = stored[name], stored[name].storage.chunk_shape
        if (found.dtype, found.shape) != (array.dtype, array.shape):
            raise ValueError(f"{name} is {found.dtype} of shape {found.shape}")
        if math.prod(chunks) > array.size:
            raise ValueError(f"{name} is in pieces of shape {chunks}")


def _data(leaf: Any) -> Array:
    return jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf)


def _place(array: np.ndarray, leaf: Any) -> Array:
    """The array where `leaf` is, and a key where it is one."""
    place = _data(leaf)
    if place.committed:
        out = jax.make_array_from_callback(array.shape, place.sharding, lambda index: array[index])
    else:
        out = jnp.array(array)
    return jax.random.wrap_key_data(out, impl=jax.random.key_impl(leaf)) if is_key(leaf) else out
