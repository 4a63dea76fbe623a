"""Dropout and batch normalisation of a linen module, set apart from each other and from its flag.

Both hang on one `train` flag in many modules. Here they are told by intercepting their calls, which
happens in Python while a program is traced: nothing of it is in the program.
"""

import inspect
import itertools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn

from metajax.models.adapters.item_masks import counted
from metajax.types import Array

Path = tuple[str, ...]
_calls = itertools.count()


class Modes(NamedTuple):
    """How dropout and batch normalisation work in one call of a module.

    Attributes:
      dropout: whether it may drop: what the module has off stays off.
      averaged: paths of the batch normalisations whose running averages were given: they use them.
      natural: whether the others do what the module says; otherwise they use the batch.
      weights: `[items]` or None; items of weight 0 are left out of statistics of the batch.
      found: hears of each batch normalisation.
    """

    dropout: bool
    averaged: Collection[Path] = ()
    natural: bool = False
    weights: Array | None = None
    found: Callable[[Path], None] | None = None

    def mark(self) -> str:
        """A name for these modes; with weights or a listener, for this call alone.

        As one more collection that is not mutable it keeps modules which compile themselves, with
        `nn.jit`, from taking what they compiled in other modes: Flax compares what is mutable.
        """
        alone = self.weights is not None or self.found is not None
        call = next(_calls) if alone else ""
        return f"{self.dropout} {sorted(self.averaged)} {self.natural} {call}"


def interceptor(modes: Modes) -> Any:
    """What to give to `nn.intercept_methods`."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        # A subclass's own call, and then the one above it, each by its own parameters.
        signature = inspect.signature(context.orig_method)
        if isinstance(module, nn.Dropout | nn.MultiHeadDotProductAttention):
            said, arguments = _said(module, "deterministic", signature, args, kwargs)
            return _call(call, arguments, module, "deterministic", bool(said) or not modes.dropout)
        if not isinstance(module, nn.BatchNorm):
            return call(*args, **kwargs)
        if modes.found is not None:
            modes.found(module.path)
        said, arguments = _said(module, "use_running_average", signature, args, kwargs)
        running = module.path in modes.averaged or (modes.natural and bool(said))
        if modes.weights is not None and not running and "mask" in signature.parameters:
            given = arguments.arguments
            norm = f"the batch normalisation {'/'.join(module.path)}".rstrip()
            given["mask"] = counted(modes.weights, arguments.args[0], given.get("mask"), norm)
        return _call(call, arguments, module, "use_running_average", running)

    return intercept


def _said(
    module: nn.Module, name: str, signature: inspect.Signature, args: Any, kwargs: Any
) -> tuple[bool | None, inspect.BoundArguments]:
    """What a call or the module says of `name`, and the call's arguments without it."""
    arguments = signature.bind(*args, **kwargs)
    said = arguments.arguments.pop(name, None)
    own = getattr(module, name)
    return (said if own is None else own), arguments


def _call(
    call: Callable[..., Any],
    arguments: inspect.BoundArguments,
    module: nn.Module,
    name: str,
    value: bool,
) -> Any:
    """The call with another attribute: Flax allows it no argument that is said twice."""
    parameter = arguments.signature.parameters.get(name)
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        arguments.arguments[name] = value  # A subclass's own.
    changed: dict[str, bool | None] = {name: value}
    if name == "use_running_average":
        changed["axis_name"] = None  # The items of a task are on one device.
    own = {name: getattr(module, name) for name in changed}
    for name in changed:
        object.__setattr__(module, name, changed[name])  # A frozen dataclass, of this call alone.
    try:
        return call(*arguments.args, **arguments.kwargs)
    finally:
        for name in own:
            object.__setattr__(module, name, own[name])
