"""How a cache comes onto the disk: space reserved first, whole or not at all, no leftovers."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IMAGES = "images.npy"

_WORKSHOP = ".metajax-unfinished-"
_DAY = 24 * 60 * 60
_BLOCK = 2**24
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextlib.contextmanager
def workshop(folder: Path, needed: int) -> Iterator[Path]:
    """A folder beside `folder` to make a cache in, gone afterwards.

    What killed processes left of theirs is removed a day after it was last written to.

    Args:
      folder: of the cache; folders above it are made.
      needed: bytes that the cache takes.

    Raises:
      OSError: see `writing`.
    """
    with writing(folder, needed):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{_WORKSHOP}*"):
            if time.time() - _last_written(left) > _DAY:
                shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
        room = Path(tempfile.mkdtemp(prefix=_WORKSHOP, dir=folder.parent))
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path, needed: int) -> Iterator[None]:
    """Says of an `OSError` which cache could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        room = f"make room for {needed / 1e6:,.0f} MB, or " if error.errno in _NO_ROOM else ""
        raise OSError(
            f"the cache {str(folder)!r} could not be written ({error}); {room}pass another cache "
            "folder"
        ) from error


def allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped uint8 array whose disk space is really there.

    Writing to a mapped page for which the disk has no room would kill the process.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        left = int(np.prod(shape))
        if not _reserved(file.fileno(), file.tell(), left):
            while left:
                left -= file.write(bytes(min(left, _BLOCK)))
    return np.lib.format.open_memmap(path, mode="r+")


def _reserved(descriptor: int, start: int, length: int) -> bool:
    """Whether the system could reserve the space; not all systems and file systems can."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(descriptor, start, length)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def put_in_place(folder: Path, made: Path, old: Path) -> None:
    """Puts `made` where `folder` is; a process killed in between leaves none, never half."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # Else another was faster.
            raise


def _last_written(room: Path) -> float:
    """When anything in a workshop was last written to, in seconds."""
    times = []
    for path in (room, room / "made", room / "made" / IMAGES):
        with contextlib.suppress(OSError):  # It was never there, or its maker has just ended.
            times.append(path.stat().st_mtime)
    return max(times, default=time.time())
