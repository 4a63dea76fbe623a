"""No random number is drawn twice: over steps, tasks, inner steps and queries, actions included."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax import rl
from metajax.keys import learner_keys
from metajax.rl.frozen import gather

Array = jax.Array
NUM_STEPS, HORIZON, ROLLOUTS, TASKS = 2, 3, 2, 2
KEY = jax.random.key(0)
# Of a task: where roll-outs begin, and at each time actions and what the environment draws.
DRAWS = (NUM_STEPS + 1) * (ROLLOUTS + HORIZON * (1 + ROLLOUTS))
DRAWN: list[tuple[int, ...]] = []


def record(key: Array) -> None:
    """Where the program comes by, notes the key, and those that come of cutting it."""
    cut = jax.random.split(key, ROLLOUTS)
    jax.debug.callback(
        lambda keys: DRAWN.extend(map(tuple, np.asarray(keys).tolist())),
        jax.random.key_data(jnp.append(key, cut)),
    )


def drawn_by(function: Callable, *arguments: Any) -> list[tuple[int, ...]]:
    """What keys a function draws of."""
    DRAWN.clear()
    jax.block_until_ready(function(*arguments))
    jax.effects_barrier()
    return DRAWN.copy()


class Recorded(rl.Gaussian):
    """Whose noise is recorded."""

    def sample(self, key: Array) -> Array:
        record(key)
        return super().sample(key)


def reset(key: Array, task: Array) -> tuple[Array, Array]:
    record(key)
    return task, task


def step(key: Array, state: Array, action: Array, task: Array) -> tuple[Array, Array, Array, bool]:
    record(key)
    return state, state, action.sum(), False


ENVIRONMENT = rl.Environment(reset, step, lambda key: jax.random.normal(key, (1,)))
POLICY = rl.Policy(
    lambda key, seen: jnp.zeros((1, 1)), lambda theta, seen: Recorded(seen @ theta, 0 * seen)
)
OBJECTIVE = rl.PolicyGradient(
    POLICY,
    ENVIRONMENT,
    horizon=HORIZON,
    rollouts=ROLLOUTS,
    surrogate=rl.Surrogate(dice_lambda=None, baseline="leave_one_out"),
)


def test_no_key_is_drawn_of_twice() -> None:
    """Of two meta-steps at the same parameters and tasks, and E-MAML draws of the same."""
    state = mj.init_state(jnp.ones((1, 1)), optax.identity(), KEY)
    tasks = mj.Examples(jnp.ones((TASKS, 1, 1)), jnp.zeros((TASKS, 1)))
    episodes, inner = mj.Episode(tasks, tasks), optax.sgd(0.1)
    loop = mj.InnerLoop(inner, NUM_STEPS)

    gathered = jax.jit(lambda state: gather(OBJECTIVE, loop, state, episodes, None))
    first = drawn_by(gathered, state)
    second = drawn_by(gathered, state._replace(step=state.step + 1))
    keys = first + second
    assert len(first) == len(second) == TASKS * DRAWS * (1 + ROLLOUTS)
    assert len(set(keys)) == len(keys)

    learner = rl.e_maml(OBJECTIVE, inner=inner, num_steps=NUM_STEPS)
    loss = jax.jit(jax.vmap(lambda episode, key: learner.loss(state.params, episode, key)[0]))
    of_e_maml = drawn_by(loss, episodes, learner_keys(KEY, 0, TASKS))
    assert sorted(of_e_maml) == sorted(first)
