"""Calls of Haiku functions, transformed or not, with batch norm apart from the rest."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from metajax.kinds import in_brief
from metajax.models.adapters.modes import mode_flags
from metajax.signatures import called_by_name, takes
from metajax.types import Array, Inputs, Key, Outputs, Params, State


class Calls(NamedTuple):
    """A Haiku function as pure ones.

    Attributes:
      init: `(key, inputs, norms) -> (params, state)`; the names of batch norms are appended to the
        list `norms`.
      outputs: `(params, state, inputs, weights, key, averaging=) -> outputs`, see `_apart`.
      state: `(params, state, inputs) -> state`, after a batch, without dropout.
      weighted: whether the function takes weights.
    """

    init: Callable[[Key, Inputs, list[str]], tuple[Params, State]]
    outputs: Callable[..., Outputs]
    state: Callable[[Params, State, Inputs], State]
    weighted: bool


def calls(function: Any) -> Calls:
    """The calls of a Haiku function, or of what Haiku transformed.

    Raises:
      TypeError: it is neither, or takes what nobody gives it.
    """
    import haiku as hk

    transformed = isinstance(function, hk.Transformed | hk.TransformedWithState)
    if not transformed and (isinstance(function, tuple | hk.Module) or not callable(function)):
        raise TypeError(
            f"function is {in_brief(function)}; expected a function that makes Haiku modules and "
            "calls them, such as lambda inputs: hk.nets.MLP([32, 5])(inputs), or what hk.transform "
            "or hk.transform_with_state makes of one"
        )
    pure: Any = function if transformed else hk.transform_with_state(function)
    stateful = isinstance(pure, hk.TransformedWithState)
    names = list(inspect.signature(pure.apply).parameters)[1 + stateful :]
    keyed = names[:1] == ["rng"]
    by_name = (*mode_flags(pure.apply, training=True), "weights")
    if transformed:
        first = ("params", *(("state",) if stateful else ()), *(("rng",) if keyed else ()))
        called_by_name(pure.apply, "function.apply", (*first, "inputs"), by_name)
    else:
        called_by_name(function, "function", ("inputs",), by_name)
    weighted = takes(pure.apply, "weights")

    def options(training: bool, weights: Array | None) -> dict[str, Any]:
        named: dict[str, Any] = {"weights": weights} if weighted else {}
        return named | mode_flags(pure.apply, training=training)

    def init(key: Key, inputs: Inputs, norms: list[str]) -> tuple[Params, State]:
        with _apart(averaging=False, seen=norms):
            made = pure.init(key, inputs, **options(True, None))
        return made if stateful else (made, {})

    def both(
        params: Params,
        state: State,
        inputs: Inputs,
        weights: Array | None,
        key: Key | None,
        *,
        averaging: bool,
    ) -> tuple[Outputs, State]:
        args = (params, *((state,) if stateful else ()), *((key,) if keyed else ()), inputs)
        try:
            with _apart(averaging=averaging, seen=[]):
                made = pure.apply(*args, **options(key is not None, weights))
        except ValueError as error:
            if type(error).__name__ != "MissingRNGError":  # It is not public.
                raise
            raise ValueError(
                "the function draws, as hk.dropout does, and has no key: "
                + (
                    "without one it is in evaluation mode; expected one that has a parameter "
                    "is_training, and draws where that is true"
                    if keyed
                    else "hk.without_apply_rng took it away; expected the function without that"
                )
            ) from error
        return made if stateful else (made, {})

    def outputs(*args: Any, averaging: bool) -> Outputs:
        return both(*args, averaging=averaging)[0]

    def state_after(params: Params, state: State, inputs: Inputs) -> State:
        _, new = both(params, state, inputs, None, None, averaging=False)
        leaves = map(jax.tree.leaves, (state, new))
        if all(was is now for was, now in zip(*leaves, strict=True)):
            raise ValueError(
                "the function changed none of its state, in a pass without a key and with "
                "is_training=False; expected state of hk.BatchNorm, or that is written always"
            )
        return new

    return Calls(init, outputs, state_after, weighted)


def _apart(*, averaging: bool, seen: list[str]) -> Any:
    """A context in which batch norms use their averages, or the batch, whatever they are told."""
    import haiku as hk

    def told(call: Any, args: Any, kwargs: Any, context: hk.MethodContext) -> Any:
        if not isinstance(context.module, hk.BatchNorm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        seen.append(context.module.module_name)
        bound = inspect.signature(context.orig_method).bind(*args, **kwargs)
        bound.arguments |= {"is_training": not averaging, "test_local_stats": False}
        return call(*bound.args, **bound.kwargs)

    return hk.intercept_methods(told)
