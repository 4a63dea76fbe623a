"""The compiled loop: the same run however it is cut, and nothing lost when it stops."""

import gc
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.keys import episode_keys
from metajax.training import loop

KEY = jax.random.key(3)
OPTIMIZER = optax.adam(1e-2)
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)
LEARNER = mj.maml(
    mj.models.mlp((8, 1), stddev=0.3),
    inner=optax.sgd(0.01),
    num_steps=1,
    loss_fn=mj.squared_error,
)


def _state() -> mj.TrainState:
    params = LEARNER.init(jax.random.key(0), jnp.zeros((1, 1)))
    return mj.init_state(params, OPTIMIZER, KEY)


def _train(state: mj.TrainState, iterations: int, **options: object) -> mj.TrainResult:
    options = {"meta_batch": 4, "dispatch": 10, "progress": False, **options}
    return mj.train(LEARNER, OPTIMIZER, state, SAMPLE, iterations=iterations, **options)


def test_loop_equals_steps_by_hand() -> None:
    step = jax.jit(mj.train_step(LEARNER, OPTIMIZER))
    state = _state()
    for _ in range(6):
        episodes = jax.vmap(SAMPLE)(episode_keys(state.key, state.step, 4))
        state, _ = step(state, episodes)
    result = _train(_state(), 6, dispatch=3)
    chex.assert_trees_all_close(result.state.params, state.params, rtol=1e-5, atol=1e-6)
    assert result.stopped == "finished"
    assert int(result.state.step) == 6


@pytest.mark.exact
def test_a_run_cut_in_two_is_the_same_run() -> None:
    whole = _train(_state(), 30)
    half = _train(_state(), 10)
    rest = _train(half.state, 30)
    chex.assert_trees_all_equal(rest.state.params, whole.state.params)
    chex.assert_trees_all_equal(rest.state.opt_state, whole.state.opt_state)
    assert [record["step"] for record in rest.history] == [20, 30]


def test_a_shorter_last_dispatch_is_the_same_run() -> None:
    whole = _train(_state(), 25, dispatch=25)
    cut = _train(_state(), 25, dispatch=10)
    chex.assert_trees_all_close(cut.state.params, whole.state.params, rtol=1e-5, atol=1e-6)
    assert [record["step"] for record in cut.history] == [10, 20, 25]


def test_dispatches_begin_at_multiples_of_their_length() -> None:
    part = _train(_state(), 7, dispatch=7)
    rest = _train(part.state, 25, dispatch=10)
    assert [record["step"] for record in rest.history] == [10, 20, 25]


def test_the_last_records_are_kept_and_all_of_them_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert loop._RECORDS == 1000
    monkeypatch.setattr(loop, "_RECORDS", 2)
    told = []
    path = tmp_path / "metrics.jsonl"
    result = _train(
        _state(), 40, metrics_file=path, on_dispatch=lambda state, record: told.append(record)
    )
    assert [record["step"] for record in told] == [10, 20, 30, 40]
    assert result.history == told[2:]
    assert [json.loads(line) for line in path.read_text().splitlines()] == told


def test_a_dispatch_leaves_nothing_in_memory() -> None:
    objects = []

    def count(state: mj.TrainState, record: dict) -> None:
        del state
        if record["step"] in (20, 40):
            gc.collect()
            objects.append(len(gc.get_objects()))

    def score(state: mj.TrainState) -> float:
        return float(mj.evaluate(LEARNER, state, SAMPLE, episodes=2).mean("query_loss"))

    _train(_state(), 40, dispatch=1, on_dispatch=count, validate=score)
    # Not one a dispatch; the records are dictionaries of numbers, which nobody collects.
    assert objects[1] - objects[0] < 20


@pytest.mark.parametrize("sample", [SAMPLE, "episodes of the host"])
def test_no_thread_outlives_a_run(sample: Any, tmp_path: Path) -> None:
    if sample != SAMPLE:
        sample = iter([jax.device_get(SAMPLE(KEY))] * 100)
    before = set(threading.enumerate())
    with mj.Checkpoints(tmp_path, options={}, every=10) as checkpoints:
        mj.train(
            LEARNER,
            OPTIMIZER,
            _state(),
            sample,
            iterations=20,
            meta_batch=4,
            dispatch=10,
            checkpoints=checkpoints,
        )
    gc.collect()  # orbax's last thread ends with what it belongs to.
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # One that was told to end is about to.
    assert set(threading.enumerate()) <= before


def test_learning_halves_the_query_loss() -> None:
    learner = mj.maml(
        mj.models.mlp((40, 40, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error
    )
    optimizer = optax.adam(3e-3)
    params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
    result = mj.train(
        learner,
        optimizer,
        mj.init_state(params, optimizer, KEY),
        mj.data.sinusoid_episodes(shots=10, queries=10),
        iterations=3000,
        meta_batch=25,
        dispatch=300,
        progress=False,
    )
    assert result.history[-1]["query_loss"] < 0.5 * result.history[0]["query_loss"]


def test_metrics_file_appends_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    half = _train(_state(), 10, metrics_file=path)
    assert json.loads(path.read_text())["step"] == 10
    _train(half.state, 20, metrics_file=path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20]
    assert {"loss", "grad_norm", "query_loss", "tasks_per_second", "seconds"} <= set(records[0])


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "lo')
    _train(_state(), 10, metrics_file=path)
    cut, whole = path.read_text().splitlines()
    assert cut == '{"step": 10, "lo'
    assert json.loads(whole)["step"] == 10


def test_metrics_go_to_no_fifo_and_to_a_terminal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match=r"metrics_file='.*fifo' is a FIFO, .*; expected a regular"):
        _train(_state(), 10, metrics_file=tmp_path / "fifo")
    terminal, path = os.openpty()
    _train(_state(), 10, metrics_file=os.ttyname(path))
    assert json.loads(os.read(terminal, 10_000))["step"] == 10
    os.close(terminal)
    os.close(path)


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _train(_state(), 20, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 10/20  loss ")
    assert lines[-1].startswith("step 20/20  loss ")
    assert "tasks/s" in lines[-1]
    assert "min left" in lines[-1]


@pytest.mark.exact
@pytest.mark.parametrize(
    ("signum", "stopped"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_a_signal_keeps_what_was_trained(
    signum: signal.Signals, stopped: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(state: mj.TrainState, record: dict) -> None:
        del state
        if record["step"] == 20:
            os.kill(os.getpid(), signum)
            # Only the main thread runs handlers, between two of its instructions.
            threading.Event().wait(0.05)

    # The signal arrives in the callback of dispatch 2: that dispatch counts, no other is begun.
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        result = _train(_state(), 100, on_dispatch=interrupt, checkpoints=checkpoints)
    assert result.stopped == stopped
    assert int(result.state.step) == 20
    expected = _train(_state(), 20).state.params
    chex.assert_trees_all_equal(result.state.params, expected)
    chex.assert_trees_all_equal(mj.restore_state(tmp_path, _state()).params, expected)
    assert "stopping when the last dispatch is validated, saved and rep" in capsys.readouterr().err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_last_state_is_saved(error: type, tmp_path: Path) -> None:
    def fail(state: mj.TrainState, record: dict) -> None:
        del state
        if record["step"] == 20:
            raise error("in the callback")

    with mj.Checkpoints(tmp_path, options={}) as checkpoints, pytest.raises(error):
        _train(_state(), 100, on_dispatch=fail, checkpoints=checkpoints)
    assert int(mj.restore_state(tmp_path, _state()).step) == 20


def test_a_run_that_never_began_leaves_no_checkpoint(tmp_path: Path) -> None:
    with mj.Checkpoints(tmp_path, options={}) as checkpoints, pytest.raises(ValueError):
        _train(_state(), 10, checkpoints=checkpoints, chunk_size=3)
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        assert _train(_state(), 10, checkpoints=checkpoints).stopped == "finished"


def test_a_signal_at_the_end_is_told_and_loses_no_score(tmp_path: Path) -> None:
    def terminate(state: mj.TrainState, record: dict) -> None:
        del state, record
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.05)

    def validate(state: mj.TrainState) -> float:
        del state
        return 1.0

    with mj.Checkpoints(tmp_path, options={}, every=10) as checkpoints:
        result = _train(
            _state(), 10, checkpoints=checkpoints, validate=validate, on_dispatch=terminate
        )
    assert result.stopped == "terminated"
    assert int(mj.restore_state(tmp_path, _state(), which="best").step) == 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_costs_records_not_the_run() -> None:
    with pytest.warns(RuntimeWarning, match=r"/dev/full could not be written: .*training goes on"):
        result = _train(_state(), 30, metrics_file="/dev/full")
    assert result.stopped == "finished"


@pytest.mark.exact
def test_python_numbers_as_parameters_are_the_same_run_cut_in_two() -> None:
    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        del key
        value = ((params["weight"] * params["scale"] - episode.support.targets) ** 2).mean()
        return value, mj.Aux(None, {"query_loss": value})

    learner = LEARNER._replace(loss=loss)
    params = {"weight": jnp.ones((1, 1), jnp.bfloat16), "scale": 1.5}
    state = mj.init_state(params, optax.sgd(0.01), KEY)
    options = {"meta_batch": 2, "dispatch": 5, "progress": False}

    def run(state: mj.TrainState, iterations: int) -> mj.TrainState:
        return mj.train(
            learner, optax.sgd(0.01), state, SAMPLE, iterations=iterations, **options
        ).state

    chex.assert_trees_all_equal(run(run(state, 5), 10).params, run(state, 10).params)


def test_large_parameters_in_half_precision_are_finite() -> None:
    def loss(params: jax.Array, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        del key
        value = (params * episode.support.targets[0]).sum()
        return value, mj.Aux(None, {"query_loss": value})

    state = mj.init_state(jnp.full(1000, 30.0, jnp.float16), optax.sgd(1e-3), KEY)
    result = mj.train(
        LEARNER._replace(loss=loss),
        optax.sgd(1e-3),
        state,
        SAMPLE,
        iterations=2,
        meta_batch=2,
        progress=False,
    )
    assert result.stopped == "finished"


@pytest.mark.exact
def test_checkpoints_are_saved_when_due_with_their_scores(tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0])
    seen = []

    def validate(state: mj.TrainState) -> float:
        seen.append(state.params)
        return next(scores)

    with mj.Checkpoints(tmp_path, options={}, every=20, keep=1) as checkpoints:
        result = _train(_state(), 50, checkpoints=checkpoints, validate=validate)
    validated = {record["step"]: record.get("validation") for record in result.history}
    assert validated == {10: None, 20: 1.0, 30: None, 40: 3.0, 50: 2.0}
    assert int(mj.restore_state(tmp_path, _state()).step) == 50
    best = mj.restore_state(tmp_path, _state(), which="best")
    assert int(best.step) == 40
    chex.assert_trees_all_equal(best.params, seen[1])


def test_another_runs_folder_is_refused_before_training(tmp_path: Path) -> None:
    with mj.Checkpoints(tmp_path, options={}) as checkpoints:
        _train(_state(), 10, checkpoints=checkpoints)
    with (
        mj.Checkpoints(tmp_path, options={}) as checkpoints,
        pytest.raises(FileExistsError, match="restore"),
    ):
        _train(_state(), 10, checkpoints=checkpoints)


def test_options_of_the_loop() -> None:
    with pytest.raises(ValueError, match=r"non_finite='halt'; expected \"stop\" or \"skip\""):
        _train(_state(), 10, non_finite="halt")
    with pytest.raises(ValueError, match=r"validate_every=5 and no validate; expected a function"):
        _train(_state(), 10, validate_every=5)
    with pytest.raises(ValueError, match=r"validate_every=0; expected an integer of 1 or more"):
        _train(_state(), 10, validate_every=0, validate=lambda state: 0.0)


def test_training_works_outside_the_main_thread() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(_train(_state(), 10)))
    thread.start()
    thread.join()
    assert results[0].stopped == "finished"


def test_a_non_finite_loss_names_the_step_and_keeps_the_last_good_state() -> None:
    bad = 7

    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, aux = LEARNER.loss(params["net"], episode, key)
        poison = jnp.where(params["count"] == bad, jnp.nan, 0.0)
        # The outer optimiser counts down by the gradient -1.
        return value + poison - params["count"] + jax.lax.stop_gradient(params["count"]), aux

    learner = LEARNER._replace(loss=loss)
    optimizer = optax.multi_transform(
        {"net": optax.sgd(1e-3), "count": optax.sgd(1.0)}, {"net": "net", "count": "count"}
    )
    params = {"net": _state().params, "count": jnp.zeros(())}
    state = mj.init_state(params, optimizer, KEY)
    with pytest.warns(RuntimeWarning, match=r"not finite at step 7; stopped, keeping .* step 7"):
        result = mj.train(
            learner,
            optimizer,
            state,
            SAMPLE,
            iterations=30,
            meta_batch=2,
            dispatch=5,
            progress=False,
        )
    assert result.stopped == "non-finite"
    assert int(result.state.step) == bad
    assert float(result.state.params["count"]) == bad
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert [record["step"] for record in result.history] == [5]


def _poisoned(*steps: int) -> mj.Learner:
    """A learner whose loss is not finite where the data are those of these steps."""
    bad = jnp.stack([_first_input(step) for step in steps])

    def loss(params: dict, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        value, aux = LEARNER.loss(params, episode, key)
        # Drawn by another program, so the same but for rounding.
        near = jnp.abs(episode.support.inputs[0, 0] - bad) < 1e-5
        return value + jnp.where(near.any(), jnp.nan, 0.0), aux

    return LEARNER._replace(loss=loss)


def _first_input(step: int) -> jax.Array:
    state = _state()._replace(step=jnp.array(step))
    return SAMPLE(episode_keys(state.key, state.step, 1)[0]).support.inputs[0, 0]


def test_non_finite_steps_can_be_skipped() -> None:
    state, optimizer = _state(), optax.sgd(1e-3)
    state = mj.init_state(state.params, optimizer, KEY)
    options = {"iterations": 20, "meta_batch": 1, "dispatch": 10, "progress": False}
    with pytest.warns(RuntimeWarning, match=r"not finite at step 3, 7; went on without 2 of 10 up"):
        result = mj.train(_poisoned(3, 7), optimizer, state, SAMPLE, non_finite="skip", **options)
    assert result.stopped == "finished"
    assert int(result.state.step) == 20
    assert [record.get("skipped") for record in result.history] == [2, None]
    assert np.isfinite(result.history[0]["loss"])

    step = jax.jit(mj.train_step(LEARNER, optimizer))
    for number in range(20):
        stepped, _ = step(state, jax.vmap(SAMPLE)(episode_keys(state.key, state.step, 1)))
        state = state._replace(step=stepped.step) if number in (3, 7) else stepped
    chex.assert_trees_all_close(result.state.params, state.params, rtol=1e-5, atol=1e-6)


def test_skipping_ends_where_nothing_is_left() -> None:
    optimizer = optax.sgd(lambda count: jnp.where(count >= 5, jnp.nan, 1e-3))
    state = mj.init_state(_state().params, optimizer, KEY)
    options = {"iterations": 100, "meta_batch": 1, "dispatch": 5, "progress": False}
    with pytest.warns(RuntimeWarning, match="without 5 of 5 updates, and stopped"):
        result = mj.train(LEARNER, optimizer, state, SAMPLE, non_finite="skip", **options)
    assert result.stopped == "non-finite"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert [record["step"] for record in result.history] == [5]


def test_a_non_finite_gradient_stops_too() -> None:
    # A finite loss with an infinite slope: sqrt at 0, as with an inner Adam without eps_root.
    def loss(params: jax.Array, episode: mj.Episode, key: jax.Array) -> tuple[jax.Array, mj.Aux]:
        del episode, key
        value = jnp.sqrt(params)
        return value, mj.Aux(None, {"query_loss": value})

    learner = LEARNER._replace(loss=loss)
    state = mj.init_state(jnp.zeros(()), optax.sgd(0.1), KEY)
    with pytest.warns(RuntimeWarning, match=r"not finite at step 0.*eps_root=1e-8"):
        result = mj.train(
            learner,
            optax.sgd(0.1),
            state,
            SAMPLE,
            iterations=2,
            meta_batch=1,
            progress=False,
        )
    assert float(result.state.params) == 0.0


def test_a_non_finite_update_is_not_kept() -> None:
    optimizer = optax.sgd(lambda count: jnp.where(count == 3, jnp.nan, 1e-3))
    state = mj.init_state(_state().params, optimizer, KEY)
    with pytest.warns(RuntimeWarning, match="not finite at step 3; stopped, keeping .* step 3"):
        result = mj.train(
            LEARNER, optimizer, state, SAMPLE, iterations=9, meta_batch=1, progress=False
        )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))


def test_the_loop_draws_other_keys_for_data_than_for_the_learner() -> None:
    state = _state()
    data = jax.random.key_data(episode_keys(state.key, state.step, 4))
    learner = jax.random.key_data(mj.task_keys(jax.random.fold_in(state.key, state.step), 4))
    assert not (data[:, None] == learner[None]).all(-1).any()
