"""What is found out about a model once for each shape of its arguments."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

Found = TypeVar("Found")


def by_shapes(find: Callable[..., Found]) -> Callable[..., Found]:
    """`find`, given shapes and dtypes in the place of arrays and called once for each.

    Args:
      find: a function of pytrees of `jax.ShapeDtypeStruct`. What it raises is not remembered.

    Returns:
      The function of pytrees of arrays, traced ones too.
    """
    found: dict[Any, Found] = {}

    def remembering(*args: Any) -> Found:
        leaves, structure = jax.tree.flatten(args)
        kinds = [jax.typeof(leaf) for leaf in leaves]
        shapes = [jax.ShapeDtypeStruct(kind.shape, kind.dtype) for kind in kinds]
        at = (structure, *shapes)
        if at not in found:
            found[at] = find(*jax.tree.unflatten(structure, shapes))
        return found[at]

    return remembering
