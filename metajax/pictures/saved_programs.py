"""Functions of items that come with a file: programs, with the arrays that they are called with."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.pictures.batches import in_batches
from metajax.pictures.programs import any_number, pack, unpack
from metajax.pictures.record_fields import Fields
from metajax.types import Array

_MOST_ARRAYS = 5000


@dataclasses.dataclass(frozen=True, eq=False)
class SavedProgram:
    """A function of items `[b, *shape]` to `[b, width]` float32.

    Attributes:
      title: what it is a program of.
      program: of `pack`; it takes the arrays, one by one, and the items.
      arrays: weights and what else it needs.
      shape: of an item.
      dtype: of its numbers.
      width: numbers that it gives of one.
    """

    title: str
    program: bytes = dataclasses.field(repr=False)
    arrays: tuple[np.ndarray, ...] = dataclasses.field(repr=False)
    shape: tuple[int, ...]
    dtype: np.dtype
    width: int

    def __call__(self, arrays: Any, items: Array) -> Array:
        """The function, of its arrays and items; it can be traced."""
        return _function(self)(*arrays, items)[0]

    def with_parts(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a file has of it: arrays whose names begin with `name`, and JSON."""
        arrays = {f"{name}/{index}": array for index, array in enumerate(self.arrays)}
        arrays[f"{name}/program"] = np.frombuffer(self.program, np.uint8)
        return arrays, {"title": self.title, "arrays": len(self.arrays)}


@dataclasses.dataclass(frozen=True, eq=False)
class SavedTask:
    """What tells classes apart, fitted before: it cannot be fitted again.

    Attributes:
      program: from features to scores.
    """

    program: SavedProgram

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What was fitted, and the parameters."""
        return self.program.arrays

    def apply(self, arrays: Any, items: Array) -> Array:
        """See `FittedTask`."""
        return self.program(arrays, items)

    def scores(self, items: np.ndarray) -> np.ndarray:
        """See `FittedTask`."""
        return in_batches(functools.partial(self.program, self.arrays), items)


def program_of(
    title: str,
    function: Callable[[Any, Array], Array],
    tree: Any,
    shape: tuple[int, ...],
    dtype: Any,
) -> SavedProgram:
    """A function of a pytree of arrays and items, to `[items, width]`, as a program.

    Raises:
      ValueError: it does more than compute, or calls what StableHLO has no operation for.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = tuple(np.asarray(leaf) for leaf in leaves)

    def compute(leaves: tuple[Array, ...], items: Array) -> Array:
        return function(jax.tree.unflatten(structure, leaves), items).astype(jnp.float32)

    one = jax.eval_shape(compute, leaves, jax.ShapeDtypeStruct((1, *shape), dtype))
    program = pack(compute, leaves, any_number(shape, dtype))
    return SavedProgram(title, program, leaves, shape, np.dtype(dtype), one.shape[1])


def program_in(
    arrays: Mapping[str, np.ndarray],
    name: str,
    fields: Fields,
    *,
    shape: tuple[int, ...],
    dtype: Any,
    width: int,
) -> SavedProgram:
    """What `with_parts` was given, found to be a program of such items.

    Raises:
      ValueError: an array is missing, or the program is none of this kind; see `unpack`.
    """
    count = fields.integer("arrays", 0, _MOST_ARRAYS)
    names = [f"{name}/{index}" for index in range(count)]
    for each in (f"{name}/program", *names):
        if each not in arrays:
            fields.refuse(f"has no array {each!r}", f"{count} and a program")
    program = arrays[f"{name}/program"]
    if program.dtype != np.uint8:
        fields.refuse(f"has a program of {program.dtype}", "bytes")
    saved = SavedProgram(
        fields.text("title"),
        program.tobytes(),
        tuple(arrays[each] for each in names),
        shape,
        np.dtype(dtype),
        width,
    )
    try:
        _function(saved)
    except ValueError as error:
        raise ValueError(f"{fields.where}: {error}") from error
    return saved


@functools.lru_cache(maxsize=16)
def _function(saved: SavedProgram) -> Callable[..., tuple[Array, ...]]:
    taken = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in saved.arrays]
    items = any_number(saved.shape, saved.dtype)
    given = any_number((saved.width,), np.float32)
    return unpack(saved.program, [*taken, items], [given])
