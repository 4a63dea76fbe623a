"""A function of many items, a few at a time, so that what it makes on the way fits the cache."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Items = TypeVar("Items")
Results = TypeVar("Results")


def in_groups(function: Callable[[Items], Results], items: Items, group: int) -> Results:
    """`function` of each `group` of items, the results one after another.

    Args:
      function: from arrays with leading axis [group], or fewer for the last, to arrays with a
        leading axis of any length.
      items: arrays with one leading axis. Fewer than two groups are taken at once, and so are items
        whose number is a symbol, as in a program that is exported for any batch.
      group: items at a time at most, 1 or more. A divisor of their number is taken if there is
        one above half of it.
    """
    total = jax.tree.leaves(items)[0].shape[0]
    if not isinstance(total, int):
        return function(items)
    # Without a rest there is nothing to join, which would copy everything once more.
    group = next((size for size in range(group, group // 2, -1) if total % size == 0), group)
    groups, rest = divmod(total, group)
    if groups < 2:
        return function(items)

    def cut(x: jax.Array) -> jax.Array:
        return x[: groups * group].reshape(groups, group, *x.shape[1:])

    results = lax.map(function, jax.tree.map(cut, items))
    results = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
    if not rest:
        return results
    last = function(jax.tree.map(lambda x: x[groups * group :], items))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), results, last)
