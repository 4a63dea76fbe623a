"""How the networks' parameters begin: functions of somebody else, whose results are looked at."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from metajax.kinds import in_brief, is_array
from metajax.signatures import check_takes
from metajax.types import Array, Key

# Flax's own default of kernels.
LECUN_NORMAL = nn.initializers.lecun_normal()


def check_initializers(**given: Any) -> None:
    """Raises a TypeError unless every argument is a function that takes a key, a shape, a dtype."""
    for name, initializer in given.items():
        check_takes(initializer, name, "key", "shape", "dtype")


def checked(initializer: nn.initializers.Initializer, name: str) -> Callable[..., Array]:
    """The same function, whose result is of the dtype that it is asked for.

    Args:
      initializer: of somebody else.
      name: what it is called in messages.

    Returns:
      A function that raises a ValueError where the result is not floats of the shape asked for.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        drawn: Any = initializer(key, shape, dtype)
        floats = is_array(drawn) and jnp.issubdtype(drawn.dtype, jnp.floating)
        if not floats or drawn.shape != tuple(shape):
            shown = f"{drawn.dtype}{[*drawn.shape]}" if is_array(drawn) else in_brief(drawn)
            raise ValueError(
                f"{name} returned {shown}; expected floats of the shape {tuple(shape)} that it was "
                "asked for: an initializer is a function (key, shape, dtype) -> array, such as "
                "jax.nn.initializers.lecun_normal()"
            )
        return jnp.asarray(drawn, dtype)

    return init
