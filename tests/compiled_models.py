"""Models whose functions are compiled whole, which is faster than one operation at a time."""

import copy

import jax

from metajax.types import Model


def compiled(model: Model) -> Model:
    """The same model."""
    same = copy.copy(model)
    for name in ("init", "apply", "statistics"):
        setattr(same, name, jax.jit(getattr(model, name)))
    return same
