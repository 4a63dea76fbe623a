"""Compiling so that a signal does not wait for the compiler."""

import atexit
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from metajax.training.stopping import StopSignal

# A signal may reach another thread than the one that waits, which then has to look by itself.
_SECONDS_BETWEEN_LOOKS = 0.1


def compiled(program: Any, *args: Any, signals: StopSignal) -> Callable[..., Any]:
    """`program.lower(*args).compile()`, from which a signal leaves by `StoppedAtOnce`.

    Tracing stays in this thread, where JAX's settings are (`jax.default_matmul_precision`); XLA
    runs in another one, which goes on after a signal: nothing stops XLA.

    Args:
      program: a function under `jax.jit`.
      *args: what it is traced with.
      signals: told what is going on, asked whether to stop. Outside of the main thread no signal
        comes.
    """
    with signals.tracing():
        lowered = program.lower(*args)
    if threading.current_thread() is not threading.main_thread():
        return lowered.compile()
    results, errors, done = [], [], threading.Event()

    def work() -> None:
        try:
            results.append(lowered.compile())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="metajax compiles", daemon=True)
    signals.compiling()
    began = time.monotonic()
    try:
        thread.start()
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            signals.check()
        signals.check()
    except BaseException:
        atexit.register(_wait_at_exit, thread, began)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _wait_at_exit(thread: threading.Thread, began: float) -> None:
    """Python cannot end under XLA's compiler: the process would abort. Ctrl-C kills it, though."""
    if thread.is_alive():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        seconds = time.monotonic() - began
        print(
            f"waiting for the compiler, at work for {seconds:.0f} s; Ctrl-C ends the process",
            file=sys.stderr,
            flush=True,
        )
        thread.join()
