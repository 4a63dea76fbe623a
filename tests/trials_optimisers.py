"""All optimisers of optax that are made of a rate and nothing else, and what becomes of each."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

Make = Callable[[float], optax.GradientTransformation]
# Asks for the loss as a function of its own, `obj_fn`.
_ASKS_FOR_MORE = {"sophia"}


class OptimiserTrial(NamedTuple):
    """A kind of optimiser, for the table of the documentation."""

    name: str
    how: str
    notes: str


TRIALS = (
    OptimiserTrial(
        "the optimisers of `optax` and `optax.contrib` that a rate makes; `sam`",
        "`inner=`, and outside",
        "steps as by hand; a warning where exact derivatives are NaN at a gradient of 0",
    ),
    OptimiserTrial(
        "those that search a line, such as `optax.lbfgs`",
        "`inner=` with `first_order=True`",
        "refused outside, and where the derivative is exact",
    ),
    OptimiserTrial(
        "`optax.contrib.schedule_free`, `optax.lookahead`",
        "the first outside",
        "refused: their result is another point than their iterate",
    ),
)


def factories() -> dict[str, Make]:
    """By name."""
    found: dict[str, Make] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some names are deprecated.
        modules = (("optax", optax, optax.__all__), ("contrib", optax.contrib, dir(optax.contrib)))
        for prefix, module, names in modules:
            for name in names:
                if name.startswith("scale_by") or name in _ASKS_FOR_MORE:
                    continue
                if _of_a_rate(made := getattr(module, name)):
                    found[f"{prefix}.{name}"] = made
    return found


def _of_a_rate(made: Any) -> bool:
    if not inspect.isfunction(made):
        return False
    first, *rest = inspect.signature(made).parameters.values() or [None]
    plain = all(x.default is not x.empty or x.kind is x.VAR_KEYWORD for x in rest)
    return first is not None and first.name == "learning_rate" and plain
