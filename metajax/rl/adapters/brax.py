"""From an environment of brax to an `Environment`."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from metajax.kinds import check_words, in_brief
from metajax.rl.adapters.brax_loading import load_environment, running_brax
from metajax.rl.adapters.dtypes import as_floats, with_dtypes_of
from metajax.rl.environments import Environment, EnvironmentState
from metajax.signatures import check_takes
from metajax.types import Array, Inputs, Key, Task

BraxBackend = Literal["generalized", "positional", "spring", "mjx"]


def from_brax(
    environment: Any,
    *,
    reward: Callable[[Task, Any, Any], Array],
    sample_task: Callable[[Key], Task],
    backend: BraxBackend | None = None,
) -> Environment:
    """The environments of brax, one body in tasks that differ in the reward.

    Half-cheetahs that are to run one way or the other:

    >>> import jax, jax.numpy as jnp, metajax
    >>> def reward(direction, action, state):
    ...     return direction * state.metrics["x_velocity"] - 0.05 * (action**2).sum()
    >>> def sample_task(key):
    ...     return jax.random.rademacher(key, dtype=jnp.float32)
    >>> cheetah = metajax.rl.from_brax(
    ...     "halfcheetah", reward=reward, sample_task=sample_task, backend="spring"
    ... )  # doctest: +SKIP

    An episode ends where brax says that it is done, and does not begin again by itself; brax's time
    limits are of its wrappers, and the horizon of the roll-outs is the one here. Actions are passed
    on as they are: brax clips torques to the actuators' range, most often [-1, 1]. What brax and
    MuJoCo warn of their own upkeep is left out.

    Args:
      environment: a name of `brax.envs`, such as `"halfcheetah"`, or a `brax.envs.Env` as
        `brax.envs.get_environment` returns it, without wrappers that batch it or begin it again.
      reward: `(task, action, state) -> []`, of brax's state after the action, `brax.envs.State`:
        its `metrics`, such as `"x_velocity"` in m/s, its `pipeline_state`, or its own `reward`.
      sample_task: `key -> task`.
      backend: the physics of an environment that is named; None is brax's own choice.

    Raises:
      ImportError: `environment` is a name and brax is missing.
      TypeError: it is no environment of brax, or a function cannot be called so.
      ValueError: brax has none of that name, or `backend` is unknown, or given beside an
        environment that has one.
    """
    check_takes(reward, "reward", "task", "action", "state")
    check_takes(sample_task, "sample_task", "key")
    if backend is not None:
        check_words(get_args(BraxBackend), backend=backend)
    made = environment
    if isinstance(environment, str):
        made = load_environment(environment, backend)
    elif not (callable(getattr(made, "reset", None)) and callable(getattr(made, "step", None))):
        raise TypeError(
            f"environment is {in_brief(environment)}; expected a name such as 'halfcheetah', or an "
            "environment of brax.envs"
        )
    elif backend is not None:
        raise ValueError(
            f"backend={backend!r} beside an environment already made; expected None, or the "
            "environment's name"
        )
    check_takes(made.reset, "environment.reset", "rng")
    check_takes(made.step, "environment.step", "state", "action")

    def reset(key: Key, task: Task) -> tuple[EnvironmentState, Inputs]:
        del task
        with running_brax():
            state = made.reset(key)
        return state, as_floats(state.obs)

    def step(
        key: Key, state: EnvironmentState, action: Any, task: Task
    ) -> tuple[EnvironmentState, Inputs, Any, Any]:
        del key
        # brax writes to the dictionaries of the state it is given.
        own = jax.tree.map(lambda x: x, state)
        with running_brax():
            after = with_dtypes_of(state, made.step(own, action))
        return (
            after,
            as_floats(after.obs),
            reward(task, action, after),
            jnp.asarray(after.done, bool),
        )

    size = getattr(made, "action_size", None)
    return Environment(reset, step, sample_task, action_size=None if size is None else int(size))
