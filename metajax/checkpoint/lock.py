"""One run writes in a folder of checkpoints, by a lock that the system takes from a dead process.

It is `flock` on a file in the folder, which names the process for whoever is refused. On NFS the
server keeps it, between hosts too: it goes when the process dies, and when a host that died no
longer renews it. Some file systems have no such lock, and neither has Windows: there a file that
stays would stop a run that is started again by nobody, so the run goes on and is told.
"""

import contextlib
import errno
import json
import os
import re
import socket
import sys
import weakref
from pathlib import Path

import jax

from metajax.parallel.processes import texts_of_processes
from metajax.regular_files import check_regular
from metajax.user_warnings import warn_user

if sys.platform != "win32":
    import fcntl

NAME = "writer.lock"


class FolderLock:
    """The lock of a folder, until `release`, or until it is collected as garbage."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Owns the open file, which is locked."""
        self._descriptor = descriptor
        self.release = weakref.finalize(self, _release, path, descriptor)
        _held.add(self)

    def forget(self) -> None:
        """In a forked child: the lock stays its parent's, and does not outlive it."""
        self.release.detach()
        os.close(self._descriptor)


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=lambda: [lock.forget() for lock in _held])


def lock_folder(folder: Path) -> FolderLock | None:
    """The lock of a folder, which is made; held by process 0 for all processes of the run.

    Returns:
      None where another process holds it for this one, and where the system has no locks.

    Raises:
      FileExistsError: in all processes: another run writes in the folder.
      OSError: in all processes: the folder or the file in it cannot be made.
    """
    lock, error = None, None
    if jax.process_index() == 0:
        try:
            lock = _locked(folder)
        except OSError as caught:
            error = caught
    told = texts_of_processes(json.dumps([isinstance(error, FileExistsError), str(error)]))[0]
    exists, text = json.loads(told)
    if error is not None:
        raise error
    if text != "None":
        raise (FileExistsError if exists else OSError)(text)
    return lock


def _locked(folder: Path) -> FolderLock | None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        with contextlib.suppress(FileNotFoundError):
            check_regular(path)
        with contextlib.ExitStack() as opened:
            descriptor = os.open(path, flags, 0o666)
            opened.callback(os.close, descriptor)
            if not _try_lock(descriptor, folder):
                return None
            if _lies_at(path, descriptor):  # Else its holder has ended meanwhile, and removed it.
                with contextlib.suppress(OSError):  # A full disk: the lock holds, and is nameless.
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {socket.gethostname()}".encode())
                opened.pop_all()
                return FolderLock(path, descriptor)


def _try_lock(descriptor: int, folder: Path) -> bool:
    """Whether the file is locked now; False, and a warning, where there are no locks."""
    why = "Windows has none"
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise FileExistsError(
                    f"{folder} belongs to a run that is alive: {_holder(descriptor)} writes its "
                    "checkpoints there. Wait for its end, or give every run a folder of its own"
                ) from error
            why = str(error)
    warn_user(
        f"no lock can be had in {folder} ({why}): nothing keeps a second run from writing there, "
        "and deleting this one's checkpoints; give every run a folder of its own"
    )
    return False


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 300, 0).decode(errors="replace")
    named = re.fullmatch(r"(\d+) (\S+)", text, re.ASCII)
    if not named:
        return "a process without a name"
    process, host = named.groups()
    if (int(process), host) == (os.getpid(), socket.gethostname()):
        return f"another Checkpoints, not closed, of this process ({process} on host {host})"
    return f"process {process} on host {host}"


def _lies_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    # Removed while it is locked: who has opened it by now finds it gone, and looks again.
    with contextlib.suppress(OSError):
        if _lies_at(path, descriptor):
            path.unlink()
    os.close(descriptor)
