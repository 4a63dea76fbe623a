"""A small decision process whose paths are all counted, so that means over roll-outs are exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj

STATES, ACTIONS, HORIZON, DISCOUNT = 2, 2, 3, 0.9
_RNG = np.random.default_rng(0)
TRANSITIONS = _RNG.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
REWARDS = _RNG.normal(size=(2, STATES, ACTIONS))  # Of two tasks.
THETA = _RNG.normal(size=(STATES, ACTIONS))
_PATHS = [
    ((0, *states), actions)
    for actions in itertools.product(range(ACTIONS), repeat=HORIZON)
    for states in itertools.product(range(STATES), repeat=HORIZON - 1)
]
VISITED = np.array([states for states, _ in _PATHS], np.int32)
TAKEN = np.array([actions for _, actions in _PATHS], np.int32)
DYNAMICS = TRANSITIONS[VISITED[:, :-1], TAKEN[:, :-1], VISITED[:, 1:]].prod(axis=1)
EXACT = mj.rl.Surrogate(
    dice_lambda=1.0, discount=DISCOUNT, baseline=None, normalize=False, scale="return"
)


def path_log_probs(theta: jax.Array) -> jax.Array:
    """`[paths]` of all actions of a path."""
    return jax.nn.log_softmax(theta, axis=-1)[VISITED, TAKEN].sum(axis=1)


def probabilities(theta: jax.Array) -> jax.Array:
    """`[paths]`."""
    return jnp.asarray(DYNAMICS, theta.dtype) * jnp.exp(path_log_probs(theta))


def path_returns(rewards: jax.Array) -> jax.Array:
    """`[paths]`, discounted."""
    return (jnp.asarray(rewards)[VISITED, TAKEN] * DISCOUNT ** np.arange(HORIZON)[None]).sum(axis=1)


def expected_return(theta: jax.Array, rewards: jax.Array) -> jax.Array:
    """The expected discounted return."""
    return (probabilities(theta) * path_returns(rewards)).sum()


def ascend(theta: jax.Array, rewards: jax.Array, rate: float, steps: int) -> jax.Array:
    """Exact policy-gradient steps."""
    for _ in range(steps):
        theta = theta + rate * jax.grad(expected_return)(theta, rewards)
    return theta


class EveryPath(mj.rl.PolicyGradient):
    """The objective whose roll-outs are all paths, each counted as often as it is met."""

    def __init__(self, surrogate: mj.rl.Surrogate = EXACT) -> None:
        table = mj.Model(lambda key, x: jnp.zeros((STATES, ACTIONS)), lambda p, x: x @ p)
        super().__init__(
            mj.rl.categorical_policy(table),
            ENVIRONMENT,
            horizon=HORIZON,
            rollouts=len(_PATHS),
            surrogate=surrogate,
        )

    def weights(self, theta: jax.Array, task: jax.Array) -> jax.Array:
        del task
        return probabilities(theta)

    def roll_out(self, params: jax.Array, task: jax.Array, key: jax.Array) -> mj.rl.Trajectories:
        del key
        params = jax.lax.stop_gradient(params)
        observations = jax.nn.one_hot(VISITED, STATES, dtype=params.dtype)
        distribution = self.policy.over_steps(params, observations)
        actions = jnp.asarray(TAKEN)
        return mj.rl.Trajectories(
            observations,
            actions,
            task[VISITED, TAKEN],
            jnp.ones(TAKEN.shape, bool),
            distribution.log_prob(actions),
            distribution,
            self.weights(params, task),
        )


def _reset(key: jax.Array, rewards: jax.Array) -> tuple[jax.Array, jax.Array]:
    del key
    state = jnp.zeros((), jnp.int32)
    return state, jax.nn.one_hot(state, STATES, dtype=rewards.dtype)


def _step(key: jax.Array, state: jax.Array, action: jax.Array, rewards: jax.Array) -> tuple:
    chances = jnp.asarray(TRANSITIONS, rewards.dtype)[state, action]
    after = jax.random.categorical(key, jnp.log(chances)).astype(jnp.int32)
    seen = jax.nn.one_hot(after, STATES, dtype=rewards.dtype)
    return after, seen, rewards[state, action], False


def _sample_task(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (STATES, ACTIONS))


ENVIRONMENT = mj.rl.Environment(_reset, _step, _sample_task)


def all_tasks() -> mj.Episode:
    """The two tasks, a meta-batch."""
    task = mj.Examples(jnp.asarray(REWARDS)[:, None], jnp.zeros((2, 1)))
    return mj.Episode(task, task)
