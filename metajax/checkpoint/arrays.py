"""A checkpoint's arrays: by name, each described and proved by the record.

orbax writes them by tensorstore, which reads them here. orbax itself would make room for whatever
shape its files tell, give flipped bytes back without an error, and leave an event loop behind in
which every array after a damaged one ends in a traceback.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

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
    try:
        check_regular(path)
        described = {name: _without_bytes(entry) for name, entry in record["arrays"].items()}
        _check_size(path / "state", sum(array.nbytes for array in described.values()))
        stored = {name: _opened(path / "state", name) for name in written(described)}
        for name, opened in stored.items():
            _check_shape(opened.result(), described[name], name)
        read = {name: opened.result().read() for name, opened in stored.items()}
        arrays = {**described, **{name: future.result() for name, future in read.items()}}
    except MemoryError:
        raise
    except Exception as error:  # Its kind depends on what tensorstore met first.
        raise DamagedError(f"its arrays: {short(error)}") from error
    for name, entry in record["arrays"].items():
        if zlib.crc32(arrays[name].tobytes()) != entry["digest"]:
            raise DamagedError(f"its array {name}: the digest is another")
    return arrays


def placed(arrays: Mapping[str, np.ndarray], like: TrainState) -> TrainState:
    """The state of these arrays, which go where those of `like` are."""
    leaves = [_place(arrays[name], leaf) for name, leaf in named_leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _without_bytes(entry: Mapping[str, Any]) -> np.ndarray:
    """An array of a dtype and shape that takes no memory."""
    return np.broadcast_to(np.empty((), jnp.dtype(entry["dtype"])), entry["shape"])


def _opened(folder: Path, name: str) -> Any:
    """The future of one array as it is stored."""
    stored = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    spec = {"driver": "zarr", "kvstore": {**stored, "path": name}}
    return tensorstore.open(spec, open=True, read=True)


def _check_size(folder: Path, size: int) -> None:
    """Raises where files are larger than arrays of so many bytes account for."""
    found = sum(file.stat().st_size for file in folder.rglob("*"))
    if found > 2 * size + LARGEST:
        raise ValueError(f"they have {found} bytes; expected at most {2 * size + LARGEST}")


def _check_shape(stored: Any, array: np.ndarray, name: str) -> None:
    """Raises where room would be made for another array, or for larger pieces of it."""
    if (stored.dtype.numpy_dtype, stored.shape) != (array.dtype, array.shape):
        raise ValueError(f"{name} is {stored.dtype.name} of shape {stored.shape}")
    pieces = stored.chunk_layout.read_chunk_template.shape
    if math.prod(pieces) > array.size:
        raise ValueError(f"{name} is in pieces of shape {pieces}")


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
