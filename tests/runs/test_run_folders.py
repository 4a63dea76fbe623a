"""Runs in folders: begun, gone on with, refused, and rebuilt from what is in them."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import metajax as mj
from metajax.recipes import changed, named
from metajax.runs import evaluate_run, load_run, report_run, train_run
from metajax.runs.evaluating import data_now, read_evaluation, scored_steps
from metajax.runs.figures import read_records
from metajax.runs.folder import write_whole

RECIPE = changed(named("maml-sinusoids-5s"), iterations=6, meta_batch=2, test_steps=2)


def begun(folder: Path, until: int | None = None, **changes: object) -> mj.runs.Run:
    """A run of few iterations, stopped at one of them."""
    settings = {"dispatch": 2, "checkpoint_every": 2, "progress": False, **changes}
    stop: Callable = lambda state, record: record["step"] == until  # noqa: E731
    return train_run(RECIPE, folder, on_dispatch=stop, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> mj.runs.Run:
    return begun(tmp_path_factory.mktemp("runs") / "whole")


def assert_same(left: object, right: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_says_what_it_is(whole: mj.runs.Run) -> None:
    assert (whole.step, whole.stopped) == (6, "finished")
    assert whole.shape == (1,)
    found = load_run(whole.folder)
    assert found.recipe == RECIPE
    assert found == mj.runs.Run(**{**vars(whole), "stopped": None})
    assert repr(found).startswith("Run of maml-sinusoids-5s, 6 of 6 iterations, in '/")


def test_a_run_that_was_stopped_goes_on_by_the_same_call(
    whole: mj.runs.Run, tmp_path: Path
) -> None:
    stopped = begun(tmp_path, until=2)
    assert (stopped.step, stopped.stopped) == (2, "callback")
    finished = begun(tmp_path)
    assert (finished.step, finished.stopped) == (6, "finished")
    assert_same(finished.params(), whole.params())
    steps = [json.loads(line)["step"] for line in finished.metrics.read_text().splitlines()]
    assert steps == [2, 4, 6]
    again = begun(tmp_path)  # There is nothing to do.
    assert (again.step, again.stopped) == (6, "finished")
    assert len(finished.metrics.read_text().splitlines()) == 3


def test_another_run_is_refused_with_what_differs(whole: mj.runs.Run) -> None:
    before = {path: path.read_bytes() for path in whole.folder.glob("*.*") if path.is_file()}
    with pytest.raises(FileExistsError) as refused:
        begun(whole.folder, seed=1)
    said = "holds another run (maml-sinusoids-5s, 6 of 6 iterations): seed is 0 there and 1 here"
    assert said in str(refused.value)
    with pytest.raises(FileExistsError, match="validate_every is None there and 2 here"):
        begun(whole.folder, validate_every=2)
    other = changed(RECIPE, iterations=7, outer_rate=0.5)
    with pytest.raises(FileExistsError) as refused:
        train_run(other, whole.folder)
    assert "recipe.training.outer.rate is 0.001 there and 0.5 here" in str(refused.value)
    assert "recipe.training.iterations is 6 there and 7 here" in str(refused.value)
    with pytest.raises(
        FileExistsError, match=r"recipe\.training\.data is 'sinusoids' there and 'gly"
    ):
        train_run(named("maml-glyphs"), whole.folder)
    assert before == {path: path.read_bytes() for path in before}


def test_what_is_no_runs_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex' and is no run's folder"):
        begun(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(FileNotFoundError, match=r"is no run's folder: it has no run\.json"):
        load_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere' is no folder; expected a folder that"):
        load_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record | {"format": 2}, "is of format 2, made by metajax .*pip install -U"),
        (lambda record: {"format": 1}, "is not what `metajax train` wrote: settings is missing"),
        (lambda record: [record], "record is .*; expected a mapping"),
        (lambda record: record["settings"].update(seed=0.5), "seed is 0.5; expected an integer"),
        (
            lambda record: record["settings"].update(seed=2**32),
            "seed is 4294967296; expected .* 4,",
        ),
        (lambda record: record["settings"].update(shape=[]), "shape is .*; expected a list of 1"),
        (
            lambda record: record["settings"].update(shape=[2**9] * 3),
            "item of at most 67108864",
        ),
        (
            lambda record: record["settings"]["recipe"]["training"]["network"].update(
                widths=[10**9, 10**9]
            ),
            r"widths\[0\] is 1000000000; expected an integer of 1 to 65,536",
        ),
        (
            lambda record: record["settings"].update(classes=[3]),
            "classes is .*; expected a mapping",
        ),
        (
            lambda record: record["settings"]["recipe"]["training"].update(data="../../etc"),
            "data is '../../etc'; expected",
        ),
    ],
)
def test_a_damaged_record_is_told(
    whole: mj.runs.Run, tmp_path: Path, change: Callable, said: str
) -> None:
    record = json.loads((whole.folder / "run.json").read_text())
    record = change(record) or record
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=said):
        load_run(tmp_path)


def test_a_record_that_is_no_json_is_told(tmp_path: Path) -> None:
    for text in ("", "{", "[" * 100_000, "\x00", "NaN"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match="is not what `metajax train` wrote: "):
            load_run(tmp_path)
    (tmp_path / "run.json").unlink()
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(OSError, match="is a FIFO"):
        load_run(tmp_path)


def test_a_record_that_somebody_changed_is_not_its_checkpoints(
    whole: mj.runs.Run, tmp_path: Path
) -> None:
    record = json.loads((whole.folder / "run.json").read_text())
    record["settings"]["recipe"]["training"]["outer"]["rate"] = 0.5
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "checkpoints").symlink_to(whole.checkpoints)
    with pytest.raises(ValueError, match=r"is of another run\. options differ: 'run' is"):
        load_run(tmp_path).params()


@pytest.mark.slow
def test_the_best_at_validation_is_kept(tmp_path: Path) -> None:
    run = begun(tmp_path, validate_every=2, validation_episodes=3)
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    best = min(records, key=lambda record: record["validation"])  # A loss: the least.
    assert int(run.state("best").step) == int(run.state().step) == best["step"]
    assert int(run.state("newest").step) == 6
    with pytest.raises(ValueError, match='which=\'last\'; expected "best" or "newest"'):
        run.state("last")  # type: ignore[arg-type]


def test_without_a_validation_the_newest_is_tested(whole: mj.runs.Run) -> None:
    assert int(whole.state().step) == 6
    with pytest.raises(FileNotFoundError, match="holds no checkpoint with a score"):
        whole.state("best")


def test_classes_to_validate_on_must_be_unseen(tmp_path: Path) -> None:
    recipe = named("prototypical-omniglot-5w1s")
    with pytest.raises(ValueError, match="trains on the part 'train_and_validation', so that no c"):
        train_run(recipe, tmp_path / "run", validate_every=10)


def test_data_that_are_missing_are_told_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = named("maml-omniglot-5w1s")
    monkeypatch.delenv("METAJAX_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match=r"of the data set 'omniglot', and .*METAJAX_DATA"):
        train_run(recipe, tmp_path / "run")
    monkeypatch.setenv("METAJAX_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as missing:
        train_run(recipe, tmp_path / "run")
    assert f"looked for in {str(tmp_path / 'omniglot')!r}" in str(missing.value)
    assert "METAJAX_DATA_DIR" in str(missing.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_test_is_written(whole: mj.runs.Run) -> None:
    scores = evaluate_run(load_run(whole.folder), episodes=3, seed=5)
    record = json.loads((whole.folder / "evaluation.json").read_text())
    assert (record["step"], record["episodes"], record["seed"]) == (6, 3, 5)
    assert record["inner_steps"] == [0, 1, 2]
    assert record["mean"]["query_loss_per_step"] == scores.mean("query_loss_per_step").tolist()
    assert record["interval"]["query_loss"] == scores.interval("query_loss")


@pytest.mark.slow
def test_a_test_is_drawn(whole: mj.runs.Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (whole.folder / "evaluation.json").unlink(missing_ok=True)
    with pytest.warns(RuntimeWarning, match="no test.png: the run was not tested"):
        drawn = report_run(load_run(whole.folder), tmp_path / "untested")
    assert [path.name for path in drawn] == ["training.png", "episode.png"]
    evaluate_run(load_run(whole.folder), episodes=3, seed=5)
    drawn = report_run(load_run(whole.folder), tmp_path / "figures")
    assert [path.name for path in drawn] == ["training.png", "test.png", "episode.png"]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in drawn)


def test_a_test_that_was_not_finite_is_drawn(whole: mj.runs.Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = load_run(shutil.copytree(whole.folder, tmp_path / "run"))
    evaluate_run(run, episodes=2)
    record = json.loads((run.folder / "evaluation.json").read_text())
    for part in ("mean", "interval"):
        record[part] |= {"query_loss": None, "query_loss_per_step": [0.5, None, None]}
    (run.folder / "evaluation.json").write_text(json.dumps(record))
    assert "test.png" in [path.name for path in report_run(run)]
    record |= {"mean": {"accuracy": None}, "interval": {"accuracy": 0.1}}
    record |= {"inner_steps": [], "accuracies": [0.5, None]}
    (run.folder / "evaluation.json").write_text(json.dumps(record))
    assert "test.png" in [path.name for path in report_run(run)]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [record],
        lambda record: {},
        lambda record: record | {"episodes": "3"},
        lambda record: record | {"mean": [1.0]},
        lambda record: record | {"interval": {}},
        lambda record: record | {"inner_steps": 3},
        lambda record: record | {"inner_steps": [10**400, 1, 2]},
        lambda record: record | {"inner_steps": [0]},
        lambda record: record | {"accuracies": ["high"]},
        lambda record: record | {"mean": {"query_loss": 1.0}},
        lambda record: record | {"mean": record["mean"] | {"query_loss": 10**400}},
    ],
)
def test_a_damaged_evaluation_is_none(whole: mj.runs.Run, tmp_path: Path, change: Callable) -> None:
    path = whole.folder / "evaluation.json"
    if not path.exists():
        evaluate_run(whole, episodes=2)
    assert read_evaluation(whole.folder) is not None
    (tmp_path / path.name).write_text(json.dumps(change(json.loads(path.read_text()))))
    assert read_evaluation(tmp_path) is None


def test_records_hold_finite_numbers_alone(tmp_path: Path) -> None:
    lines = [
        '{"step": 4, "loss": NaN, "validation": 1e400, "accuracy": 0.5, "note": "x", "on": true}',
        '{"step": 2, "loss": 1}',
        '{"step": 2, "loss": -3.5}',
        '{"step": 1e400}',
        '{"step": "1"}',
        '{"step": true}',
        '{"loss": 1}',
        f'{{"step": {10**400}}}',
        "[" * 10_000,
        "[1]",
        '{"step": 6, "lo',
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines))
    assert read_records(path) == [{"step": 2, "loss": -3.5}, {"step": 4, "accuracy": 0.5}]


def test_of_many_inner_steps_some_are_scored() -> None:
    assert scored_steps(changed(RECIPE, test_steps=3)) == [0, 1, 2, 3]
    assert scored_steps(changed(RECIPE, test_steps=23)) == [0, 1, 5, 10, 20, 23]
    assert scored_steps(named("prototypical-glyphs")) == []


def test_data_are_where_they_were_unless_they_are_gone(whole: mj.runs.Run, tmp_path: Path) -> None:
    there = dataclasses.replace(whole, data_dir=str(tmp_path))
    gone = dataclasses.replace(whole, data_dir=str(tmp_path / "gone"))
    assert (data_now(there, None), data_now(gone, None)) == (str(tmp_path), None)
    assert data_now(there, "elsewhere") == "elsewhere"


def test_a_file_that_could_not_be_replaced_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a.json", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_matplotlib_lacks_is_named(
    whole: mj.runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"Matplotlib, .* imported \(.*metajax\[pictures"):
        report_run(whole, tmp_path)


FRESH = """
import json, sys, warnings
warnings.simplefilter("error")
from metajax.runs import evaluate_run, load_run, report_run
run = load_run(sys.argv[1])
scores = evaluate_run(run, episodes=3, seed=5)
report_run(run, sys.argv[2])
assert "matplotlib.pyplot" not in sys.modules
print(json.dumps(scores.scores["query_loss_per_step"].tolist()))
"""
TRAIN = """
import sys, time
from metajax.recipes import changed, named
from metajax.runs import train_run
recipe = changed(named("maml-sinusoids-5s"), iterations=6, meta_batch=2, test_steps=2)
train_run(recipe, sys.argv[1], dispatch=2, checkpoint_every=2, progress=False,
          on_dispatch=lambda state, record: record["step"] > 3 and time.sleep(600))
"""


@pytest.mark.slow
def test_a_fresh_process_has_the_same_scores_from_the_folder_alone(
    whole: mj.runs.Run, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    scores = evaluate_run(whole, episodes=3, seed=5)
    moved = tmp_path / "moved"
    whole.folder.rename(moved)
    try:
        arguments = [sys.executable, "-c", FRESH, str(moved), str(tmp_path / "figures")]
        told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    finally:
        moved.rename(whole.folder)
    np.testing.assert_allclose(json.loads(told), scores.scores["query_loss_per_step"], rtol=1e-6)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(whole: mj.runs.Run, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path / "run")])
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run" / "checkpoints" / "2").is_dir():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(FileExistsError, match="belongs to a run that is alive"):
            begun(tmp_path / "run")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert load_run(tmp_path / "run").step in (2, 4)
    finished = begun(tmp_path / "run")
    assert finished.stopped == "finished"
    assert_same(finished.params(), whole.params())
