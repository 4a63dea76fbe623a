"""Environments of gymnax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.rl.environments import task_of

gymnax = pytest.importorskip("gymnax", reason="gymnax is optional")

KEY = jax.random.key(0)


def _episode(environment: mj.rl.Environment, task: Any, actions: jax.Array, key: Any = KEY) -> Any:
    """`(first observation, (observations, rewards, done))` of given actions."""
    state, first = environment.reset(key, task)

    def move(state: Any, given: Any) -> Any:
        state, *after = environment.step(given[1], state, given[0], task)
        return state, tuple(after)

    return first, jax.lax.scan(move, state, (actions, jax.random.split(key, len(actions))))[1]


def _point_robot(radius: jax.Array | float) -> Any:
    params = gymnax.make("PointRobot-misc")[1]
    return params.replace(circle_radius=radius, dense_reward=True, center_init=True)


def _sample_point_robot(key: jax.Array) -> Any:
    return _point_robot(jax.random.uniform(key, minval=1.0, maxval=3.0))


def test_gymnax_tasks_are_parameters() -> None:
    environment = mj.rl.from_gymnax("PointRobot-misc", _sample_point_robot)
    policy = mj.rl.gaussian_policy(mj.models.mlp((2,), stddev=0.1))

    @jax.jit
    @jax.vmap
    def act(key: jax.Array) -> tuple[Any, mj.rl.Trajectories]:
        task = task_of(mj.rl.task_episodes(environment)(key).support)
        params = policy.init(key, jnp.zeros((1, 6)))
        return task, mj.rl.roll_out(policy, environment, params, task, key, horizon=3, rollouts=2)

    tasks, paths = act(jax.random.split(KEY, 3))
    places = paths.observations[..., :2]
    np.testing.assert_array_equal(places[:, :, 0], 0)
    moves = np.clip(paths.actions[:, :, :-1], -0.1, 0.1)
    np.testing.assert_allclose(places[:, :, 1:], np.cumsum(moves, axis=2), rtol=1e-5, atol=1e-6)
    # Its reward is of the position before the move: at first, how far the goals are.
    radii = np.broadcast_to(tasks.circle_radius[:, None], (3, 2))
    np.testing.assert_allclose(-paths.rewards[:, :, 0], radii, rtol=1e-5)
    assert len(np.unique(radii)) == 3


def test_all_episodes_of_a_gymnax_task_can_begin_alike() -> None:
    environment = mj.rl.from_gymnax("BernoulliBandit-misc", same_start=True)
    policy = mj.rl.categorical_policy(mj.models.mlp((2,), stddev=0.1))
    mj.rl.PolicyGradient(policy, environment, horizon=1, rollouts=1)  # Do they fit?
    tasks = jax.vmap(environment.sample_task)(jax.random.split(KEY, 20))

    def paid(task: Any, key: jax.Array) -> jax.Array:
        return _episode(environment, task, jnp.zeros(50, int), key)[1][1].mean()

    shares = jax.jit(jax.vmap(jax.vmap(paid, in_axes=(None, 0)), in_axes=(0, None)))(
        tasks, jax.random.split(jax.random.key(1), 6)
    )
    # The first arm pays one time of ten or nine of ten: of all episodes of a task the same.
    good = np.asarray(shares) > 0.5
    np.testing.assert_array_equal(good, good[:, :1] & np.ones_like(good))
    assert 0 < good[:, 0].sum() < 20

    anew = mj.rl.from_gymnax("BernoulliBandit-misc")
    begun = jax.vmap(lambda key: anew.reset(key, anew.sample_task(key))[0].reward_probs[0])
    assert len(np.unique(begun(jax.random.split(KEY, 20)))) == 2


def _learner(environment: mj.rl.Environment) -> tuple[Any, Any, Any]:
    """TRPO's meta-step, the parameters, and the returns of three episodes, all without a step."""
    policy = mj.rl.categorical_policy(mj.models.mlp((2,), stddev=0.1))
    objective = mj.rl.PolicyGradient(policy, environment, horizon=3, rollouts=2)
    params, inner = objective.init(KEY, None), {"inner": optax.sgd(0.1), "num_steps": 0}
    sample = mj.rl.task_episodes(environment)
    scores = mj.evaluate(mj.maml(objective, **inner), params, sample, episodes=3).scores
    return mj.rl.trpo_step(objective, **inner), params, scores["return"]


def test_gymnax_tasks_with_a_key_are_scored() -> None:
    scores = _learner(mj.rl.from_gymnax("BernoulliBandit-misc", same_start=True))[2]
    assert ((scores >= 0) & (scores <= 3)).all()


def test_gymnax_default_parameters_are_one_task_that_is_meant() -> None:
    environment = mj.rl.from_gymnax("CartPole-v1")
    step, params, scores = _learner(environment)
    np.testing.assert_array_equal(scores, 3)  # Nothing falls so early.
    sample, state = mj.rl.task_episodes(environment), mj.init_state(params, optax.identity(), KEY)
    result = mj.train(step, None, state, sample, iterations=1, meta_batch=2, progress=False)
    assert result.history[-1]["return"] == 3
    default = jax.tree.map(jnp.asarray, gymnax.make("CartPole-v1")[1])
    jax.tree.map(np.testing.assert_array_equal, task_of(sample(KEY).support), default)


def test_gymnax_says_what_its_actions_are() -> None:
    carts = mj.rl.from_gymnax("CartPole-v1")
    assert (carts.num_actions, carts.action_size) == (2, None)
    with pytest.raises(ValueError, match="one of 3 actions, and the environment has 2"):
        mj.rl.PolicyGradient(
            mj.rl.categorical_policy(mj.models.mlp((3,))), carts, horizon=1, rollouts=1
        )
    robot = mj.rl.from_gymnax("PointRobot-misc", _sample_point_robot)
    assert (robot.num_actions, robot.action_size) == (None, 2)

    silent = type(gymnax.make("CartPole-v1")[0])()
    silent.action_space = super(type(silent), silent).action_space  # It is not implemented.
    assert repr(mj.rl.from_gymnax(silent)) == "Environment()"


def test_gymnax_episodes_end() -> None:
    environment = mj.rl.from_gymnax("CartPole-v1")
    policy = mj.rl.categorical_policy(mj.models.mlp((2,), stddev=1.0))

    @jax.jit
    def act(key: jax.Array) -> mj.rl.Trajectories:
        params = policy.init(key, jnp.zeros((1, 4)))
        task = environment.sample_task(key).replace(max_steps_in_episode=11)
        return mj.rl.roll_out(policy, environment, params, task, key, horizon=13, rollouts=16)

    paths = act(KEY)
    lengths = np.asarray(paths.mask).sum(axis=1)
    assert lengths.min() < 11  # The pole fell,
    assert lengths.max() == 11  # or the time was over.
    np.testing.assert_array_equal(np.asarray(paths.rewards).sum(axis=1), lengths)
    np.testing.assert_array_equal(paths.mask, np.arange(13) < lengths[:, None])


def test_gymnax_grids_are_floats() -> None:
    environment = mj.rl.from_gymnax(gymnax.make("Breakout-MinAtar")[0])
    task = environment.sample_task(KEY)
    state, grid = jax.eval_shape(environment.reset, KEY, task)
    _, seen, reward, _ = jax.eval_shape(environment.step, KEY, state, jnp.asarray(0), task)
    for each in (grid, seen):
        assert (each.shape, each.dtype) == ((10, 10, 4), jnp.float32)
    assert reward.dtype == jnp.float32


def test_gymnax_mixes_dtypes_in_float64() -> None:
    environment = mj.rl.from_gymnax("BernoulliBandit-misc")
    with jax.enable_x64(True):
        policy = mj.rl.categorical_policy(mj.models.mlp((2,), stddev=0.1))
        mj.rl.PolicyGradient(policy, environment, horizon=1, rollouts=1)  # Do they fit?


def test_what_is_no_environment_of_gymnax() -> None:
    with pytest.raises(ValueError, match="no environment 'CartPole'; expected one of CartPole-v1,"):
        mj.rl.from_gymnax("CartPole")
    with pytest.raises(TypeError, match=r"environment is \(.*, without reset_env; expected a name"):
        mj.rl.from_gymnax(gymnax.make("CartPole-v1"))
    with pytest.raises(TypeError, match="sample_task has the parameters"):
        mj.rl.from_gymnax("CartPole-v1", lambda: 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="same_start=1; expected True or False"):
        mj.rl.from_gymnax("CartPole-v1", same_start=1)  # type: ignore[arg-type]
