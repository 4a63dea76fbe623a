"""The pictures that the arguments of a verb name: files, folders, and lists on standard input."""

import os
from collections.abc import Sequence
from typing import BinaryIO

from metajax.data.readers.decoding import SUFFIXES


def given_pictures(given: Sequence[str], listing: BinaryIO) -> list[str]:
    """The paths of pictures in order, each once.

    Args:
      given: files, which may end as they like or be missing; folders, whose pictures at any depth
        count, sorted by name, without hidden ones and what links to folders lead to; `-` for
        `listing`.
      listing: paths, one a line or each followed by a zero byte, as of `find -print0`.

    Raises:
      OSError: a folder cannot be read.
      ValueError: there is no picture.
    """
    if not given:
        raise ValueError("no picture was given; expected files, folders, or - for a list of them")
    found: dict[str, None] = {}
    for name in given:
        for path in _listed(listing) if name == "-" else [name]:
            found |= dict.fromkeys(_in_folder(path) if os.path.isdir(path) else [path])
    if not found and [*given] == ["-"]:
        raise ValueError("the list on standard input is empty; expected a path a line")
    if not found:
        where = ", ".join(repr(name) for name in given[:3])
        raise ValueError(
            f"there is no picture in {where}; expected files that end in {', '.join(SUFFIXES)}"
        )
    return [*found]


def _listed(listing: BinaryIO) -> list[str]:
    text = listing.read()
    lines = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [os.fsdecode(line) for line in lines if line]


def _in_folder(root: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(folder, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return found
