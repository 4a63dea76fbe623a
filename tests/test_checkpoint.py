"""Checkpoints: what was saved comes back, and going on from it is the same run."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import metajax as mj

OPTIMIZER = optax.adam(1e-2)
LEARNER = mj.maml(mj.mlp((8, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error)
SAMPLE = mj.sinusoid_episodes(shots=5, queries=5)


def _state(width: int = 8) -> mj.TrainState:
    params = mj.mlp((width, 1)).init(jax.random.key(0), jnp.zeros((1, 1)))
    return mj.init_state(params, OPTIMIZER, jax.random.key(1))


def _train(state: mj.TrainState, iterations: int) -> mj.TrainState:
    return mj.train(
        LEARNER,
        OPTIMIZER,
        state,
        SAMPLE,
        iterations=iterations,
        meta_batch=2,
        dispatch=5,
        progress=False,
    ).state


def test_resuming_from_a_checkpoint_is_the_same_run(tmp_path: Path) -> None:
    mj.save_state(tmp_path / "a folder", _train(_state(), 5))
    resumed = _train(mj.restore_state(tmp_path / "a folder", _state()), 10)
    whole = _train(_state(), 10)
    chex.assert_trees_all_equal(resumed[:3], whole[:3])
    assert (jax.random.key_data(resumed.key) == jax.random.key_data(whole.key)).all()


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        mj.save_state(tmp_path, _state()._replace(step=jnp.array(step)), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    assert int(mj.restore_state(tmp_path, _state()).step) == 3


def test_saving_a_state_twice_is_nothing_new(tmp_path: Path) -> None:
    mj.save_state(tmp_path, _state())
    mj.save_state(tmp_path, _state())
    chex.assert_trees_all_equal(mj.restore_state(tmp_path, _state()).params, _state().params)


@pytest.mark.parametrize("step", [3, 5])
def test_another_runs_folder_is_refused(tmp_path: Path, step: int) -> None:
    first = _state()._replace(step=jnp.array(5))
    mj.save_state(tmp_path, first)
    other = jax.tree.map(lambda x: x + 1, first.params)
    with pytest.raises(FileExistsError, match=r"holds another run's checkpoint of step 5"):
        mj.save_state(tmp_path, first._replace(params=other, step=jnp.array(step)))
    chex.assert_trees_all_equal(mj.restore_state(tmp_path, first).params, first.params)


def test_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; expected a folder"):
        mj.restore_state(tmp_path / "nowhere", _state())
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint"):
        mj.restore_state(tmp_path, _state())


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    mj.save_state(tmp_path, _state(width=8))
    with pytest.raises(
        ValueError, match=r"Dense_0/bias has shape \(8,\); the model expects \(9,\)"
    ):
        mj.restore_state(tmp_path, _state(width=9))


def test_keep() -> None:
    with pytest.raises(ValueError, match=r"keep=0; expected"):
        mj.save_state("unused", _state(), keep=0)
