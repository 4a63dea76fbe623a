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
import traceback
from collections.abc import Callable, Iterator
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
        self._before = self._hook = sys.unraisablehook

    def begin(self) -> None:
        with self.lock:
            self.within += 1
            if self.within == 1:
                for logger in self._loggers:
                    logger.addFilter(self)
                self._before = sys.unraisablehook
                self._hook = sys.unraisablehook = self._hook_before(self._before)

    def end(self) -> None:
        with self.lock:
            self.within -= 1
            if self.within == 0:
                for logger in self._loggers:
                    logger.removeFilter(self)
                if sys.unraisablehook is self._hook:  # Else somebody else's calls it.
                    sys.unraisablehook = self._before

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not _is_orbaxs(record):
            return True
        self.errors += record.levelno >= logging.ERROR
        _LOG.debug("orbax: %s", record.getMessage(), exc_info=record.exc_info)
        return False

    def _hook_before(self, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A hook that takes what orbax causes, and gives the rest to another."""

        def unraisable(unraisable: Any) -> None:
            # Where one array failed, those that are done later find asyncio's loop closed.
            error = unraisable.exc_value
            closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
            if closed and self.within:
                self.errors += 1
                _LOG.debug("orbax: after a failure", exc_info=error)
            else:
                hook(unraisable)

        return unraisable


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


def _is_orbaxs(record: logging.LogRecord) -> bool:
    """A user's program may log by absl, and have tasks of asyncio that fail, too."""
    if record.name != "asyncio":
        return "orbax" in Path(record.pathname).parts
    raised = record.exc_info[2] if record.exc_info else None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(raised)]
    return not files or any("orbax" in Path(file).parts for file in files)


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
