"""Runs a script in two processes that find each other."""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def free_address() -> str:
    """A host and port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments by which a script's own processes are told who they are; not shown."""
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)


def run_two(script: str, arguments: Sequence[str], *, timeout: float = 600) -> None:
    """Runs `python script arguments --coordinator ADDRESS --process I`, I = 0 and 1, to their end.

    What they print is dropped: gloo prints a line for every connection.

    Raises:
      RuntimeError: one of them failed.
    """
    command = [sys.executable, script, *arguments, "--coordinator", free_address(), "--process"]
    workers = [
        subprocess.Popen([*command, str(process)], stdout=subprocess.DEVNULL)
        for process in range(2)
    ]
    ends = time.monotonic() + timeout
    try:
        # Where one fails, the other waits for it in vain.
        while any(worker.poll() is None for worker in workers):
            if any(worker.poll() for worker in workers) or time.monotonic() > ends:
                break
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise RuntimeError(f"the two processes ended with {codes}; expected 0 and 0")
