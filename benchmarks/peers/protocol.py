"""How the comparison talks to a contender: JSON lines to and from a process of its own.

The driver holds a `Worker` for every contender; the contender's script calls `serve`. Arrays go by
file. Only the standard library and NumPy are imported: this runs in both environments.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """One meta-gradient to compute. `chunk_size` is metajax's."""

    data: str
    network: str
    regression: bool
    rate: float
    steps: int
    first_order: bool
    chunk_size: int | None
    precision: str

    def read(self) -> tuple[Arrays, Arrays]:
        """Weights and episodes, in the case's precision."""
        with np.load(self.data) as file:
            arrays = {
                name: array.astype(self.precision) if array.dtype.kind == "f" else array
                for name, array in file.items()
            }
        episodes = {name: arrays.pop(name) for name in ("xs", "ys", "xq", "yq")}
        return arrays, episodes


class Training(NamedTuple):
    """A whole training run.

    Attributes:
      case: the network, its weights at the start, the inner steps; where tasks are drawn from
        images, the case's data has them as `images` `[classes, items, height, width, channels]`,
        integers in `[0, 255]`.
      ways: classes of a task; 1 in regression.
      shots: support items of a class.
      queries: query items of a class.
      tasks: in an iteration.
      outer_rate: of Adam.
      iterations: in all.
      window: iterations between two records; divides `iterations`.
      seed: of the tasks.
      keep: write the tasks, for the driver to train on the same.
    """

    case: Case
    ways: int
    shots: int
    queries: int
    tasks: int
    outer_rate: float
    iterations: int
    window: int
    seed: int
    keep: bool


class Program(NamedTuple):
    """A contender on one case.

    Attributes:
      run: one meta-step's gradient, finished when it returns.
      export: that gradient as arrays of the weights' names and layout.
    """

    run: Callable[[], Any]
    export: Callable[[Any], Arrays]


def interpreter(path: str) -> Path:
    """A Python, as an argument of a command line."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(
            f"{path}: no such interpreter; make one with `bash benchmarks/peers/install.sh FOLDER` "
            "and pass FOLDER/bin/python"
        )
    return Path(path)


class LeftOutError(Exception):
    """A contender that cannot take part; the text says why."""


def serve(build: Callable[[Case, Arrays, Arrays], Program], memory: int) -> None:
    """Answers the driver until it closes the pipe.

    Args:
      build: `(case, weights, episodes) -> Program`.
      memory: bytes this process may allocate; above that it fails rather than the machine.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # The answers get a descriptor of their own, so that nobody's printing disturbs them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    program: Program | None = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if message["do"] == "prepare":
                case = Case(**message["case"])
                program = None  # Frees what the last one held.
                arrays = case.read()
                started = time.perf_counter()
                program = build(case, *arrays)
                gradient = program.run()
                answer = {"seconds": time.perf_counter() - started}
                np.savez(message["out"], allow_pickle=False, **program.export(gradient))
                del gradient
            elif program is None:
                answer = {"error": "asked to run before anything was prepared"}
            else:
                answer = {"times": _times(program, message["seconds"])}
        except Exception as error:  # Whatever a contender raises is its result.
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0][:200]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _times(program: Program, seconds: float) -> list[float]:
    times = []
    ends = time.perf_counter() + seconds
    while not times or time.perf_counter() < ends:
        started = time.perf_counter()
        program.run()
        times.append(time.perf_counter() - started)
    return times


class Worker:
    """The driver's end of a contender. Its process starts when first asked, and again if it died.

    Args:
      command: that starts a script which calls `serve`.
      log: file for what the contender prints; its path must not have spaces, since a folder beside
        it is where `torch.compile` works.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def ask(self, message: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a message.

        Raises:
          LeftOutError: the contender failed, died, or took more than `limit` seconds.
        """
        if self._process is None:
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                    # Compiling is to be timed, not the reading of an earlier run's result.
                    env=os.environ
                    | {"TORCHINDUCTOR_CACHE_DIR": str(self._log.with_suffix(".compiled"))},
                )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], limit)
        if not ready:
            self.close()
            raise LeftOutError(f"took more than {limit:.0f} s")
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            lines = self._log.read_text(errors="replace").strip().splitlines() or [""]
            raise LeftOutError(f"died with exit status {code}: {lines[-1][:200]}")
        answer = json.loads(line)
        if "error" in answer:
            raise LeftOutError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the contender's process and those it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    assert pipe is not None
                    pipe.close()
            self._process = None
