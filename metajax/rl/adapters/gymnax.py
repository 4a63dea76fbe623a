"""From an environment of gymnax to an `Environment`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metajax.checks.settings import check_flags
from metajax.kinds import in_brief
from metajax.rl.adapters.dtypes import as_floats, with_dtypes_of
from metajax.rl.environments import Environment, FixedTask
from metajax.signatures import check_takes
from metajax.types import Inputs, Key, Task


def from_gymnax(
    environment: Any,
    sample_task: Callable[[Key], Task] | None = None,
    *,
    same_start: bool = False,
) -> Environment:
    """The environments of gymnax, whose tasks are its parameters, `EnvParams`.

    An episode ends where it terminates and where it is truncated by its parameters' time limit. It
    does not begin again by itself. Actions are passed on as they are, see the environment's
    `action_space`. Observations of booleans or integers, such as grids, become floats, and so do
    rewards.

    Many environments draw at the beginning of an episode what differs between the tasks of others:
    `PointRobot-misc` its goal, `BernoulliBandit-misc` which arm is the better one. With
    `same_start` all episodes of a task begin with one key, so that it can be learned.

    Args:
      environment: a name, such as `"CartPole-v1"`, or an environment as `gymnax.make` returns it.
      sample_task: `key -> params`, such as `lambda key: default.replace(force_mag=
        jax.random.uniform(key, minval=5.0, maxval=15.0))`; None is the default parameters always,
        which is one task: `metajax.train` and `metajax.evaluate` take it as that.
      same_start: whether a task is `(params, key)`, and `key` that of every beginning.

    Raises:
      ImportError: `environment` is a name and gymnax is missing.
      TypeError: it is no environment of gymnax 1.0 or later, or `sample_task` no such function.
      ValueError: gymnax has no environment of that name.
    """
    check_flags(same_start=same_start)
    if sample_task is not None:
        check_takes(sample_task, "sample_task", "key")
    made = _named(environment) if isinstance(environment, str) else environment
    wanted = ("reset_env", "step_env", "is_truncated", "action_space", "default_params")
    if lacking := [name for name in wanted if not hasattr(made, name)]:
        raise TypeError(
            f"environment is {in_brief(environment)}, without {lacking[0]}; expected a name or an "
            'environment of gymnax 1.0 or later, such as gymnax.make("CartPole-v1")[0]'
        )

    sample_params = FixedTask(made.default_params) if sample_task is None else sample_task

    def with_start(key: Key) -> Task:
        drawn, begin = jax.random.split(key)
        return sample_params(drawn), begin

    def reset(key: Key, task: Task) -> tuple[Any, Inputs]:
        params, begin = task if same_start else (task, key)
        observation, state = made.reset_env(begin, params)
        return jax.tree.map(jnp.asarray, state), as_floats(observation)

    def step(key: Key, state: Any, action: Any, task: Task) -> tuple[Any, Inputs, Any, Any]:
        params = task[0] if same_start else task
        observation, after, reward, terminated, _ = made.step_env(key, state, action, params)
        done = jnp.logical_or(terminated, made.is_truncated(after, params))
        return with_dtypes_of(state, after), as_floats(observation), as_floats(reward), done

    return Environment(
        reset, step, with_start if same_start else sample_params, **_actions_of(made)
    )


def _actions_of(made: Any) -> dict[str, int]:
    """What an environment says of its actions, as the options of `Environment`."""
    try:
        space = made.action_space(made.default_params)
    except NotImplementedError:
        return {}
    if (number := getattr(space, "n", None)) is not None:
        return {"num_actions": int(number)}
    shape = getattr(space, "shape", None) or ()
    return {"action_size": int(shape[0])} if len(shape) == 1 else {}


def _named(name: str) -> Any:
    try:
        import gymnax
    except ImportError as error:
        raise ImportError(
            f"from_gymnax({name!r}) needs gymnax, which cannot be imported ({error}); "
            'run: pip install "metajax[rl]"'
        ) from error
    if name not in gymnax.registered_envs:
        known = ", ".join(gymnax.registered_envs)
        raise ValueError(f"gymnax has no environment {name!r}; expected one of {known}")
    return gymnax.make(name)[0]
