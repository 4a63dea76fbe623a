"""A meta-step over many devices, each on its own tasks.

The result is that of one device, to rounding. Communication is one all-reduce of the gradient a
meta-step.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from metajax.meta_gradients import count_tasks
from metajax.parallel.placement import (
    MODEL,
    TASKS,
    state_shardings,
    task_devices,
    tasks_per_device,
)
from metajax.training_step import TrainState, TrainStep
from metajax.types import Episode


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
      ValueError: from the step: the task axis does not divide the meta-batch, or the step does not
        average over it.
    """

    @jax.jit
    def run(state: TrainState, episodes: Episode) -> tuple[TrainState, Any]:
        tasks_per_device(count_tasks(episodes), task_devices(mesh))
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
        share = tasks_per_device(count_tasks(episodes), len(devices))
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
