"""Weak scaling: as many tasks a device on one, two and four devices, and in two processes.

The devices are forced CPU devices of one process, which share all cores: one of them alone may use
several, so that an efficiency of one over their number loses nothing. The two processes, of one
device each, are held to a core each and talk through gloo; there 1 loses nothing. Every arrangement
runs its meta-step with and without the all-reduce of the gradient, all of them interleaved; times
are medians. Efficiency is the time of one device over the time of many; communication is the share
of the time that goes without the all-reduce, waiting for the slowest device included; beside it
stands what the all-reduce takes alone. Run it on a quiet machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec
from meta_gradients import make_learner
from peers.jax_names import to_tree
from records import plain_table, wide_console, write
from two_processes import add_worker_arguments, run_two
from workloads import WORKLOADS, Workload, arrays

import metajax as mj
from metajax.parallel.placement import replicate
from metajax.parallel.steps import on_each_device

OPTIMIZER = optax.adam(1e-3)
COLUMNS = [
    *("workload", "arrangement", "ms", "tasks_per_second", "efficiency", "communication"),
    *("all_reduce_ms", "gradient_kb", "state_mb", "temporary_mb"),
]
PARTS = ("step", "apart", "all-reduce")


class Program(NamedTuple):
    """A compiled meta-step over a mesh.

    Attributes:
      run: runs it to its end.
      state_bytes: of a device's part of parameters and optimiser state.
      temporary_bytes: what it asks for beside its arguments and results, on each device.
    """

    run: Callable[[], Any]
    state_bytes: int
    temporary_bytes: int


def programs(workload: Workload, steps: int, mesh: jax.sharding.Mesh) -> dict[str, Program]:
    """The meta-step over a mesh, with and without its all-reduce, and the all-reduce alone."""
    learner = make_learner(workload, steps)
    data = {name: jnp.asarray(array) for name, array in arrays(workload).items()}
    support, query = (mj.Examples(data[f"x{name}"], data[f"y{name}"]) for name in "sq")
    params = to_tree(data, jax.eval_shape(learner.init, jax.random.key(0), support.inputs[0]))
    state = mj.parallel.place_state(mj.init_state(params, OPTIMIZER, jax.random.key(1)), mesh)
    # Every device works on the same tasks: as many of them each, and nothing to wait for.
    whole = replicate(mj.Episode(support, query), mesh)
    spec = PartitionSpec()
    chunk_size = workload.chunk_size
    functions = {
        "step": mj.train_step(learner, OPTIMIZER, chunk_size=chunk_size, axis_name="tasks"),
        "apart": mj.train_step(learner, OPTIMIZER, chunk_size=chunk_size),
        "all-reduce": lambda state, _: jax.lax.pmean(state.params, "tasks"),
    }
    made = {}
    for name, function in functions.items():
        over_mesh = jax.jit(on_each_device(function, mesh, (spec, spec), spec))
        compiled = over_mesh.lower(state, whole).compile()

        def run(compiled: Any = compiled) -> None:
            jax.block_until_ready(compiled(state, whole))

        parts = (leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state[:2]))
        memory: Any = compiled.memory_analysis()
        size = sum(part.nbytes for part in parts)
        made[name] = Program(run, size, memory.temp_size_in_bytes)
    return made


def gradient_kilobytes(workload: Workload) -> float:
    """What the all-reduce adds up."""
    weights = (array for name, array in arrays(workload).items() if "/" in name)
    return sum(array.nbytes for array in weights) / 1e3


def medians(
    runs: Mapping[Any, Callable[[], Any]], turns: int, between: Callable[[], None]
) -> dict[Any, float]:
    """Median milliseconds of each run, in turns, after `between` every time."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            between()
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(spent) for name, spent in times.items()}


def on_devices(args: argparse.Namespace, name: str, workload: Workload) -> list[dict]:
    """One, two and four devices of one process, and parameters cut over pairs of them."""
    devices = jax.devices()
    meshes = {
        "1 device": mj.parallel.task_mesh(devices[:1]),
        "2 devices": mj.parallel.task_mesh(devices[:2]),
        "4 devices": mj.parallel.task_mesh(devices[:4]),
        "2 x 2 devices": mj.parallel.task_mesh(devices[:4], model=2),
    }
    made = {
        (arrangement, part): program
        for arrangement, mesh in meshes.items()
        for part, program in programs(workload, args.steps, mesh).items()
    }
    times = medians({key: program.run for key, program in made.items()}, args.turns, lambda: None)
    return [
        _row(
            (name, arrangement),
            workload,
            mesh.shape["tasks"],
            times["1 device", "step"],
            {part: times[arrangement, part] for part in PARTS},
            made[arrangement, "step"],
        )
        for arrangement, mesh in meshes.items()
    ]


def in_processes(args: argparse.Namespace, name: str, workload: Workload) -> list[dict]:
    """One process alone while the other waits, then both."""
    alone = programs(workload, args.steps, mj.parallel.task_mesh(jax.local_devices()))["step"]
    both = programs(workload, args.steps, mj.parallel.task_mesh())
    mine = alone.run if jax.process_index() == 0 else lambda: None
    runs = {"alone": mine} | {part: both[part].run for part in PARTS}
    times = medians(runs, args.turns, lambda: multihost_utils.sync_global_devices("turn"))
    one = times["alone"]
    nothing = {"step": one, "apart": one, "all-reduce": 0.0}
    return [
        _row((name, "1 process"), workload, 1, one, nothing, alone),
        _row((name, "2 processes"), workload, 2, one, times, both["step"]),
    ]


def _row(
    names: tuple[str, str],
    workload: Workload,
    count: int,
    one: float,
    times: Mapping[str, float],
    program: Program,
) -> dict:
    together = times["step"]
    return {
        "workload": names[0],
        "arrangement": names[1],
        "ms": together,
        "tasks_per_second": 1e3 * count * workload.tasks / together,
        "efficiency": one / together,
        "communication": max(0.0, 1 - times["apart"] / together) if count > 1 else 0.0,
        "all_reduce_ms": times["all-reduce"] if count > 1 else 0.0,
        "gradient_kb": gradient_kilobytes(workload),
        "state_mb": program.state_bytes / 1e6,
        "temporary_mb": program.temporary_bytes / 1e6,
    }


def work(args: argparse.Namespace) -> None:
    """What a process of the benchmark does; process 0 writes its rows."""
    jax.config.update("jax_platforms", "cpu")
    if args.coordinator:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[args.process % len(cores)]})
        jax.config.update("jax_num_cpu_devices", 1)
        mj.parallel.start_processes(args.coordinator, 2, args.process)
    else:
        jax.config.update("jax_num_cpu_devices", 4)
    measure = in_processes if args.coordinator else on_devices
    rows = []
    for name in args.workloads:
        own = WORKLOADS[name]
        tasks = min(args.tasks, own.tasks) if own.chunk_size else own.tasks
        rows += measure(args, name, own._replace(tasks=tasks))
    if args.process == 0:
        args.out.write_text(json.dumps(rows), encoding="utf-8")


def run(args: argparse.Namespace) -> list[dict]:
    """Measures both arrangements in processes of their own, prints the table; returns its rows."""
    rows: list[dict] = []
    options = ["--workloads", *args.workloads, "--tasks", str(args.tasks)]
    options += ["--steps", str(args.steps), "--turns", str(args.turns)]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "rows.json"
        command = [sys.executable, __file__, *options, "--out", str(part), "--process", "0"]
        subprocess.run(command, check=True)
        rows += json.loads(part.read_text(encoding="utf-8"))
        run_two(__file__, [*options, "--out", str(part)])
        rows += json.loads(part.read_text(encoding="utf-8"))
    rows.sort(key=lambda row: row["workload"])
    console = wide_console()
    title = f"{os.cpu_count()} cores, inner steps: {args.steps}"
    console.print(plain_table(title, rows, COLUMNS))
    write(rows, args.out)
    return rows


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1", "W2", "W4"])
    out.add_argument("--tasks", type=int, default=4, help="a device, at most (W1: always 25)")
    out.add_argument("--steps", type=int, default=1, help="inner steps")
    out.add_argument("--turns", type=int, default=30)
    out.add_argument("--out", type=Path, default=Path("runs/weak_scaling.json"))
    add_worker_arguments(out)
    return out


def main() -> None:
    args = parser().parse_args()
    if args.process is None:
        run(args)
    else:
        work(args)


if __name__ == "__main__":
    main()
