"""What orbax says of a failure is in the log, and nothing is hidden after it."""

import asyncio
import gc
import logging
import sys
from types import SimpleNamespace

import orbax.checkpoint as ocp
import pytest

from metajax.checkpoint.orbax_log import orbax_at_debug

ABSL = logging.getLogger("absl")


def _orbax_logs(level: int, message: str, *args: object) -> None:
    record = ABSL.makeRecord("absl", level, ocp.__file__, 1, message, args, None)
    ABSL.handle(record)


def _call_a_closed_loop() -> RuntimeError:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError) as raised:
        loop.call_soon_threadsafe(print)
    return raised.value


def _unraisable(error: Exception) -> SimpleNamespace:
    traceback = error.__traceback__
    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=traceback)


def test_what_orbax_warns_of_is_told_while_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with orbax_at_debug():
        _orbax_logs(logging.ERROR, "array %d failed", 3)
        _orbax_logs(logging.INFO, "saved")
        ABSL.error("of a user")
    _orbax_logs(logging.ERROR, "of a user's own checkpoint")
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("metajax", "DEBUG", "orbax: array 3 failed"),
        ("absl", "INFO", "saved"),
        ("absl", "ERROR", "of a user"),
        ("absl", "ERROR", "of a user's own checkpoint"),
    ]


def test_what_nobody_can_catch_is_told_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", passed.append)
    before = sys.unraisablehook
    other = _unraisable(ValueError("a user's"))
    closed = _unraisable(_call_a_closed_loop())
    caplog.set_level(logging.DEBUG)
    with orbax_at_debug():
        sys.unraisablehook(closed)  # type: ignore[arg-type]
        sys.unraisablehook(other)  # type: ignore[arg-type]
    assert passed == [other]
    assert [record.exc_info[1] for record in caplog.records] == [closed.exc_value]
    assert sys.unraisablehook is before


def test_one_within_another_ends_with_the_outer(caplog: pytest.LogCaptureFixture) -> None:
    hook = sys.unraisablehook
    first, second = orbax_at_debug(), orbax_at_debug()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    _orbax_logs(logging.ERROR, "of the second")
    second.__exit__(None, None, None)
    _orbax_logs(logging.ERROR, "of nobody")
    assert [record.getMessage() for record in caplog.records] == ["of nobody"]
    assert sys.unraisablehook is hook


async def _fail() -> None:
    raise ValueError("a task of a user")


async def _forget_a_task() -> None:
    task = asyncio.create_task(_fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()


def test_a_users_task_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with orbax_at_debug():
        asyncio.run(_forget_a_task())
    assert [record.name for record in caplog.records] == ["asyncio"]


def test_a_hook_that_is_set_meanwhile_calls_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", passed.append)
    with orbax_at_debug():
        before = sys.unraisablehook
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: before(unraisable))
    other = _unraisable(ValueError("a user's"))
    closed = _unraisable(_call_a_closed_loop())
    with orbax_at_debug():
        sys.unraisablehook(other)  # type: ignore[arg-type]
    sys.unraisablehook(closed)  # type: ignore[arg-type]
    assert passed == [other, closed]
