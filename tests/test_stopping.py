"""Signals before a dispatch: nothing is waited for, and what is said is true."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

import metajax as mj
from metajax.training.compiling import compiled
from metajax.training.stopping import READING, REPORTING, RUNNING, StoppedAtOnce, StopSignal

SAMPLE = mj.data.sinusoid_episodes(shots=2, queries=2)
STATE = mj.TrainState(jnp.ones(8), (), jnp.zeros((), jnp.int32), jax.random.key(3))


def _send(signum: int) -> None:
    """Only the main thread runs handlers, between two of its instructions."""
    os.kill(os.getpid(), signum)
    threading.Event().wait(0.05)


def _step(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
    params = state.params + episodes.query.targets.mean()
    return state._replace(params=params), {"loss": params.sum()}


def _train(step: Callable, state: mj.TrainState = STATE, **options: object) -> mj.TrainResult:
    options = {"iterations": 5, "meta_batch": 2, "dispatch": 2, "progress": False, **options}
    return mj.train(step, None, state, SAMPLE, **options)


class _Program:
    """In the place of what `jax.jit` returns: its compiler works until it is told to end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self.ends = threading.Event(), threading.Event()
        self.error = error
        self.lowered_in: threading.Thread | None = None

    def lower(self) -> "_Program":
        self.lowered_in = threading.current_thread()
        return self

    def compile(self) -> str:
        self.began.set()
        if self.error is not None:
            raise self.error
        self.ends.wait()
        return "compiled"


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would be called at exit."""
    calls = []
    monkeypatch.setattr(atexit, "register", lambda *call: calls.append(call))
    return calls


def _when_it_compiles(program: _Program, then: Callable[[], object]) -> None:
    threading.Thread(target=lambda: (program.began.wait(), then()), daemon=True).start()


def test_a_signal_leaves_the_compiler_behind(
    exits: list, capsys: pytest.CaptureFixture[str]
) -> None:
    program = _Program()
    _when_it_compiles(program, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopSignal() as signals, pytest.raises(StoppedAtOnce):
        compiled(program, signals=signals)
    assert signals.received == signal.SIGTERM
    said = "\nstopping; the compiler, at work for 0 s, cannot be stopped: the process ends when it"
    assert capsys.readouterr().err.startswith(said)
    ((_, thread, _),) = exits
    assert thread.is_alive()
    assert program.lowered_in is threading.main_thread()
    program.ends.set()
    thread.join()


def test_several_processes_stop_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    program = _Program()

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.05)
        program.ends.set()

    _when_it_compiles(program, stop)
    with StopSignal() as signals:
        assert compiled(program, signals=signals) == "compiled"
    assert signals.received == signal.SIGINT
    said = r"stopping after the program is compiled (at work for 0 s) and one dispatch, with the o"
    assert said in capsys.readouterr().err
    with StopSignal() as signals:
        _send(signal.SIGINT)
    assert "with the other processes, after the next dispatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (READING, "stopping when the next episodes are read"),
        (RUNNING, "stopping after the dispatch in progress"),
        (REPORTING, "stopping when the last dispatch is validated, saved and reported"),
    ],
)
def test_what_is_waited_for(phase: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A shell's background processes ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as signals:
            signals.begin(phase)
            _send(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):  # A second one stops at once.
                _send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == f"\n{said}\n"


def test_errors_of_the_compiler_come_with_their_traceback(exits: list) -> None:
    with StopSignal() as signals, pytest.raises(RuntimeError, match="no memory") as caught:
        compiled(_Program(RuntimeError("no memory")), signals=signals)
    assert "in compile\n    raise self.error" in "".join(traceback.format_exception(caught.value))
    assert not exits


def _interrupted_while_traced(signum: int) -> Callable:
    """A step that is traced once for the checks, and then for its program."""
    traces = []

    def step(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
        traces.append(None)
        if len(traces) == 2:
            _send(signum)
            raise AssertionError("tracing went on")
        return _step(state, episodes)

    return step


@pytest.mark.parametrize(
    ("signum", "stopped"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_while_tracing_stops_at_once(
    signum: int, stopped: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        result = _train(_interrupted_while_traced(signum), checkpoints=checkpoints)
    assert result.stopped == stopped
    assert result.history == []
    chex.assert_trees_all_equal(result.state.params, STATE.params)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "\nstopping\n"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert _train(_step).stopped == "finished"  # JAX can trace again.


def test_a_signal_while_a_later_program_is_traced_keeps_what_was_trained(tmp_path: Path) -> None:
    """The last dispatch is shorter, and a program of its own."""
    traces = []

    def step(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
        if traces and traces[-1] == "trained":
            _send(signal.SIGINT)
        return _step(state, episodes)

    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        result = _train(
            step,
            on_dispatch=lambda state, record: traces.append("trained"),
            checkpoints=checkpoints,
        )
    assert result.stopped == "interrupted"
    assert int(result.state.step) == int(mj.restore_state(tmp_path, STATE).step) == 4


_LONG = """
import atexit, os, signal, sys, threading, time
import jax, jax.numpy as jnp
import metajax as mj

def layer(x):
    return jax.lax.sort(x * 1.5)

# Traced once, and many times as long for the compiler.
for _ in range({depth}):
    layer = jax.jit(lambda x, layer=layer: [x := layer(x) for _ in range(8)][-1])

def step(state, episodes):
    params = layer(state.params)
    return state._replace(params=params), {{"loss": params.sum()}}

def compiling():
    return any(thread.name == "metajax compiles" for thread in threading.enumerate())

def terminate():
    while not compiling():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

state = mj.TrainState(jnp.ones(8), (), jnp.zeros((), jnp.int32), jax.random.key(0))
sample = mj.data.sinusoid_episodes(shots=2, queries=2)
threading.Thread(target=terminate, daemon=True).start()
result = mj.train(step, None, state, sample, iterations=4, meta_batch=2, progress=False)
print(result.stopped, int(result.state.step), float(result.state.params.sum()), compiling())
sys.stdout.flush()
sys.exit(128 + signal.SIGTERM)
"""


def _long(depth: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _LONG.format(depth=depth)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_compiles_returns_its_result_at_once() -> None:
    with _long(4) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "terminated 0 8.0 True\n"
            said = iter(process.stderr.readline, "")
            assert any("cannot be stopped: the process ends when it is done" in x for x in said)
            assert any(x.endswith("s; Ctrl-C ends the process\n") for x in said)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=300) == -signal.SIGINT
        finally:
            process.kill()


@pytest.mark.slow
def test_a_process_ends_when_the_compiler_is_done() -> None:
    process = _long(3)
    out, _ = process.communicate(timeout=600)
    assert out == "terminated 0 8.0 True\n"
    assert process.returncode == 128 + signal.SIGTERM
