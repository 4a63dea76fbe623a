"""Nothing that is not a regular file is opened.

Opening a FIFO waits for its writer, for ever where there is none; reading a device may never end.
Whoever opens a path that a user names, or that lies in a user's folder, does so by `open_regular`;
before a path is given to a library that opens it itself, it is walked by `check_regular`.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class IrregularFileError(OSError):
    """A path that is neither a regular file nor a link to one, where one is expected."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read its bytes, without waiting for anybody.

    Raises:
      IrregularFileError: it is a FIFO, a socket, a device or a folder.
      OSError: it is not there, or may not be read.
    """
    _refuse(path, os.stat(path).st_mode)
    # Between the two somebody may have put another file there.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _refuse(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file that is read whole: one with holes may promise more than memory holds.

    Raises:
      OSError: see `open_regular`.
      ValueError: it has more than `most` bytes.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"{os.fspath(path)!r} has {size} bytes; expected at most {most}")
        return file.read()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises unless a path is a regular file, or a folder of such files and folders.

    Raises:
      IrregularFileError: something else is there, or in a folder below; a link leads nowhere.
      OSError: it is not there, or may not be read.
    """
    seen, left = set(), [Path(path)]
    while left:
        here = left.pop()
        try:
            found = here.stat()
        except OSError as error:
            if here.is_symlink():
                raise IrregularFileError(f"{str(here)!r} is a link that leads nowhere") from error
            raise
        if not stat.S_ISDIR(found.st_mode):
            _refuse(here, found.st_mode)
        elif (inode := (found.st_dev, found.st_ino)) not in seen:  # A link may lead back up.
            seen.add(inode)
            left.extend(here.iterdir())


def _refuse(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise IrregularFileError(f"{os.fspath(path)!r} is {kind}; expected a regular file")
