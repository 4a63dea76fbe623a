"""What each dispatch of a training run is given: a sampler, or what was read for it ahead."""

import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import episode_keys
from metajax.parallel.placement import TASKS, place_by, process_tasks, replicate, to_host
from metajax.parallel.processes import largest_of_processes
from metajax.stacked_runs import count_runs, newest_step
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training_step import TrainState
from metajax.types import Episode, Key
from metajax.user_warnings import warn_user

Sample = Callable[[Key], Episode] | IterableEpisodes | Iterable[Any]

# A run that is stopped waits for one read.
_EPISODES_A_READ = 64


class Dispatch(NamedTuple):
    """What one dispatch is given.

    Attributes:
      length: its meta-steps.
      data: the sampler, or what was read, `[length, tasks, ...]`. For a stack what is fetched by
        key is `[runs, length, tasks, ...]`, since each run draws its own episodes; those of an
        iterator are shared by all.
      position: where an iterator of episodes stands after it, see `IterableEpisodes`.
    """

    length: int
    data: Any
    position: Any = None


def read_spec(runs: int | None) -> PartitionSpec:
    """How what is read for a dispatch is cut over the devices, see `Dispatch`."""
    return PartitionSpec(*[None] * (1 if runs is None else 2), TASKS)


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

    They end early, the last one shorter, where an iterator of episodes does.

    Args:
      sample: the sampler, or `IterableEpisodes`.
      state: its key and step decide.
      iterations: the step of the last one.
      dispatch: they begin at multiples of it.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.
    """
    lengths = _lengths(newest_step(state), iterations, dispatch)
    if isinstance(sample, HostSample):
        yield from _fetched(sample, state, lengths, tasks=tasks, mesh=mesh)
        return
    if isinstance(sample, IterableEpisodes):
        yield from _read(sample, lengths, tasks=tasks, mesh=mesh)
        return
    assert callable(sample)
    data = as_pytree(sample)
    if mesh is not None:
        data = replicate(data, mesh)
    for _, length in lengths:
        yield Dispatch(length, data)


def go_on(
    sample: IterableEpisodes, done: int, position: Any, *, tasks: int, mesh: Mesh | None
) -> None:
    """Sets an iterator of episodes to where a run stood; a warning says that it cannot be set.

    Args:
      sample: the episodes; from which a run in this process may have read before.
      done: the step from which the run goes on.
      position: where they stood, of the checkpoint; None where none is known.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.
    """
    if done == 0 or (position is None and sample.taken):
        return
    if position is not None and (position == sample.position() or sample.go_to(position)):
        return
    if not sample.go_to({"tasks": done * _tasks_here(tasks, mesh)}):
        warn_user(
            f"the run goes on at step {done}, and its iterator cannot be set to where it stood "
            "then: it goes on from where it is, with episodes that the run may have seen. Give one "
            "that has get_state and set_state, or state_dict and load_state_dict, and checkpoints; "
            "or from_iterable(..., repeatable=True) if it yields the same whenever it is made anew"
        )


def moved(position: Any, steps: int, *, tasks: int, mesh: Mesh | None) -> Any:
    """Where an iterator of episodes stands some meta-steps after a position.

    Args:
      position: see `IterableEpisodes`; None where none is known.
      steps: their number.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.
    """
    if position is None:
        return None
    more = steps * _tasks_here(tasks, mesh)
    counts = {name: position[name] + more for name in ("tasks", "skip") if name in position}
    return {**position, **counts}


def as_pytree(sample: Callable[..., Any]) -> Callable[..., Any]:
    """A sampler that can be an argument of a compiled function."""
    return jax.tree_util.Partial(sample) if jax.tree_util.all_leaves([sample]) else sample


def _tasks_here(tasks: int, mesh: Mesh | None) -> int:
    """How many tasks of a meta-batch this process has."""
    return tasks if mesh is None else len(process_tasks(tasks, mesh))


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
    runs = count_runs(state)
    place = jax.device_put if mesh is None else partial(place_by, read_spec(runs), mesh=mesh)
    stopped = threading.Event()

    def keys_of(key: Key, step: Any) -> Key:
        return episode_keys(key, step, len(mine), first=mine.start)

    keys_of_steps = jax.vmap(keys_of, in_axes=(None, 0))
    if runs is not None:
        keys_of_steps = jax.vmap(keys_of_steps, in_axes=(0, None))

    def read(first: int, length: int) -> Dispatch:
        parts = []
        most = -(-_EPISODES_A_READ // (len(mine) * (runs or 1)))
        for begin in range(first, first + length, most):
            if stopped.is_set():
                raise CancelledError
            steps = np.arange(begin, min(begin + most, first + length), dtype=np.int32)
            parts.append(sample.fetch(keys_of_steps(key, steps)))
        axis = 0 if runs is None else 1
        whole = jax.tree.map(lambda *x: np.concatenate(x, axis=axis), *parts)
        return Dispatch(length, place(whole))

    try:
        yield from run_ahead(partial(read, *each) for each in lengths)
    finally:
        stopped.set()


def _read(
    sample: IterableEpisodes,
    lengths: Iterator[tuple[int, int]],
    *,
    tasks: int,
    mesh: Mesh | None,
) -> Generator[Dispatch]:
    mine = _tasks_here(tasks, mesh)
    place = jax.device_put if mesh is None else partial(place_by, read_spec(None), mesh=mesh)
    several = jax.process_count() > 1
    stopped = threading.Event()

    def read(length: int) -> Dispatch:
        episodes = sample.read(length * mine, stopped)
        if stopped.is_set():
            raise CancelledError
        length = len(episodes) // mine
        if not length:
            return Dispatch(0, None)
        stacked = sample.stack(episodes[: length * mine])
        data = jax.tree.map(lambda x: x.reshape(length, mine, *x.shape[1:]), stacked)
        return Dispatch(length, data if several else place(data), sample.position())

    looked = False
    try:
        for each in run_ahead(partial(read, length) for _, length in lengths):
            if several:  # Processes talk in the main thread alone.
                if not looked:
                    _warn_of_the_same(each.data)
                looked = True
                each = _agreed(each, place)
            if not each.length:
                return
            yield each
    finally:
        stopped.set()


def _same_everywhere(number: int) -> bool:
    return largest_of_processes(number) == -largest_of_processes(-number)


def _warn_of_the_same(data: Any) -> None:
    digest = 0
    for leaf in jax.tree.leaves(data):
        digest = zlib.crc32(np.asarray(leaf).tobytes(), digest)
    if _same_everywhere(digest >> 1) and digest:
        warn_user(
            "all processes read the same episodes, so that every task is there as often as there "
            "are processes; expected an iterator of its own tasks in each: cut the source by "
            "jax.process_index(), or draw from another seed"
        )


def _agreed(dispatch: Dispatch, place: Callable[[Any], Any]) -> Dispatch:
    """As many meta-steps as every process has episodes for.

    Raises:
      ValueError: the processes' episodes differ in size; all of them raise it.
    """
    shapes = repr([leaf.shape[2:] for leaf in jax.tree.leaves(dispatch.data)]).encode()
    length, kind = dispatch.length, zlib.crc32(shapes) >> 1
    least = -largest_of_processes(-length)
    if not least:
        return Dispatch(0, None)
    if not _same_everywhere(kind):
        raise ValueError(
            "the processes read episodes of different sizes; expected one size everywhere: "
            "pad=functools.partial(metajax.data.pad_episodes, support=..., query=...)"
        )
    return dispatch._replace(
        length=least, data=place(jax.tree.map(lambda x: x[:least], dispatch.data))
    )
