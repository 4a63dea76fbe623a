"""Many devices and several processes: tasks are cut over them, gradients are averaged."""

from metajax.parallel.placement import (
    TASKS,
    is_key,
    place_by,
    place_episodes,
    place_state,
    process_tasks,
    replicate,
    state_shardings,
    task_devices,
    task_mesh,
    tasks_per_device,
    to_host,
)
from metajax.parallel.processes import largest_of_processes, start_processes
from metajax.parallel.steps import mesh_step, on_each_device, pmap_step

__all__ = [
    "TASKS",
    "is_key",
    "largest_of_processes",
    "mesh_step",
    "on_each_device",
    "place_by",
    "place_episodes",
    "place_state",
    "pmap_step",
    "process_tasks",
    "replicate",
    "start_processes",
    "state_shardings",
    "task_devices",
    "task_mesh",
    "tasks_per_device",
    "to_host",
]
