"""Many devices and several processes: tasks are cut over them, gradients are averaged."""

from metajax.parallel.placement import (
    place_episodes,
    place_state,
    process_tasks,
    state_shardings,
    task_mesh,
    to_host,
)
from metajax.parallel.processes import start_processes
from metajax.parallel.steps import mesh_step, pmap_step

__all__ = [
    "mesh_step",
    "place_episodes",
    "place_state",
    "pmap_step",
    "process_tasks",
    "start_processes",
    "state_shardings",
    "task_mesh",
    "to_host",
]


def __dir__() -> list[str]:
    return __all__
