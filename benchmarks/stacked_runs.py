"""What many runs cost as one stack of states, beside one run and as many in turn.

MAML on 5-way 1-shot glyphs, the main job, and on sinusoids: a meta-step of one run, of all runs one
after another in the program of one, and of a stack, computed all at once and run by run. Prints
time, temporary memory and compile time, and which way `train` takes. The ways are interleaved, so
that noise of the machine falls on all; times are medians. Run it on a quiet machine.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from meta_gradients import Program, interleaved_medians
from operations import count_operations
from records import devices, plain_table, processor, wide_console, write

import metajax as mj
from metajax.meta_gradients import one_at_a_time
from metajax.training.feed import as_pytree
from metajax.training.program import dispatch_program


class Job(NamedTuple):
    """What is trained.

    Attributes:
      learner: any learner.
      sample: draws its episodes.
      item: `[1, ...]` an input.
      tasks: in a meta-batch.
      steps: in a dispatch.
    """

    learner: mj.Learner
    sample: Callable[[jax.Array], mj.Episode]
    item: jax.Array
    tasks: int
    steps: int


def jobs(filters: int) -> dict[str, Job]:
    glyphs = mj.data.image_episodes(
        mj.data.glyphs("train"), ways=5, shots=1, queries=5, rotations="tasks"
    )
    net = mj.models.strided_conv_net(5, filters=filters)
    perceptron = mj.models.mlp((40, 40, 1))
    return {
        "glyphs": Job(
            mj.maml(net, inner=optax.sgd(0.4), num_steps=1),
            *(glyphs, jnp.zeros((1, 28, 28, 1)), 16, 2),
        ),
        "sinusoids": Job(
            mj.maml(perceptron, inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error),
            *(mj.data.sinusoid_episodes(shots=10, queries=10), jnp.zeros((1, 1)), 25, 50),
        ),
    }


def compile_ways(job: Job, runs: int) -> dict[str, Program]:
    """One run of a job and its stacks, a dispatch each, and the runs in turn."""
    optimizer = optax.adam(1e-3)

    def begin(key: jax.Array) -> mj.TrainState:
        return mj.init_state(job.learner.init(key, job.item), optimizer, key)

    states = jax.jit(jax.vmap(begin))(jax.random.split(jax.random.key(0), runs))
    each = [jax.tree.map(lambda x, run=run: x[run], states) for run in range(runs)]
    step = mj.train_step(job.learner, optimizer)
    program = dispatch_program(
        *(step, each[0], job.sample), tasks=job.tasks, non_finite="stop", mesh=None
    )

    def dispatch(state: mj.TrainState) -> Any:
        return program(state, as_pytree(job.sample), job.steps)

    one, compiled = _compile(dispatch, each[0])
    all_at_once, _ = _compile(lambda states: jax.vmap(dispatch)(states), states)
    run_by_run, _ = _compile(lambda states: jax.lax.map(dispatch, states), states)
    return {
        "one run": one,
        "in turn": one._replace(
            run=lambda: tuple(jax.block_until_ready(compiled(state)) for state in each)
        ),
        "at once": all_at_once,
        "run by run": run_by_run,
    }


def _compile(dispatch: Callable[..., Any], state: mj.TrainState) -> tuple[Program, Any]:
    started = time.perf_counter()
    compiled = jax.jit(dispatch).lower(state).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError(f"the {jax.default_backend()} backend does not report memory")
    program = Program(
        lambda: jax.block_until_ready(compiled(state)),
        seconds,
        memory.temp_size_in_bytes,
        count_operations(dispatch, state),
    )
    return program, compiled


def compare(name: str, job: Job, runs: int, seconds: float) -> list[dict]:
    """A record for each way to compute the runs of a job."""
    ways = compile_ways(job, runs)
    times = interleaved_medians(ways, seconds)
    params = jax.eval_shape(job.learner.init, jax.random.key(0), job.item)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    taken = "run by run" if one_at_a_time(size) else "at once"
    return [
        {
            "job": name,
            "way": way,
            "runs": 1 if way == "one run" else runs,
            "ms a step": 1e3 * times[way] / job.steps,
            "times one run": times[way] / times["one run"],
            "temporary_mb": program.temporary_bytes / 1e6,
            "compile_s": program.compile_seconds,
            "train": "takes it" if way == taken else None,
        }
        for way, program in ways.items()
    ]


def run(args: argparse.Namespace) -> list[dict]:
    """Measures, prints the table and writes the records; returns them."""
    console = wide_console()
    console.print(f"{devices()}; processor: {processor()}")
    records = []
    for name, job in jobs(args.filters).items():
        if name in args.jobs:
            job = job._replace(
                tasks=min(job.tasks, args.tasks or job.tasks), steps=args.steps or job.steps
            )
            records += compare(name, job, args.runs, args.seconds)
    console.print(plain_table("stacked runs", records, list(records[0])))
    device = jax.devices()[0].device_kind
    write({"device": device, "processor": processor(), "ways": records}, args.out)
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument(
        "--jobs", nargs="+", choices=["glyphs", "sinusoids"], default=["glyphs", "sinusoids"]
    )
    out.add_argument("--runs", type=int, default=8, help="in a stack")
    out.add_argument("--filters", type=int, default=32)
    out.add_argument("--tasks", type=int, help="at most so many; default: the job's")
    out.add_argument("--steps", type=int, help="meta-steps a dispatch; default: the job's")
    out.add_argument("--seconds", type=float, default=60.0, help="of running, a job")
    out.add_argument("--out", type=Path, default=Path("runs/stacked_runs.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
