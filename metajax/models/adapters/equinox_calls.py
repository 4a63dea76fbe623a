"""Calls of Equinox modules, which see one item, on all items of a set."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from metajax.kinds import in_brief
from metajax.models.adapters.equinox_layers import batch_axis, state_indices, switched
from metajax.models.adapters.equinox_modules import Parts
from metajax.models.adapters.modes import mode_flags
from metajax.signatures import called_by_name, takes
from metajax.types import Inputs, Key, Outputs, Params, State


class OverItems(NamedTuple):
    """A module on a set of items.

    Attributes:
      outputs: `(params, state, inputs [items, ...], key or None, training=, drawing=, averaging=)
        -> outputs [items, ...]`, see `mode_flags` and `switched`.
      state: the same, but what the module makes of its state.
      stand_in: a key for a module whose `__call__` has to have one, else None.
    """

    outputs: Callable[..., Outputs]
    state: Callable[..., State]
    stand_in: Key | None


def over_items(parts: Parts) -> OverItems:
    """The calls of a module that was taken apart.

    Raises:
      TypeError: it cannot be called with an item, and its state where it keeps one.
      ValueError: its batch norms have different axes.
    """
    import equinox as eqx

    static = parts.static
    name = type(static).__name__
    if not callable(static):
        raise TypeError(f"module is {name}, without __call__; expected one that can be called")
    method = type(static).__call__
    stateful = bool(state_indices(static))
    by_name = stateful and takes(method, "state")
    required = ("module", "item", "state") if stateful and not by_name else ("module", "item")
    optional = ("key", *(("state",) if by_name else ()), *mode_flags(method, training=True))
    called_by_name(method, f"{name}.__call__", required, optional)
    takes_key = takes(method, "key")
    axis = batch_axis(static)

    def one(
        module: Any, item: Any, state: State, key: Key | None, flags: dict[str, bool]
    ) -> tuple[Any, State]:
        options = {**flags, "key": key} if takes_key else flags
        if not stateful:
            return module(item, **options), None
        made = module(item, state=state, **options) if by_name else module(item, state, **options)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State)):
            raise TypeError(
                f"{name} keeps state and returned {in_brief(made)}; expected (outputs, "
                "state), the state as its layers left it"
            )
        return made

    def mapped(which: int) -> Callable[..., Any]:
        def run(
            params: Params,
            state: State,
            inputs: Inputs,
            key: Key | None,
            *,
            training: bool,
            **switches: bool,
        ) -> Any:
            module = switched(parts.join(params), **switches)
            flags = mode_flags(method, training=training)
            items = jax.tree.leaves(inputs)[0].shape[0]
            keys = None if key is None else jax.random.split(key, items)
            return jax.vmap(
                lambda item, key, state: one(module, item, state, key, flags)[which],
                in_axes=(0, None if keys is None else 0, None),
                out_axes=(0, None)[which],
                axis_name=axis,
            )(inputs, keys, state)

        return run

    needs_key = takes_key and (
        inspect.signature(method).parameters["key"].default is inspect.Parameter.empty
    )
    return OverItems(mapped(0), mapped(1), jax.random.key(0) if needs_key else None)
