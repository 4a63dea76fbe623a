"""Conjugate gradients on pytrees: linear equations of which a product is all that is known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.types import Array, Params


def conjugate_gradients(
    product: Callable[[Params], Params], target: Params, steps: int
) -> tuple[Params, Params]:
    """An approximate solution x of `A x = target`, from 0 on (Hestenes and Stiefel 1952).

    It stays where it is once the residual is down to rounding, is not finite, or A is seen not to
    be positive along a direction: a target of 0 gives 0.

    Args:
      product: `x -> A x`, linear, A symmetric.
      target: pytree of float arrays.
      steps: products taken; static.

    Returns:
      x, and the residual `target - A x`.
    """
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(target))).eps
    size = dot(target, target)
    zeros = jax.tree.map(jnp.zeros_like, target)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        x, residual, direction, left = carry
        image = product(direction)
        bend = dot(direction, image)
        good = (left > eps**2 * size) & (bend > 0) & jnp.isfinite(left) & jnp.isfinite(bend)
        rate = jnp.where(good, left / jnp.where(good, bend, 1), 0)
        x = along(x, rate, direction)
        residual = along(residual, -rate, jax.tree.map(lambda z: jnp.where(good, z, 0), image))
        after = dot(residual, residual)
        turn = jnp.where(good, after / jnp.where(good, left, 1), 0)
        direction = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), along(residual, turn, direction), direction
        )
        return (x, residual, direction, after), None

    (x, residual, _, _), _ = jax.lax.scan(step, (zeros, target, target, size), length=steps)
    return x, residual


def dot(x: Params, y: Params) -> Array:
    """`[]` the inner product; no product of matrices, which accelerators round."""
    parts = jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), x, y))
    return jnp.stack(parts).sum()


def along(x: Params, rate: Array | float, direction: Params) -> Params:
    """`x + rate * direction`, in the dtypes of x."""
    return jax.tree.map(lambda a, d: a + (rate * d).astype(a.dtype), x, direction)
