"""Sets of items: arrays `[items, ...]`, one or a pytree of them."""

from typing import Any

import jax
import jax.numpy as jnp

from metajax.types import Array, Examples


def count(items: Any) -> int:
    """How many there are; in a program for a number that is not known yet, its symbol."""
    return jax.tree.leaves(items)[0].shape[0]


def join(*sets: Any) -> Any:
    """Sets of the same structure, one after another."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *sets)


def take(items: Any, rows: Any) -> Any:
    """The items at `rows`: indices, a slice, or None for a new axis in front."""
    return jax.tree.map(lambda x: x[rows], items)


def without_padding(examples: Examples) -> Examples:
    """The same set with zeros in the rows of weight 0: no junk in them reaches a gradient."""
    weights = examples.weights
    if weights is None:
        return examples

    def clear(rows: Array) -> Array:
        kept = (weights > 0).reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.where(kept, rows, jnp.zeros_like(rows))

    inputs, targets = jax.tree.map(clear, (examples.inputs, examples.targets))
    return Examples(inputs, targets, weights)
