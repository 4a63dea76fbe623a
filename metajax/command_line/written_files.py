"""Files that a verb writes: proved possible before the work, and there as a whole or not at all."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def check_new_file(path: str, suffixes: tuple[str, ...], option: str, read: Iterable[str]) -> None:
    """Raises unless a file can be written there without harm to what is read.

    A file is replaced only if its name ends as those that are written do: no photograph is lost to
    a slip.

    Args:
      path: of the file.
      suffixes: of which its name has to have one.
      option: that it was given by, for the message.
      read: paths that the verb reads.

    Raises:
      OSError: its folder is missing or may not be written in, or a folder is there.
      ValueError: the name ends otherwise, or the file is one that is read.
    """
    if not path.lower().endswith(suffixes):
        ends = " or ".join(suffixes)
        raise ValueError(f"{option} is {path!r}; expected a file whose name ends in {ends}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{option} is {path!r}, and there is no folder {folder!r}; make it")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{option} is {path!r}, and in {folder!r} you may not write")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{option} is {path!r}, a folder; expected the name of a file")
    real = os.path.realpath(path)
    if any(os.path.realpath(each) == real for each in read):
        raise ValueError(f"{option} is {path!r}, which is read; choose another name")


def write_text(path: str, text: str) -> None:
    """Writes UTF-8 in one go: who reads the file finds the old one, or all of the new one.

    What is no Unicode, in a file's name say, is escaped.
    """
    whole = Path(os.path.realpath(path))  # A link stays one.
    descriptor, beside = tempfile.mkstemp(prefix=f".{whole.name}.", dir=whole.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)  # mkstemp's are nobody else's to read.
        os.replace(beside, whole)
    except BaseException:
        os.unlink(beside)
        raise
