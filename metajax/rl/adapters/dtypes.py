"""Dtypes of what somebody's environment returns, where they are less strict than a scan."""

from typing import Any

import jax
import jax.numpy as jnp

from metajax.types import Array


def as_floats(tree: Any) -> Any:
    """The pytree with booleans and integers made floats, which networks take; floats stay."""

    def convert(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf if floating else leaf.astype(jnp.result_type(float))

    return jax.tree.map(convert, tree)


def with_dtypes_of(before: Any, after: Any) -> Any:
    """The pytree `after` with the dtypes of `before`, where their structure is the same.

    Under `jax_enable_x64` libraries mix constants of 32 and 64 bits.
    """
    if jax.tree.structure(before) != jax.tree.structure(after):
        return after
    return jax.tree.map(lambda old, new: jnp.asarray(new, jnp.result_type(old)), before, after)
