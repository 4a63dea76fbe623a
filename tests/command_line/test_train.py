"""`metajax train`, `evaluate` and `report`, on a recipe without files."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from metajax.command_line import evaluate, train
from metajax.command_line.main import main
from metajax.recipes import changed, named
from metajax.runs import load_run

TRAIN = "train maml-sinusoids-5s run --iterations 4 --meta-batch 2 --steps 1 --test-steps 1"
Told = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """The exit code, the results and the rest of a command."""

    def tell(words: str) -> tuple[int, str, str]:
        code = main(shlex.split(words))
        return code, *capsys.readouterr()

    return tell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder in which a run is trained already."""
    monkeypatch.chdir(folder)
    if not Path("run").exists():
        assert main(shlex.split(f"{TRAIN} --quiet")) == 0


def test_a_run_that_is_done_says_so_again(told: Told) -> None:
    code, results, rest = told(TRAIN)
    assert (code, rest) == (0, "")
    assert results.startswith("maml-sinusoids-5s: 4 of 4 iterations, meta-loss ")
    assert results.endswith("Next: metajax evaluate run\n")
    code, results, _ = told(f"{TRAIN} --json")
    record = json.loads(results)
    assert (record["iterations"], record["of"], record["stopped"]) == (4, 4, "finished")
    assert (record["run"], record["best_validation"], record["own_classes"]) == ("run", None, None)


def test_a_run_is_tested_and_drawn(told: Told) -> None:
    code, results, rest = told("evaluate run --episodes 3")
    assert (code, rest) == (0, "")
    first, titles, *rows, following = results.splitlines()
    assert first.startswith("maml-sinusoids-5s after 4 iterations: 3 test episodes, seed 0")
    assert titles.split() == ["inner", "steps", "query", "loss"]
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert following == "Next: metajax report run"
    _, results, _ = told("evaluate run --episodes 3 --json")
    record = json.loads(results)
    mean, half = record["mean"]["query_loss"], record["interval"]["query_loss"]
    assert rows[1].split()[1:] == [f"{mean:.4g}", "±", f"{half:.2g}"]
    assert evaluate._shown(0.5, 0.02, 100) == "50 ± 2"
    code, results, rest = told("report run -o figures")
    assert (code, rest) == (0, "")
    drawn = [str(Path("figures", f"{name}.png")) for name in ("training", "test", "episode")]
    assert results == "".join(f"Wrote {path}\n" for path in drawn)
    assert all(Path(path).is_file() for path in drawn)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{TRAIN} --seed 3", "holds another run (maml-sinusoids-5s, 4 of 4 iterations): seed is "),
        ("train maml-sinsuoids-5s new", "'maml-sinsuoids-5s'; did you mean 'maml-sinusoids-5s' or"),
        ("train maml-sinusoids new", "begins the names of 3 recipes; expected one of 'maml-sinus"),
        (
            "train ridge_head new --inner-rate 0.1",
            "--inner-rate 0.1; leave it out: ridge_head",
        ),
        ("train maml-omniglot-5w1s new --data-dir nowhere", "METAJAX_DATA_DIR"),
        ("train maml-glyphs new --pictures nowhere", "nowhere' is no folder; expected one with a "),
        ("train maml-glyphs new --ways 0", "--ways 0; expected an integer of 1 or more"),
        ("train maml-glyphs new --ways 65537", "expected an integer of 1 to 65,536"),
        (
            "train maml-glyphs new --seed 4294967296",
            "--seed 4294967296; expected an integer of",
        ),
        ("train tulips new", "'tulips'; expected algorithm-data-ways-shots, such as '"),
        ("evaluate nowhere", "nowhere' is no folder; expected a folder that `metajax train`"),
        ("evaluate run --episodes 1", "--episodes 1; expected an integer of 2 or more"),
        ("evaluate run --which best", "holds no checkpoint with a score"),
        ("evaluate run --pictures flowers", "was not trained on pictures of one's own"),
        ("report .", "is no run's folder: it has no run.json"),
    ],
)
def test_what_is_wrong_is_one_sentence(told: Told, words: str, said: str) -> None:
    code, results, rest = told(words)
    assert (code, results) == (1, "")
    assert rest.startswith("error: ")
    assert said in rest
    assert len(rest.splitlines()) == 1
    assert not Path("new").exists()


def test_what_could_not_be_saved_is_not_done(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run("run")
    longer = dataclasses.replace(run, recipe=changed(run.recipe, iterations=9), stopped="finished")
    monkeypatch.setattr(train, "train_run", lambda *_, **__: longer)
    code, results, rest = told(TRAIN)
    assert code == 1
    assert "Next" not in results
    assert rest.startswith("error: all 9 iterations are done, and no later one than 4 could be sav")


@pytest.mark.parametrize(("data", "best"), [("sinusoids", 0.25), ("glyphs", 0.75)])
def test_the_best_validation_is_the_least_loss_or_the_most_right(
    tmp_path: Path, data: str, best: float
) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(f'{{"step": {n}, "validation": {n / 4}}}' for n in (1, 3, 2))
    )
    recipe = named(f"maml-{data}-5")
    run = dataclasses.replace(load_run("run"), folder=tmp_path, recipe=recipe)
    assert train._record(run, "run", 1.0)["best_validation"] == best


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_wrong(told: Told, tmp_path: Path) -> None:
    words = f"{TRAIN.replace(' run', f' {tmp_path}/run')} --outer-rate 1e30 --json"
    code, results, rest = told(words)
    record = json.loads(results)
    assert (code, record["stopped"]) == (1, "non-finite")
    assert rest.startswith("warning: the meta-loss, its gradient or the update was not finite")
    kept = f"error: the loss was not finite after iteration {record['iterations']}, whose parameter"
    assert kept in rest
    assert record["iterations"] < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "stopped"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_saves_the_run_and_the_same_command_goes_on(
    tmp_path: Path, sent: signal.Signals, code: int, stopped: str
) -> None:
    words = f"{TRAIN.replace('--iterations 4', '--iterations 20000')} --json"
    command = [sys.executable, "-m", "metajax", *shlex.split(words)]
    steps = []
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 300
            metrics = tmp_path / "run" / "metrics.jsonl"
            size = metrics.stat().st_size if metrics.exists() else 0
            while not metrics.exists() or metrics.stat().st_size <= size:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(process.pid, sent)
            record = json.loads(process.communicate(timeout=300)[0])
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, record["stopped"]) == (code, stopped)
        steps.append(record["iterations"])
    assert 0 < steps[0] < steps[1] < 20000
