"""The flags by which modules are told whether they are being trained."""

from collections.abc import Callable
from typing import Any

from metajax.signatures import takes

_TRAINING = ("train", "training", "is_training")
_STILL = ("deterministic", "inference", "use_running_average")


def mode_flags(call: Callable[..., Any], *, training: bool) -> dict[str, bool]:
    """The flags that `call` has parameters for, with or without a default, as training has them."""
    flags = dict.fromkeys(_TRAINING, training) | dict.fromkeys(_STILL, not training)
    return {name: value for name, value in flags.items() if takes(call, name)}
