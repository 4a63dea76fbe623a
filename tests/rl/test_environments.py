"""Environments with pure functions: their numbers, and what they refuse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.rl.environments import task_of

KEY = jax.random.key(0)


@pytest.mark.usefixtures("float64")
def test_navigation_moves_and_pays_as_the_authors_code() -> None:
    environment = mj.rl.navigation()
    goal = jnp.array([0.3, -0.2])
    state, observation = environment.reset(KEY, goal)
    np.testing.assert_array_equal(observation, [0, 0])
    assert observation.dtype == jnp.float64
    # One component is clipped: 5 moves by as much as 1.
    state, observation, reward, done = environment.step(KEY, state, jnp.array([5.0, -0.5]), goal)
    np.testing.assert_allclose(observation, [0.1, -0.05], atol=1e-12)
    np.testing.assert_allclose(state, observation)
    np.testing.assert_allclose(reward, -np.hypot(0.2, 0.15), atol=1e-12)
    assert not done


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("away", "ends"), [(0.0099, True), (0.0101, False)])
def test_navigation_ends_near_the_goal_in_both_components(away: float, ends: bool) -> None:
    environment = mj.rl.navigation()
    goal = jnp.array([0.05, 0.02])
    action = (goal + jnp.array([away, -0.009])) / 0.1
    *_, reward, done = environment.step(KEY, jnp.zeros(2), action, goal)
    assert bool(done) == ends
    np.testing.assert_allclose(reward, -np.hypot(away, 0.009), atol=1e-12)  # It counts.


def test_navigation_goals_fill_a_square() -> None:
    environment = mj.rl.navigation(reach=2.0, stride=0.5, radius=0.0)
    goals = np.asarray(jax.jit(jax.vmap(environment.sample_task))(jax.random.split(KEY, 2000)))
    assert np.abs(goals).max() <= 2
    np.testing.assert_allclose(goals.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(goals.std(axis=0), 4 / np.sqrt(12), rtol=0.05)
    position = environment.step(KEY, jnp.zeros(2), jnp.ones(2), jnp.ones(2))[0]
    np.testing.assert_allclose(position, 0.5)


def test_tabular_tasks_are_those_of_rl2() -> None:
    environment = mj.rl.tabular()
    tasks = jax.jit(jax.vmap(environment.sample_task))(jax.random.split(KEY, 200))
    transitions, rewards = map(np.asarray, tasks)
    assert transitions.shape == (200, 10, 5, 10)
    np.testing.assert_allclose(transitions.sum(axis=-1), 1, atol=1e-5)
    # One probability of ten, uniform on the simplex: Beta(1, 9).
    np.testing.assert_allclose(transitions.var(), 9 / (100 * 11), rtol=0.05)
    assert rewards.shape == (200, 10, 5)
    np.testing.assert_allclose([rewards.mean(), rewards.std()], 1, atol=0.03)


def test_tabular_steps_follow_the_task() -> None:
    environment = mj.rl.tabular(3, 2, noise=0.5)
    rows = [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]
    task = mj.rl.TabularTask(jnp.array([rows] * 3), jnp.arange(6.0).reshape(3, 2))
    state, observation = environment.reset(KEY, task)
    np.testing.assert_array_equal(observation, [1, 0, 0])

    @jax.jit
    @jax.vmap
    def step(key: jax.Array, action: jax.Array) -> tuple:
        return environment.step(key, state, action, task)

    keys = jax.random.split(KEY, 4000)
    after, seen, rewards, done = step(keys, jnp.zeros(4000, int))
    rewards = np.asarray(rewards)
    shares = np.bincount(np.asarray(after), minlength=3) / 4000
    np.testing.assert_allclose(shares, rows[0], atol=0.03)
    np.testing.assert_array_equal(np.asarray(seen).argmax(axis=-1), after)
    np.testing.assert_allclose(rewards.mean(), 0, atol=0.03)
    np.testing.assert_allclose(rewards.std(), 0.5, atol=0.02)
    assert not np.asarray(done).any()
    after, *_ = step(keys, jnp.ones(4000, int))
    np.testing.assert_array_equal(after, 1)  # What has probability 0 never comes.
    reward = mj.rl.tabular(3, 2, noise=0.0).step(KEY, jnp.asarray(2), jnp.asarray(1), task)[2]
    np.testing.assert_array_equal(reward, 5)


def test_tabular_serves_a_categorical_policy() -> None:
    environment = mj.rl.tabular(4, 3)
    policy = mj.rl.categorical_policy(mj.models.mlp((3,), stddev=0.1))
    mj.rl.PolicyGradient(policy, environment, horizon=2, rollouts=2)  # Looks whether they fit.
    broken = mj.Model(lambda key, x: jnp.zeros((9, 3)), lambda params, x: x @ params)
    policy = mj.rl.categorical_policy(broken)
    with pytest.raises(ValueError, match="takes no observations like those"):
        mj.rl.PolicyGradient(policy, environment, horizon=2, rollouts=2)


def test_a_policy_can_be_told_the_task() -> None:
    environment = mj.rl.observing_task(mj.rl.tabular(3, 2))
    assert environment.num_actions == 2
    assert mj.rl.observing_task(mj.rl.navigation()).action_size == 2
    task = environment.sample_task(KEY)
    told = np.concatenate([np.ravel(x) for x in task])
    state, observation = environment.reset(KEY, task)
    np.testing.assert_array_equal(observation, np.concatenate([[1, 0, 0], told]))
    state, observation, *_ = environment.step(KEY, state, jnp.asarray(1), task)
    np.testing.assert_array_equal(observation[:3], jax.nn.one_hot(state, 3))
    np.testing.assert_array_equal(observation[3:], told)
    with pytest.raises(TypeError, match=r"expected a metajax\.rl\.Environment"):
        mj.rl.observing_task("navigation")  # type: ignore[arg-type]
    two = mj.rl.Environment(
        lambda key, task: (task, {"at": task, "by": task}),
        environment.step,
        lambda key: jnp.ones(2),
    )
    with pytest.raises(ValueError, match=r"shapes \[\(2,\), \(2,\)\]; expected one, \[features\]"):
        mj.rl.observing_task(two).reset(KEY, jnp.ones(2))
    told_a_key = mj.rl.observing_task(shifting(drawn_by_a_key))
    with pytest.raises(ValueError, match=r"task holds a random key, .*; expected numbers alone"):
        told_a_key.reset(KEY, drawn_by_a_key(KEY))


def test_an_episode_is_one_task() -> None:
    environment = mj.rl.tabular(3, 2)
    support, query = mj.rl.task_episodes(environment)(KEY)
    jax.tree.map(np.testing.assert_array_equal, task_of(support), environment.sample_task(KEY))
    jax.tree.map(np.testing.assert_array_equal, support.inputs, query.inputs)
    with pytest.raises(ValueError, match=r"array of shape \(2, 1\); expected \[1, ...\]"):
        task_of(mj.Examples(jnp.zeros((2, 1)), jnp.zeros(2)))
    numbers = mj.rl.task_examples({"goal": 2.0, "on": True})
    jax.tree.map(np.testing.assert_array_equal, task_of(numbers), {"goal": 2.0, "on": True})
    with pytest.raises(TypeError, match=r"expected a metajax\.rl\.Environment"):
        mj.rl.task_episodes(environment.step)  # type: ignore[arg-type]


SGD, NO_OPTIMIZER = optax.sgd(0.1), optax.identity()


def trained(learner: Any, params: Any, sample: Any, optimizer: Any = None) -> float:
    """The return of the first meta-step."""
    state = mj.init_state(params, NO_OPTIMIZER if optimizer is None else optimizer, KEY)
    result = mj.train(learner, optimizer, state, sample, iterations=1, meta_batch=2, progress=False)
    return result.history[-1]["return"]


def drawn_by_a_key(key: jax.Array) -> Any:
    return {"key": key, "size": jnp.ones(())}


def shifting(sample_task: Callable[[jax.Array], Any]) -> mj.rl.Environment:
    """A point that is paid what the task's key draws."""

    def step(key: jax.Array, state: jax.Array, action: jax.Array, task: Any) -> Any:
        return state, state, task["size"] * jax.random.normal(task["key"]), False

    return mj.rl.Environment(lambda key, task: (jnp.zeros(1),) * 2, step, sample_task)


def test_a_task_may_hold_a_random_key() -> None:
    policy = mj.rl.gaussian_policy(mj.models.mlp((1,)))
    objective = mj.rl.PolicyGradient(policy, shifting(drawn_by_a_key), horizon=2, rollouts=2)
    sample = mj.rl.task_episodes(objective.environment)
    params = objective.init(KEY, None)
    trpo = mj.rl.trpo_step(objective, inner=SGD, num_steps=0)
    assert np.isfinite(trained(trpo, params, sample))
    learner = mj.maml(objective, inner=SGD, num_steps=1)
    assert np.isfinite(trained(learner, params, sample, SGD))
    scores = mj.evaluate(learner, params, sample, episodes=3).scores["return"]
    assert len(np.unique(scores)) == 3
    never = mj.rl.task_episodes(shifting(lambda key: drawn_by_a_key(KEY)))
    with pytest.raises(ValueError, match=r"one episode for 8 keys: it ignores its key"):
        mj.evaluate(learner, params, never, episodes=3)


def test_functions_of_an_environment_are_looked_at() -> None:
    environment = mj.rl.navigation()
    with pytest.raises(TypeError, match=r"reset has the parameters \(key\).*\(key, task\)"):
        mj.rl.Environment(lambda key: 0, environment.step, environment.sample_task)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step is None; expected a function"):
        mj.rl.Environment(environment.reset, None, environment.sample_task)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sample_task has the parameters"):
        mj.rl.Environment(environment.reset, environment.step, lambda: 0)  # type: ignore[arg-type]
    functions = environment.reset, environment.step, environment.sample_task
    with pytest.raises(ValueError, match="num_actions=0; expected an integer of 1 or more, or Non"):
        mj.rl.Environment(*functions, num_actions=0)
    with pytest.raises(ValueError, match="num_actions=3 beside action_size=2; expected one of"):
        mj.rl.Environment(*functions, num_actions=3, action_size=2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mj.rl.navigation(stride=0.0), "stride=0.0; expected a finite number above 0"),
        (lambda: mj.rl.navigation(radius=-1.0), "radius=-1.0; expected a finite number, 0 or more"),
        (lambda: mj.rl.tabular(0), "states=0; expected an integer of 1 or more"),
        (lambda: mj.rl.tabular(noise=-1.0), "noise=-1.0; expected a finite number, 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
