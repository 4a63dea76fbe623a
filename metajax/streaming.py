"""Episodes from the host, read ahead of the computation that uses them."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from metajax.types import Episode, Key

T = TypeVar("T")


@runtime_checkable
class HostSample(Protocol):
    """A sampler in two parts, for data that do not fit on the device: `HostEpisodes`, or your own.

    `finish(key, fetch(keys)[i])` of the `i`-th key is the episode `sample(key)`.
    """

    def __call__(self, key: Key) -> Episode:
        """The episode of a key, outside of compiled programs."""
        ...

    def fetch(self, keys: Key, indices: np.ndarray | None = None) -> Any:
        """What the host has to read for `[...]` keys: a pytree of numpy arrays `[..., ...]`.

        `indices` are of listed episodes to take, in place of drawing them.
        """
        ...

    def finish(self, key: Key, fetched: Any) -> Episode:
        """The episode of what was read for its key: a pure function, for the device."""
        ...


def stream_episodes(
    sample: HostSample,
    keys: Iterable[Key],
    *,
    ahead: int = 2,
    place: Callable[[Any], Any] = jax.device_put,
) -> Iterator[Episode]:
    """Meta-batches of episodes from the host for a loop of one's own, read while it computes.

    Args:
      sample: from `image_episodes(..., place="host")` and the like.
      keys: for each meta-batch `[tasks]` keys.
      ahead: meta-batches that are read before they are asked for, and so held in memory, 1 or more.
      place: puts what was read on the device.

    Returns:
      An iterator of episodes whose arrays have a leading axis `[tasks, ...]`, the same as
      `jax.vmap(sample)(keys)` of a sampler on the device gives.

    Raises:
      ValueError: `ahead` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead={ahead}; expected 1 or more")

    def read(keys: Key) -> Callable[[], tuple[Key, Any]]:
        return lambda: (keys, place(sample.fetch(keys)))

    finish = jax.jit(jax.vmap(sample.finish))
    return (finish(*read) for read in run_ahead(map(read, keys), ahead=ahead))


def run_ahead(calls: Iterable[Callable[[], T]], *, ahead: int = 1) -> Iterator[T]:
    """The results of calls, in order, each begun in a thread before it is asked for.

    Args:
      calls: functions without arguments.
      ahead: how many to begin early.
    """
    waiting: collections.deque[Future[T]] = collections.deque()
    with ThreadPoolExecutor(1, "metajax-ahead") as thread:
        try:
            for call in calls:
                waiting.append(thread.submit(call))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
