"""Functions, words, arrays and random keys are what they are to be. Imports nothing of metajax.

Checks look at types, shapes and dtypes alone, which are known while a program is traced, too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_KEY = "expected a random key, such as jax.random.key(0)"


def in_brief(value: object) -> str:
    """What it is, for a message: a module would print all its layers, a tree all its arrays."""
    text = repr(value).split("\n")[0]
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_functions(**given: object) -> None:
    """Raises a TypeError unless every argument can be called."""
    for name, function in given.items():
        if not callable(function):
            raise TypeError(f"{name} is {in_brief(function)}; expected a function")


def check_optional_functions(**given: object) -> None:
    """The same, of arguments that may be None."""
    for name, function in given.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} is {in_brief(function)}; expected a function, or None")


def check_words(words: tuple[str, ...], /, **given: object) -> None:
    """Raises a ValueError unless every argument is one of the words."""
    for name, word in given.items():
        if not isinstance(word, str) or word not in words:
            quoted = [f'"{each}"' for each in words]
            among = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
            raise ValueError(f"{name}={word!r}; expected {among}")


def check_key(key: Any, name: str = "key") -> None:
    """Raises unless it is one random key, typed or raw.

    Raises:
      TypeError: it is none.
      ValueError: it is several.
    """
    dtype = getattr(key, "dtype", None)
    if not isinstance(key, jax.Array | np.ndarray) or dtype is None:
        raise TypeError(f"{name} is {in_brief(key)}; {_KEY}")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype != np.uint32 or key.ndim == 0):
        raise TypeError(f"{name} is {dtype}{[*key.shape]}; {_KEY}")
    if keys := key.shape if typed else key.shape[:-1]:
        raise ValueError(
            f"{name} is an array of keys of shape {keys}; expected one key, {name}[0] say: a "
            "function of one takes several under jax.vmap"
        )


def check_optional_key(key: Any, name: str = "key") -> None:
    """The same, of what may be None."""
    if key is not None:
        check_key(key, name)


def check_keys(keys: Any, tasks: int | None, name: str = "keys") -> None:
    """Raises unless it is an array `[tasks]` of random keys, or without `tasks` of any shape.

    Raises:
      TypeError: it is no array of keys.
      ValueError: there is not one a task.
    """
    several = "expected random keys, such as jax.random.split(jax.random.key(0), tasks)"
    if not isinstance(keys, jax.Array | np.ndarray):
        raise TypeError(f"{name} is {in_brief(keys)}; {several}")
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed and (keys.dtype != np.uint32 or keys.ndim == 0):
        raise TypeError(f"{name} is {keys.dtype}{[*keys.shape]}; {several}")
    shape = keys.shape if typed else keys.shape[:-1]
    if tasks is not None and shape != (tasks,):
        raise ValueError(
            f"{name} has the shape {shape} and the episodes hold {tasks} tasks; expected "
            f"({tasks},), one key a task"
        )


def as_array(value: Any, name: str) -> jax.Array:
    """An array of JAX, of one of another library or of lists of numbers.

    Raises:
      TypeError: it is none of them.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        # JAX would read a text as the name of a dtype.
        if value is None or any(isinstance(leaf, str | bytes) for leaf in jax.tree.leaves(value)):
            raise TypeError("a text is no array")
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {in_brief(value)}; expected an array") from error


def as_array_of_host(value: Any, name: str) -> np.ndarray:
    """An array of NumPy, of numbers or of strings, of lists of them too.

    Raises:
      TypeError: it is none.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # A ragged list.
        raise TypeError(f"{name} is {in_brief(value)}; expected an array") from error
    if array.dtype.kind == "O" or isinstance(value, str | bytes):
        raise TypeError(f"{name} is {in_brief(value)}; expected an array")
    return array


def arrays_of(**given: Any) -> tuple[jax.Array, ...]:
    """The arguments as arrays, in order, see `as_array`."""
    return tuple(as_array(value, name) for name, value in given.items())


def weights_of(weights: Any) -> jax.Array | None:
    """The same of weights, which may be None."""
    return None if weights is None else as_array(weights, "weights")


def check_arrays(tree: Any, name: str) -> None:
    """Raises a TypeError unless what is called `name` is a pytree of arrays, at least of one."""
    leaves = jax.tree.leaves(tree)
    for leaf in leaves or [tree]:
        if not leaves or not is_array(leaf):
            raise TypeError(
                f"{name} {'is' if leaf is tree else 'holds'} {in_brief(leaf)}; expected an array, "
                "or a pytree of arrays alone"
            )


def check_batch(key: Any, weights: Any, **items: Any) -> None:
    """Raises unless what is called by name is items, `weights` arrays or None, and `key` or None.

    Raises:
      TypeError: items or weights are no arrays, or `key` is no key.
      ValueError: `key` is several.
    """
    for name, tree in items.items():
        check_arrays(tree, name)
    if weights is not None:
        check_arrays(weights, "weights")
    check_optional_key(key)


def is_array(leaf: Any) -> bool:
    """Whether it is an array of JAX or of NumPy, of what JAX has."""
    if isinstance(leaf, jax.Array):
        return True
    known = isinstance(leaf, np.ndarray | np.generic)
    return known and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, np.number))
