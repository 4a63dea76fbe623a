"""Random tabular decision processes, of which everything can be computed."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers, check_numbers
from metajax.rl.environments import Environment
from metajax.types import Array, Key


class TabularTask(NamedTuple):
    """A decision process of `S` states and `A` actions.

    Attributes:
      transitions: `[S, A, S]` probabilities of the state that follows a state and an action.
      rewards: `[S, A]` mean rewards of an action in a state.
    """

    transitions: Array
    rewards: Array


def tabular(states: int = 10, actions: int = 5, *, noise: float = 1.0) -> Environment:
    """The tabular decision processes of RL^2 (Duan et al. 2016, arXiv 1611.02779, section 3.2).

    An episode begins in state 0 and never ends by itself; the paper's take 10 actions. Transition
    probabilities are uniform on the simplex, Dirichlet(1), mean rewards normal with mean 1 and
    standard deviation 1. A reward is normal around the mean of its state and action.

    Args:
      states: `S`, 1 or more.
      actions: `A`, 1 or more.
      noise: the standard deviation of a reward around its mean, 0 or more; the paper's is 1.

    Returns:
      An `Environment` whose task is a `TabularTask`, whose state an integer `[]`, whose observation
      `[S]` 1 at the state and 0 elsewhere, and whose actions are integers `[]` in `[0, A)`.

    Raises:
      TypeError: a number is none.
      ValueError: a number is out of range.
    """
    check_integers(1, states=states, actions=actions)
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", noise=noise)

    def observe(state: Array, task: TabularTask) -> Array:
        return jax.nn.one_hot(state, states, dtype=task.rewards.dtype)

    def reset(key: Key, task: TabularTask) -> tuple[Array, Array]:
        del key
        state = jnp.zeros((), jnp.int32)
        return state, observe(state, task)

    def step(
        key: Key, state: Array, action: Array, task: TabularTask
    ) -> tuple[Array, Array, Array, bool]:
        go, reward = jax.random.split(key)
        mean = task.rewards[state, action]
        drawn = mean + noise * jax.random.normal(reward, (), mean.dtype)
        logits = jnp.log(task.transitions[state, action])
        state = jax.random.categorical(go, logits).astype(state.dtype)
        return state, observe(state, task), drawn, False

    def sample_task(key: Key) -> TabularTask:
        following, worth = jax.random.split(key)
        transitions = jax.random.dirichlet(following, jnp.ones(states), (states, actions))
        return TabularTask(transitions, 1 + jax.random.normal(worth, (states, actions)))

    return Environment(reset, step, sample_task, num_actions=actions)
