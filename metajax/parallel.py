"""Many devices: a meta-step over a mesh or under `pmap`, in one process or several.

Tasks are cut over devices, gradients are averaged, parameters are the same everywhere: the result
is that of one device, to rounding. Communication is one all-reduce of the gradient a meta-step.
"""

import collections
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.training import TrainState, TrainStep
from metajax.types import Array, Episode, Params

# The names of a mesh's axes.
TASKS, MODEL = "tasks", "model"

# An array of fewer entries than this is not worth cutting: every device keeps the whole of it.
_LARGE = 4096


def start_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Joins this process to the others of a run; call it before anything is computed.

    Every process runs the same program. Afterwards `jax.devices()` are the devices of all of them,
    which `task_mesh` puts on one mesh. Under SLURM, Open MPI, on TPU pods and in Kubernetes (with
    `jax[k8s]`) JAX finds the arguments itself. CPU devices talk through gloo.

    Args:
      coordinator: `host:port` of process 0, reachable from all.
      processes: how many there are.
      process: which of them this is, in `[0, processes)`.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: an argument is missing and no cluster was found that tells it, `process` is out of
        range, or `coordinator` has no port.
      RuntimeError: JAX has computed something already, or the processes were started before.
    """
    if jax.distributed.is_initialized():
        raise RuntimeError("start_processes was called before; expected one call a process")
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{missing[0]} is not given; expected all of {', '.join(given)}, or none")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"process={process} of {processes}; expected 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator={coordinator!r}; expected host:port, such as node1:12345")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=None if missing else "deactivate",
            initialization_timeout=timeout,
        )
    except ValueError as error:
        if not missing:
            raise
        raise ValueError(
            "no cluster was found that says who the processes of this run are (SLURM, Open MPI, "
            "TPU pods and Kubernetes do); expected start_processes(coordinator='host:port', "
            "processes=..., process=...)"
        ) from error


def task_mesh(devices: Sequence[Any] | None = None, *, model: int = 1) -> Mesh:
    """A mesh with the axis `"tasks"`, over which the tasks of a meta-batch are cut.

    Args:
      devices: those to use; None is all devices of all processes.
      model: how many devices share one copy of the parameters. Above 1 the mesh has a second axis,
        `"model"`, over which `place_state` cuts large arrays.

    Raises:
      ValueError: `model` does not divide the number of devices, or not those of every process.
    """
    devices = list(jax.devices() if devices is None else devices)
    if model < 1 or not devices or len(devices) % model:
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


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """Where each array of a state lies: a `NamedSharding` in place of every array.

    Without an axis `"model"` every device holds everything. With one, arrays of 4,096 entries or
    more are cut over it along their longest axis that it divides; the optimiser's moments, which
    have the shapes of the parameters, so lie with them.

    Args:
      state: a state, or the shapes of one.
      mesh: from `task_mesh`.
    """
    return jax.tree.map(lambda x: _sharding(x, mesh), state)


def _sharding(x: Any, mesh: Mesh) -> NamedSharding:
    spec = PartitionSpec()
    if MODEL in mesh.axis_names and np.prod(x.shape) >= _LARGE:
        whole = [axis for axis in range(x.ndim) if x.shape[axis] % mesh.shape[MODEL] == 0]
        if whole:
            longest = max(whole, key=lambda axis: x.shape[axis])
            spec = PartitionSpec(*[None] * longest, MODEL)
    return NamedSharding(mesh, spec)


def place_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Puts a state on a mesh, as `state_shardings` says.

    Args:
      state: from `init_state` or a checkpoint; with several processes the same in all of them.
      mesh: from `task_mesh`.
    """
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts the same arrays on every device of a mesh."""
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, PartitionSpec())), tree)


def _put(x: Array, sharding: NamedSharding) -> Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(x)
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if _is_key(x):
        wrap = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(x))
        return jax.jit(wrap, out_shardings=sharding)(np.asarray(jax.random.key_data(x)))
    return jax.device_put(np.asarray(x), sharding)


def _is_key(x: Any) -> bool:
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
    rows = mesh.devices.reshape(task_devices(mesh), -1)
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
    sharding = NamedSharding(mesh, PartitionSpec(TASKS))
    tasks_per_device(_count(episodes), mesh.local_mesh.shape[TASKS])
    if sharding.is_fully_addressable:
        return jax.device_put(episodes, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), episodes
    )


def mesh_step(step: TrainStep, mesh: Mesh) -> TrainStep:
    """A compiled meta-step over a mesh, each device on its own tasks.

    >>> import jax, metajax, optax
    >>> model, optimizer = metajax.mlp((40, 40, 1)), optax.adam(1e-3)
    >>> mesh = metajax.task_mesh()
    >>> step = metajax.mesh_step(metajax.maml_step(
    ...     model, optimizer, inner=optax.sgd(0.01), num_steps=1, loss_fn=metajax.squared_error,
    ...     axis_name="tasks"), mesh)
    >>> sample = jax.vmap(metajax.sinusoid_episodes(shots=10, queries=10))
    >>> episodes = metajax.place_episodes(sample(jax.random.split(jax.random.key(0), 8)), mesh)
    >>> params = model.init(jax.random.key(1), episodes.support.inputs[0])
    >>> state = metajax.init_state(params, optimizer, jax.random.key(2))
    >>> state, metrics = step(metajax.place_state(state, mesh), episodes)

    Args:
      step: `train_step(..., axis_name="tasks")`, or any step that averages over that axis.
      mesh: from `task_mesh`.

    Returns:
      The function `(state, episodes) -> (state, metrics)`. The state comes back as `place_state`
      places it.

    Raises:
      ValueError: from the step: the task axis does not divide the meta-batch, or the step does not
        average over it.
    """

    @jax.jit
    def run(state: TrainState, episodes: Episode) -> tuple[TrainState, Any]:
        tasks_per_device(_count(episodes), task_devices(mesh))
        _check_averages(step, state, episodes, TASKS)
        specs = (PartitionSpec(), PartitionSpec(TASKS))
        state, metrics = on_each_device(step, mesh, specs, PartitionSpec())(state, episodes)
        return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh)), metrics

    return run


def pmap_step(
    step: TrainStep, *, axis_name: str = TASKS, devices: Sequence[Any] | None = None
) -> TrainStep:
    """A meta-step under `jax.pmap` over the devices of this process, each on its own tasks.

    Args:
      step: `train_step(..., axis_name=axis_name)`, or any step that averages over that axis.
      axis_name: the name of the axis.
      devices: those to use; None is all of this process.

    Returns:
      The function `(state, episodes) -> (state, metrics)`. It cuts the task axis itself; the state
      has no axis of devices, and lies on all of them when it comes back.

    Raises:
      ValueError: from the step: the devices do not divide the meta-batch, or the step does not
        average over them.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    run = jax.pmap(step, axis_name, in_axes=(None, 0), out_axes=None, devices=devices)
    checked = False

    def over_devices(state: TrainState, episodes: Episode) -> tuple[TrainState, Any]:
        nonlocal checked
        share = tasks_per_device(_count(episodes), len(devices))
        if not checked:
            _check_averages(step, state, episodes, axis_name)
            checked = True
        cut = jax.tree.map(lambda x: x.reshape(len(devices), share, *x.shape[1:]), episodes)
        return run(state, cut)

    return over_devices


def on_each_device(function: Any, mesh: Mesh, in_specs: Any, out_specs: Any) -> Any:
    """`jax.shard_map` over the tasks, with parameters left to the compiler where they are cut.

    Its check is off: with it, the gradient of an inner loop with respect to parameters that all
    devices share would be summed over the devices.
    """
    if mesh.shape[TASKS] == 1 and MODEL in mesh.axis_names:
        # XLA cannot compile an all-reduce over one device beside an axis that is left to it.
        return jax.vmap(function, in_axes=None, out_axes=None, axis_name=TASKS, axis_size=1)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={TASKS},
        check_vma=False,
    )


def task_devices(mesh: Mesh) -> int:
    """How many devices the tasks are cut over.

    Raises:
      ValueError: the mesh has no axis for tasks.
    """
    if TASKS not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}; expected one called {TASKS!r}: make it with "
            "metajax.task_mesh()"
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
        if _is_key(x):
            x = jax.random.key_data(x)
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree)


def largest_of_processes(number: int) -> int:
    """The largest of the processes' numbers, on each of them."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def _count(episodes: Episode) -> int:
    return jax.tree.leaves(episodes)[0].shape[0]


def _check_averages(step: TrainStep, state: Any, episodes: Any, axis_name: str) -> None:
    # Outside of the axis, a step that uses it cannot be traced.
    try:
        jax.eval_shape(step, state, episodes)
    except NameError:
        return
    raise ValueError(
        f"the step does not average over the axis {axis_name!r}, so that every device would go its "
        f"own way; expected train_step(..., axis_name={axis_name!r})"
    )
