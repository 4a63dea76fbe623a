"""Dropout and batch normalisation of an NNX module, set apart from each other and from its flag.

NNX has no interception of calls. The module is one that was merged for this call alone: dropout is
told by its attributes, and batch normalisation becomes an instance of a subclass of its own class,
since an argument of the call goes before the attribute.
"""

import functools
from collections.abc import Collection, Iterator
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metajax.models.adapters.item_masks import counted
from metajax.types import Array

Path = tuple[str, ...]


class _Held:
    """Weights as an attribute that is none of the module's arrays, equal to itself alone.

    What a module compiles itself, with `nnx.jit`, is compiled anew for it.
    """

    def __init__(self, weights: Array) -> None:
        self.weights = weights


def norms(module: nnx.Module) -> Iterator[tuple[Path, nnx.BatchNorm]]:
    """The stock batch normalisations, by path."""
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.BatchNorm):
            yield named(path), node


def named(path: Any) -> Path:
    """A path of NNX as it is printed."""
    return tuple("/".join(part) if isinstance(part, tuple) else str(part) for part in path)


def set_modes(
    module: nnx.Module,
    *,
    dropout: bool,
    averaged: Collection[Path],
    natural: bool,
    weights: Array | None,
) -> None:
    """Sets how dropout and batch normalisation of a module work, in place.

    Args:
      module: of this call alone.
      dropout: whether it drops.
      averaged: paths of the batch normalisations that use their running averages.
      natural: whether the others do what the module says; otherwise they use the batch.
      weights: `[items]` or None; items of weight 0 are left out of statistics of the batch.
    """
    module.set_attributes(deterministic=not dropout, raise_if_not_found=False)
    if not dropout:
        # A rate of 0 holds where a call asks for dropout, too.
        module.set_attributes(nnx.Dropout, rate=0.0, raise_if_not_found=False)
        module.set_attributes(nnx.MultiHeadAttention, dropout_rate=0.0, raise_if_not_found=False)
    for path, norm in norms(module):
        running = True if path in averaged else None if natural else False
        object.__setattr__(norm, "__class__", _told(type(norm), running))
        norm.axis_name = None  # The items of a task are on one device.
        if running is False and weights is not None:
            norm.weights_of_call = _Held(weights)  # pyright: ignore[reportAttributeAccessIssue]


@functools.cache
def _told(kind: type[nnx.BatchNorm], running: bool | None) -> type[nnx.BatchNorm]:
    """The subclass that uses its running averages, the batch, or what it is asked for (None).

    It comes between a class of the user's and `nnx.BatchNorm`, so that a `__call__` of theirs is
    called as it is.
    """

    def call(self: Any, x: Any, use_running_average: bool | None = None, **options: Any) -> Any:
        held = getattr(self, "weights_of_call", None)
        if held is not None:
            options["mask"] = counted(held.weights, x, options.get("mask"), kind.__name__)
        for name in ("mean", "var"):
            # Flax writes the batch's into its own, float32, with a warning if that is narrower.
            average = getattr(self, name)
            wide = jnp.result_type(average[...], x)
            if wide != average.dtype:
                setattr(self, name, average.replace(average[...].astype(wide)))
        said = use_running_average if running is None else running
        return nnx.BatchNorm.__call__(self, x, use_running_average=said, **options)

    metaclass: Any = type(kind)
    names = {"__module__": kind.__module__}
    told = metaclass(kind.__name__, (nnx.BatchNorm,), {"__call__": call, **names})
    return told if kind is nnx.BatchNorm else metaclass(kind.__name__, (kind, told), names)
