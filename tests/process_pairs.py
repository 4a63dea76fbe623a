"""A program that is run by two processes which find each other."""

import subprocess
import sys
from pathlib import Path

from two_processes import free_address


def run_twice(program: str, folder: Path) -> None:
    """Runs a program, given address, number of the process and folder, and checks that it ends."""
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(index), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=240)
            assert process.returncode == 0, printed[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
