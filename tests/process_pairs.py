"""A program that is run by two processes which find each other."""

import subprocess
import sys
from pathlib import Path

from two_processes import free_address


def run_twice(program: str, folder: Path) -> None:
    """Runs a program, given address, number of the process and folder, and checks that it ends."""
    for status, printed in ends_of_two(program, folder):
        assert status == 0, printed[-2000:]


def ends_of_two(program: str, folder: Path | str, *, seconds: float = 240) -> list[tuple[int, str]]:
    """Exit status and what was printed of each of the two processes; those that hang are killed."""
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
        printed = [process.communicate(timeout=seconds)[0] for process in processes]
        return [
            (process.returncode, text) for process, text in zip(processes, printed, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
