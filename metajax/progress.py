"""What a training run shows on the host while it runs, and how it is told to stop."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

Record = dict[str, Any]


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that the dispatch in progress is not lost."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(signum: int, frame: object) -> None:
        del signum, frame
        stop.set()
        signal.signal(signal.SIGINT, before)  # A second Ctrl-C stops at once.
        print("\nstopping after the dispatch in progress", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, done: int, iterations: int, meta_batch: int, *, enabled: bool) -> None:
        self._iterations = iterations
        self._meta_batch = meta_batch
        self._lines = enabled and not sys.stderr.isatty()
        self._printed = -math.inf
        self._bar = tqdm(
            total=iterations, initial=done, unit="step", disable=not enabled or self._lines
        )

    def update(self, record: Record, steps: int) -> None:
        """Shows the record of a dispatch of `steps` iterations."""
        names = ["loss", "query_loss", "accuracy"]
        if record.get("query_loss") == record["loss"]:
            names.remove("query_loss")
        shown = {name: f"{record[name]:.4g}" for name in names if name in record}
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
