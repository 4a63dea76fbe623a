"""Every example runs in a small form, and what it prints and draws is there."""

import importlib.util
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the examples need metajax[examples]")
pytest.importorskip("rich", reason="the examples need metajax[examples]")

import metajax as mj
from metajax.recipes.records import OF_FIXED_WAYS

EXAMPLES = Path(__file__).parent.parent / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = [
    "few_shot_characters",
    "locomotion",
    "navigation",
    "sinusoid_regression",
    "within_alphabet",
]
ALGORITHMS = [*_load("few_shot_characters").RECIPES]


def _is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_example_is_tested() -> None:
    scripts = {
        path.stem
        for path in EXAMPLES.glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert scripts == {*SCRIPTS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _load(name).parser().parse_args(["--help"])
    assert stopped.value.code == 0
    assert "--iterations" in capsys.readouterr().out


@pytest.mark.slow
def test_sinusoid_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = _load("sinusoid_regression")
    arguments = ["--iterations", "3000", "--outer-rate", "3e-3", "--episodes", "200"]
    scores = example.run(example.parser().parse_args([*arguments, "--out", str(tmp_path)]))
    for name in ("maml", "fomaml"):
        steps = scores[name].mean("query_loss_per_step")
        assert steps.shape == (11,)
        assert steps[1] < 0.5 * steps[0]
        assert steps[10] < 0.5 * scores["pre-trained"].mean("query_loss_per_step")[10]
    assert _is_png(tmp_path / "sinusoid.png")
    printed = " ".join(capsys.readouterr().out.split())
    assert "200 fresh tasks, seed 0" in printed
    assert "±" in printed


def test_heads_have_fixed_ways() -> None:
    example = _load("few_shot_characters")
    arguments = ["--algorithm", "maml", "--ways", "5", "--test-ways", "5", "20"]
    said = "maml: training of 5 ways and testing of 20; expected as many: maml has an output a way"
    with pytest.raises(SystemExit, match=said):
        example.run(example.parser().parse_args(arguments))


def test_a_temperature_is_of_matching_networks() -> None:
    example = _load("few_shot_characters")
    arguments = ["--algorithm", "relation", "--temperature", "0.1"]
    said = "relation: temperature=0.1; expected None: it is of matching networks alone"
    with pytest.raises(SystemExit, match=said):
        example.run(example.parser().parse_args(arguments))


def test_what_is_asked_for_takes_the_recipes_place() -> None:
    example = _load("few_shot_characters")
    of_glyphs = [recipe for recipe in mj.recipes.RECIPES if recipe.training.data == "glyphs"]
    assert list(example.RECIPES.values()) == of_glyphs
    for algorithm, recipe in example.RECIPES.items():
        args = example.parser().parse_args(["--algorithm", algorithm])
        assert example.recipe_of(args, 5) == recipe
    arguments = ["--algorithm", "matching_fce", "--data", "omniglot", "--train-ways", "20"]
    arguments += ["--shots", "5", "--outer-rate", "0.5", "--filters", "8", "--temperature", "0.1"]
    made = example.recipe_of(example.parser().parse_args(arguments), 7)
    training, testing = made.training, made.testing
    assert (training.data, training.outer.rate, training.network.filters) == ("omniglot", 0.5, 8)
    assert (training.drawing.ways, training.drawing.shots, training.temperature) == (20, 5, 0.1)
    assert (testing.drawing.ways, testing.drawing.shots, testing.drawing.queries) == (7, 5, 15)
    assert {each.drawing.split.protocol for each in (training, testing)} == {"vinyals"}


@pytest.mark.parametrize("option", ["--inner-rate", "--steps"])
def test_inner_steps_are_of_learners_that_adapt(option: str) -> None:
    example = _load("few_shot_characters")
    arguments = ["--algorithm", "prototypical", option, "1"]
    name = option.removeprefix("--").replace("-", "_")
    with pytest.raises(SystemExit, match=f"prototypical: {name}=1.*and takes no inner steps"):
        example.run(example.parser().parse_args(arguments))


@pytest.mark.exact
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_few_shot_characters(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _load("few_shot_characters")
    out = tmp_path / "a folder with spaces"
    arguments = ["--algorithm", algorithm, "--ways", "3", "--filters", "16", "--iterations", "60"]
    arguments += ["--episodes", "20", "--dispatch", "20", "--out", str(out)]
    if algorithm not in OF_FIXED_WAYS:
        arguments += ["--test-ways", "3", "4"]
    scores = example.run(example.parser().parse_args(arguments))
    assert scores.mean("accuracy") > 1 / 3 + 0.15
    if algorithm in OF_FIXED_WAYS:
        assert scores.mean("accuracy_per_step")[0] < 0.45
    assert _is_png(out / "episode.png")
    assert _is_png(out / "curves.png")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40, 60]
    printed = " ".join(capsys.readouterr().out.split())
    assert "3-way 1-shot: 20 test episodes, seed 0" in printed
    assert ("4-way 1-shot: 20 test episodes, seed 0" in printed) == (algorithm not in OF_FIXED_WAYS)

    # The run is over: resuming finds nothing left to train, and the same scores.
    resumed = example.run(example.parser().parse_args([*arguments, "--resume"]))
    np.testing.assert_array_equal(resumed.mean("accuracy"), scores.mean("accuracy"))


@pytest.mark.slow
def test_seeds_as_one_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = _load("few_shot_characters")
    arguments = [
        "--ways",
        "3",
        "--filters",
        "8",
        "--meta-batch",
        "2",
        "--iterations",
        "10",
        "--dispatch",
        "5",
        "--episodes",
        "10",
    ]
    arguments += ["--validation-episodes", "10", "--checkpoint-every", "5"]
    out = tmp_path / "stack"
    scores = example.run(
        example.parser().parse_args([*arguments, "--seeds", "2", "--out", str(out)])
    )
    assert scores.scores["accuracy"].shape == (2, 10)
    printed = " ".join(capsys.readouterr().out.split())
    assert "± over 2 runs, seeds 0 to 1: " in printed
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [np.shape(record["accuracy"]) for record in records] == [(2,), (2,)]
    assert [np.shape(record["validation"]) for record in records] == [(2,), (2,)]
    assert _is_png(out / "episode.png")
    assert _is_png(out / "curves.png")

    alone = example.run(
        example.parser().parse_args([*arguments, "--seed", "1", "--out", str(tmp_path / "one")])
    )
    one = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    stacked = [record["loss"][1] for record in records]
    np.testing.assert_allclose(stacked, [record["loss"] for record in one], rtol=1e-2)
    assert alone.runs is None


@pytest.mark.slow
def test_within_alphabet(
    omniglot_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _load("within_alphabet")
    arguments = ["--iterations", "80", "--filters", "32", "--train-ways", "20", "--episodes", "4"]
    arguments += ["--data-dir", str(omniglot_folder), "--out", str(tmp_path / "run")]
    scores = example.run(example.parser().parse_args(arguments))
    assert scores.episodes == 20
    assert scores.mean("accuracy") > 0.15  # Chance is 0.05.
    assert "the 20 published runs" in capsys.readouterr().out


@pytest.mark.slow
def test_navigation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = _load("navigation")
    arguments = ["--iterations", "40", "--tasks", "10", "--rollouts", "10", "--horizon", "50"]
    arguments += ["--hidden", "32", "32", "--stddev", "0.2", "--out", str(tmp_path)]
    scores = example.run(example.parser().parse_args(arguments))
    maml, pre_trained, told = (
        scores[name].mean("return_per_step") for name in ("maml", "pre-trained", "told")
    )
    assert maml[1] > maml[0] + 8
    assert (maml[1:] > pre_trained[1:] + 3).all()
    assert told.shape == (1,)
    assert told[0] > maml[0] + 12
    assert _is_png(tmp_path / "navigation.png")
    printed = " ".join(capsys.readouterr().out.split())
    assert "40 fresh goals, seed 0" in printed
    again = example.run(example.parser().parse_args(arguments))  # From the checkpoints.
    np.testing.assert_array_equal(again["maml"].mean("return_per_step"), maml)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("brax") is None, reason="brax is optional")
def test_locomotion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = _load("locomotion")
    out = tmp_path / "a folder with spaces"
    arguments = ["--tasks", "2", "--rollouts", "2", "--horizon", "5", "--hidden", "8"]
    arguments += ["--iterations", "2", "--dispatch", "1", "--test-tasks", "3", "--out", str(out)]
    scores = example.run(example.parser().parse_args(arguments))
    assert scores.scores["return_per_step"].shape == (3, 4)
    assert np.isfinite(scores.scores["return_per_step"]).all()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert _is_png(out / "returns.png")
    assert _is_png(out / "film.png")
    printed = " ".join(capsys.readouterr().out.split())
    assert "environment steps a second" in printed
    assert "maml, direction: 3 fresh tasks, seed 0" in printed
    with pytest.raises(SystemExit, match="holds a run already; pass --resume"):
        example.run(example.parser().parse_args(arguments))


def test_rewards_of_locomotion() -> None:
    example = _load("locomotion")
    state = SimpleNamespace(metrics={"x_velocity": jnp.float32(0.5)})
    action = jnp.array([3.0, -0.5])  # The first one is clipped, and costs as much as 1.
    cost = 0.05 * 1.25
    np.testing.assert_allclose(example.run_along(-1.0, action, state), -0.5 - cost, rtol=1e-6)
    np.testing.assert_allclose(example.run_at(2.0, action, state), -1.5 - cost, rtol=1e-6)
    keys = jax.random.split(jax.random.key(0), 100)
    assert {*map(float, jax.vmap(example.direction)(keys))} == {-1.0, 1.0}
    velocities = np.asarray(jax.vmap(example.velocity)(keys))
    assert 0 <= velocities.min() < 0.2
    assert 1.8 < velocities.max() <= 2
