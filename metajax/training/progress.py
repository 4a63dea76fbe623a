"""What a training run shows on the host while it runs."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from metajax.regular_files import IrregularFileError
from metajax.user_warnings import warn_user

Record = dict[str, Any]


def mean_over_runs(value: Any) -> float:
    """One number of a record; of a stack's list of them the mean of the runs that go on."""
    each = np.asarray(value, dtype=np.float64)  # Of None, a run that stopped, it is NaN.
    there = each[~np.isnan(each)]
    return float(there.mean()) if there.size else math.nan


class MetricsFile:
    """A file of JSON lines to append records to; one that cannot be written is no reason to stop.

    A last line that was cut off is ended first.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._file = None
        if path is not None:
            if Path(path).is_fifo():
                raise IrregularFileError(
                    f"metrics_file={str(path)!r} is a FIFO, whose reader training waits for; "
                    "expected a regular file, or on_dispatch= for what is to go elsewhere"
                )
            self._file = Path(path).open("a+b", buffering=0)  # noqa: SIM115 (closed on exit)
        self._warned = False
        if self._file is not None and self._file.seekable() and self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._write(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, record: Record) -> None:
        """Writes a record as a line, at once."""
        self._write(json.dumps(record).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line)
        except OSError as error:
            if not self._warned:
                warn_user(f"{self._file.name} could not be written: {error}; training goes on")
            self._warned = True


class _Bar(tqdm):
    """Without tqdm's thread, which would outlive the run: every dispatch may be shown."""

    monitor_interval = 0


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, done: int, iterations: int, meta_batch: int, *, enabled: bool) -> None:
        self._iterations = iterations
        self._meta_batch = meta_batch
        self._lines = enabled and not sys.stderr.isatty()
        self._printed = -math.inf
        self._bar = _Bar(
            total=iterations,
            initial=done,
            unit="step",
            miniters=1,
            disable=not enabled or self._lines,
        )

    def update(self, record: Record, steps: int) -> None:
        """Shows the record of a dispatch of `steps` iterations."""
        names = ["loss", "query_loss", "accuracy"]
        if record.get("query_loss") == record["loss"]:
            names.remove("query_loss")
        shown = {name: f"{mean_over_runs(record[name]):.4g}" for name in names if name in record}
        shown["tasks/s"] = f"{record['tasks_per_second']:.0f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(steps)
        now = time.monotonic()
        last = record["step"] == self._iterations
        if self._lines and (last or now - self._printed >= 10):
            self._printed = now
            left = (self._iterations - record["step"]) * self._meta_batch
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            minutes = left / record["tasks_per_second"] / 60
            print(
                f"step {record['step']}/{self._iterations}  {text}  {minutes:.1f} min left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()
