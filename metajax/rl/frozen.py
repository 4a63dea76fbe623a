"""Roll-outs of a whole adaptation, frozen: drawn once, and adapted to under whatever parameters.

Steps that change a policy within bounds (`trpo_step`, `ppo_step`) ask for surrogates and
divergences of the same roll-outs under many parameters, and begin alike.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import optax

from metajax.checks.objects import check_instance
from metajax.checks.parameters import check_floats, check_parameters, check_shared
from metajax.checks.settings import check_texts
from metajax.given_data import as_episode, as_episodes
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection
from metajax.keys import fit_key, learner_keys, query_key, step_keys
from metajax.kinds import check_key
from metajax.meta_gradients import count_tasks
from metajax.rl.environments import task_of
from metajax.rl.policy_gradients import Batch, PolicyGradient
from metajax.rl.surrogates import Surrogate
from metajax.rl.trajectories import mean_return
from metajax.training_step import TrainState, check_state
from metajax.types import Array, Episode, Key, Params

T = TypeVar("T")


class Experience(NamedTuple):
    """What the adaptation to a task draws.

    Attributes:
      support: of every inner step, by the policy before it: arrays
        `[num_steps, rollouts, horizon, ...]`.
      query: of the adapted policy: arrays `[rollouts, horizon, ...]`.
    """

    support: Batch
    query: Batch


def collect(
    objective: PolicyGradient, loop: InnerLoop, params: Params, episode: Episode, key: Key
) -> Experience:
    """The roll-outs that `metajax.maml` draws with that key; no derivative goes through them.

    What `trpo_step` and `ppo_step` begin with, and what a step of one's own can. Its loss adapts
    to them again, under any parameters:

    >>> import jax, optax, metajax
    >>> rl, environment = metajax.rl, metajax.rl.navigation()
    >>> objective = rl.PolicyGradient(
    ...     rl.gaussian_policy(metajax.models.mlp((16, 2), stddev=0.1)),
    ...     environment, horizon=5, rollouts=4)
    >>> episode = rl.task_episodes(environment)(jax.random.key(0))
    >>> params = objective.init(jax.random.key(1), episode.support.inputs)
    >>> loop = metajax.InnerLoop(optax.sgd(0.1), num_steps=2)
    >>> draw = jax.jit(rl.collect, static_argnums=(0, 1))
    >>> experience = draw(objective, loop, params, episode, jax.random.key(2))
    >>> def loss(params):
    ...     adapted, _ = loop.run(
    ...         objective.surrogate_loss, params, per_step=experience.support)
    ...     return objective.surrogate_loss(adapted, experience.query)

    Args:
      objective: whose policy acts.
      loop: the adaptation.
      params: the policy's before it.
      episode: the task, unbatched, from `task_episodes`.
      key: the learner's of that task.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: the parameters are not the policy's, or the episode holds several tasks.
    """
    check_policy_gradient(objective)
    check_instance(loop, InnerLoop, "loop", "a metajax.InnerLoop(inner, num_steps)")
    episode = as_episode(episode)
    check_key(key)
    check_floats(params)
    check_parameters(jax.eval_shape(objective.init, key, episode.support.inputs), params)
    params = jax.lax.stop_gradient(params)
    plain = Backward(unroll=loop.backward.unroll)
    drawing = dataclasses.replace(loop, first_order=True, backward=plain)

    def loss(phi: Params, key: Key) -> tuple[Array, Batch]:
        batch = objective.draw(phi, task_of(episode.support), key)
        return _loss(objective, phi, batch), batch

    keys = step_keys(fit_key(key), loop.num_steps)
    phi, _, support = drawing.run(loss, params, per_step=keys, has_aux=True)
    query = objective.draw(phi, task_of(episode.query), query_key(key))  # type: ignore[arg-type]
    return Experience(support, query)


def adapted(objective: PolicyGradient, loop: InnerLoop, params: Params, support: Batch) -> Params:
    """The parameters adapted to frozen roll-outs.

    Args:
      objective: see `collect`.
      loop: see `collect`.
      params: the policy's before it, those of the roll-outs or others.
      support: see `Experience`.
    """
    return loop.run(partial(_loss, objective), params, per_step=support)[0]


def adapted_and_kl(
    objective: PolicyGradient, loop: InnerLoop, params: Params, support: Batch
) -> tuple[Params, Array]:
    """The same, and `[num_steps]` KL(policy of a step's roll-outs, policy before that step)."""

    def loss(phi: Params, batch: Batch) -> tuple[Array, Array]:
        return _loss(objective, phi, batch), objective.kl(phi, batch)

    phi, _, kl = loop.run(loss, params, per_step=support, has_aux=True)
    return phi, kl


def checked_loop(
    objective: Any,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool,
    backward: Backward,
    adapt: Selection | None,
    axis_name: str | None,
) -> InnerLoop:
    """The adaptation of a step on frozen roll-outs.

    Raises:
      TypeError: `objective` is no `PolicyGradient`, or `axis_name` no string; see `InnerLoop`.
      ValueError: see `InnerLoop`.
    """
    check_policy_gradient(objective)
    if axis_name is not None:
        check_texts(axis_name=axis_name)
    return InnerLoop(inner, num_steps, first_order, backward, adapt)


def check_policy_gradient(objective: object) -> None:
    """Raises a TypeError unless the argument `objective` is a `PolicyGradient`."""
    made = "metajax.rl.PolicyGradient(policy, environment, horizon=100, rollouts=20)"
    check_instance(objective, PolicyGradient, "objective", f"a PolicyGradient, such as {made}")


def gather(
    objective: PolicyGradient,
    loop: InnerLoop,
    state: TrainState,
    episodes: Episode,
    axis_name: str | None,
) -> tuple[Experience, dict[str, Array]]:
    """A meta-batch's roll-outs, arrays `[tasks, ...]`, with the keys of `metajax.train_step`.

    Beside them the means over tasks: `loss`, minus the discounted return after adaptation, to which
    a step adds its surrogate there, 0 or not finite; `return` after adaptation, and `return_before`
    it where there are inner steps.

    Raises:
      TypeError: the state is no `TrainState`, or the episodes are none.
      ValueError: the parameters are not the policy's, or the episodes have no axis of tasks.
    """
    check_state(state)
    episodes = as_episodes(episodes)
    check_shared(state.params, episodes)
    expected = jax.eval_shape(objective.init, state.key, episodes.support.inputs)
    check_parameters(expected, state.params)
    tasks = count_tasks(episodes)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * tasks
    keys = learner_keys(state.key, state.step, tasks, first=first)

    def draw(episode: Episode, key: Key) -> tuple[Experience, dict[str, Array]]:
        experience = collect(objective, loop, state.params, episode, key)
        support, query = experience
        metrics = {"loss": -objective.value(query), "return": mean_return(query.trajectories)}
        if loop.num_steps:
            first = jax.tree.map(lambda x: x[0], support.trajectories)
            metrics["return_before"] = mean_return(first)
        return experience, metrics

    experience, metrics = jax.vmap(draw)(episodes, keys)
    return experience, mean_over_tasks(metrics, axis_name)


def mean_over_tasks(tree: T, axis_name: str | None) -> T:
    """The means of arrays `[tasks, ...]`, over the tasks of all devices."""
    return mean_over_devices(jax.tree.map(lambda x: x.mean(axis=0), tree), axis_name)


def mean_over_devices(tree: T, axis_name: str | None) -> T:
    """The means over the devices; of one device, the tree itself."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def frozen_surrogate(objective: PolicyGradient) -> Surrogate:
    """What is made large on frozen query roll-outs: the past does not count, see `Surrogate`."""
    return dataclasses.replace(objective.surrogate, dice_lambda=0.0)


def _loss(objective: PolicyGradient, phi: Params, batch: Batch) -> Array:
    """An inner step's, with the value and the derivative that `maml` gives it."""
    return objective.surrogate_loss(phi, batch) - objective.value(batch)
