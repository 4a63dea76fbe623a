"""Settings that are no numbers: flags, texts, paths and mappings."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from metajax.kinds import in_brief


def check_flags(**given: Any) -> None:
    """Raises a TypeError unless every argument is True or False, of Python or NumPy.

    What else Python takes for true or false is a slip, and an array cannot be part of the program.
    """
    for name, flag in given.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{name}={flag!r}; expected True or False")


def check_optional_flags(**given: Any) -> None:
    """The same, of arguments that may be None."""
    for name, flag in given.items():
        if flag is not None and not isinstance(flag, bool | np.bool_):
            raise TypeError(f"{name}={flag!r}; expected True or False, or None")


def check_texts(**given: Any) -> None:
    """Raises a TypeError unless every argument is a string."""
    for name, text in given.items():
        if not isinstance(text, str):
            raise TypeError(f"{name}={in_brief(text)}; expected a string")


def check_optional_texts(**given: Any) -> None:
    """The same, of arguments that may be None."""
    check_texts(**{name: text for name, text in given.items() if text is not None})


def check_paths(**given: Any) -> None:
    """Raises a TypeError unless every argument is a string or a path."""
    for name, path in given.items():
        if not isinstance(path, str | PathLike):
            raise TypeError(f"{name}={in_brief(path)}; expected a path, or a string that is one")


def check_optional_paths(**given: Any) -> None:
    """The same, of arguments that may be None."""
    check_paths(**{name: path for name, path in given.items() if path is not None})


def check_mappings(**given: Any) -> None:
    """Raises a TypeError unless every argument is a mapping, by strings."""
    for name, mapping in given.items():
        if not isinstance(mapping, Mapping):
            raise TypeError(f"{name} is {in_brief(mapping)}; expected a mapping, {{name: ...}}")


def check_names(**given: Any) -> None:
    """Raises a TypeError unless every argument is a list or tuple of strings."""
    for name, names in given.items():
        several = isinstance(names, list | tuple | np.ndarray)
        if not several or not all(isinstance(each, str) for each in names):
            raise TypeError(f"{name} is {in_brief(names)}; expected a list of strings")
