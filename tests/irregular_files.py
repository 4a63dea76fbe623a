"""What can lie at a path and is no regular file."""

import os
import socket
from pathlib import Path


def irregular(folder: Path) -> dict[str, Path]:
    """One of each kind of what is no regular file, and a link to each."""
    made = {"a FIFO": folder / "fifo", "a socket": folder / "s", "a device": Path("/dev/zero")}
    os.mkfifo(made["a FIFO"])
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)  # A socket's path has to be short.
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("s")
    finally:
        os.fchdir(here)
        os.close(here)
    return made
