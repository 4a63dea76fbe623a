"""Environments: pure functions with the task as an argument, so that tasks are mapped over."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_optional_integers
from metajax.checks.objects import check_instance
from metajax.given_data import as_arrays
from metajax.signatures import check_takes
from metajax.types import Array, Episode, Examples, Inputs, Key, Task

EnvironmentState = Any


class Environment:
    """A family of Markov decision processes that differ in the task.

    >>> import jax, jax.numpy as jnp, metajax
    >>> def reset(key, goal):
    ...     return jnp.zeros(2), jnp.zeros(2)
    >>> def step(key, position, action, goal):
    ...     position = position + 0.1 * action
    ...     return position, position, -jnp.linalg.norm(position - goal), False
    >>> def sample_task(key):
    ...     return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)
    >>> environment = metajax.rl.Environment(reset, step, sample_task)

    Attributes:
      reset: `(key, task) -> (state, observation)`.
      step: `(key, state, action, task) -> (state, observation, reward, done)`.
      sample_task: `key -> task`.
      num_actions: of how many actions one is chosen; None where that is not known, or none is.
      action_size: components of an action; None where that is not known, or it has none.
    """

    def __init__(
        self,
        reset: Callable[[Key, Task], tuple[EnvironmentState, Inputs]],
        step: Callable[[Key, EnvironmentState, Any, Task], tuple[Any, Inputs, Any, Any]],
        sample_task: Callable[[Key], Task],
        *,
        num_actions: int | None = None,
        action_size: int | None = None,
    ) -> None:
        """Takes the functions, which are pure, and know one task at a time.

        Args:
          reset: `(key, task) -> (state, observation)`, where an episode begins. States and
            observations are arrays, or pytrees of them.
          step: `(key, state, action, task) -> (state, observation, reward, done)`. The reward is
            `[]`, and counts where `done` is True too, after which nothing counts. State and
            observation have the shapes and dtypes of those of `reset`.
          sample_task: `key -> task`, the distribution of tasks: a pytree of arrays or numbers.
          num_actions: 1 or more, where an action is an integer `[]` in `[0, num_actions)`. By it
            a policy of another number is refused, which would pass unseen: JAX takes an index
            beyond an array for its last one. None is not to look.
          action_size: 1 or more, where an action is floats `[action_size]`; None is not to look.

        Raises:
          TypeError: a function cannot be called so, or a number is no integer.
          ValueError: a number is out of range, or both are given.
        """
        check_takes(reset, "reset", "key", "task")
        check_takes(step, "step", "key", "state", "action", "task")
        check_takes(sample_task, "sample_task", "key")
        check_optional_integers(1, num_actions=num_actions, action_size=action_size)
        if num_actions is not None and action_size is not None:
            raise ValueError(
                f"num_actions={num_actions} beside action_size={action_size}; expected one of "
                "them: an action is one of a number, or has components"
            )
        self.reset = reset
        self.step = step
        self.sample_task = sample_task
        self.num_actions = num_actions
        self.action_size = action_size

    def __repr__(self) -> str:
        """What its actions are, where that is known."""
        sizes = {"num_actions": self.num_actions, "action_size": self.action_size}
        known = (f"{name}={size}" for name, size in sizes.items() if size is not None)
        return f"Environment({', '.join(known)})"


class FixedTask:
    """The `sample_task` of an environment that has one task.

    Attributes:
      task: the task.
      fixed: True: that every key gives the same is meant.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        """Takes the task."""
        self.task = task

    def __call__(self, key: Key) -> Task:
        """The task."""
        del key
        return self.task


class _TaskEpisodes:
    """The sampler of an environment's tasks, which says it where there is one alone."""

    def __init__(self, sample_task: Callable[[Key], Task]) -> None:
        self.sample_task = sample_task
        self.fixed = getattr(sample_task, "fixed", False)

    def __call__(self, key: Key) -> Episode:
        task = _set_of(self.sample_task(key), "the task of the environment's sample_task")
        return Episode(task, task)


def check_environment(environment: object) -> None:
    """Raises a TypeError unless the argument `environment` is an `Environment`."""
    check_instance(
        environment,
        Environment,
        "environment",
        "a metajax.rl.Environment, such as metajax.rl.navigation()",
    )


def task_episodes(environment: Environment) -> Callable[[Key], Episode]:
    """The sampler of an environment's tasks, for `metajax.train` and `metajax.evaluate`.

    Args:
      environment: whose `sample_task` draws them. One that ignores its key is an error in
        `metajax.train` and `metajax.evaluate`, but for that of `from_gymnax` without a
        `sample_task`, which is known to have one task; if one is meant,
        `metajax.data.FixedEpisode(sample(key))` of the sampler is one, too.

    Returns:
      The pure function `key -> Episode`: support and query set alike hold the task as their one
      item, from which an objective draws its own roll-outs.

    Raises:
      TypeError: `environment` is no `Environment`.
    """
    check_environment(environment)
    return _TaskEpisodes(environment.sample_task)


def task_examples(task: Task) -> Examples:
    """The set whose one item is a task: what a learner's `adapt` takes.

    Args:
      task: of an environment, a pytree of arrays or numbers.

    Raises:
      TypeError: it holds something else.
    """
    return _set_of(task, "the task")


def _set_of(task: Task, name: str) -> Examples:
    return Examples(jax.tree.map(lambda x: x[None], as_arrays(task, name)), jnp.zeros(1))


def task_of(examples: Examples) -> Task:
    """The one item of a set.

    Raises:
      ValueError: it holds several.
    """
    for leaf in jax.tree.leaves(examples.inputs):
        if leaf.shape[:1] != (1,):
            raise ValueError(
                f"the episode's inputs hold an array of shape {leaf.shape}; expected [1, ...], one "
                "task an episode, as metajax.rl.task_episodes(environment) samples them"
            )
    return jax.tree.map(lambda x: x[0], examples.inputs)


def observing_task(environment: Environment) -> Environment:
    """The same environment, whose observations end with the task: for a policy that is told it.

    It is the oracle of Finn et al. (2017, section 5.3), which bounds what adapting can reach.

    Args:
      environment: with observations `[features]`. The task's arrays are put behind them, flat.

    Raises:
      TypeError: `environment` is no `Environment`.
      ValueError: from the environment: an observation is something else, or a task holds a random
        key.
    """
    check_environment(environment)

    def told(observation: Array, task: Task) -> Array:
        leaves = jax.tree.leaves(task)
        if len(getattr(observation, "shape", ())) != 1:
            shapes = [*map(jnp.shape, jax.tree.leaves(observation))]
            raise ValueError(
                f"the environment's observation has arrays of the shapes {shapes}; expected one, "
                "[features], behind which the task is put"
            )
        if any(jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended) for x in leaves):
            raise ValueError(
                "the environment's task holds a random key, which tells a policy nothing; expected "
                "numbers alone, such as what the environment draws with it"
            )
        parts = [jnp.ravel(x).astype(observation.dtype) for x in leaves]
        return jnp.concatenate([observation, *parts])

    def reset(key: Key, task: Task) -> tuple[EnvironmentState, Array]:
        state, observation = environment.reset(key, task)
        return state, told(observation, task)

    def step(key: Key, state: EnvironmentState, action: Any, task: Task) -> Any:
        state, observation, reward, done = environment.step(key, state, action, task)
        return state, told(observation, task), reward, done

    return Environment(
        reset,
        step,
        environment.sample_task,
        num_actions=environment.num_actions,
        action_size=environment.action_size,
    )
