"""How functions that people bring are called: by the names of their parameters."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from metajax.kinds import check_functions

_BIND = (
    "Bind what is left, such as a flag, by functools.partial; modules of Flax, Equinox and Haiku "
    "have adapters, see metajax.models"
)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` has a parameter of this name; what `**kwargs` swallow has none."""
    return name in _parameters(function, "it")


def check_takes(function: Any, what: str, *positional: str) -> None:
    """Raises a TypeError unless `function` can be called with these alone, whatever it calls them.

    Args:
      function: of somebody else.
      what: its name in messages.
      *positional: what it is given, in order.
    """
    check_functions(**{what: function})
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some functions written in C have none.
        return
    try:
        signature.bind(*positional)
    except TypeError as error:
        raise TypeError(
            f"{what} has the parameters {signature}, and is called with ({', '.join(positional)}): "
            f"{error}. {_BIND.split(';')[0]}"
        ) from None


def called_by_name(
    function: Callable[..., Any],
    what: str,
    positional: tuple[str, ...],
    optional: tuple[str, ...] = (),
    *,
    remedy: str = _BIND,
) -> Callable[..., Any]:
    """`function`, to be called with all of `optional`, of which it gets those that it names.

    Args:
      function: of somebody who may have no use for what is optional.
      what: its name in messages.
      positional: what it is given in order, whatever it calls them.
      optional: what it is given by keyword, where it has a parameter of that name.
      remedy: the last sentence of the error.

    Returns:
      The function of all of `positional`, in order, and all of `optional`, by keyword.

    Raises:
      TypeError: it is no function, or cannot be called so.
    """
    parameters = _parameters(function, what)
    wanted = tuple(name for name in optional if name in parameters)
    signature = inspect.Signature(list(parameters.values()))
    early = {*list(parameters)[: len(positional)]}
    try:
        if parameters:
            signature.bind(*positional, **dict.fromkeys(wanted))
        # With *args anything would fit: hk.transform(f).apply is (params, rng, *args).
        if taken := sorted(early & {"rng", "key", *optional} - {*positional}):
            raise TypeError(f"{taken[0]!r} stands in the place of {' or '.join(positional)}")
    except TypeError as error:
        by_name = f", and {', '.join(optional)} where it has parameters of these names"
        raise TypeError(
            f"{what} has the parameters {signature}, and is called with ({', '.join(positional)})"
            f"{by_name if optional else ''}: {error}. {remedy}"
        ) from None

    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **{name: options[name] for name in wanted if name in options})

    return call


def _parameters(function: Any, what: str) -> dict[str, inspect.Parameter]:
    check_functions(**{what: function})
    try:
        parameters = dict(inspect.signature(function).parameters)
    except ValueError:  # Some functions written in C have none.
        return {}
    while isinstance(function, functools.partial):  # What is bound is not to be given.
        parameters = {name: p for name, p in parameters.items() if name not in function.keywords}
        function = function.func
    return parameters
