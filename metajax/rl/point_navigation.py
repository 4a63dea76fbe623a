"""2D navigation: a point on the plane moves to a goal that it does not see."""

import math

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_numbers
from metajax.rl.environments import Environment
from metajax.types import Array, Key


def navigation(*, stride: float = 0.1, reach: float = 0.5, radius: float = 0.01) -> Environment:
    """2D navigation (Finn et al. 2017, section 5.3), in the numbers of the authors' code.

    A point begins at the origin. An action is clipped to [-1, 1] in both components and moves it by
    `stride` times that, which is how the authors' code scales actions (rllab's `normalize` around
    moves within 0.1). A reward is minus the distance to the goal after the move. An episode ends
    within `radius` of the goal in both components. Goals are uniform on a square around the origin.

    Args:
      stride: how far an action of 1 moves, above 0.
      reach: goals lie within plus and minus so much in both components, above 0.
      radius: how near the goal an episode ends, 0 or more.

    Returns:
      An `Environment` whose task is the goal `[2]`, and whose observation the position `[2]`.

    Raises:
      TypeError: a number is none.
      ValueError: a number is out of range.
    """
    above = "a finite number above 0"
    check_numbers(lambda x: 0 < x < math.inf, above, stride=stride, reach=reach)
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", radius=radius)

    def reset(key: Key, goal: Array) -> tuple[Array, Array]:
        del key
        return jnp.zeros_like(goal), jnp.zeros_like(goal)

    def step(
        key: Key, position: Array, action: Array, goal: Array
    ) -> tuple[Array, Array, Array, Array]:
        del key
        if jnp.shape(action) != goal.shape:
            raise ValueError(
                f"an action of shape {jnp.shape(action)}; expected {goal.shape}, a move in both "
                "components"
            )
        position = position + stride * jnp.clip(action, -1, 1)
        away = position - goal
        reward = -jnp.sqrt((away**2).sum())
        return position, position, reward, (jnp.abs(away) < radius).all()

    def sample_task(key: Key) -> Array:
        return jax.random.uniform(key, (2,), minval=-reach, maxval=reach)

    return Environment(reset, step, sample_task, action_size=2)
