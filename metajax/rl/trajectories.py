"""Roll-outs of a policy, frozen: no derivative goes through them, nor through the environment."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance
from metajax.kinds import as_array, check_arrays
from metajax.rl.distributions import Actions
from metajax.rl.environments import Environment, check_environment
from metajax.rl.fitting import check_fitting, check_given
from metajax.rl.policies import Policy, check_policy
from metajax.types import Array, Inputs, Key, Params, Task


class Trajectories(NamedTuple):
    """Roll-outs of one policy in one task.

    Attributes:
      observations: `[rollouts, horizon, ...]`, before each action; one array or a pytree of them.
      actions: `[rollouts, horizon, ...]`.
      rewards: `[rollouts, horizon]`, of each action; 0 after the end of an episode.
      mask: `[rollouts, horizon]` booleans, whether the episode still went on.
      log_probs: `[rollouts, horizon]` logarithms of the actions' probability under that policy.
      distribution: `[rollouts, horizon, ...]` that policy's, a `Distribution`.
      weights: `[rollouts]`, how often each counts; None counts every one once.
    """

    observations: Inputs
    actions: Actions
    rewards: Array
    mask: Array
    log_probs: Array
    distribution: Any
    weights: Array | None = None


def roll_out(
    policy: Policy,
    environment: Environment,
    params: Params,
    task: Task,
    key: Key,
    *,
    horizon: int,
    rollouts: int,
) -> Trajectories:
    """Lets a policy act, in all roll-outs at once.

    The derivative is stopped before: at parameters and task, so that none is traced of the
    environment.

    Args:
      policy: the policy.
      environment: the environment.
      params: the policy's parameters.
      task: of the environment.
      key: of what is drawn: where episodes begin, actions, what the environment draws.
      horizon: actions of a roll-out at most, 1 or more; static.
      rollouts: their number, 1 or more; static.

    Returns:
      `Trajectories`. After the end of an episode its state stands still, and `mask` is False.

    Raises:
      TypeError, ValueError: an argument is of another kind or out of range, policy and environment
        are not made for one another, or parameters or task not for them.
    """
    check_policy(policy)
    check_environment(environment)
    check_integers(1, horizon=horizon, rollouts=rollouts)
    check_given(check_fitting(policy, environment), params, task, key)
    return rolled_out(policy, environment, params, task, key, horizon, rollouts)


def rolled_out(
    policy: Policy,
    environment: Environment,
    params: Params,
    task: Task,
    key: Key,
    horizon: int,
    rollouts: int,
) -> Trajectories:
    """`roll_out` of arguments that fit."""
    params, task = jax.lax.stop_gradient((params, task))
    begin, go = jax.random.split(key)
    begins = jax.random.split(begin, rollouts)
    state, observation = jax.vmap(environment.reset, in_axes=(0, None))(begins, task)

    def move(carry: Any, key: Key) -> tuple[Any, Any]:
        state, observation, alive = carry
        act, go_on = jax.random.split(key)
        distribution = policy.distribution(params, observation)
        actions = distribution.sample(act)
        after, seen, reward, done = jax.vmap(environment.step, in_axes=(0, 0, 0, None))(
            jax.random.split(go_on, rollouts), state, actions, task
        )
        reward = jnp.where(alive, reward, jnp.zeros_like(reward))
        log_probs = distribution.log_prob(actions)
        step = (observation, actions, reward, alive, log_probs, distribution)
        goes_on = alive & ~jnp.asarray(done, bool)

        def kept(new: Array, old: Array) -> Array:
            which = goes_on.reshape(-1, *[1] * (jnp.ndim(new) - 1))
            return jnp.where(which, new, old)

        state, observation = jax.tree.map(kept, (after, seen), (state, observation))
        return (state, observation, goes_on), step

    carry = (state, observation, jnp.ones(rollouts, bool))
    _, steps = jax.lax.scan(move, carry, jax.random.split(go, horizon))
    return Trajectories(*jax.tree.map(lambda x: x.swapaxes(0, 1), steps))


def check_trajectories(trajectories: Any) -> None:
    """Raises unless they are the roll-outs of one task.

    Raises:
      TypeError: they are no `Trajectories` of arrays.
      ValueError: their shapes are not those of one another, or there is a further axis.
    """
    expected = "metajax.rl.Trajectories, as metajax.rl.roll_out returns them"
    check_instance(trajectories, Trajectories, "trajectories", expected)
    check_arrays(trajectories, "trajectories")
    axes = jnp.shape(trajectories.rewards)
    if len(axes) != 2:
        raise ValueError(
            f"the trajectories' rewards have the shape {axes}; expected [rollouts, horizon], of "
            "one task: a function of one takes several under jax.vmap"
        )
    for name in ("mask", "log_probs"):
        of_steps(trajectories, f"the trajectories' {name}", getattr(trajectories, name))
    if trajectories.weights is not None and jnp.shape(trajectories.weights) != axes[:1]:
        raise ValueError(
            f"the trajectories' weights have the shape {jnp.shape(trajectories.weights)}; expected "
            f"{axes[:1]}, one a roll-out"
        )


def of_steps(trajectories: Trajectories, name: str, given: Any) -> Array:
    """What is called `name` as an array `[rollouts, horizon]`.

    Raises:
      TypeError: it is none.
      ValueError: it is of another shape.
    """
    array, axes = as_array(given, name), jnp.shape(trajectories.rewards)
    if array.shape != axes:
        raise ValueError(
            f"{name} has the shape {array.shape}; expected [rollouts, horizon], {axes}: a number "
            "a step"
        )
    return array


def at_least_single(values: Array) -> Array:
    """The values, in single precision where theirs is a lesser one: they are to be summed."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def mean_return(trajectories: Trajectories, discount: float = 1.0) -> Array:
    """`[]` the mean over roll-outs of the (discounted) sum of rewards."""
    return path_mean(path_returns(trajectories, discount), trajectories.weights)


def path_returns(trajectories: Trajectories, discount: float) -> Array:
    """`[rollouts]` discounted sums of rewards."""
    rewards, mask = at_least_single(trajectories.rewards), trajectories.mask
    discounts = discount ** jnp.arange(rewards.shape[1], dtype=rewards.dtype)
    return (jnp.where(mask, rewards, 0) * discounts[None]).sum(axis=1)


def path_mean(values: Array, weights: Array | None) -> Array:
    """`[]` the mean of `[rollouts]` values by the roll-outs' weights."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum()


def step_mean(values: Array, trajectories: Trajectories) -> Array:
    """`[]` the mean of `[rollouts, horizon]` values over the steps before the episodes' ends."""
    counted = trajectories.mask.astype(values.dtype)
    if trajectories.weights is not None:
        counted = counted * trajectories.weights[:, None]
    return (jnp.where(trajectories.mask, values, 0) * counted).sum() / counted.sum()
