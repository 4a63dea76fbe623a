"""What pictures are called where they are listed: short, and each but once."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def names_of(pictures: Sequence[Any] | np.ndarray, taken: Sequence[str]) -> list[str]:
    """`"folder/file"` of a file, and `"#3"` of the fourth picture where it is none.

    Args:
      pictures: files, or what else.
      taken: names that there are already, of the pictures before; the same one again has a number.
    """
    if not isinstance(pictures[0], str | os.PathLike):
        return [f"#{len(taken) + row}" for row in range(len(pictures))]
    return _told_apart((_short(path) for path in pictures), {*taken})


def _short(path: str | os.PathLike[str]) -> str:
    name = "/".join(Path(os.path.abspath(path)).parts[-2:])
    return os.fsencode(name).decode("utf-8", "replace")  # What is no text is no JSON, either.


def _told_apart(names: Iterable[str], taken: set[str]) -> list[str]:
    found = []
    for name in names:
        number, own = 1, name
        while own in taken:
            number += 1
            own = f"{name} ({number})"
        taken.add(own)
        found.append(own)
    return found
