"""Runs in processes of their own: killed, terminated, many devices apart."""

import json
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the benchmarks need metajax[bench]")
pytest.importorskip("rich", reason="the benchmarks need metajax[bench]")

import agreement
import survival

import metajax as mj

pytestmark = pytest.mark.slow


@pytest.mark.exact
@pytest.mark.parametrize(("processes", "iterations"), [(1, 3000), (2, 3000)])
def test_a_killed_run_ends_bit_for_bit_as_one_left_alone(
    processes: int, iterations: int, tmp_path: Path
) -> None:
    out = tmp_path / "a folder"
    arguments = ["--kills", "3", "--processes", str(processes), "--out", str(out)]
    arguments += ["--iterations", str(iterations)]
    assert survival.run(survival.parser().parse_args(arguments))
    assert survival.newest(out / "killed") == iterations
    lives = json.loads((out / "survival.json").read_text())["lives"]
    assert any(life["newest checkpoint"] > life["from step"] for life in lives[:-1])
    assert 0 < lives[-1]["from step"] < iterations


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path: Path) -> None:
    arguments = ["--processes", "2", "--iterations", "100000"]
    args = survival.parser().parse_args(arguments)
    workers = survival.start_run(args, tmp_path)
    try:
        ends = time.monotonic() + 120
        while not survival.newest(tmp_path) and time.monotonic() < ends:
            time.sleep(0.05)
        workers[1].send_signal(signal.SIGTERM)
        assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    step = survival.newest(tmp_path)
    assert 0 < step < 100000
    assert int(mj.restore_state(tmp_path, survival.start()[1]).step) == step


@pytest.mark.usefixtures("float64")
def test_every_way_to_run_gives_the_result_of_one_device(tmp_path: Path) -> None:
    names = ["maml, convolutions", "reptile", "prototypical"]
    arguments = ["--learners", *names, "--out", str(tmp_path / "agreement.json")]
    rows = agreement.run(agreement.parser().parse_args(arguments))
    assert {row["learner"] for row in rows} == set(names)
    assert len({row["way"] for row in rows}) == 8
    for row in rows:
        for part in agreement.Trace._fields:
            assert row[part] < 1e-12, row
