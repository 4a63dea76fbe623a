"""A meta-step over many devices, each on its own tasks.

The result is that of one device, to rounding. Communication is one all-reduce of the gradient a
meta-step.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from metajax.checks.settings import check_texts
from metajax.kinds import check_functions
from metajax.meta_gradients import count_tasks
from metajax.parallel.placement import (
    MODEL,
    TASKS,
    checked_devices,
    state_shardings,
    task_devices,
    tasks_per_device,
)
from metajax.training_step import TrainState, TrainStep
from metajax.types import Episode

# What names an axis and exchanges nothing along it.
_ALONE = ("axis_index", "pvary", "pcast")


def mesh_step(step: TrainStep, mesh: Mesh) -> TrainStep:
    """A compiled meta-step over a mesh, each device on its own tasks.

    >>> import jax, metajax, optax
    >>> model, optimizer = metajax.models.mlp((40, 40, 1)), optax.adam(1e-3)
    >>> mesh = metajax.parallel.task_mesh()
    >>> step = metajax.parallel.mesh_step(metajax.maml_step(
    ...     model, optimizer, inner=optax.sgd(0.01), num_steps=1, loss_fn=metajax.squared_error,
    ...     axis_name="tasks"), mesh)
    >>> sample = jax.vmap(metajax.data.sinusoid_episodes(shots=10, queries=10))
    >>> episodes = sample(jax.random.split(jax.random.key(0), 8))
    >>> episodes = metajax.parallel.place_episodes(episodes, mesh)
    >>> params = model.init(jax.random.key(1), episodes.support.inputs[0])
    >>> state = metajax.init_state(params, optimizer, jax.random.key(2))
    >>> state, metrics = step(metajax.parallel.place_state(state, mesh), episodes)

    Args:
      step: `train_step(..., axis_name="tasks")`, or any step that averages over that axis.
      mesh: from `task_mesh`.

    Returns:
      The function `(state, episodes) -> (state, metrics)`. The state comes back as `place_state`
      places it.

    Raises:
      TypeError: `step` is no function, or `mesh` no mesh.
      ValueError: the mesh has no axis for tasks; from the step: the task axis does not divide the
        meta-batch, or the step does not average over it.
    """
    check_functions(step=step)
    task_devices(mesh)

    @jax.jit
    def run(state: TrainState, episodes: Episode) -> tuple[TrainState, Any]:
        tasks_per_device(count_tasks(episodes), task_devices(mesh))
        check_averages(step, state, episodes, mesh, TASKS)
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
      TypeError: `step` is no function, `axis_name` no string, or `devices` hold something else.
      ValueError: from the step: the devices do not divide the meta-batch, or the step does not
        average over them.
    """
    check_functions(step=step)
    check_texts(axis_name=axis_name)
    devices = checked_devices(devices, jax.local_devices)
    run = jax.pmap(step, axis_name, in_axes=(None, 0), out_axes=None, devices=devices)
    checked = False

    def over_devices(state: TrainState, episodes: Episode) -> tuple[TrainState, Any]:
        nonlocal checked
        share = tasks_per_device(count_tasks(episodes), len(devices))
        if not checked:
            mesh = Mesh(np.array(devices), (axis_name,))
            check_averages(step, state, episodes, mesh, axis_name)
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
    return _shard_map(function, mesh, TASKS, in_specs, out_specs)


def _shard_map(function: Any, mesh: Mesh, axis_name: str, in_specs: Any, out_specs: Any) -> Any:
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={axis_name},
        check_vma=False,
    )


def check_averages(
    step: TrainStep, state: Any, episodes: Any, mesh: Mesh, axis_name: str
) -> tuple[Any, Any]:
    """The shapes of what a step returns, traced on each device's part of the tasks.

    Args:
      step: the step.
      state: a state, or the shapes of one.
      episodes: arrays `[tasks, ...]` of all devices, or their shapes.
      mesh: the devices.
      axis_name: the axis that they are on.

    Raises:
      ValueError: no result of a device is combined with those of the others along that axis, or the
        step uses another axis.
    """
    specs = (PartitionSpec(), PartitionSpec(axis_name))
    part = _shard_map(step, mesh, axis_name, specs, PartitionSpec())
    expected = (
        f"expected train_step(..., axis_name={axis_name!r}), or a step that averages gradient, "
        f"loss and metrics by jax.lax.pmean(..., {axis_name!r})"
    )
    try:
        program, shapes = jax.make_jaxpr(part, return_shape=True)(state, episodes)
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            f"the step uses an axis that is not there ({error}); {expected}"
        ) from error
    if not _meets(program.jaxpr, axis_name):
        raise ValueError(
            f"the step does not average over the axis {axis_name!r}, so that every device would go "
            f"its own way; {expected}"
        )
    return shapes


def _meets(program: Any, axis_name: str) -> bool:
    """Whether devices exchange anything along an axis, in programs inside of this one too."""
    for equation in program.eqns:
        axes = [equation.params.get(name) for name in ("axes", "axis_name")]
        if equation.primitive.name not in _ALONE and axis_name in jax.tree.leaves(axes):
            return True
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns") and _meets(inner, axis_name):
                return True
    return False
