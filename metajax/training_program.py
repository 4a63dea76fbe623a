"""The compiled part of training: sampling, inner loops and outer updates of many meta-steps."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.keys import episode_keys
from metajax.parallel.placement import TASKS, place_by, process_tasks, state_shardings, to_host
from metajax.parallel.steps import on_each_device
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training_step import TrainState, TrainStep
from metajax.types import Array, Episode, Key, Learner

Sample = Callable[[Key], Episode]
NonFinite = Literal["stop", "skip"]

# What is fetched for a dispatch is `[length, tasks, ...]`.
_FETCHED = PartitionSpec(None, TASKS)

# A run that is stopped waits for one read.
_EPISODES_A_READ = 64


def dispatch_program(
    step: TrainStep,
    state: TrainState,
    sample: Sample,
    *,
    tasks: int,
    non_finite: NonFinite,
    mesh: Mesh | None,
) -> Any:
    """The function `(state, data, length) -> (state, metrics)`, under `jax.jit`.

    It takes `length` (static) meta-steps; every metric comes back as `[length, ...]`, and among
    them `finite`, whether the meta-loss, `grad_norm` where there is one, and the update were. After
    a step that was not, the state stays as it is (`"stop"`), or goes on to the next step without
    the update (`"skip"`). `data` is the sampler, or of a `HostSample` what it fetched,
    `[length, tasks, ...]`.

    Args:
      step: the meta-step; over devices it averages over the axis `TASKS`.
      state: of the shapes that the function will be given.
      sample: the sampler.
      tasks: tasks a meta-step and device.
      non_finite: see above.
      mesh: the devices, or None for one.
    """
    host = sample if isinstance(sample, HostSample) else None

    def run(state: TrainState, data: Any, length: int) -> tuple[TrainState, Mapping[str, Array]]:
        first = 0 if mesh is None else jax.lax.axis_index(TASKS) * tasks

        def iteration(
            carry: tuple[TrainState, Array], fetched: Any
        ) -> tuple[tuple[TrainState, Array], Mapping[str, Array]]:
            state, good = carry
            keys = episode_keys(state.key, state.step, tasks, first=first)
            episodes = (
                jax.vmap(data)(keys) if host is None else jax.vmap(host.finish)(keys, fetched)
            )
            stepped, metrics = step(state, episodes)
            finite = jnp.isfinite(metrics["loss"])
            if "grad_norm" in metrics:
                finite &= jnp.isfinite(metrics["grad_norm"])
            for leaf in jax.tree.leaves(stepped.params):
                finite &= jnp.isfinite(leaf).all()
            good = finite if non_finite == "skip" else good & finite
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(good, new, old), stepped[:2], state[:2]
            )
            count = state.step + (1 if non_finite == "skip" else good)
            state = TrainState(params, opt_state, count, state.key)
            return (state, good), {**metrics, "finite": finite}

        fetched = None if host is None else data
        carry = (state, jnp.array(True))
        (state, _), metrics = jax.lax.scan(iteration, carry, fetched, length=length)
        return state, metrics

    if mesh is None:
        return jax.jit(run, static_argnums=2)
    whole = PartitionSpec()

    def run_on_mesh(state: TrainState, data: Any, length: int) -> Any:
        def part(state: TrainState, data: Any) -> Any:
            return run(state, data, length)

        places = (whole, whole if host is None else _FETCHED)
        return on_each_device(part, mesh, places, whole)(state, data)

    places = (state_shardings(state, mesh), NamedSharding(mesh, whole))
    return jax.jit(run_on_mesh, static_argnums=2, out_shardings=places)


def fetched_dispatches(
    sample: HostSample,
    state: TrainState,
    *,
    iterations: int,
    dispatch: int,
    tasks: int,
    mesh: Mesh | None,
) -> Iterator[Any]:
    """What each dispatch from the state's step on needs of the host, read one dispatch ahead.

    Args:
      sample: the sampler.
      state: its key and step decide.
      iterations: the step of the last one.
      dispatch: see `dispatch_length`.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.
    """
    impl = jax.random.key_impl(state.key)
    key = keys_on_host(jax.random.wrap_key_data(to_host(state.key), impl=impl))
    mine = range(tasks) if mesh is None else process_tasks(tasks, mesh)
    place = jax.device_put if mesh is None else partial(place_by, _FETCHED, mesh=mesh)
    stopped = threading.Event()

    def keys_of(step: Any) -> Key:
        return episode_keys(key, step, len(mine), first=mine.start)

    def read(first: int, length: int) -> Any:
        parts = []
        most = -(-_EPISODES_A_READ // len(mine))
        for begin in range(first, first + length, most):
            if stopped.is_set():
                raise CancelledError
            steps = np.arange(begin, min(begin + most, first + length), dtype=np.int32)
            parts.append(sample.fetch(jax.vmap(keys_of)(steps)))
        return place(jax.tree.map(lambda *x: np.concatenate(x), *parts))

    def calls(done: int) -> Iterator[Callable[[], Any]]:
        while done < iterations:
            length = dispatch_length(done, iterations, dispatch)
            yield partial(read, done, length)
            done += length

    try:
        yield from run_ahead(calls(int(state.step)))
    finally:
        stopped.set()


def dispatch_length(done: int, iterations: int, dispatch: int) -> int:
    """Meta-steps of the next dispatch: they begin at multiples of `dispatch`."""
    return min(dispatch - done % dispatch, iterations - done)


def as_pytree(sample: Sample) -> Sample:
    """A sampler that can be an argument of a compiled function."""
    return jax.tree_util.Partial(sample) if jax.tree_util.all_leaves([sample]) else sample


def check_sample(learner: Learner, params: Any, sample: Sample) -> None:
    """Raises unless one drawn episode fits the learner, its number of ways included."""
    key = jax.random.key(0)
    episode = sample(key)
    # The episode is not an argument of what is traced, so that checks can read its labels.
    jax.eval_shape(lambda params: learner.loss(params, episode, key), params)
