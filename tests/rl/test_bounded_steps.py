"""Steps on frozen roll-outs in `train`: over devices, cut in two, and many runs at once."""

from collections.abc import Callable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)
NAVIGATION = mj.rl.navigation()


@jax.custom_jvp
def _without_derivative(x: jax.Array) -> jax.Array:
    return x


@_without_derivative.defjvp
def _refuse(primals: tuple, tangents: tuple) -> tuple:
    raise AssertionError("the environment is differentiated")


def _move(key: jax.Array, state: jax.Array, action: jax.Array, goal: jax.Array) -> tuple:
    return NAVIGATION.step(key, state, _without_derivative(action), goal)


ENVIRONMENT = mj.rl.Environment(NAVIGATION.reset, _move, NAVIGATION.sample_task)
SAMPLE = mj.rl.task_episodes(ENVIRONMENT)
OBJECTIVE = mj.rl.PolicyGradient(
    mj.rl.gaussian_policy(mj.models.mlp((2,), stddev=0.3)), ENVIRONMENT, horizon=3, rollouts=2
)
OPTIMIZERS = {"trpo": optax.identity(), "ppo": optax.adam(1e-2)}
KINDS = pytest.mark.parametrize("kind", OPTIMIZERS)


def _step(kind: str, axis_name: str | None = None) -> Callable:
    options = {"inner": optax.sgd(0.1), "num_steps": 1, "axis_name": axis_name}
    if kind == "trpo":
        return mj.rl.trpo_step(OBJECTIVE, cg_steps=3, **options)
    return mj.rl.ppo_step(OBJECTIVE, OPTIMIZERS["ppo"], epochs=2, **options)


def _state(kind: str, key: jax.Array = KEY) -> mj.TrainState:
    params = OBJECTIVE.init(key, SAMPLE(KEY).support.inputs)
    params = jax.tree.map(lambda x: x.astype(float), params)
    return mj.init_state(params, OPTIMIZERS[kind], key)


def _train(kind: str, state: mj.TrainState, **options: object) -> mj.TrainResult:
    options = {"iterations": 4, "meta_batch": 4, "dispatch": 2, "progress": False, **options}
    return mj.train(_step(kind), None, state, SAMPLE, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trpo", "ppo"])
def test_many_devices_have_the_result_of_one(kind: str, float64: None) -> None:
    state = _state(kind)
    task = jax.random.uniform(KEY, (4, 1, 2), minval=-0.5, maxval=0.5)
    tasks = mj.Examples(task, jnp.zeros((4, 1)))
    episodes = mj.Episode(tasks, tasks)
    one, metrics = jax.jit(_step(kind))(state, episodes)
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    step = mj.parallel.mesh_step(_step(kind, "tasks"), mesh)
    several = step(mj.parallel.place_state(state, mesh), episodes)
    chex.assert_trees_all_close(mj.parallel.to_host(several[0].params), one.params, rtol=1e-9)
    assert several[1].keys() == metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(several[1][name], value, rtol=1e-8, atol=1e-14, err_msg=name)
    assert float(metrics["kl"]) > 0


@pytest.mark.slow
@KINDS
def test_a_run_that_is_cut_in_two_is_the_same_run(kind: str, tmp_path: Path) -> None:
    whole = _train(kind, _state(kind))
    with mj.Checkpoints(tmp_path, options={}, every=2) as checkpoints:
        _train(kind, _state(kind), iterations=2, checkpoints=checkpoints)
    with mj.Checkpoints(tmp_path, options={}, every=2) as checkpoints:
        half = checkpoints.restore(_state(kind))
        assert int(half.step) == 2
        rest = _train(kind, half)
    chex.assert_trees_all_equal(rest.state, whole.state)
    for name in ("loss", "kl", "return", "return_before"):
        assert rest.history[-1][name] == whole.history[-1][name]


@pytest.mark.slow
@KINDS
def test_runs_of_a_stack_are_those_that_they_would_be_alone(kind: str, float64: None) -> None:
    keys = jax.random.split(KEY, 3)
    together = _train(kind, jax.vmap(lambda key: _state(kind, key))(keys))
    for index, key in enumerate(keys):
        alone = _train(kind, _state(kind, key))
        run = jax.tree.map(lambda x, index=index: x[index], together.state)
        chex.assert_trees_all_close(run.params, alone.state.params, rtol=1e-9)


@pytest.mark.slow
@KINDS
def test_training_over_devices_is_that_of_one(kind: str, float64: None) -> None:
    mesh = mj.parallel.task_mesh(jax.devices()[:2])
    options = {"meta_batch": 4, "dispatch": 2, "iterations": 2, "progress": False}
    step = _step(kind, "tasks")
    several = mj.train(step, None, _state(kind), SAMPLE, mesh=mesh, **options)
    one = _train(kind, _state(kind), iterations=2)
    chex.assert_trees_all_close(
        mj.parallel.to_host(several.state.params), one.state.params, rtol=1e-9
    )
