"""Items in batches of few sizes, so that few programs are compiled and one item costs little."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

# A program more takes longer to compile than a batch of zeros to compute.
_SIZES = (1, 8, 32)
_LARGEST = _SIZES[-1]


def in_batches(
    compute: Callable[[Any], Any], items: np.ndarray, *, one_size: bool = False
) -> np.ndarray:
    """What a function makes of items `[n, ...]`, an array `[n, ...]`.

    Args:
      compute: of a batch `[b, ...]`, of each item on its own.
      items: one or more.
      one_size: whether batches are always of 32, zeros behind the items, instead of the least of
        1, 8 and 32 that holds them.
    """
    found = []
    for start in range(0, len(items), _LARGEST):
        block = items[start : start + _LARGEST]
        size = _LARGEST if one_size else min(s for s in _SIZES if s >= len(block))
        found.append(np.asarray(compute(jnp.asarray(filled(block, size))))[: len(block)])
    return np.concatenate(found)


def filled(values: np.ndarray, size: int) -> np.ndarray:
    """`[size, ...]`, zeros behind the given."""
    whole = np.zeros((size, *values.shape[1:]), values.dtype)
    whole[: len(values)] = values
    return whole
