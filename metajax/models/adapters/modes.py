"""The flags by which modules are told whether they are being trained."""

from collections.abc import Callable
from typing import Any

from metajax.signatures import called_by_name, takes

_TRAINING = ("train", "training", "is_training")
_STILL = ("deterministic", "inference", "use_running_average")


def mode_flags(call: Callable[..., Any], *, training: bool) -> dict[str, bool]:
    """The flags that `call` has parameters for, with or without a default, as training has them."""
    flags = dict.fromkeys(_TRAINING, training) | dict.fromkeys(_STILL, not training)
    return {name: value for name, value in flags.items() if takes(call, name)}


def check_call(module: Any, *also: str) -> None:
    """Raises unless a module is called with inputs alone, flags, and what is `also` given by name.

    Raises:
      TypeError: it takes something else that has no default.
    """
    called_by_name(
        type(module).__call__,
        f"the __call__ of {type(module).__name__}",
        ("self", "inputs"),
        (*_TRAINING, *_STILL, *also),
        remedy="Expected a module of one argument, a pytree if need be: put it in one of your own, "
        "def __call__(self, inputs, train): return self.net(inputs['ids'], inputs['mask'], "
        "is_train=train)",
    )
