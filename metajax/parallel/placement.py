"""Where states and episodes lie on a mesh of devices, of one process or several."""

import collections
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance
from metajax.given_data import as_episodes
from metajax.kinds import in_brief
from metajax.meta_gradients import count_tasks
from metajax.training_step import TrainState, check_state
from metajax.types import Array, Episode, Params

T = TypeVar("T")

# The names of a mesh's axes.
TASKS, MODEL = "tasks", "model"

# An array of fewer entries than this is not worth cutting: every device keeps the whole of it.
_LARGE = 4096


def task_mesh(devices: Sequence[Any] | None = None, *, model: int = 1) -> Mesh:
    """A mesh with the axis `"tasks"`, over which the tasks of a meta-batch are cut.

    Args:
      devices: those to use; None is all devices of all processes.
      model: how many devices share one copy of the parameters. Above 1 the mesh has a second axis,
        `"model"`, over which `place_state` cuts large arrays.

    Raises:
      TypeError: a number is no integer.
      ValueError: `model` does not divide the number of devices, or not those of every process.
    """
    check_integers(1, model=model)
    devices = checked_devices(devices, jax.devices)
    if len(devices) % model:
        raise ValueError(
            f"model={model} with {len(devices)} devices; expected a divisor of the number of "
            "devices"
        )
    local = collections.Counter(device.process_index for device in devices)
    if any(count % model and model % count for count in local.values()):
        raise ValueError(
            f"model={model} with {sorted(local.values())} devices of the processes; expected one "
            "to divide the other, so that no copy of the parameters lies across a process's border"
        )
    # The tasks of a process lie together, whatever order the devices came in.
    devices.sort(key=lambda device: (device.process_index, device.id))
    if model == 1:
        return Mesh(np.array(devices), (TASKS,))
    return Mesh(np.array(devices).reshape(-1, model), (TASKS, MODEL))


def checked_devices(devices: Any, all_of_them: Callable[[], Sequence[Any]]) -> list[Any]:
    """The argument `devices` as a list, or without it all of them.

    Raises:
      TypeError: it is no sequence of devices.
      ValueError: there is none.
    """
    if devices is None:
        return list(all_of_them())
    several = isinstance(devices, Sequence | np.ndarray)
    if not several or not all(isinstance(each, jax.Device) for each in devices):
        raise TypeError(f"devices is {in_brief(devices)}; expected devices, as jax.devices() lists")
    if not len(devices):
        raise ValueError("devices is empty; expected one device at least, or None for all")
    return list(devices)


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where each array of a state lies: a `NamedSharding` in place of every array.

    Without an axis `"model"` every device holds everything. With one, arrays of 4,096 entries or
    more are cut over it along their longest axis that it divides; the optimiser's moments, which
    have the shapes of the parameters, so lie with them.

    Args:
      state: a state, or the shapes of one.
      mesh: from `task_mesh`.
    """
    made = "a metajax.TrainState, or the shapes of one"
    check_instance(state, TrainState, "state", made)
    task_devices(mesh)
    return jax.tree.map(lambda x: _sharding(x, mesh), state)


def _sharding(x: Any, mesh: Mesh) -> NamedSharding:
    spec = PartitionSpec()
    shape = np.shape(x)
    if MODEL in mesh.axis_names and np.prod(shape) >= _LARGE:
        whole = [axis for axis, length in enumerate(shape) if length % mesh.shape[MODEL] == 0]
        if whole:
            longest = max(whole, key=lambda axis: shape[axis])
            spec = PartitionSpec(*[None] * longest, MODEL)
    return NamedSharding(mesh, spec)


def place_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Puts a state on a mesh, as `state_shardings` says.

    Args:
      state: from `init_state` or a checkpoint; with several processes the same in all of them.
      mesh: from `task_mesh`.
    """
    check_state(state)
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same arrays on every device of a mesh."""
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, PartitionSpec())), tree)


def _put(x: Array, sharding: NamedSharding) -> Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(x)
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if is_key(x):
        wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(x))
        return jax.jit(wrap, out_shardings=sharding)(np.asarray(jax.random.key_data(x)))
    return jax.device_put(np.asarray(x), sharding)


def is_key(x: Any) -> bool:
    """Whether `x` is an array of typed random keys."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def process_tasks(tasks: int, mesh: Mesh) -> range:
    """The indices of this process's tasks in a meta-batch, for data that comes from the host.

    Args:
      tasks: tasks in the whole meta-batch.
      mesh: from `task_mesh`.

    Raises:
      ValueError: the mesh's task axis does not divide the meta-batch, or has no device of this
        process.
    """
    check_integers(1, tasks=tasks)
    size = task_devices(mesh)
    rows = mesh.devices.reshape(size, -1)
    share = tasks_per_device(tasks, len(rows))
    mine = [
        index
        for index, row in enumerate(rows)
        if any(device.process_index == jax.process_index() for device in row)
    ]
    if not mine:
        raise ValueError(
            f"process {jax.process_index()} has no device on the mesh; expected a mesh over the "
            "devices of all processes: task_mesh()"
        )
    return range(mine[0] * share, (mine[-1] + 1) * share)


def place_episodes(episodes: Episode, mesh: Mesh) -> Episode:
    """Puts a meta-batch that comes from the host on the devices of a mesh that use it.

    Args:
      episodes: arrays `[tasks, ...]`. With several processes each passes its own tasks, those of
        `process_tasks`.
      mesh: from `task_mesh`.

    Raises:
      ValueError: the devices do not divide the tasks.
    """
    task_devices(mesh)
    episodes = as_episodes(episodes)
    tasks_per_device(count_tasks(episodes), mesh.local_mesh.shape[TASKS])
    return place_by(PartitionSpec(TASKS), episodes, mesh)


def place_by(spec: PartitionSpec, tree: T, mesh: Mesh) -> T:
    """Cuts all arrays of a tree over a mesh alike; each process passes its own part of them."""
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def task_devices(mesh: Mesh) -> int:
    """How many devices the tasks are cut over.

    Raises:
      ValueError: the mesh has no axis for tasks.
    """
    check_instance(mesh, Mesh, "mesh", "what metajax.parallel.task_mesh() returns")
    if TASKS not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}; expected one called {TASKS!r}: make it with "
            "metajax.parallel.task_mesh()"
        )
    return mesh.shape[TASKS]


def tasks_per_device(tasks: int, devices: int) -> int:
    """The tasks of each device.

    Raises:
      ValueError: the devices do not divide the tasks.
    """
    if tasks < 1 or tasks % devices:
        more = (tasks // devices + 1) * devices
        raise ValueError(
            f"a meta-batch of {tasks} tasks cannot be cut over {devices} devices; expected a "
            f"multiple of {devices}, such as {more}, or a mesh of other size"
        )
    return tasks // devices


def to_host(tree: Params) -> Params:
    """Numpy arrays of the whole tree, on every process, wherever its arrays lie.

    With several processes all of them have to call it. Keys come as their data.
    """

    def fetch(x: Array) -> np.ndarray:
        if is_key(x):
            x = jax.random.key_data(x)
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree)
