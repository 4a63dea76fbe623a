"""What orbax and asyncio say of a checkpoint goes to the log, at the level of debug.

Where one fails they print a traceback for every array and thread; one warning of ours says what is
lost.
"""

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOG = logging.getLogger("metajax")

# Threads that work beside the one that failed tell of it later. Those of tensorstore, which nobody
# can wait for, are taken to be done after so long a silence.
_SECONDS_OF_SILENCE = 0.5
_SECONDS_AT_MOST = 10


class _Telling(logging.Filter):
    """Takes what orbax logs, by absl, and asyncio, and errors that nobody can catch.

    Attributes:
      within: how many contexts are open.
      errors: how many were taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.within = 0
        self.errors = 0
        self._loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
        self._hook = sys.unraisablehook

    def begin(self) -> None:
        with self.lock:
            self.within += 1
            if self.within == 1:
                for logger in self._loggers:
                    logger.addFilter(self)
                self._hook, sys.unraisablehook = sys.unraisablehook, self.unraisable

    def end(self) -> None:
        with self.lock:
            self.within -= 1
            if self.within == 0:
                for logger in self._loggers:
                    logger.removeFilter(self)
                if sys.unraisablehook == self.unraisable:
                    sys.unraisablehook = self._hook

    def filter(self, record: logging.LogRecord) -> bool:
        orbaxs = record.name == "asyncio" or "orbax" in Path(record.pathname).parts
        if record.levelno < logging.WARNING or not orbaxs:  # A user's program may log by absl, too.
            return True
        self.errors += record.levelno >= logging.ERROR
        _LOG.debug("orbax: %s", record.getMessage(), exc_info=record.exc_info)
        return False

    def unraisable(self, unraisable: Any) -> None:
        """Where one array failed, those that are done later find asyncio's loop closed."""
        error = unraisable.exc_value
        if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
            self.errors += 1
            _LOG.debug("orbax: after a failure", exc_info=error)
        else:
            self._hook(unraisable)


_telling = _Telling()


@contextlib.contextmanager
def orbax_at_debug() -> Iterator[None]:
    """While it lasts, what orbax and asyncio warn of goes to the logger `metajax`, as debug."""
    before = _telling.errors
    _telling.begin()
    try:
        yield
    finally:
        if _telling.errors > before:
            _wait_for_the_rest()
        _telling.end()


def _wait_for_the_rest() -> None:
    ends = time.monotonic() + _SECONDS_AT_MOST
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            # Its own `join` would raise what failed.
            threading.Thread.join(thread, max(0, ends - time.monotonic()))
    gc.collect()  # asyncio tells of an error that nobody asked for when its task is collected.
    errors = None
    while errors != _telling.errors and time.monotonic() < ends:
        errors = _telling.errors
        time.sleep(_SECONDS_OF_SILENCE)
