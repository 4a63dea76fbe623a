"""What an episode costs `evaluate`, beside what a task costs in training.

MAML, prototypical networks and Reptile on 5-way 1-shot glyphs: a meta-step over a meta-batch, and
`evaluate` on episodes of the same sampler, with the test's own number of inner steps and scores at
all of them, at some, or at the last alone. Where the default is to run several episodes at once,
one by one as well. Prints tasks a second, operations a task (at most: a step that is not scored
counts as one that is), temporary memory and compile time. The ways are interleaved, so that noise
of the machine falls on all; times are medians. Run it on a quiet machine.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from meta_gradients import Program, interleaved_medians
from operations import count_operations
from records import devices, plain_table, processor, wide_console, write

import metajax as mj
from metajax.evaluated_episodes import chunk_scores
from metajax.evaluation_chunks import episode_bytes, episodes_at_once, up_to
from metajax.training.feed import as_pytree
from metajax.training.program import dispatch_program

ITEM = (1, 28, 28, 1)
ONE_BY_ONE = ", one by one"


class Job(NamedTuple):
    """What is trained, and what is scored.

    Attributes:
      learner: the one that is trained.
      optimizer: of its meta-steps.
      testers: those that are scored, of the same parameters, by what they report.
    """

    learner: mj.Learner
    optimizer: optax.GradientTransformation
    testers: Mapping[str, mj.Learner]


def jobs(filters: int, test_steps: int) -> dict[str, Job]:
    net = mj.models.strided_conv_net(5, filters=filters)
    rate = optax.rmsprop(1e-3, decay=0.999, eps=1e-8, eps_in_sqrt=False, initial_scale=1e-3)

    def maml(steps: int, record: Any) -> mj.Learner:
        return mj.maml(net, inner=optax.sgd(0.4), num_steps=steps, record_steps=record)

    def reptile(steps: int, record: Any, batching: Any) -> mj.Learner:
        return mj.reptile(
            net,
            inner=rate,
            num_steps=steps,
            batch_size=5,
            query_batching=batching,
            record_steps=record,
        )

    compared = mj.prototypical_network(mj.models.embedding_net(filters=filters), ways=5)
    some = (0, 1, 5, test_steps)
    return {
        "maml": Job(
            *(maml(1, record=False), optax.adam(1e-3)),
            {"6 scores": maml(5, record=True), "1 score": maml(5, record=False)},
        ),
        "prototypical": Job(compared, optax.adam(1e-3), {"1 score": compared}),
        "reptile": Job(
            *(reptile(5, False, "separate"), optax.sgd(1.0)),
            {
                f"{test_steps + 1} scores": reptile(test_steps, True, "single"),
                "4 scores": reptile(test_steps, some, "single"),
            },
        ),
    }


def compile_training(job: Job, sample: Any, tasks: int, steps: int) -> tuple[Program, Any]:
    """A dispatch of meta-steps over meta-batches that are drawn in it; and the parameters."""
    key = jax.random.key(0)
    state = mj.init_state(job.learner.init(key, jnp.zeros(ITEM)), job.optimizer, key)
    step = mj.train_step(job.learner, job.optimizer)
    program = dispatch_program(step, state, sample, tasks=tasks, non_finite="stop", mesh=None)

    def dispatch(state: mj.TrainState) -> Any:
        return program(state, as_pytree(sample), steps)

    started = time.perf_counter()
    compiled = jax.jit(dispatch).lower(state).compile()
    return (
        _program(
            *(compiled, time.perf_counter() - started),
            lambda: jax.block_until_ready(compiled(state)),
            count_operations(dispatch, state) / (tasks * steps),
        ),
        state.params,
    )


def compile_evaluation(
    learner: mj.Learner, params: Any, sample: Any, episodes: int, chunk_size: int | None
) -> tuple[Program, int]:
    """An evaluation, whose program is compiled; and its chunk's size."""

    def episode() -> Any:
        return jax.eval_shape(sample, jax.random.key(0))

    def metrics(params: Any, episode: mj.Episode, key: Any) -> Any:
        return dict(learner.loss(params, episode, key, False)[1].metrics)

    size = chunk_size or episodes_at_once(episode_bytes(metrics, params, episode), None)
    size = up_to(size, episodes)
    arguments = params, as_pytree(sample), jax.random.key(0), np.arange(size), None

    def scores(*arguments: Any) -> Any:
        return chunk_scores(metrics, None, *arguments)

    started = time.perf_counter()
    compiled = jax.jit(scores).lower(*arguments).compile()
    seconds = time.perf_counter() - started

    def run() -> tuple:
        return (mj.evaluate(learner, params, sample, episodes=episodes, chunk_size=chunk_size),)

    return _program(compiled, seconds, run, count_operations(scores, *arguments) / size), size


def _program(compiled: Any, seconds: float, run: Callable[[], tuple], operations: float) -> Program:
    memory = compiled.memory_analysis()
    if memory is None:
        raise RuntimeError(f"the {jax.default_backend()} backend does not report memory")
    return Program(run, seconds, memory.temp_size_in_bytes, operations)


def compare(name: str, job: Job, sample: Any, args: argparse.Namespace) -> list[dict]:
    """A record for training, and for each way to evaluate."""
    training, params = compile_training(job, sample, args.tasks, args.steps)
    programs = {"training": training}
    sizes: dict[str, int | None] = {"training": None}  # As `meta_gradient` has it.
    for scored, tester in job.testers.items():
        for way, size in (("", None), (ONE_BY_ONE, 1)):
            programs[scored + way], sizes[scored + way] = compile_evaluation(
                tester, params, sample, args.episodes, size
            )
            if not way and sizes[scored] == 1:
                break
    times = interleaved_medians(programs, args.seconds)
    speed = {
        way: (args.tasks * args.steps if way == "training" else args.episodes) / seconds
        for way, seconds in times.items()
    }
    return [
        {
            "job": name,
            "way": way,
            "at once": sizes[way],
            "tasks a second": speed[way],
            "times training": speed[way] / speed["training"],
            "operations a task, M": program.operations / 1e6,
            "temporary_mb": program.temporary_bytes / 1e6,
            "compile_s": program.compile_seconds,
        }
        for way, program in programs.items()
    ]


def run(args: argparse.Namespace) -> list[dict]:
    """Measures, prints the table and writes the records; returns them."""
    console = wide_console()
    console.print(f"{devices()}; processor: {processor()}")
    sample = mj.data.image_episodes(
        mj.data.glyphs("train"), ways=5, shots=1, queries=15, rotations="tasks"
    )
    records = []
    for name, job in jobs(args.filters, args.test_steps).items():
        if name in args.jobs:
            records += compare(name, job, sample, args)
    console.print(plain_table("evaluation beside training", records, list(records[0])))
    device = jax.devices()[0].device_kind
    write({"device": device, "processor": processor(), "ways": records}, args.out)
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = ["maml", "prototypical", "reptile"]
    out.add_argument("--jobs", nargs="+", choices=names, default=names)
    out.add_argument("--filters", type=int, default=32)
    out.add_argument("--tasks", type=int, default=16, help="in a meta-batch")
    out.add_argument("--steps", type=int, default=2, help="meta-steps a dispatch")
    out.add_argument("--episodes", type=int, default=32, help="of an evaluation")
    out.add_argument("--test-steps", type=int, default=50, help="of Reptile; more than 5")
    out.add_argument("--seconds", type=float, default=60.0, help="of running, a job")
    out.add_argument("--out", type=Path, default=Path("runs/evaluation_speed.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
