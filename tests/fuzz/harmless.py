"""What looks wrong and is right: values that are taken for what they mean, each with its reason."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fuzz import things
from fuzz.table import Call

import metajax as mj


class Harmless(NamedTuple):
    """A kind of value that is taken.

    Attributes:
      kinds: of which arguments, by the name of the kind.
      label: what it is.
      made: from a right value the harmless one that stands for it; None where it cannot be made of
        that value.
      why: it is right.
    """

    kinds: tuple[str, ...]
    label: str
    made: Callable[[Any], Any]
    why: str


def _numpy_integer(value: Any) -> Any:
    return np.int64(value) if isinstance(value, int) else None


def _unsigned(value: Any) -> Any:
    return np.uint32(value) if isinstance(value, int) and value >= 0 else None


def _numpy_float(value: Any) -> Any:
    return np.float64(value) if isinstance(value, float) else None


def _array(value: Any) -> Any:
    return jnp.asarray(value)


def _numpy_bool(value: Any) -> Any:
    return np.bool_(value) if isinstance(value, bool) else None


def _raw_key(value: Any) -> Any:
    del value
    return jax.random.key_data(things.KEY)


def _raw_keys(value: Any) -> Any:
    return None if isinstance(value, list) else jax.random.key_data(value)


def _numpy_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, jax.Array) else None


def _list(value: Any) -> Any:
    return value.tolist() if isinstance(value, jax.Array | np.ndarray) else None


def _numpy_arrays(value: Any) -> Any:
    return jax.tree.map(np.asarray, value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, mj.Examples) else None


def _tuples(value: Any) -> Any:
    return (tuple(value[0]), tuple(value[1])) if isinstance(value, mj.Episode) else None


def _function_object(value: Any) -> Any:
    return jax.tree_util.Partial(value) if callable(value) and not isinstance(value, type) else None


INTEGERS, FLAGS = ("integer", "optional integer"), ("flag", "optional flag", "flag or steps")
KEYS, SETS = ("key", "optional key"), ("set",)
ARRAYS = ("array", "optional array")
HARMLESS = (
    Harmless(INTEGERS, "NumPy's integer", _numpy_integer, "integers of NumPy are integers"),
    Harmless(INTEGERS, "NumPy's unsigned", _unsigned, "integers of NumPy are integers"),
    Harmless(("number", "number or array"), "NumPy's float", _numpy_float, "it is a number"),
    Harmless(("number or array",), "an array", _array, "it may be traced, and so is an array"),
    Harmless(FLAGS, "NumPy's bool", _numpy_bool, "flags of NumPy are flags"),
    Harmless(KEYS, "a raw key", _raw_key, "raw keys are JAX's older keys, of the same draws"),
    Harmless(("keys",), "raw keys", _raw_keys, "raw keys are JAX's older keys, of the same draws"),
    Harmless(ARRAYS, "NumPy's array", _numpy_array, "arrays of NumPy become JAX's"),
    Harmless(ARRAYS, "a list of numbers", _list, "lists of numbers are arrays"),
    Harmless(SETS, "a tuple", _tuple, "a tuple of inputs and targets is a set"),
    Harmless(SETS, "NumPy's arrays", _numpy_arrays, "arrays of NumPy become JAX's"),
    Harmless(("episode", "meta-batch"), "a tuple of tuples", _tuples, "two sets are an episode"),
    Harmless(
        ("episode", "meta-batch"), "NumPy's arrays", _numpy_arrays, "arrays of NumPy become JAX's"
    ),
    Harmless(("parameters",), "NumPy's arrays", _numpy_arrays, "arrays of NumPy become JAX's"),
    Harmless(
        ("function", "optional function"),
        "a functools.partial",
        _function_object,
        "what can be called is a function",
    ),
)
# Where such a value is none of the argument's, with the reason.
NOT_HERE = {
    ("metajax.Model.apply", "a list of numbers"): "inputs are a pytree there: a list is a node",
    ("metajax.apply_queries", "a list of numbers"): "queries are a pytree: a list is a node",
    ("metajax.apply_queries", "a tuple"): "it is for those who write algorithms, of whole sets",
    (
        "metajax.rl.Policy.over_steps",
        "a list of numbers",
    ): "observations are a pytree: a list is a node",
    ("metajax.data.ImageClasses", "a list of numbers"): "images are an array, or act like one",
}


def harmless_of(call: Call) -> Iterator[tuple[str, Harmless, Any]]:
    """The arguments of a call with harmless values that stand for the right ones."""
    right = call.right()
    for argument, kind in call.kinds.items():
        if argument not in right:
            continue
        for row in HARMLESS:
            if kind.name in row.kinds and (call.name, row.label) not in NOT_HERE:
                value = row.made(right[argument])
                if value is not None:
                    yield argument, row, value


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same: arrays by their values, the rest by what they are."""
    ours, theirs = jax.tree.leaves(one), jax.tree.leaves(other)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        x, y = _numbers(a), _numbers(b)
        if x is None or y is None:
            if type(a) is not type(b):
                return False
        elif not np.allclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True):
            return False
    return True


def _numbers(leaf: Any) -> np.ndarray | None:
    """The numbers of a leaf; None of functions and objects, which are made anew."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    known = isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float)
    return np.asarray(leaf) if known else None
