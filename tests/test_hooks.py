"""A user's own functions in a run: they score states, stop it, and get what loggers take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.training.stopping import CALLBACK

SAMPLE = mj.data.sinusoid_episodes(shots=2, queries=2)


def _loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
    del key
    value = ((params["w"] * episode.query.inputs - episode.query.targets) ** 2).mean()
    curve = jnp.stack([value, value / 2])
    return value, mj.Aux(None, {"query_loss": value, "query_loss_per_step": curve})


LEARNER = mj.Learner(_loss, _loss, _loss, _loss)  # type: ignore[arg-type]
OPTIMIZER = optax.sgd(0.1)


def _train(
    iterations: int = 12, *, optimizer: optax.GradientTransformation = OPTIMIZER, **options: Any
) -> mj.TrainResult:
    state = mj.init_state({"w": jnp.zeros((1, 1))}, optimizer, jax.random.key(3))
    options = {"meta_batch": 2, "dispatch": 2, "progress": False, **options}
    learner = options.pop("learner", LEARNER)
    state = options.pop("state", state)
    return mj.train(learner, optimizer, state, SAMPLE, iterations=iterations, **options)


def _step(state: mj.TrainState) -> float:
    return float(state.step)


def _validated(result: mj.TrainResult) -> list[int]:
    return [record["step"] for record in result.history if "validation" in record]


@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_stops_the_run(answer: object, tmp_path: Path) -> None:
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        result = _train(
            on_dispatch=lambda state, record: answer if record["step"] == 4 else False,
            checkpoints=checkpoints,
        )
    assert result.stopped == "callback"
    assert int(result.state.step) == result.history[-1]["step"] == 4
    assert int(mj.restore_state(tmp_path, result.state).step) == 4


def test_what_is_no_bool_does_not_stop_it_nor_does_the_last_answer() -> None:
    answers = iter([1, 12.0, "stop", jnp.array(True), [True], None, False, True])
    result = _train(16, on_dispatch=lambda state, record: next(answers))
    assert result.stopped == "finished"
    assert int(result.state.step) == 16


def test_a_callback_of_one_process_stops_all_by_one_exchange_a_dispatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def largest(number: int) -> int:
        given.append(number)
        return CALLBACK if len(given) == 2 else number

    monkeypatch.setattr("metajax.training.loop.largest_of_processes", largest)
    result = _train(on_dispatch=lambda state, record: None)
    assert result.stopped == "callback"
    assert int(result.state.step) == 4
    assert given == [0, 0, 0]  # After each dispatch, and at the end.


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [2, 4, 6, 8, 10, 12]),
        ({"validate_every": 5}, [6, 10, 12]),
    ],
)
def test_states_are_scored_without_checkpoints(options: dict, steps: list[int]) -> None:
    result = _train(validate=_step, **options)
    assert _validated(result) == steps
    assert [record["validation"] for record in result.history if "validation" in record] == steps


def test_a_run_cut_in_two_is_validated_where_the_whole_one_is() -> None:
    half = _train(8, validate=_step, validate_every=6)
    rest = _train(validate=_step, validate_every=6, state=half.state)
    assert _validated(half) + _validated(rest) == [6, 8, 12]


def test_every_state_that_is_scored_is_saved_with_its_score(tmp_path: Path) -> None:
    with mj.Checkpoints(tmp_path, options={}, every=8, keep=9, mode="min") as checkpoints:
        result = _train(validate=_step, validate_every=6, checkpoints=checkpoints)
    assert _validated(result) == [6, 12]
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [6, 8, 12]
    assert int(mj.restore_state(tmp_path, result.state, which="best").step) == 6


def test_a_score_is_a_number() -> None:
    result = _train(2, validate=lambda state: jnp.float32(0.5))
    assert type(result.history[0]["validation"]) is float
    with pytest.raises(TypeError, match=r"validate returned None; expected a float, such as"):
        _train(2, validate=lambda state: None)


def test_averaged_parameters_are_scored_through_the_state() -> None:
    def ema(decay: float) -> optax.GradientTransformation:
        def update(updates: Any, average: Any, params: Any) -> tuple[Any, Any]:
            after = optax.apply_updates(params, updates)
            return updates, optax.incremental_update(after, average, 1 - decay)

        return optax.GradientTransformation(lambda params: params, update)

    def validate(state: mj.TrainState) -> float:
        return state.opt_state[-1]["w"].sum()

    optimizer = optax.chain(OPTIMIZER, ema(0.9))
    seen = []
    result = _train(
        3,
        optimizer=optimizer,
        dispatch=1,
        validate=validate,
        on_dispatch=lambda state, record: seen.append(float(state.params["w"].sum())),
    )
    average = 0.0
    for value, record in zip(seen, result.history, strict=True):
        average = 0.9 * average + 0.1 * value
        assert record["validation"] == pytest.approx(average, rel=1e-5)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return type(value) in (int, float)


def test_records_hold_numbers_of_python() -> None:
    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, aux = _loss(params, episode, key)
        half = value.astype(jnp.bfloat16)
        return value, mj.Aux(None, {**aux.metrics, "half": half, "hit": value > 1, "n": 3})

    result = _train(2, learner=LEARNER._replace(loss=loss), validate=_step)
    record = result.history[0]
    assert {"half", "hit", "n", "validation"} < set(record)
    assert all(map(_is_plain, record.values()))
    assert json.loads(json.dumps(record)) == record
    assert len(record["query_loss_per_step"]) == 2


class _SummaryWriter:
    """The one method of TensorBoard's writers that is needed, in torch and tensorboardX."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        assert global_step is not None
        self.scalars.append((tag, float(scalar_value), global_step))


def _fenced(page: str, start: str) -> str:
    """The lines of a page's block of code that begins so."""
    text = (Path(__file__).parent.parent / "docs" / "guides" / page).read_text()
    return start + text.split(f"```python\n{start}")[1].split("```")[0]


def test_the_guides_loggers_take_what_a_record_holds() -> None:
    writer = _SummaryWriter()
    names: dict[str, Any] = {"writer": writer}
    exec(_fenced("hooks.md", "def to_tensorboard"), names)
    result = _train(4, on_dispatch=names["to_tensorboard"], validate=_step)
    assert ("validation", 4.0, 4) in writer.scalars
    assert ("loss", result.history[0]["loss"], 2) in writer.scalars
    assert "query_loss_per_step" not in {tag for tag, _, _ in writer.scalars}

    logged = []

    class Wandb:
        @staticmethod
        def log(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            logged.append((data, step))

    names = {"wandb": Wandb}
    exec(_fenced("hooks.md", "def to_wandb"), names)
    result = _train(4, on_dispatch=names["to_wandb"])
    assert logged == [(record, record["step"]) for record in result.history]


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"seconds": 1.0}, ValueError, r"metrics has the names \['seconds'\], which the library"),
        ({"loss": 1.0, "step": 1.0}, ValueError, r"the names \['loss', 'step'\]"),
        ({"grad_norm": 1.0}, ValueError, r"the names \['grad_norm'\]"),
        ({"phase": 1j}, TypeError, r"the metric 'phase' is of complex64; expected an array of"),
        ({"both": {"a": 1.0}}, TypeError, r"the metric 'both' is a dict; expected an array of"),
    ],
)
def test_a_learners_metrics_leave_the_records_fields_alone(
    metrics: dict, error: type, message: str
) -> None:
    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, _ = _loss(params, episode, key)
        return value, mj.Aux(None, jax.tree.map(lambda metric: metric * value, metrics))

    with pytest.raises(error, match=message):
        _train(learner=LEARNER._replace(loss=loss))


@pytest.mark.parametrize("name", ["query_loss", "loss", "finite", "grad_norm", "return_per_step"])
def test_an_objectives_metrics_do_too(name: str) -> None:
    def loss(params: dict, examples: mj.Examples, key: Any, context: Any) -> tuple:
        del key, context
        value = ((params["w"] * examples.inputs - examples.targets) ** 2).mean()
        return value, mj.types.ObjectiveAux(None, {name: value})

    def init(key: jax.Array, inputs: jax.Array) -> dict:
        del key, inputs
        return {"w": jnp.zeros((1, 1))}

    objective = mj.Objective(init, loss, lambda params, inputs, kept: params["w"] * inputs)
    learner = mj.maml(objective, inner=optax.sgd(0.1), num_steps=1)
    with pytest.raises(ValueError, match=rf"metrics has the names \['{name}'\]"):
        _train(learner=learner)


def test_a_state_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    adam = mj.init_state({"w": jnp.zeros((1, 1))}, optax.adam(0.1), jax.random.key(3))
    with (
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
        pytest.raises(ValueError, match=r"has opt_state\[0\].count of shape \(\), and this optim"),
    ):
        _train(state=adam, checkpoints=checkpoints)
    assert not list(tmp_path.iterdir())
    step = mj.train_step(LEARNER, optax.adamw(0.1))
    episodes = jax.vmap(SAMPLE)(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(ValueError, match=r"EmptyState\(\)\), and .*EmptyState\(\), EmptyState\(\)"):
        jax.eval_shape(step, adam, episodes)
    other = adam._replace(params={"w": jnp.zeros((2, 1))})
    with pytest.raises(ValueError, match=r"has opt_state\[0\].mu\['w'\] of shape \(1, 1\), and"):
        jax.eval_shape(mj.train_step(LEARNER, optax.adam(0.1)), other, episodes)


def _masked() -> optax.GradientTransformation:
    return optax.masked(optax.adam(0.1), lambda params: jax.tree.map(jnp.ndim, params))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optax.inject_hyperparams(optax.adam)(0.1),
        lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
        lambda: optax.partition({"a": optax.adam(0.1)}, {"w": "a"}),
        _masked,
        lambda: optax.contrib.schedule_free_adamw(0.1),
        lambda: optax.chain(optax.add_noise(0.1, 0.5, 1), optax.adam(lambda count: 0.1)),
    ],
)
def test_a_state_of_an_optimiser_built_anew_is_its_own(
    optimizer: Callable[[], optax.GradientTransformation],
) -> None:
    state = mj.init_state({"w": jnp.zeros((1, 1))}, optimizer(), jax.random.key(3))
    episodes = jax.vmap(SAMPLE)(jax.random.split(jax.random.key(0), 2))
    stepped, _ = jax.eval_shape(mj.train_step(LEARNER, optimizer()), state, episodes)
    chex.assert_trees_all_equal_shapes(stepped, state)


def test_an_optimiser_that_looks_at_values_is_let_be() -> None:
    optimizer = optax.GradientTransformation(
        lambda params: float(params["w"].sum()),
        lambda updates, state, params=None: (updates, state),
    )
    assert _train(2, optimizer=optimizer).stopped == "finished"


def test_a_run_that_has_nothing_left_to_do_says_so() -> None:
    whole = _train(4)
    message = r"at step 4 and iterations=4: nothing was trained; .* iterations=8 trains 4 more"
    with pytest.warns(RuntimeWarning, match=message):
        again = _train(4, state=whole.state)
    assert (again.stopped, again.history, again.compile_seconds) == ("finished", [], 0.0)
    chex.assert_trees_all_equal(again.state.params, whole.state.params)
