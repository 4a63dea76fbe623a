"""Episodes from the host, read ahead of the computation that uses them."""

import collections
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers
from metajax.kinds import check_functions, check_keys, in_brief
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
      `jax.vmap(sample)(keys)` of a sampler on the device gives, but for rounding.

    Raises:
      TypeError: the sampler draws on the device, or `ahead` is no integer.
      ValueError: `ahead` is below 1; from the iterator: keys of another shape.
    """
    check_integers(1, ahead=ahead)
    check_functions(place=place)
    if not isinstance(sample, HostSample):
        raise TypeError(
            f"sample is {in_brief(sample)}, which has no fetch and finish; expected a sampler of "
            'data on the host, such as image_episodes(..., place="host"): one on the device needs '
            "no stream"
        )

    if not isinstance(keys, Iterable) or getattr(keys, "shape", None) == ():
        raise TypeError(
            f"keys is {in_brief(keys)}; expected an iterable of [tasks] keys, one a meta-batch"
        )

    def read(keys: Key) -> Callable[[], tuple[Key, Any]]:
        check_keys(keys, None)
        near = keys_on_host(keys)
        if near.ndim != 1:
            raise ValueError(
                f"a meta-batch has keys of shape {near.shape}; expected an iterable of [tasks] "
                "keys, one such array a meta-batch"
            )
        return lambda: (keys, place(sample.fetch(near)))

    batches = run_ahead(map(read, keys), ahead=ahead)
    return (_finished(sample.finish, *batch) for batch in batches)


def run_ahead(calls: Iterable[Callable[[], T]], *, ahead: int = 1) -> Generator[T]:
    """The results of calls, in order, each begun in a thread of its own before it is asked for.

    Args:
      calls: functions without arguments.
      ahead: how many to begin early.
    """
    # Settings of JAX made by a `with` are those of a thread alone.
    config: Any = jax.config
    wide, device = config.jax_enable_x64, config.jax_default_device

    def begin(call: Callable[[], T]) -> T:
        with jax.enable_x64(wide), jax.default_device(device):
            return call()

    jobs: queue.SimpleQueue[tuple[Callable[[], T], Future[T]] | None] = queue.SimpleQueue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            call, future = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(begin(call))
                except BaseException as error:
                    future.set_exception(error)

    # Plain threads: a process that is forked in one of an executor, as loaders fork their workers,
    # fails when it ends. And nobody waits at exit for what nobody wants.
    for _ in range(ahead):
        threading.Thread(target=work, name="metajax-ahead", daemon=True).start()
    waiting: collections.deque[Future[T]] = collections.deque()
    try:
        for call in calls:
            future: Future[T] = Future()
            waiting.append(future)
            jobs.put((call, future))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in range(ahead):
            jobs.put(None)


def keys_on_host(keys: Key) -> Key:
    """Typed keys on the CPU, of keys that lie anywhere or are raw.

    What is computed from them does not wait for an accelerator.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = jax.random.wrap_key_data(keys)
    bits: Any = np.asarray(jax.random.key_data(keys))
    return on_cpu(jax.random.wrap_key_data(bits, impl=jax.random.key_impl(keys)))


def on_cpu(tree: T) -> T:
    """The same arrays on a CPU device, bound to it; where there is none, as they are."""
    try:
        return jax.device_put(tree, jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return tree


@functools.partial(jax.jit, static_argnums=0)
def _finished(finish: Callable[[Key, Any], Episode], keys: Key, fetched: Any) -> Episode:
    return jax.vmap(finish)(keys, fetched)
