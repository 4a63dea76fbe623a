"""How a module that cannot be a pure function of its parameters is refused."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.types import Array, Sharing, State

Path = tuple[str, ...]


def not_given(paths: Iterable[str], remedy: str) -> ValueError:
    """The error for outputs that depend on state, at `paths`, which nobody gave."""
    return ValueError(
        f"the outputs depend on {', '.join(paths)}, which the module keeps beside its parameters "
        "and nobody gave: it would stay at its initial value without a word. Expected it as a "
        f"constant, {remedy}; after meta-training from scratch running averages come from "
        "metajax.models.estimate_statistics"
    )


def nothing_drawn_from(what: str) -> ValueError:
    """The error for a module that draws random numbers where there is no key."""
    return ValueError(
        f"the module draws random numbers ({what}) and there is no key, which is evaluation; "
        "expected a module that draws nothing then: let it ask a flag such as train or "
        "deterministic, or pass a key"
    )


def no_averages() -> ValueError:
    """The error for statistics of a module that has none."""
    return ValueError(
        "the module keeps no running averages beside what it was given (frozen=), so there is "
        "nothing to estimate; expected one with batch normalisation, without frozen="
    )


def check_given(given: Mapping[Path, Any], kept: Mapping[Path, Any]) -> None:
    """Raises where given state is none that the module keeps, or of another shape.

    Args:
      given: arrays by path.
      kept: arrays, or their shapes, by path.
    """
    for path, value in given.items():
        name = "/".join(path)
        if path not in kept:
            listed = ", ".join(map("/".join, kept)) or "none"
            raise ValueError(
                f"frozen holds {name}, which the module does not keep: it would not be used. The "
                f"module keeps {listed}; expected some of these, by the same path"
            )
        got, expected = jax.tree.map(jnp.shape, (value, kept[path]))
        if got != expected:
            raise ValueError(
                f"frozen holds {name} of shape {got}; the module expects {expected}: is it another "
                "module's?"
            )


def refuse_padding(sharing: Sharing, weights: Array | None) -> None:
    """Raises where items have weights and a stock batch norm takes the statistics of all of them.

    Raises:
      ValueError: so it is.
    """
    if sharing == "batch" and weights is not None:
        raise ValueError(
            "the items have weights, and batch norm takes its statistics from all of them, padding "
            "too; expected episodes without padding, its running averages (frozen=...), or a norm "
            "within the item, such as GroupNorm or LayerNorm"
        )


def updating(
    update: Callable[..., State], begin: Callable[..., State], refuse: Callable[..., None]
) -> Callable[[Any, State | None, Any, Array | None], State]:
    """A `Model`'s `statistics`.

    Args:
      update: `(params, state, inputs) -> state`.
      begin: `inputs -> state`, the initial one, without arrays where the model keeps none.
      refuse: `(inputs, weights) -> None`; raises where padding would count.
    """

    def statistics(params: Any, state: State | None, inputs: Any, weights: Array | None) -> State:
        refuse(inputs, weights)
        state = begin(inputs) if state is None else state
        if not jax.tree.leaves(state):
            raise no_averages()
        return update(params, state, inputs)

    return statistics
