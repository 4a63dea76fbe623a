"""The compiled part of training: sampling, inner loops and outer updates of many meta-steps."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.parallel import TASKS, on_each_device, state_shardings
from metajax.tasks import task_keys
from metajax.training import TrainState, train_step
from metajax.types import Array, Episode, Key, Learner

Sample = Callable[[Key], Episode]
NonFinite = Literal["stop", "skip"]


def dispatch_program(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    *,
    tasks: int,
    chunk_size: int | None,
    non_finite: NonFinite,
    mesh: Mesh | None,
) -> Any:
    """The function `(state, sample, length) -> (state, metrics)`, under `jax.jit`.

    It takes `length` (static) meta-steps; every metric comes back as `[length, ...]`, and among
    them `finite`, whether the meta-loss, the gradient and the update were. After a step that was
    not, the state stays as it is (`"stop"`), or goes on to the next step without the update
    (`"skip"`).

    Args:
      learner: any learner.
      optimizer: the outer optimiser.
      state: of the shapes that the function will be given.
      tasks: tasks a meta-step and device.
      chunk_size: see `meta_gradient`.
      non_finite: see above.
      mesh: the devices, or None for one.
    """
    step = train_step(
        learner, optimizer, chunk_size=chunk_size, axis_name=None if mesh is None else TASKS
    )

    def run(
        state: TrainState, sample: Sample, length: int
    ) -> tuple[TrainState, Mapping[str, Array]]:
        first = 0 if mesh is None else jax.lax.axis_index(TASKS) * tasks

        def iteration(
            carry: tuple[TrainState, Array], _: None
        ) -> tuple[tuple[TrainState, Array], Mapping[str, Array]]:
            state, good = carry
            episodes = jax.vmap(sample)(episode_keys(state, tasks, first=first))
            stepped, metrics = step(state, episodes)
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            for leaf in jax.tree.leaves(stepped.params):
                finite &= jnp.isfinite(leaf).all()
            good = finite if non_finite == "skip" else good & finite
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(good, new, old), stepped[:2], state[:2]
            )
            count = stepped.step if non_finite == "skip" else state.step + good
            state = TrainState(params, opt_state, count, state.key)
            return (state, good), {**metrics, "finite": finite}

        (state, _), metrics = jax.lax.scan(iteration, (state, jnp.array(True)), length=length)
        return state, metrics

    if mesh is None:
        return jax.jit(run, static_argnums=2)
    whole = PartitionSpec()

    def run_on_mesh(state: TrainState, sample: Sample, length: int) -> Any:
        def part(state: TrainState, sample: Sample) -> Any:
            return run(state, sample, length)

        return on_each_device(part, mesh, (whole, whole), whole)(state, sample)

    places = (state_shardings(state, mesh), NamedSharding(mesh, whole))
    return jax.jit(run_on_mesh, static_argnums=2, out_shardings=places)


def episode_keys(state: TrainState, tasks: int, *, first: int | Array = 0) -> Key:
    """The keys from which `train` draws the episodes of the state's next step.

    Args:
      state: its key and step decide.
      tasks: number of tasks at hand; static.
      first: index of the first of them in the whole meta-batch.

    Returns:
      `[tasks]` keys.
    """
    # The learner's keys are those of `state.key` itself: folding in what is never a step keeps the
    # two streams apart.
    data_key = jax.random.fold_in(state.key, 2**32 - 1)
    return task_keys(jax.random.fold_in(data_key, state.step), tasks, first=first)


def as_pytree(sample: Sample) -> Sample:
    """A sampler that can be an argument of a compiled function."""
    return jax.tree_util.Partial(sample) if jax.tree_util.all_leaves([sample]) else sample


def check_sample(learner: Learner, params: Any, sample: Sample) -> None:
    """Raises unless one drawn episode fits the learner, its number of ways included."""
    key = jax.random.key(0)
    episode = sample(key)
    # The episode is not an argument of what is traced, so that checks can read its labels.
    jax.eval_shape(lambda params: learner.loss(params, episode, key), params)
