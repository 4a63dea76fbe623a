"""Numbers: one rule for what an integer is, and for what is in range."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_LARGEST_SEED = 2**32 - 1


def is_integer(number: Any, least: float) -> bool:
    """Whether it is an integer, of Python or NumPy, of `least` or more; True and False are none.

    NumPy's of 8 and 16 bits are none, either: they overflow in sums and products with others.
    """
    return _is_whole(number) and number >= least


def check_integers(least: int, /, **given: object) -> None:
    """Raises unless every argument is an integer of `least` or more: the one rule for all of them.

    Raises:
      TypeError: one is no integer (1.5, 1.0, True, nan, an array).
      ValueError: one is below `least`.
    """
    for name, number in given.items():
        _check_integer(least, name, number, "")


def check_optional_integers(least: int, /, **given: object) -> None:
    """The same, of arguments that may be None."""
    for name, number in given.items():
        if number is not None:
            _check_integer(least, name, number, ", or None")


def check_seeds(**given: object) -> None:
    """Raises unless every argument is an integer that a random key can hold all of."""
    check_integers(0, **given)
    for name, number in given.items():
        if number > _LARGEST_SEED:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(
                f"{name}={number!r}; expected an integer of 0 to {_LARGEST_SEED:,}: of a larger "
                "one a random key holds a part alone"
            )


def _check_integer(least: int, name: str, number: object, otherwise: str) -> None:
    if is_integer(number, least):
        return
    why = ""
    if isinstance(number, jax.Array):
        why = ": it is part of the program, so no array"
    elif isinstance(number, np.integer) and not _is_whole(number):
        why = f": int({name}), since {number.dtype} overflows"
    message = f"{name}={number!r}; expected an integer of {least} or more{otherwise}{why}"
    raise ValueError(message) if _is_whole(number) else TypeError(message)


def _is_whole(number: object) -> bool:
    if isinstance(number, np.integer):
        return number.itemsize >= 4
    return isinstance(number, int) and not isinstance(number, bool)


def check_numbers(within: Callable[[Any], bool], expected: str, /, **given: object) -> None:
    """Raises unless every argument is a number that `within` accepts; nan is none.

    Args:
      within: whether a number is in range.
      expected: the range, in words.
      **given: the arguments.

    Raises:
      TypeError: one is no number.
      ValueError: one is out of range.
    """
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"{name}={number!r}; expected {expected}")
        if not within(number):
            raise ValueError(f"{name}={number!r}; expected {expected}")


def check_temperature(temperature: object) -> None:
    """Raises unless it is a number, an array of one, or None; if it is known, above 0."""
    if temperature is None:
        return
    dtype = getattr(temperature, "dtype", None)
    real = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    arrays = dtype is not None and any(
        jnp.issubdtype(dtype, each) for each in (jnp.floating, jnp.integer)
    )
    if not real and not arrays:
        raise TypeError(f"temperature={temperature!r}; expected a number above 0, or None for 1")
    if not isinstance(temperature, Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"temperature={temperature}; expected a number above 0, or None for 1")


def check_scalar(value: Any, name: str) -> None:
    """Raises unless what is called `name` is a scalar `[]`."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}; expected a scalar of shape (), such as its mean"
        )
