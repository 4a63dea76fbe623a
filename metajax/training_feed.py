"""What each dispatch of a training run is given: a sampler, or what was read for it ahead."""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from metajax.keys import episode_keys
from metajax.parallel.placement import TASKS, place_by, process_tasks, replicate, to_host
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training_step import TrainState
from metajax.types import Episode, Key

Sample = Callable[[Key], Episode]

# What is read for a dispatch is `[length, tasks, ...]`.
READ = PartitionSpec(None, TASKS)

# A run that is stopped waits for one read.
_EPISODES_A_READ = 64


class Dispatch(NamedTuple):
    """What one dispatch is given.

    Attributes:
      length: its meta-steps.
      data: the sampler, or what was read, `[length, tasks, ...]`.
    """

    length: int
    data: Any


def dispatches(
    sample: Sample,
    state: TrainState,
    *,
    iterations: int,
    dispatch: int,
    tasks: int,
    mesh: Mesh | None,
) -> Generator[Dispatch]:
    """The dispatches from the state's step on; what the host has to read is read one ahead.

    Args:
      sample: the sampler.
      state: its key and step decide.
      iterations: the step of the last one.
      dispatch: they begin at multiples of it.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.
    """
    lengths = _lengths(int(state.step), iterations, dispatch)
    if isinstance(sample, HostSample):
        yield from _fetched(sample, state, lengths, tasks=tasks, mesh=mesh)
        return
    data = as_pytree(sample)
    if mesh is not None:
        data = replicate(data, mesh)
    for _, length in lengths:
        yield Dispatch(length, data)


def as_pytree(sample: Sample) -> Sample:
    """A sampler that can be an argument of a compiled function."""
    return jax.tree_util.Partial(sample) if jax.tree_util.all_leaves([sample]) else sample


def _lengths(done: int, iterations: int, dispatch: int) -> Iterator[tuple[int, int]]:
    """Where each dispatch begins, and its meta-steps."""
    while done < iterations:
        length = min(dispatch - done % dispatch, iterations - done)
        yield done, length
        done += length


def _fetched(
    sample: HostSample,
    state: TrainState,
    lengths: Iterator[tuple[int, int]],
    *,
    tasks: int,
    mesh: Mesh | None,
) -> Generator[Dispatch]:
    impl = jax.random.key_impl(state.key)
    key = keys_on_host(jax.random.wrap_key_data(to_host(state.key), impl=impl))
    mine = range(tasks) if mesh is None else process_tasks(tasks, mesh)
    place = jax.device_put if mesh is None else partial(place_by, READ, mesh=mesh)
    stopped = threading.Event()

    def keys_of(step: Any) -> Key:
        return episode_keys(key, step, len(mine), first=mine.start)

    def read(first: int, length: int) -> Dispatch:
        parts = []
        most = -(-_EPISODES_A_READ // len(mine))
        for begin in range(first, first + length, most):
            if stopped.is_set():
                raise CancelledError
            steps = np.arange(begin, min(begin + most, first + length), dtype=np.int32)
            parts.append(sample.fetch(jax.vmap(keys_of)(steps)))
        return Dispatch(length, place(jax.tree.map(lambda *x: np.concatenate(x), *parts)))

    try:
        yield from run_ahead(partial(read, *each) for each in lengths)
    finally:
        stopped.set()
