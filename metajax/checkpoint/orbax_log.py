"""What orbax and asyncio say of a checkpoint that fails goes to the log, at the level of debug.

They print a traceback for every array and thread, where one warning of ours says what is lost.
"""

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_LOG = logging.getLogger("metajax")

# Threads that work beside the one that failed tell of it later. Those of tensorstore, which nobody
# can wait for, are taken to be done after so long a silence.
_SECONDS_OF_SILENCE = 0.5
_SECONDS_AT_MOST = 10


class _Telling(logging.Filter):
    """Takes errors from the loggers to which it is added, and those that nobody can catch.

    Attributes:
      within: how many contexts are open.
      told: how often there was something to take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.within = 0
        self.told = 0
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
        if record.levelno < logging.ERROR:
            return True
        self._tell(record.getMessage(), record.exc_info)
        return False

    def unraisable(self, unraisable: Any) -> None:
        """Where one array failed, those that are done later find asyncio's loop closed."""
        error = unraisable.exc_value
        if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
            self._tell("after a failure", (type(error), error, unraisable.exc_traceback))
        else:
            self._hook(unraisable)

    def _tell(self, message: str, exc_info: Any) -> None:
        self.told += 1
        _LOG.debug("orbax: %s", message, exc_info=exc_info)


_telling = _Telling()


@contextlib.contextmanager
def orbax_at_debug() -> Iterator[None]:
    """While it lasts, errors that orbax and asyncio log go to the logger `metajax`, as debug."""
    before = _telling.told
    _telling.begin()
    try:
        yield
    finally:
        if _telling.told > before:
            _wait_for_the_rest()
        _telling.end()


def _wait_for_the_rest() -> None:
    ends = time.monotonic() + _SECONDS_AT_MOST
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            # Its own `join` would raise what failed.
            threading.Thread.join(thread, max(0, ends - time.monotonic()))
    gc.collect()  # asyncio tells of an error that nobody asked for when its task is collected.
    told = None
    while told != _telling.told and time.monotonic() < ends:
        told = _telling.told
        time.sleep(_SECONDS_OF_SILENCE)
