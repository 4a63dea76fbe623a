"""One process that fails ends the others, which would wait for it in a collective.

Every process writes into the key-value store of JAX's coordinator that it ends, and why, and looks
there for the others. Nothing can be raised in a thread that waits in a collective, so a process
that cannot go on says so on stderr and exits.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import jax

# JAX's public functions reach its coordinator for barriers only; orbax reaches it so, too.
from jax._src import distributed

_FOLDER = "metajax/ended"
_ENDED = "ended"

_SECONDS_BETWEEN_LOOKS = 1.0
# What fails in all processes is raised in each of them; where one fails, gloo may say so itself.
_SECONDS_FOR_ITS_OWN_ERROR = 3.0
# JAX's processes wait for each other at their end, for minutes where one of them was killed.
_SECONDS_TO_LEAVE_TOGETHER = 10.0


class _Watch:
    """What this process tells the others, and the thread that looks for what they tell.

    Attributes:
      needs_all: how many computations are open that cannot end without every process.
    """

    def __init__(self) -> None:
        self.needs_all = 0
        self._process = os.getpid()
        self._told = ""
        self._ends = threading.Event()
        self._hook, sys.excepthook = sys.excepthook, self._uncaught
        self._thread = threading.Thread(target=self._look, name="metajax watches", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)  # Before JAX's own, which waits for the others.

    def _tell(self, what: str) -> None:
        if self._told or (client := distributed.global_state.client) is None:
            return
        if os.getpid() != self._process:  # A forked child's end is not that of the run.
            return
        self._told = what
        with contextlib.suppress(Exception):  # There is nobody to tell.
            client.key_value_set(f"{_FOLDER}/{distributed.global_state.process_id}", what)

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        self._hook(kind, error, traceback)
        if not hasattr(sys, "ps1"):  # At a prompt the process lives on.
            self._tell(f"failed with {kind.__name__}: {error}"[:1000])

    def _at_exit(self) -> None:
        if os.getpid() != self._process:
            return
        self._ends.set()
        self._tell(_ENDED)
        self._thread.join(_SECONDS_TO_LEAVE_TOGETHER)
        if self._told != _ENDED:
            _leave_together()
        else:
            _wait_for_all()

    def _look(self) -> None:
        while not self._ends.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                if self._missing() and not self._ends.wait(_SECONDS_FOR_ITS_OWN_ERROR):
                    self._exit(self._missing())
            except Exception:  # The coordinator is gone, for which JAX ends this process.
                return

    def _missing(self) -> str:
        """What another process told without which this one cannot go on."""
        state = distributed.global_state
        if state.client is None:
            return ""
        for name, what in state.client.key_value_dir_get(_FOLDER):
            process = int(name.rpartition("/")[2])
            if process != state.process_id and (what != _ENDED or self.needs_all):
                return f"process {process} of {state.num_processes} {what}"
        return ""

    def _exit(self, missing: str) -> None:
        if not missing:
            return
        me = f"process {distributed.global_state.process_id}"
        print(f"{missing}; {me} cannot go on without it, and exits", file=sys.stderr, flush=True)
        self._tell("cannot go on")  # One that has ended waits for it.
        _leave_together()
        os._exit(1)


_watch: _Watch | None = None


def watch_processes() -> None:
    """From now on this process exits where another one fails; alone it does nothing."""
    global _watch
    if _watch is None and jax.distributed.is_initialized():
        _watch = _Watch()


@contextlib.contextmanager
def needing_all_processes() -> Iterator[None]:
    """While it lasts, this process exits where another one ends in whatever way."""
    watch_processes()
    if _watch is None:
        yield
        return
    _watch.needs_all += 1
    try:
        yield
    finally:
        _watch.needs_all -= 1


def _wait_for_all() -> None:
    """Until every process has told its end: JAX aborts all of them where one comes minutes later.

    One of them may evaluate alone for hours. One that is killed is missed by JAX here, too.
    """
    state = distributed.global_state
    with contextlib.suppress(Exception):  # The coordinator is gone.
        while state.client and len(state.client.key_value_dir_get(_FOLDER)) < state.num_processes:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _leave_together() -> None:
    """Ends JAX's connection at once with the others; where they do not come, exits without."""
    leaving = threading.Thread(target=_shut_down, name="metajax leaves", daemon=True)
    leaving.start()
    leaving.join(_SECONDS_TO_LEAVE_TOGETHER)
    if leaving.is_alive():
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1)


def _shut_down() -> None:
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
