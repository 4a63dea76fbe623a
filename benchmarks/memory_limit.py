"""Running a program under a limit of memory, page cache included, where Linux allows it."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def run_limited(arguments: list[str], limit: int) -> str:
    """Runs this Python with arguments; says how its memory was limited, and the most it took.

    Args:
      arguments: of the interpreter.
      limit: bytes.
    """
    first = (_ROOT / "memory").is_dir()  # Version 1 of control groups.
    group = (_ROOT / "memory" if first else _ROOT) / f"metajax-{os.getpid()}"
    names = (
        ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        if first
        else ("memory.max", "memory.peak")
    )
    try:
        group.mkdir()
        (group / names[0]).write_text(str(limit))
    except OSError as error:
        if group.exists():
            group.rmdir()
        subprocess.run([sys.executable, *arguments], check=True)
        return f"no limit: control groups are not to be had ({error})"
    join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    try:
        subprocess.run(["sh", "-c", join, "sh", sys.executable, *arguments], check=True)
        peak = group / names[1]  # Not in every kernel.
        most = f"{int(peak.read_text()) / 1e9:.2f} GB" if peak.exists() else "not known"
    finally:
        group.rmdir()
    return f"limit {limit / 1e9:.2f} GB, page cache included; the most in use: {most}"


def own_memory() -> float:
    """MB that this process has of its own now: no files, no page cache."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1e3
