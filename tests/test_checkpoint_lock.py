"""One run writes in a folder; the others are refused, and who only reads is not."""

import errno
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_states import names, open_checkpoints, same, save_steps, state_of

import metajax as mj
from metajax.checkpoint import reading
from metajax.checkpoint.lock import lock_folder

_WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from checkpoint_states import open_checkpoints, state_of

checkpoints = open_checkpoints(Path(sys.argv[1]), keep=1)
checkpoints.begin(checkpoints.restore(state_of()))
child = os.fork() if sys.argv[2] == "fork" else 0
if sys.argv[2] != "fork" or child:
    checkpoints.save(state_of(1))
    checkpoints.wait()
    print(child, flush=True)
    for line in sys.stdin:
        checkpoints.save(state_of(int(line)))
        checkpoints.wait()
        print(line, end="", flush=True)
elif sys.stdin.read():
    raise SystemExit("the child was told something")
"""


@contextmanager
def _writer(folder: Path, way: str = "") -> Iterator[Any]:
    """A run in another process that has written step 1, writes those it is told, and lives on."""
    program = _WRITER.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        process.child = int(process.stdout.readline())  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with _writer(tmp_path) as process:
        told = rf"{tmp_path} .*: process {process.pid} on host {socket.gethostname()} writes"
        with open_checkpoints(tmp_path) as checkpoints:
            restored = checkpoints.restore(state_of())
            assert same(restored, state_of(1))
            for refused in (
                lambda: checkpoints.begin(restored),
                lambda: checkpoints.save(state_of(2)),
                lambda: open_checkpoints(tmp_path).begin(state_of()),
            ):
                with pytest.raises(FileExistsError, match=told):
                    refused()
        process.stdin.write("5\n")
        process.stdin.flush()
        assert process.stdout.readline() == "5\n"
        assert names(tmp_path) == ["5", "writer.lock"]
        assert same(mj.restore_state(tmp_path, state_of()), state_of(5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert names(tmp_path) == ["5", "writer.lock"]
        with open_checkpoints(tmp_path) as checkpoints:
            checkpoints.begin(checkpoints.restore(state_of()))
            checkpoints.save(state_of(6))
    assert names(tmp_path) == ["5", "6"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with _writer(tmp_path, "fork") as process:
        with pytest.raises(FileExistsError, match=f"process {process.pid} "):
            open_checkpoints(tmp_path).begin(mj.restore_state(tmp_path, state_of()))
        try:
            process.kill()
            process.wait()
            os.kill(process.child, 0)  # It lives: its standard input is open.
            with open_checkpoints(tmp_path) as checkpoints:
                checkpoints.begin(checkpoints.restore(state_of()))
        finally:
            os.kill(process.child, signal.SIGKILL)


def test_what_is_deleted_while_it_is_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that keeps one checkpoint deletes it for the next, which is read then."""

    def too_late(path: Path) -> dict[str, Any]:
        monkeypatch.setattr(reading, "read_record", read_record)
        checkpoints.save(state_of(2))
        checkpoints.wait()
        return read_record(path)

    read_record = reading.read_record
    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_of(1))
        checkpoints.wait()
        monkeypatch.setattr(reading, "read_record", too_late)
        assert same(mj.restore_state(tmp_path, state_of()), state_of(2))


def test_an_older_one_is_not_read_for_one_that_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one stays beside the newest, which is deleted for the next while it is read."""

    def too_late(path: Path, record: dict[str, Any]) -> dict[str, Any]:
        monkeypatch.setattr(reading, "read_arrays", read_arrays)
        checkpoints.save(state_of(3))
        checkpoints.wait()
        return read_arrays(path, record)

    read_arrays = reading.read_arrays
    with open_checkpoints(tmp_path, keep=1, best=1) as checkpoints:
        checkpoints.save(state_of(1), score=0.5)
        checkpoints.save(state_of(2))
        checkpoints.wait()
        monkeypatch.setattr(reading, "read_arrays", too_late)
        assert same(mj.restore_state(tmp_path, state_of()), state_of(3))


def test_two_checkpoints_of_one_process(tmp_path: Path) -> None:
    first = open_checkpoints(tmp_path)
    first.save(state_of(1))
    second = open_checkpoints(tmp_path)
    second.restore(state_of())
    with pytest.raises(FileExistsError, match=rf"another Checkpoints, not closed, .*{os.getpid()}"):
        second.begin(state_of(1))
    first.save(state_of(2))
    first.close()
    assert same(second.restore(state_of()), state_of(2))
    second.begin(state_of(2))
    with pytest.raises(FileExistsError, match="not closed"):
        first.save(state_of(3))
    second.save(state_of(3))
    second.close()
    with pytest.raises(FileExistsError, match="a checkpoint of step 3, and this run begins at st"):
        first.save(state_of(4))
    assert names(tmp_path) == ["2", "3"]


def test_a_lock_goes_with_its_checkpoints(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(state_of(1))
    checkpoints.wait()
    checkpoints = None
    gc.collect()
    save_steps(tmp_path / "other", 1)
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))


def test_a_run_that_is_refused_holds_no_lock(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    refused = open_checkpoints(tmp_path)
    with pytest.raises(FileExistsError, match="a checkpoint of step 1"):
        refused.begin(state_of())
    assert names(tmp_path) == ["1"]
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.begin(checkpoints.restore(state_of()))


def test_of_many_that_begin_at_once_one_has_the_lock(tmp_path: Path) -> None:
    """Also while others end, and remove the file that the next ones have opened."""
    holders, together, taken = [], [], []

    def take(number: int) -> None:
        for _ in range(200):
            try:
                lock = lock_folder(tmp_path)
            except FileExistsError:
                continue
            holders.append(number)
            together.append(len(holders))
            taken.append(number)
            holders.remove(number)
            lock.release()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(take, range(4)))
    assert set(together) == {1}
    assert len(taken) > 10
    assert names(tmp_path) == []


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr("fcntl.flock", flock)
        (tmp_path / "writer.lock").unlink()
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr("fcntl.flock", removed_first)
    lock = lock_folder(tmp_path)
    with pytest.raises(FileExistsError):
        lock_folder(tmp_path)
    assert lock is not None
    lock.release()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        del descriptor, operation
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with (
        pytest.warns(RuntimeWarning, match=r"no lock can be had .*Function not implemented"),
        open_checkpoints(tmp_path) as checkpoints,
    ):
        checkpoints.save(state_of(1))
    assert same(mj.restore_state(tmp_path, state_of()), state_of(1))


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path, aim = tmp_path / "run" / "writer.lock", tmp_path / "aim"
    path.parent.mkdir()
    aim.write_text("kept")
    if kind == "link":
        path.symlink_to(aim)
    else:
        (os.mkfifo if kind == "FIFO" else os.mkdir)(path)
    with pytest.raises(OSError, match=r"writer\.lock"):
        open_checkpoints(tmp_path / "run").begin(state_of())
    assert aim.read_text() == "kept"
