"""How a run is told to stop: Ctrl-C and SIGTERM, and what each phase of the loop makes of them."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, Self

import jax

Stopped = Literal["finished", "exhausted", "interrupted", "terminated", "non-finite", "callback"]

# What the loop is at, and what it says to a signal then. `{seconds}` is how long it has been at it.
READING = "stopping when the next episodes are read"
RUNNING = "stopping after the dispatch in progress"
REPORTING = "stopping when the last dispatch is validated, saved and reported"
_TRACING = "stopping"
_COMPILING = (
    "stopping; the compiler, at work for {seconds:.0f} s, cannot be stopped: the process ends when "
    "it is done"
)
# Several processes stop together, after a dispatch: none of them may leave alone.
_TOGETHER = {
    READING: "stopping with the other processes, after the next dispatch",
    _TRACING: "stopping after the program is compiled and one dispatch, with the other processes",
    _COMPILING: "stopping after the program is compiled (at work for {seconds:.0f} s) and one "
    "dispatch, with the other processes",
}

# What asks the loop to stop, as the numbers that processes exchange: the largest counts.
CALLBACK = 1
_REASONS: dict[int, Stopped] = {
    CALLBACK: "callback",
    int(signal.SIGINT): "interrupted",
    int(signal.SIGTERM): "terminated",
}


def why(number: int) -> Stopped:
    """In words why the loop stops: the number of a signal, or `CALLBACK`."""
    return _REASONS[number]


class StoppedAtOnce(KeyboardInterrupt):
    """A signal came while no dispatch was running, so that there is nothing to wait for."""


class StopSignal:
    """Ctrl-C and SIGTERM, remembered while the context lasts so that the dispatch is not lost.

    Attributes:
      received: the number of the signal, 0 where none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}
        self._process = os.getpid()
        self._alone = jax.process_count() == 1
        self._raises = False
        self.begin(READING)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Others may not set handlers.
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._receive) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def begin(self, phase: str) -> None:
        """Says what the loop is at from now on, such as `RUNNING`."""
        self._phase = phase if self._alone else _TOGETHER.get(phase, phase)
        self._since = time.monotonic()

    def check(self) -> None:
        """Raises `StoppedAtOnce` where a signal came and this process may stop alone."""
        if self.received and self._alone:
            raise StoppedAtOnce

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """The phase of tracing: Python's code alone, which a signal leaves by `StoppedAtOnce`."""
        self.begin(_TRACING)
        self._raises = self._alone
        try:
            yield
        finally:
            self._raises = False
        self.check()  # What is raised in a destructor is lost.

    def compiling(self) -> None:
        """Begins the phase of compiling, in another thread."""
        self.begin(_COMPILING)

    def _receive(self, signum: int, frame: object) -> None:
        del frame
        if os.getpid() != self._process:  # A fork, a loader's worker say, whose run this is not.
            self.__exit__()
            os.kill(os.getpid(), signum)
            return
        self.received = signum
        self.__exit__()  # A second one stops at once.
        message = self._phase.format(seconds=time.monotonic() - self._since)
        print(f"\n{message}", file=sys.stderr, flush=True)
        if self._raises:
            raise StoppedAtOnce
