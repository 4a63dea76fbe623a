"""The layers in an Equinox module: who keeps state, who draws, who uses running averages."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax


def nodes(tree: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The nodes of a pytree that are wanted; those inside another come after it."""
    below = jax.tree.leaves(tree, is_leaf=lambda x: x is not tree and wanted(x))
    inside = [node for x in below if x is not tree and wanted(x) for node in nodes(x, wanted)]
    return [tree, *inside] if wanted(tree) else inside


def state_indices(module: Any) -> list[Any]:
    """What the module looks up its state by."""
    import equinox as eqx

    return nodes(module, lambda x: isinstance(x, eqx.nn.StateIndex))


def batch_axis(module: Any) -> Hashable | None:
    """The axis over which its batch norms share statistics, or None where it has none."""
    names = {name for norm in batch_norms(module) for name in _names(norm.axis_name)}
    if len(names) > 1:
        raise ValueError(
            f"the batch norms of module have the axes {sorted(map(str, names))}; expected one, "
            'that of the items, such as axis_name="batch"'
        )
    return names.pop() if names else None


def _names(axis: Any) -> tuple[Hashable, ...]:
    return tuple(axis) if isinstance(axis, tuple | list) else (axis,)


def batch_norms(module: Any) -> list[Any]:
    """The module's stock batch norms."""
    import equinox as eqx

    return nodes(module, lambda x: isinstance(x, eqx.nn.BatchNorm))


def switched(module: Any, *, drawing: bool, averaging: bool) -> Any:
    """The module with its `inference` attributes set, whatever they were.

    Args:
      module: whole.
      drawing: whether layers without state, dropout say, draw.
      averaging: whether layers with state, batch norm say, use and leave it as it is.
    """
    import equinox as eqx

    stock = (eqx.nn.BatchNorm, eqx.nn.Dropout, eqx.nn.SpectralNorm)

    def has_switch(node: Any) -> bool:
        return isinstance(node, eqx.Module) and "inference" in vars(node)

    def below(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: switch(x) if x is not tree and has_switch(x) else x,
            tree,
            is_leaf=lambda x: x is not tree and has_switch(x),
        )

    def switch(layer: Any) -> Any:
        fields = vars(below(layer))
        stateful = any(isinstance(value, eqx.nn.StateIndex) for value in fields.values())
        kind = _heedless(type(layer)) if isinstance(layer, stock) else type(layer)
        same = object.__new__(kind)
        for name, value in fields.items():
            object.__setattr__(same, name, value)
        object.__setattr__(same, "inference", averaging if stateful else not drawing)
        return same

    return switch(module) if has_switch(module) else below(module)


@functools.cache
def _heedless(kind: Any) -> Any:
    """The class of layers that go by their own attribute, whatever flag they are called with."""

    def call(
        self: Any, *args: Any, inference: object = None, deterministic: object = None, **rest: Any
    ) -> Any:
        return kind.__call__(self, *args, **rest)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
