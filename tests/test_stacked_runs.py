"""Many runs as one stack: each is the run that it would be alone, and stops by itself."""

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import stacked_runs
from metajax.keys import episode_keys

RUNS = 3
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)
LEARNER = mj.maml(
    mj.models.mlp((8, 1), stddev=0.3),
    inner=optax.sgd(0.01),
    num_steps=1,
    loss_fn=mj.squared_error,
)


def _adam(rate: float | jax.Array) -> optax.GradientTransformation:
    return optax.inject_hyperparams(optax.adam)(learning_rate=rate)


OPTIMIZER = _adam(1e-2)


def _state(key: jax.Array, rate: float | jax.Array) -> mj.TrainState:
    return mj.init_state(LEARNER.init(key, jnp.zeros((1, 1))), _adam(rate), key)


@functools.cache
def _states() -> mj.TrainState:
    """Seeds, each with an outer rate of its own."""
    keys = jax.random.split(jax.random.key(3), RUNS)
    return jax.vmap(_state)(keys, jnp.array([1e-2, 3e-3, 1e-3]))


def _run(states: mj.TrainState, index: int) -> mj.TrainState:
    return jax.tree.map(lambda x: x[index], states)


def _train(state: mj.TrainState, iterations: int, **options: object) -> mj.TrainResult:
    options = {"meta_batch": 4, "dispatch": 10, "progress": False, **options}
    learner, sample = options.pop("learner", LEARNER), options.pop("sample", SAMPLE)
    return mj.train(learner, OPTIMIZER, state, sample, iterations=iterations, **options)


class _Host:
    """The sinusoids, their numbers read by the host."""

    def __call__(self, key: jax.Array) -> mj.Episode:
        return self.finish(key, self.fetch(key))

    def fetch(self, keys: jax.Array, indices: np.ndarray | None = None) -> np.ndarray:
        del indices
        return np.asarray(jax.random.key_data(keys))

    def finish(self, key: jax.Array, fetched: jax.Array) -> mj.Episode:
        del key
        return SAMPLE(jax.random.wrap_key_data(jnp.asarray(fetched)))


@functools.cache
def _whole() -> mj.TrainResult:
    return _train(_states(), 20)


def _assert_close(got: object, expected: object) -> None:
    chex.assert_trees_all_close(
        mj.parallel.to_host(got), mj.parallel.to_host(expected), rtol=1e-4, atol=1e-6
    )


@pytest.fixture(params=["at once", "one by one"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_runs, "one_at_a_time", lambda size: request.param == "one by one")


@functools.cache
def _alone(index: int) -> mj.TrainResult:
    return _train(_run(_states(), index), 20)


@pytest.mark.usefixtures("_way")
def test_each_run_is_what_it_would_be_alone() -> None:
    stack = _train(_states(), 20)
    assert stack.state.step.tolist() == [20] * RUNS
    for index in range(RUNS):
        _assert_close(_run(stack.state, index), _alone(index).state)
        for record, expected in zip(stack.history, _alone(index).history, strict=True):
            assert record["step"] == expected["step"]
            for name in ("loss", "query_loss", "grad_norm"):
                np.testing.assert_allclose(record[name][index], expected[name], rtol=1e-4)


def test_one_cpu_device_runs_large_models_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def loops(size: int) -> int:
        stack = jnp.ones((RUNS, size))
        program = jax.make_jaxpr(
            lambda stack: stacked_runs.over_runs(lambda x: x.sum(), stack, stack)
        )(stack)
        return str(program).count("scan[")

    assert (loops(10_000), loops(100)) == (0, 0)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert (loops(10_000), loops(100)) == (1, 0)


def test_records_are_lists_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    result = _train(_states(), 20, metrics_file=path, progress=True)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records == result.history
    assert records[1]["step"] == 20
    assert np.shape(records[1]["loss"]) == (RUNS,)
    tasks = records[0]["tasks_per_second"] * records[0]["seconds"]
    np.testing.assert_allclose(tasks, 10 * 4 * RUNS)
    mean = np.mean(records[1]["loss"])
    assert f"step 20/20  loss {mean:.4g}" in capsys.readouterr().err
    assert f"finished, means over {RUNS} runs: step 20, " in repr(result)
    assert f"loss {mean:.6g}" in repr(result)


def _poisoned(*bad: tuple[int, int]) -> mj.Learner:
    """A learner whose loss is not finite where the data are those of these runs and steps."""
    inputs = jnp.stack([_first_input(*each) for each in bad])

    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, aux = LEARNER.loss(params, episode, key)
        near = jnp.abs(episode.support.inputs[0, 0] - inputs) < 1e-5
        return value + jnp.where(near.any(), jnp.nan, 0.0), aux

    return LEARNER._replace(loss=loss)


def _first_input(run: int, step: int) -> jax.Array:
    key = episode_keys(_states().key[run], step, 1)[0]
    return SAMPLE(key).support.inputs[0, 0]


def test_a_run_that_is_not_finite_stops_and_the_others_go_on() -> None:
    # With data read ahead, a step that is taken again would have other data, and be finite.
    learner = _poisoned((0, 22), (1, 7), (2, 7))
    with pytest.warns(RuntimeWarning) as warned:
        result = _train(_states(), 100, learner=learner, sample=_Host())
    assert [str(each.message).split(". ")[0] for each in warned] == [
        "the meta-loss, its gradient or the update was not finite in run 1 at step 7; stopped, "
        "keeping the parameters of step 7; in run 2 at step 7; stopped, keeping the parameters of "
        "step 7; 1 of 3 runs go on",
        "the meta-loss, its gradient or the update was not finite in run 0 at step 22; stopped, "
        "keeping the parameters of step 22; 0 of 3 runs go on",
    ]
    assert result.stopped == "non-finite"
    assert result.state.step.tolist() == [22, 7, 7]
    _assert_close(_run(result.state, 1), _train(_run(_states(), 1), 7).state)
    assert [record["step"] for record in result.history] == [10, 20]
    assert [record["loss"][1] is None for record in result.history] == [False, True]
    assert [record["skipped"] for record in result.history] == [[0, 3, 3], [0, 10, 10]]
    json.dumps(result.history, allow_nan=False)
    assert "nan" not in repr(result)
    with pytest.raises(ValueError, match=r"steps \[22, 7, 7\]; expected one step for all.*x\["):
        _train(result.state, 200)


def test_steps_are_skipped_run_by_run() -> None:
    everything = [(2, step) for step in range(10)]
    learner = _poisoned((0, 3), (0, 4), (1, 7), *everything)
    with pytest.warns(RuntimeWarning) as warned:
        result = _train(_states(), 20, learner=learner, sample=_Host(), non_finite="skip")
    (message,) = (str(each.message) for each in warned)
    assert "in run 0 at step 3, 4; went on without 2 of 10 updates; in run 1 at step 7" in message
    assert "without 10 of 10 updates, and stopped, since none was left; 2 of 3 runs" in message
    # The last would have been finite from step 10 on, and alone would not have come there.
    assert result.state.step.tolist() == [20, 20, 0]
    _assert_close(_run(result.state, 2), _run(_states(), 2))
    assert [record["skipped"] for record in result.history] == [[2, 1, 10], [0, 0, 10]]


@pytest.mark.exact
@pytest.mark.parametrize("bad", [None, pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_as_the_same_stack(bad: int | None, tmp_path: Path) -> None:
    learner = LEARNER if bad is None else _poisoned((1, bad))
    scores = []

    def validate(states: mj.TrainState) -> np.ndarray:
        scores.append(np.abs(states.params["Dense_0"]["bias"]).sum(axis=-1))
        return scores[-1]

    def part(iterations: int) -> mj.TrainResult:
        with mj.Checkpoints(tmp_path, options={}, every=10, mode="min") as checkpoints:
            return _train(
                checkpoints.restore(_states()),
                iterations,
                learner=learner,
                checkpoints=checkpoints,
                validate=validate,
            )

    with pytest.warns(RuntimeWarning) if bad else contextlib.nullcontext():
        first = part(10)
        whole = _whole() if bad is None else _train(_states(), 20, learner=learner)
    rest = part(20)
    chex.assert_trees_all_equal(_bits(rest.state), _bits(whole.state))
    assert rest.state.step.tolist() == [20, 20 if bad is None else bad, 20]
    assert first.history[0]["validation"] == scores[0].tolist()
    best = mj.restore_state(tmp_path, _states(), which="best")
    assert int(best.step.max()) == (10 if scores[0].mean() < scores[1].mean() else 20)


@pytest.mark.slow
def test_each_run_has_its_own_episodes_read_by_the_host() -> None:
    result = _train(_states(), 20, sample=_Host())
    _assert_close(result.state, _whole().state)


@pytest.mark.parametrize(
    ("sample", "model"),
    [
        (SAMPLE, 1),
        pytest.param(_Host(), 1, marks=pytest.mark.slow),
        pytest.param(SAMPLE, 2, marks=pytest.mark.slow),
    ],
    ids=["device", "host", "parameters cut"],
)
def test_runs_over_devices(sample: Callable, model: int) -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[: 2 * model], model=model)
    result = _train(_states(), 20, mesh=mesh, sample=sample)
    _assert_close(result.state, _whole().state)


def test_scores_of_every_run_on_the_same_episodes() -> None:
    stack = mj.evaluate(LEARNER, _states(), SAMPLE, episodes=20)
    assert stack.runs == RUNS
    assert stack.scores["query_loss"].shape == (RUNS, 20)
    for index in range(RUNS):
        alone = mj.evaluate(LEARNER, _run(_states(), index), SAMPLE, episodes=20)
        plain = mj.evaluate(LEARNER, _run(_states(), index).params, SAMPLE, episodes=20)
        assert alone.runs is None
        np.testing.assert_array_equal(alone.mean("query_loss"), plain.mean("query_loss"))
        for got, expected in (
            (stack.mean("query_loss")[index], alone.mean("query_loss")),
            (stack.interval("query_loss")[index], alone.interval("query_loss")),
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-4)
    read = mj.evaluate(LEARNER, _states(), _Host(), episodes=20)
    np.testing.assert_allclose(read.scores["query_loss"], stack.scores["query_loss"], rtol=1e-4)


def test_the_spread_over_runs_by_hand() -> None:
    # Of the means 1, 2, 3 and 4; Student's t of 3 degrees of freedom from a table.
    scores = np.arange(1.0, 5.0)[:, None] + np.array([-0.5, 0.5])
    found = mj.Evaluation({"score": scores, "score_per_step": scores[..., None]}, 2, 0, runs=4)
    mean, half = found.over_runs("score")
    assert mean == 2.5
    np.testing.assert_allclose(half, 3.1824 * np.sqrt(5 / 3) / 2, rtol=1e-4)
    assert found.over_runs("score_per_step")[0].shape == (1,)
    assert repr(found).splitlines() == [
        "Evaluation of 2 episodes, seed 0, over 4 runs:",
        "  score 2.5000 ± 2.0543",
        "  score_per_step 2.5000 ± 2.0543",
    ]
    one = mj.Evaluation({"score": scores[:1]}, 2, 0, runs=1)
    assert "score 1.0000 ± " in repr(one)
    with pytest.raises(ValueError, match="a stack of one run; expected those of 2 runs or more"):
        one.over_runs("score")
    with pytest.raises(ValueError, match="the scores are of no stack"):
        mj.Evaluation({"score": scores[0]}, 2, 0).over_runs("score")


@pytest.mark.slow
def test_a_step_of_ones_own_takes_a_stack() -> None:
    result = mj.train(
        mj.train_step(LEARNER, OPTIMIZER),
        None,
        _states(),
        SAMPLE,
        iterations=20,
        meta_batch=4,
        dispatch=10,
        progress=False,
    )
    _assert_close(result.state, _whole().state)


def test_what_is_no_stack_is_refused(tmp_path: Path) -> None:
    states = _states()
    with pytest.raises(ValueError, match=r"state.params.*\(8,\); expected \(3, ...\)"):
        _train(states._replace(params=_run(states, 0).params), 20)
    with pytest.raises(ValueError, match=r"state.step has the shape \(1, 3\); expected \(\), or"):
        _train(states._replace(step=states.step[None]), 20)
    with (
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
        pytest.raises(
            TypeError, match=r"validate returned .*; expected one number, or one for each of 3"
        ),
    ):
        _train(states, 20, checkpoints=checkpoints, validate=lambda states: np.zeros(2))


def _bits(state: mj.TrainState) -> mj.TrainState:
    return state._replace(key=jax.random.key_data(state.key))
