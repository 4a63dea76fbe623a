"""The command `metajax`: how it starts and ends, and what it says when something is wrong.

An error that the library or the system raises for what was given is one sentence. Any other is a
mistake of the library, and is shown whole. `exit_codes` lists the numbers it ends with.
"""

import atexit
import contextlib
import dis
import io
import os
import platform
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import partialmethod
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import jax
from tqdm import tqdm

from metajax.command_line import exit_codes
from metajax.command_line.option_names import as_typed
from metajax.command_line.output import Output, UnwrittenError, printable
from metajax.version import VERSION

if TYPE_CHECKING:
    from metajax.command_line.verbs import Command

_GIVEN = (ValueError, TypeError, KeyError, ImportError)
_OURS = "metajax"
_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_SIGNAL_SECONDS = 0.05  # After which a signal that was lost is sent again.
_RAISE = dis.opmap["RAISE_VARARGS"]


class _Terminated(BaseException):
    """SIGTERM came, where nobody else waits for it."""


_STOPPED = {KeyboardInterrupt: "stopped by Ctrl-C", _Terminated: "stopped by SIGTERM"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see `exit_codes`.

    Args:
      argv: the arguments after the command's name; None reads the process's own.
    """
    _open_streams()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UnwrittenError as error:
        # What is left in the buffer would be written, and fail, once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error.__cause__, BrokenPipeError):
            return exit_codes.PIPE_CLOSED
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.WRONG
    except KeyboardInterrupt:
        print(f"\n{_STOPPED[KeyboardInterrupt]}", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except _Terminated:
        print(_STOPPED[_Terminated], file=sys.stderr)
        return exit_codes.TERMINATED


def process() -> NoReturn:
    """The command as a process, which ends with its exit code."""
    code = main()
    if code in (exit_codes.INTERRUPTED, exit_codes.TERMINATED):
        # A signal that came while XLA compiled leaves an executable behind, and Python's own end
        # would crash on it.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Standard output and error that take any character, and are there where they were closed."""
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A terminal may know ASCII alone.


def _run(argv: Sequence[str]) -> int:
    try:
        from metajax.command_line.verbs import parsed
    except ModuleNotFoundError as error:
        if error.name != "tyro":
            raise
        Output(as_json="--json" in argv).fail(
            'the command needs tyro; pip install "metajax[pictures]"'
        )
        return exit_codes.WRONG
    try:
        command = parsed(argv)
    except SystemExit as end:  # Help was asked for, or no verb takes these arguments.
        code = exit_codes.WELL if end.code is None else int(end.code)
        if code == exit_codes.USAGE:
            Output(as_json="--json" in argv).end("no verb takes these arguments")
        return code
    out = Output(as_json=command.json, quiet=command.quiet)
    with _bars(out.progress), _warnings_to(out, command.verb), _signals():
        return _ended(command, out)


def _ended(command: "Command", out: Output) -> int:
    try:
        return command.run(out)
    except UnwrittenError:
        raise
    except (KeyboardInterrupt, _Terminated) as stop:
        out.end(_STOPPED[type(stop)])
        raise
    except Exception as error:
        sentence = _sentence(error)
        if command.traceback or sentence is None:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
        out.fail(_bug(error) if sentence is None else as_typed(sentence, command.verb))
        return exit_codes.BUG if sentence is None else exit_codes.WRONG


def _sentence(error: Exception) -> str | None:
    """What is wrong with what was given; None where that is not why it was raised."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"there is not enough memory: {str(error).strip() or 'no more is to be had'}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or _OURS).startswith(_OURS):
        return f'{error.name} is not installed; pip install "metajax[pictures]"'
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
        return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}"
    if isinstance(error, OSError):
        return str(error)
    if not isinstance(error, _GIVEN) or not _was_checked(error.__traceback__):
        return None
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return "\n".join([message, *getattr(error, "__notes__", ())])


def _was_checked(trace: TracebackType | None) -> bool:
    """Whether a `raise` of the library's own made the error: a check found it, no slip of ours."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code
    ours = os.path.abspath(code.co_filename).startswith(_LIBRARY)
    return ours and code.co_code[trace.tb_lasti] == _RAISE


def _bug(error: Exception) -> str:
    return (
        f"this is a mistake in metajax, not in what you gave: {type(error).__name__}: {error}\n"
        f"Please report it with the lines above, and: metajax {VERSION}, JAX "
        f"{jax.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Progress bars of the library's readers are for terminals, and nobody's when told so."""
    if shown:
        yield
        return
    before = tqdm.__init__
    tqdm.__init__ = partialmethod(before, disable=True)  # pyright: ignore
    try:
        yield
    finally:
        tqdm.__init__ = before


@contextlib.contextmanager
def _warnings_to(out: Output, verb: object) -> Iterator[None]:
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # Of what will change one day: for programmers.
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter("default", category)
        warnings.showwarning = lambda message, *_, **__: out.warn(as_typed(str(message), verb))
        yield


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM ends the verb from within, as Ctrl-C does, so that it leaves no half-written file."""
    if threading.current_thread() is not threading.main_thread():  # Others set no handlers.
        yield
        return
    numbers = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}

    def terminate(*_: object) -> None:
        raise _Terminated

    def once_more(lost: "sys.UnraisableHookArgs") -> None:
        # What a signal raises within a destructor, or in JAX's callback of the garbage collector,
        # is lost.
        if lost.exc_type in numbers:
            again = (os.getpid(), numbers[lost.exc_type])
            threading.Timer(_SIGNAL_SECONDS, os.kill, again).start()
        else:
            unraisable(lost)

    before, unraisable = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = once_more
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, before)
