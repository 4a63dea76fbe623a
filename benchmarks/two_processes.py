"""Runs a script in two processes that find each other."""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence


def run_two(script: str, arguments: Sequence[str], *, timeout: float = 600) -> None:
    """Runs `python script arguments --coordinator ADDRESS --process I`, I = 0 and 1, to their end.

    What they print is dropped: gloo prints a line for every connection.

    Raises:
      RuntimeError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, script, *arguments, "--coordinator", address, "--process"]
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
