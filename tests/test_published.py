"""The command of the published tables: tiny cells end to end, one that is stopped, what is run."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the benchmarks need metajax[bench]")
pytest.importorskip("rich", reason="the benchmarks need metajax[bench]")

import nearest_pixels
import published
import published_cells as cells
import published_page
import published_runs
from published_cells import FIRST, Job, asked, jobs_of, strictly_split
from rich.console import Console

import metajax as mj
from metajax.recipes import RECIPES, Recipe, Split, find, loading

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
# Of each algorithm a cell: of Omniglot where it has one.
CELLS = [recipe.name for recipe in RECIPES if recipe.name.endswith("-omniglot-5w1s")]
CELLS += [f"{name}-glyphs-5w1s" for name in ("anil", "boil", "meta_sgd", "matching-fce")]
CELLS += ["maml-sinusoids-5s"]
# The cheapest by default: one that is stopped is of images, and of a learner that compares.
BY_DEFAULT, STACKED = "maml-sinusoids-5s", "prototypical-omniglot-5w1s"


def tiny(recipe: Recipe, *, iterations: int = 2) -> Recipe:
    """The recipe with little of everything, of what the library brings."""
    training, testing = recipe.training, recipe.testing
    sinusoids = training.data == "sinusoids"
    drawing = dataclasses.replace(
        training.drawing,
        split=Split("train"),
        ways=min(5, training.drawing.ways),
        shots=min(2, training.drawing.shots),
        queries=1,
    )
    inner = training.inner
    training = dataclasses.replace(
        training,
        data="sinusoids" if sinusoids else "glyphs",
        drawing=drawing,
        network=dataclasses.replace(training.network, filters=4),
        inner=inner and dataclasses.replace(inner, steps=min(2, inner.steps)),
        iterations=iterations,
        meta_batch=min(2, training.meta_batch),
    )
    testing = dataclasses.replace(
        testing,
        drawing=dataclasses.replace(testing.drawing, split=Split("test"), queries=2),
        episodes=3,
        steps=min(2, testing.steps),
    )
    return dataclasses.replace(recipe, training=training, testing=testing)


@functools.cache
def few_glyphs(part: str) -> np.ndarray:
    return mj.data.glyphs(part, drawers=4)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job, Path], str]:
    """Runs a job in a folder, on glyphs by few hands."""
    monkeypatch.setattr(loading, "glyphs", few_glyphs)

    def run_in(job: Job, folder: Path) -> str:
        results, runs = folder / "results", folder / "runs"
        return published_runs.run_job(job, results, runs, "no/data", command="python published.py")

    return run_in


def job_of(recipe: Recipe, *, seeds: int = 1, deadline: float | None = None) -> Job:
    return Job(recipe.training, (recipe,), seeds, None, deadline)


def record_of(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / f"{recipe.name}.json").read_text(encoding="utf-8"))


def made_up(
    recipe: Recipe, accuracy: float, *, seeds: int = 1, iterations: int | None = None
) -> Any:
    """A record as `run_job` writes it, of numbers out of thin air."""
    test = {"mean": [accuracy + seed for seed in range(seeds)], "interval": [0.25] * seeds}
    tests = {
        name: {"testing": dataclasses.asdict(testing), "seconds": 1.5, **test}
        for name, testing in cells.tests_of(recipe, None).items()
    }
    part = {
        "command": "python benchmarks/published.py --cells all",
        "commit": "012345678",
        "device": published_runs.device_name(),
        "seconds": 31.4,
        "compile_seconds": 10.0,
        "ms_an_iteration": 2.0,
    }
    made = {
        "cell": recipe.name,
        "seeds": list(range(seeds)),
        "stopped_seeds": [],
        "iterations": recipe.training.iterations if iterations is None else iterations,
        "of": recipe.training.iterations,
        "parts": [{**part, "seconds": 30.0, "compile_seconds": 20.0}, part],
        "training": dataclasses.asdict(recipe.training),
        "tests": tests,
    }
    return json.loads(json.dumps(made))


def row_of(page: str, data: str, cell: str, algorithm: str) -> dict[str, str]:
    of_data = page.split(f"## {data}\n", 1)[1]
    of_cell = of_data.split(f"### {cell}\n", 1)[1]
    (line,) = [line for line in of_cell.split("\n#")[0].splitlines() if f"| {algorithm} |" in line]
    header, given = (
        [part.strip() for part in each.strip("|").split("|")]
        for each in (of_cell.splitlines()[1], line)
    )
    return dict(zip(header, given, strict=True))


# Tiny cells


@pytest.mark.parametrize(
    "name",
    [name if name == BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in CELLS],
)
def test_a_cell_from_its_recipe_to_the_page(
    name: str, tmp_path: Path, run: Callable[[Job, Path], str]
) -> None:
    original = BY_NAME[name]
    recipe = tiny(original)
    seeds = 2 if name == STACKED else 1
    told = run(job_of(recipe, seeds=seeds), tmp_path)
    assert told.startswith("2 of 2 iterations (")
    assert f"(published {recipe.published})" in told
    record = record_of(recipe, tmp_path)
    assert record["cell"] == recipe.name
    assert (record["iterations"], record["of"], record["stopped"]) == (2, 2, "finished")
    assert record["seeds"] == list(range(seeds))
    assert record["training"] == json.loads(json.dumps(dataclasses.asdict(recipe.training)))
    (part,) = record["parts"]
    assert part["to"] == 2
    assert min(part["seconds"], part["compile_seconds"], part["ms_an_iteration"]) > 0
    assert set(record["tests"]) == set(cells.tests_of(recipe, None))
    most = 100 if recipe.training.data == "glyphs" else 30
    for test in record["tests"].values():
        assert len(test["mean"]) == len(test["interval"]) == seeds
        assert all(0 <= mean <= most for mean in test["mean"])
        assert all(half >= 0 for half in test["interval"])
    if recipe.training.data == "glyphs":
        assert all(0 <= accuracy <= 100 for accuracy in part["training_accuracy"])
    else:
        (per_step,) = record["tests"]["published"]["per_step"]
        assert len(per_step) == 1 + recipe.testing.steps
        assert [per_step[-1]] == record["tests"]["published"]["mean"]

    # The page of the original's cell, if these were its numbers.
    read = published_page.read(tmp_path / "results")
    assert read == {recipe.name: record}
    page = published_page.page({original.name: record})
    shown = f"{np.mean(record['tests']['published']['mean']):.2f} ± "
    assert shown in page
    assert published_runs.finished(job_of(recipe, seeds=seeds), tmp_path / "results")


@pytest.mark.slow
def test_a_job_that_its_deadline_stops_goes_on_bit_for_bit(
    tmp_path: Path, run: Callable[[Job, Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(BY_NAME[STACKED], iterations=5)
    job = job_of(recipe)
    monkeypatch.setattr(published_runs, "tests_of", lambda recipe, _: {"published": recipe.testing})

    def parameters(folder: Path) -> mj.TrainState:
        built = mj.recipes.build(recipe)
        params = built.learner.init(jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
        state = mj.init_state(params, built.optimizer, jax.random.key(0))
        stacked = jax.tree.map(lambda leaf: leaf[None], state)
        return mj.restore_state(folder / "runs" / job.name, stacked)

    folders = stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    late = dataclasses.replace(job, deadline=time.time() - 1)
    assert run(late, stopped) == "not begun: the time is over"
    assert not stopped.exists()
    go_on = published_runs.Part.go_on
    with monkeypatch.context() as patched:
        # The time is over after one dispatch.
        patched.setattr(published_runs.Part, "go_on", lambda *given: go_on(*given) or True)
        assert run(job, stopped) == "callback at 1 of 5, saved"
    assert not (stopped / "results" / f"{recipe.name}.json").exists()
    assert int(parameters(stopped).step[0]) == 1
    assert run(job, stopped).startswith("5 of 5 iterations")
    run(job, whole)
    parts = record_of(recipe, stopped)["parts"]
    assert [part["to"] for part in parts] == [1, 5]
    ours, theirs = (jax.tree.leaves(parameters(folder).params) for folder in folders)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    means = [record_of(recipe, folder)["tests"]["published"]["mean"] for folder in folders]
    assert means[0] == means[1]
    assert 0 <= means[0][0] <= 100
    record = {**record_of(recipe, whole), "cell": STACKED}
    page = published_page.page({STACKED: record})
    row = row_of(page, "Omniglot", "5-way 1-shot", "prototypical")
    assert row["ours"].startswith(f"{means[0][0]:.2f} ± ")
    assert row["iterations"] == "5"
    lines = (stopped / "runs" / f"{job.name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAJAX_COMMIT", "0123456789abcdef")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    words = ["--cells", "prototypical-glyphs-*@0.01", "--episodes", "3", "--ahead", "0"]
    words += ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    written = tmp_path / "results" / "prototypical-glyphs-5w1s.json"
    published.main([*words, "--minutes", "0.0001"])
    assert "prototypical-glyphs-5w1s-1x7: not begun: the time" in capsys.readouterr().out
    assert not written.exists()
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit, match="holds runs; pass --resume to go on, or another --runs"):
        published.main(words)
    published.main([*words, "--resume"])
    assert "7 of 7 iterations (" in capsys.readouterr().out
    record = json.loads(written.read_text(encoding="utf-8"))
    assert (record["iterations"], record["of"]) == (7, 700)
    (part,) = record["parts"]
    assert part["commit"] == "0123456789abcdef"
    told = "--cells 'prototypical-glyphs-*@0.01' --episodes 3 --ahead 0 --resume"
    assert part["command"] == f"python benchmarks/published.py {told}"
    # All is there: nothing is left to do.
    published.main([*words, "--resume"])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_nearest_pixels_of_a_cell(tmp_path: Path) -> None:
    words = ["--cells", "prototypical-glyphs-*", "--episodes", "50", "--results", str(tmp_path)]
    nearest_pixels.main(words)
    (record,) = published_page.read(tmp_path).values()
    assert record["cell"] == "nearest_pixels-glyphs-5w1s"
    # The glyphs are drawn to come to 51 %.
    assert 40 < record["mean"] < 62
    assert 0 < record["interval"] < 5


# Which cells, in which order


def test_cells_are_asked_for_by_patterns() -> None:
    def names(*words: str) -> list[str]:
        return [recipe.name for recipe, _, _ in asked(words)]

    assert names("maml-omniglot-20w1s") == ["maml-omniglot-20w1s"]
    shots = ["prototypical-omniglot-5w1s", "prototypical-omniglot-20w1s"]
    assert names("prototypical-omniglot-*w1s") == shots
    # The first pattern that fits takes a cell.
    taken = asked(["maml-omniglot-5w1s@0.1x3", "maml-omniglot-*@0.5"])
    assert [(scale, seeds) for _, scale, seeds in taken] == [(0.1, 3), (0.5, 1), (0.5, 1), (0.5, 1)]
    assert taken[0][0] == BY_NAME["maml-omniglot-5w1s"]
    assert asked(["maml-omniglot-5w1s@x3"])[0][1:] == (1.0, 3)
    first = {recipe.name for recipe, _, _ in asked(FIRST)}
    assert first == {name for name in BY_NAME if "-omniglot-" in name}


@pytest.mark.parametrize("word", ["mamml-*", "maml-vinyals-glyphs-*", ""])
def test_a_pattern_that_fits_nothing(word: str) -> None:
    with pytest.raises(ValueError, match="fits no cell"):
        asked([word])


def test_cells_on_the_split_of_new_alphabets() -> None:
    ((recipe, _, _),) = asked(["maml-vinyals-omniglot-20w1s"])
    original = BY_NAME["maml-omniglot-20w1s"]
    assert recipe == strictly_split(original)
    assert recipe.training.drawing.split == Split("train_and_validation", "vinyals")
    assert recipe.testing.drawing.split == Split("test", "vinyals")
    assert recipe.training.network == original.training.network
    assert recipe.published == original.published
    # Those that have it already are not asked for twice.
    every = [recipe.name for recipe, _, _ in asked(["*-vinyals-omniglot-5w1s"])]
    cells = ("maml", "fomaml", "maml-tuned", "fomaml-tuned", "reptile", "relation")
    assert every == [f"{cell}-vinyals-omniglot-5w1s" for cell in cells]


def test_cells_that_share_a_training_are_one_job() -> None:
    words = ["prototypical-omniglot-*", "maml-omniglot-5w1s", "maml-omniglot-20w1s@0.5"]
    jobs = jobs_of(asked(words), episodes=7)
    assert [[recipe.name.rpartition("-")[2] for recipe in job.recipes] for job in jobs] == [
        ["5w1s", "20w1s"],
        ["5w5s", "20w5s"],
        ["5w1s"],
        ["20w1s"],
    ]
    assert {job.episodes for job in jobs} == {7}
    assert [job.name for job in jobs][::3] == [
        "prototypical-omniglot-5w1s-1x20000",
        "maml-omniglot-20w1s-1x30000",
    ]
    # Other numbers of seeds or iterations are other trainings.
    apart = asked(["prototypical-omniglot-5w1s", "prototypical-omniglot-20w1s@1x3"])
    assert len(jobs_of(apart, episodes=None)) == 2


def test_protocols_of_a_cell() -> None:
    maml = cells.tests_of(BY_NAME["maml-omniglot-5w1s"], None)
    assert list(maml) == ["published", "strict"]
    assert maml["published"] == BY_NAME["maml-omniglot-5w1s"].testing
    strict = maml["strict"]
    assert (strict.drawing.queries, strict.query_batching, strict.steps) == (15, "support", 3)
    assert strict.drawing.split == maml["published"].drawing.split

    reptile = cells.tests_of(BY_NAME["reptile-omniglot-5w1s"], None)
    assert list(reptile) == ["published", "transductive", "strict"]
    assert reptile["published"].query_batching == "single"
    assert reptile["transductive"].query_batching == "separate"
    assert (reptile["published"].episodes, reptile["strict"].episodes) == (10_000, 1_000)

    # Judged by the support alone as published: nothing is stricter.
    assert list(cells.tests_of(BY_NAME["proto_maml-omniglot-5w1s"], None)) == ["published"]
    assert list(cells.tests_of(BY_NAME["maml-sinusoids-5s"], None)) == ["published"]
    # Of few designers there are few queries.
    emoji = cells.tests_of(BY_NAME["maml-emoji-5w1s"], None)
    assert {test.drawing.queries for test in emoji.values()} == {3}
    few = cells.tests_of(BY_NAME["reptile-omniglot-5w1s"], 9)
    assert {test.episodes for test in few.values()} == {9}


# What is done, and what fits


def test_finished(tmp_path: Path) -> None:
    both = [BY_NAME[f"prototypical-omniglot-{cell}"] for cell in ("5w1s", "20w1s")]
    (job,) = jobs_of([(recipe, 1.0, 1) for recipe in both], episodes=None)

    def write(recipe: Recipe, **options: Any) -> None:
        path = tmp_path / f"{recipe.name}.json"
        path.write_text(json.dumps(made_up(recipe, 98.0, **options)), encoding="utf-8")

    assert not published_runs.finished(job, tmp_path)
    write(both[0])
    assert not published_runs.finished(job, tmp_path)
    write(both[1], iterations=19_999)
    assert not published_runs.finished(job, tmp_path)
    write(both[1])
    assert published_runs.finished(job, tmp_path)
    assert not published_runs.finished(dataclasses.replace(job, seeds=2), tmp_path)
    # Not by tests of fewer episodes.
    assert not published_runs.finished(dataclasses.replace(job, episodes=7), tmp_path)
    # Not by another recipe of the same cell.
    outer = dataclasses.replace(job.training.outer, rate=2e-3)
    other = dataclasses.replace(job.training, outer=outer)
    assert not published_runs.finished(dataclasses.replace(job, training=other), tmp_path)


def test_what_fits_the_time(tmp_path: Path) -> None:
    names = ("maml-omniglot-5w1s", "reptile-omniglot-5w1s", "relation-omniglot-5w1s")
    recipes = [BY_NAME[name] for name in names]
    jobs = [job_of(recipe) for recipe in recipes]
    console = Console(quiet=True)
    for recipe in recipes[:2]:
        path = tmp_path / f"{recipe.name}.json"
        path.write_text(json.dumps(made_up(recipe, 98.0)), encoding="utf-8")
    # 60,000 iterations of 2 ms, 10 s of compiling, 1.5 s a test; nobody knows of the last.
    known = [published_runs.seconds_known(job, tmp_path) for job in jobs]
    assert known == [133.0, 214.5, None]
    stacked = dataclasses.replace(jobs[0], seeds=3)
    assert published_runs.seconds_known(stacked, tmp_path) == 373.0

    def chosen(minutes: float | None) -> list[str]:
        fitting = published.fitting(jobs, minutes, tmp_path, console)
        return [job.recipes[0].name for job in fitting]

    assert chosen(None) == [*names]
    assert chosen(6.0) == [*names]
    assert chosen(3.0) == [names[0], names[2]]
    assert chosen(0.1) == [names[0], names[2]]  # The first is begun, and saved when time is over.


# The page


def test_numbers_of_the_page() -> None:
    recipe = BY_NAME["maml-omniglot-5w1s"]
    again = strictly_split(recipe)
    records = {
        recipe.name: made_up(recipe, 97.0, seeds=3),
        again.name: made_up(again, 96.5, iterations=30_000),
    }
    page = published_page.page(records)
    row = row_of(page, "Omniglot", "5-way 1-shot", "maml")
    # Student's interval of 97, 98, 99 is 4.3027 / sqrt(3).
    assert row["ours"] == row["strict"] == "98.00 ± 2.48 (0.25)"
    assert row["published"] == "98.7 ± 0.4"
    assert row["difference"] == "-0.70"
    assert row["others"] == "99.1 (learn2learn, its README, with other settings)"
    assert row["Vinyals"] == "96.50 ± 0.25; strict 96.50 ± 0.25"
    assert (row["iterations"], row["seconds"], row["compiling"]) == ("60,000", "61, 3 seeds", "10")
    assert row["device"] == published_runs.device_name()
    assert row["split"] == "random train"
    assert row["test"] == "1 query, separate, 3 steps, 600 episodes"
    left = row_of(page, "Omniglot", "5-way 1-shot", "reptile")
    assert left["ours"] == "left"
    assert left["published"] == "95.39 ± 0.09; together 97.68 ± 0.04"
    assert row_of(page, "Omniglot", "20-way 1-shot", "maml")["ours"] == "left"
    not_run = row_of(page, "mini-ImageNet", "5-way 1-shot", "maml")
    assert not_run["published"] == "48.7 ± 1.84"
    assert f"at `012345678`: {recipe.name}, {again.name}" in page
    # What is to be trained on new alphabets too is left as well.
    assert "maml-vinyals-omniglot-20w1s" in page


def test_a_training_that_was_stopped_says_so() -> None:
    recipe = BY_NAME["relation-omniglot-5w1s"]
    page = published_page.page({recipe.name: made_up(recipe, 99.0, iterations=250_000)})
    row = row_of(page, "Omniglot", "5-way 1-shot", "relation")
    assert row["iterations"] == "250,000 of 1,000,000"


def test_a_seed_that_was_not_finite_is_named() -> None:
    recipe = BY_NAME["prototypical-omniglot-5w1s"]
    record = {**made_up(recipe, 98.0), "stopped_seeds": [1]}
    row = row_of(
        published_page.page({recipe.name: record}), "Omniglot", "5-way 1-shot", "prototypical"
    )
    assert row["ours"] == "98.00 ± 0.25; not finite: seeds [1]"
    assert row["Vinyals"] == "the same"


def test_more_iterations_are_kept() -> None:
    recipe = BY_NAME["relation-omniglot-5w1s"]
    short = dataclasses.replace(recipe, training=recipe.training.scaled(0.1))
    new = made_up(short, 98.0)
    assert not published_runs.is_more(None, new)
    assert published_runs.is_more(made_up(recipe, 99.0), new)
    assert published_runs.is_more(made_up(short, 99.0, seeds=3), new)
    assert not published_runs.is_more(new, made_up(recipe, 99.0))
    assert not published_runs.is_more(new, new)
    # Those of other settings are not.
    outer = dataclasses.replace(recipe.training.outer, rate=2e-3)
    other = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, outer=outer))
    assert not published_runs.is_more(made_up(other, 99.0), new)


def test_a_regression_is_shown_step_by_step() -> None:
    recipe = BY_NAME["maml-sinusoids-10s"]
    record = made_up(recipe, 0.2)
    made = {"per_step": [[3.1, 0.81, 0.2]], "median_per_step": [[2.9, 0.7, 0.05]], "astray": [3]}
    record["tests"]["published"] |= made
    page = published_page.page({recipe.name: record})
    row = row_of(page, "Sinusoids", "10 points, mean squared error after 10 steps", "maml")
    assert row["ours"] == (
        "0.200 ± 0.250 (median 0.050; before 3.10, after 1 step 0.810; 0.30 % of the tasks astray)"
    )
    assert row["published"] == "0.15 ± 0.05 (read off the figure, after 10 steps)"
    assert row["difference"] == "+0.05"


def test_the_floor_is_above_the_others() -> None:
    floor = {"command": "python benchmarks/nearest_pixels.py", "commit": "0123456789"}
    floor |= {"cell": "nearest_pixels-emoji-5w1s", "mean": 41.25, "interval": 0.5}
    page = published_page.page({floor["cell"]: floor})
    row = row_of(page, "Emoji", "5-way 1-shot", "nearest pixels")
    assert (row["ours"], row["published"], row["test"]) == ("41.25 ± 0.50", "nobody", "")
    assert page.index("| nearest pixels |") < page.index("| maml | left | nobody |")


def test_the_nearest_pixels() -> None:
    support = jnp.eye(3).reshape(3, 3, 1, 1)
    query = jnp.concatenate([0.6 * support, 1 - support[:1]])
    labels = jnp.arange(3)

    def sample(key: jax.Array) -> mj.Episode:
        del key
        # The last is white where its class is black, and as near to both others.
        return mj.Episode(mj.Examples(support, labels), mj.Examples(query, jnp.append(labels, 0)))

    assert nearest_pixels.correct(sample, jax.random.key(0)) == 0.75


def test_every_cell_of_a_data_set_that_is_run_is_left_at_first() -> None:
    page = published_page.page({})
    (line,) = [line for line in page.splitlines() if line.startswith("Left: ")]
    run_here = ("omniglot", "emoji", "sinusoids")
    assert {name for name in BY_NAME if name in line} >= {
        recipe.name for recipe in RECIPES if recipe.training.data in run_here
    }
    for data in run_here:
        assert f'--cells "*-{data}-*" --resume' in page


def test_the_figure(tmp_path: Path) -> None:
    recipe = find("maml", "omniglot", ways=5, shots=1)
    published_page.draw({recipe.name: made_up(recipe, 97.0)}, tmp_path / "published.png")
    assert (tmp_path / "published.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_is_that_of_the_files() -> None:
    docs = published.ROOT.parent / "docs" / "published.md"
    records = published_page.read(published.RESULTS) if published.RESULTS.exists() else {}
    if not records or not docs.exists():
        pytest.skip("there are no results yet")
    changes = published_page.read_changes(published.RESULTS)
    assert docs.read_text(encoding="utf-8") == published_page.page(records, changes)
