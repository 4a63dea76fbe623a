"""Warnings that name the user's line, however deep in the library they arise."""

import sys
import warnings

# What may lie between the user's line and a warning of the library.
_WITHIN = ("metajax", "jax", "contextlib")


def warn_user(message: str) -> None:
    """Gives a `RuntimeWarning` at the first frame outside of the library, the user's line."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _WITHIN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)
