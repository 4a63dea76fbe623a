"""What exact second order costs against first order: time, compile time and temporary memory.

The same weights and episodes for both, on the sinusoid perceptron and the strided Omniglot
network, for several numbers of inner steps. Runs are interleaved, so that noise of the machine
falls on both; times are medians. Temporary memory is what the compiled program asks for beside its
arguments and results. Run it on a quiet machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from rich.console import Console
from rich.table import Table

import metajax as mj


class Workload(NamedTuple):
    """A network with a batch of tasks."""

    name: str
    model: mj.Model
    loss_fn: Callable
    inner_rate: float
    episodes: mj.Episode
    chunk_size: int | None


def workloads(tasks: int) -> list[Workload]:
    """The sinusoid perceptron with 25 tasks, the Omniglot network with `tasks` (random images)."""
    keys = jax.random.split(jax.random.key(0), 25)
    sinusoid = jax.vmap(mj.sinusoid_episodes(shots=10, queries=10))(keys)
    images = jax.random.uniform(jax.random.key(1), (100, 16, 28, 28, 1))
    sample = mj.image_episodes(images, ways=5, shots=1, queries=15)
    characters = jax.vmap(sample)(jax.random.split(jax.random.key(2), tasks))
    perceptron = mj.mlp((40, 40, 1))
    return [
        Workload("sinusoid 1-40-40-1", perceptron, mj.squared_error, 0.01, sinusoid, None),
        Workload("Omniglot strided", mj.strided_conv_net(5), mj.cross_entropy, 0.4, characters, 1),
    ]


class Program(NamedTuple):
    """A compiled meta-gradient."""

    run: Callable[[], None]
    compile_seconds: float
    temporary_bytes: int


def compile_meta_gradient(workload: Workload, num_steps: int, *, first_order: bool) -> Program:
    """Compiles the mean meta-gradient over the workload's tasks."""
    learner = mj.maml(
        workload.model,
        inner=optax.sgd(workload.inner_rate),
        num_steps=num_steps,
        first_order=first_order,
        loss_fn=workload.loss_fn,
    )
    support = workload.episodes.support.inputs
    params = learner.init(jax.random.key(3), support[0])
    arguments = (params, workload.episodes, mj.task_keys(jax.random.key(4), len(support)))

    def meta_gradient(params: dict, episodes: mj.Episode, keys: jax.Array) -> tuple:
        return mj.meta_gradient(
            learner.loss, params, episodes, keys, chunk_size=workload.chunk_size
        )

    started = time.perf_counter()
    compiled = jax.jit(meta_gradient).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError(f"the {jax.default_backend()} backend does not report memory")
    return Program(
        lambda: jax.block_until_ready(compiled(*arguments)) and None,
        seconds,
        memory.temp_size_in_bytes,
    )


def interleaved_medians(programs: list[Program], seconds: float) -> list[float]:
    """Median seconds of each program, run in turns for about `seconds` (at least five turns)."""
    for program in programs:
        program.run()
    times: list[list[float]] = [[] for _ in programs]
    ends = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < ends:
        for program, spent in zip(programs, times, strict=True):
            started = time.perf_counter()
            program.run()
            spent.append(time.perf_counter() - started)
    return [statistics.median(spent) for spent in times]


def measure(workload: Workload, num_steps: int, seconds: float) -> dict:
    """Both orders of one workload, as a record."""
    exact = compile_meta_gradient(workload, num_steps, first_order=False)
    first = compile_meta_gradient(workload, num_steps, first_order=True)
    exact_seconds, first_seconds = interleaved_medians([exact, first], seconds)
    return {
        "workload": workload.name,
        "tasks": len(workload.episodes.support.inputs),
        "steps": num_steps,
        "exact_ms": 1e3 * exact_seconds,
        "first_ms": 1e3 * first_seconds,
        "exact_temporary_mb": exact.temporary_bytes / 1e6,
        "first_temporary_mb": first.temporary_bytes / 1e6,
        "exact_compile_s": exact.compile_seconds,
        "first_compile_s": first.compile_seconds,
    }


def run(args: argparse.Namespace) -> list[dict]:
    """Measures, prints the table and writes the records; returns them."""
    console = Console()
    console.print(f"device: {jax.devices()[0].device_kind}, {jax.local_device_count()} of them")
    records = []
    for workload in workloads(args.tasks):
        table = Table(
            *("steps", "exact ms", "first ms", "ratio"),
            *("exact MB", "first MB", "ratio", "compile s"),
            title=f"{workload.name}, {len(workload.episodes.support.inputs)} tasks",
        )
        for steps in args.steps:
            record = measure(workload, steps, args.seconds)
            records.append(record)
            times = record["exact_ms"], record["first_ms"]
            memory = record["exact_temporary_mb"], record["first_temporary_mb"]
            table.add_row(
                str(steps),
                *(f"{value:.2f}" for value in (*times, times[0] / times[1])),
                *(f"{value:.2f}" for value in (*memory, memory[0] / memory[1])),
                f"{record['exact_compile_s']:.1f} / {record['first_compile_s']:.1f}",
            )
        console.print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10], help="inner steps")
    out.add_argument("--tasks", type=int, default=32, help="tasks of the Omniglot network")
    out.add_argument("--seconds", type=float, default=10.0, help="of running, a row")
    out.add_argument("--out", type=Path, default=Path("runs/second_vs_first_order.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
