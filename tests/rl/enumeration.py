"""Decisions so few that all paths are listed: expectations are sums, to the last digit.

A policy is a table of logits `[states, actions]`, `theta`. What is expected of it is written out
here with none of the library; `Enumerated` is the library's objective on the list of all paths, of
which each counts as often as it is likely.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj
from metajax import rl

Array = jax.Array


class Decisions(NamedTuple):
    """A Markov decision process that begins in state 0; its task is the rewards.

    Attributes:
      moves: `[states, actions, states]` probabilities of what follows.
      ends: `[states, actions]` booleans, whether an episode ends with this action.
      horizon: actions of an episode at most.
    """

    moves: np.ndarray
    ends: np.ndarray
    horizon: int


class Paths(NamedTuple):
    """All that may happen.

    Attributes:
      states: `[paths, horizon]` before each action; the last one stands still after an end.
      actions: `[paths, horizon]`; 0 after an end.
      mask: `[paths, horizon]` booleans, whether the episode still went on.
      moves: `[paths]` the probability of the states, given the actions.
    """

    states: np.ndarray
    actions: np.ndarray
    mask: np.ndarray
    moves: np.ndarray


def decisions(
    seed: int = 0, *, states: int = 2, actions: int = 2, horizon: int = 3, ending: bool = False
) -> Decisions:
    """Moves drawn with the seed; `ending`: in the last state the last action ends an episode."""
    moves = np.random.default_rng(seed).dirichlet(np.ones(states), size=(states, actions))
    ends = np.zeros((states, actions), bool)
    ends[-1, -1] = ending
    return Decisions(moves, ends, horizon)


def rewards_of(seed: int, process: Decisions) -> Array:
    """`[states, actions]` normal rewards."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=process.ends.shape))


def paths_of(process: Decisions) -> Paths:
    """Each path once, those of no probability too."""
    states, actions = process.ends.shape
    found: dict[tuple, tuple] = {}
    for acts in itertools.product(range(actions), repeat=process.horizon):
        for visits in itertools.product(range(states), repeat=process.horizon - 1):
            state, alive, chance, path = 0, True, 1.0, []
            for action, after in zip(acts, (*visits, 0), strict=True):
                path.append((state, action if alive else 0, alive))
                goes_on = alive and not process.ends[state, action]
                if goes_on and len(path) < process.horizon:
                    chance *= process.moves[state, action, after]
                    state = after
                alive = goes_on
            found[tuple(path)] = (*zip(*path, strict=True), chance)
    return Paths(*map(np.array, zip(*found.values(), strict=True)))


def chances(paths: Paths, theta: Array) -> Array:
    """`[paths]` probabilities under a policy."""
    log_probs = jax.nn.log_softmax(theta, axis=-1)[paths.states, paths.actions]
    return paths.moves * jnp.exp((log_probs * paths.mask).sum(axis=1))


def path_returns(paths: Paths, rewards: Array, discount: float = 1.0) -> Array:
    """`[paths]` discounted sums of rewards."""
    discounts = discount ** np.arange(paths.mask.shape[1])
    return (discounts[None] * paths.mask * rewards[paths.states, paths.actions]).sum(axis=1)


def expected_return(paths: Paths, theta: Array, rewards: Array, discount: float = 1.0) -> Array:
    """J(theta), of which the exact derivatives of any order are those of this sum."""
    return (chances(paths, theta) * path_returns(paths, rewards, discount)).sum()


def ascend(
    paths: Paths, theta: Array, rewards: Array, discount: float, rate: float, steps: int
) -> Array:
    """Steps along the exact policy gradient."""
    slope = jax.grad(lambda theta: expected_return(paths, theta, rewards, discount))
    for _ in range(steps):
        theta = theta + rate * slope(theta)
    return theta


def action_values(
    process: Decisions, theta: Array, rewards: Array, discount: float = 1.0
) -> tuple[Array, Array]:
    """Q `[horizon, states, actions]` and V `[horizon, states]`, from the last step backwards."""
    probs = jax.nn.softmax(theta, axis=-1)
    q_values, values = [], [jnp.zeros(len(rewards))]
    for _ in range(process.horizon):
        following = jnp.where(process.ends, 0, process.moves @ values[0])
        q_values.insert(0, rewards + discount * following)
        values.insert(0, (probs * q_values[0]).sum(axis=-1))
    return jnp.stack(q_values), jnp.stack(values[:-1])


def exact_values(
    process: Decisions, rewards: Array, discount: float
) -> Callable[[rl.Trajectories, Array], Array]:
    """The baseline V of the policy that made the roll-outs, which must visit all states."""

    def baseline(trajectories: rl.Trajectories, returns: Array) -> Array:
        visits = trajectories.observations
        logits = jnp.einsum("nts,nta->sa", visits, trajectories.distribution.logits)
        theta = logits / visits.sum(axis=(0, 1))[:, None]
        _, values = action_values(process, theta, rewards, discount)
        return jnp.einsum("nts,ts->nt", visits, values).astype(returns.dtype)

    return baseline


def environment_of(process: Decisions) -> rl.Environment:
    """The same, from which paths are drawn; observations are one-hot, tasks rewards."""
    states = process.ends.shape[0]

    def seen(state: Array) -> Array:
        return jax.nn.one_hot(state, states, dtype=float)

    def reset(key: Array, rewards: Array) -> tuple[Array, Array]:
        del key, rewards
        return jnp.zeros((), int), seen(jnp.zeros((), int))

    def step(key: Array, state: Array, action: Array, rewards: Array) -> tuple[Array, ...]:
        after = jax.random.categorical(key, jnp.log(process.moves)[state, action]).astype(int)
        return after, seen(after), rewards[state, action], jnp.asarray(process.ends)[state, action]

    return rl.Environment(
        reset, step, lambda key: jax.random.normal(key, process.ends.shape, dtype=float)
    )


def table_policy(process: Decisions) -> rl.Policy:
    """Its parameters are the table."""
    return rl.categorical_policy(
        mj.Model(lambda key, seen: jnp.zeros(process.ends.shape), lambda theta, seen: seen @ theta)
    )


class Enumerated(rl.PolicyGradient):
    """The objective that draws nothing: it rolls out every path, weighed by its probability."""

    def __init__(
        self, process: Decisions, surrogate: rl.Surrogate, policy: rl.Policy | None = None
    ) -> None:
        self.paths = paths_of(process)
        super().__init__(
            table_policy(process) if policy is None else policy,
            environment_of(process),
            horizon=process.horizon,
            rollouts=len(self.paths.moves),
            surrogate=surrogate,
        )

    def roll_out(self, params: Any, task: Array, key: Array) -> rl.Trajectories:
        del key
        states, actions, mask, moves = map(jnp.asarray, self.paths)
        observations = jax.nn.one_hot(states, len(task), dtype=float)
        distribution = self.policy.over_steps(jax.lax.stop_gradient(params), observations)
        log_probs = distribution.log_prob(actions)
        weights = moves * jnp.exp(jnp.where(mask, log_probs, 0).sum(axis=1))
        rewards = jnp.where(mask, task[states, actions], 0)
        return rl.Trajectories(
            observations, actions, rewards, mask, log_probs, distribution, weights
        )


def rewards_episode(support: Array, query: Array | None = None) -> mj.Episode:
    """The episode of a task whose rewards are the first, and for the queries the second."""
    tasks = (support, support if query is None else query)
    return mj.Episode(*(mj.Examples(task[None], jnp.zeros(1)) for task in tasks))
