"""What episodes from a NumPy generator cost beside those that are sampled on the device.

Four ways to take the same number of meta-steps, in turns: `train` on a sampler on the device;
`train` on a generator, which is read ahead in a thread; the same program with each dispatch read
before it is run; and reading alone, without training. Medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import devices, plain_table, wide_console, write

import metajax as mj
from metajax.iterable_episodes import IterableEpisodes
from metajax.training.feed import Dispatch
from metajax.training.program import CompiledDispatches, dispatch_program
from metajax.training.stopping import StopSignal

OPTIMIZER = optax.adam(1e-3)


class Setting(NamedTuple):
    """A learner with its episodes, drawn either way, `tasks` of them a step."""

    learner: mj.Learner
    sample: Callable[[Any], mj.Episode]
    generate: Callable[[int], Iterator[Any]]
    tasks: int
    dispatch: int


def sinusoids() -> Setting:
    learner = mj.maml(
        mj.models.mlp((40, 40, 1)),
        inner=optax.sgd(0.01),
        num_steps=1,
        loss_fn=mj.squared_error,
    )

    def generate(seed: int) -> Iterator[Any]:
        rng = np.random.default_rng(seed)
        while True:
            x = rng.uniform(-5, 5, (20, 1)).astype(np.float32)
            y = rng.uniform(0.1, 5) * np.sin(x - np.float32(rng.uniform(0, np.pi)))
            yield (x[:10], y[:10]), (x[10:], y[10:])

    sample = mj.data.sinusoid_episodes(shots=10, queries=10)
    return Setting(learner, sample, generate, tasks=25, dispatch=100)


def glyphs(filters: int) -> Setting:
    images = mj.data.glyphs("train")
    sample = mj.data.image_episodes(images, ways=5, shots=1, queries=5)
    learner = mj.maml(
        mj.models.strided_conv_net(5, filters=filters), inner=optax.sgd(0.4), num_steps=1
    )

    def generate(seed: int) -> Iterator[Any]:
        rng = np.random.default_rng(seed)
        classes, items = images.shape[:2]
        labels = np.arange(5)
        while True:
            chosen = rng.choice(classes, 5, replace=False)
            rows = np.stack([rng.choice(items, 6, replace=False) for _ in labels])
            drawn = images[chosen[:, None], rows].astype(np.float32) / 255
            queries = drawn[:, 1:].reshape(25, *images.shape[2:])
            yield (drawn[:, 0], labels), (queries, np.repeat(labels, 5))

    return Setting(learner, sample, generate, tasks=16, dispatch=20)


def measure(name: str, setting: Setting, *, dispatches: int, turns: int) -> dict:
    """The seconds of a meta-step, each way."""
    learner, sample, generate, tasks, dispatch = setting
    inputs = sample(jax.random.key(0)).support.inputs
    start = mj.init_state(learner.init(jax.random.key(0), inputs), OPTIMIZER, jax.random.key(1))
    steps = dispatches * dispatch

    def train(given: Any) -> float:
        result = mj.train(
            learner,
            OPTIMIZER,
            start,
            given,
            iterations=steps,
            meta_batch=tasks,
            dispatch=dispatch,
            progress=False,
        )
        return result.run_seconds

    def read(source: IterableEpisodes) -> Dispatch:
        stacked = source.stack(source.read(dispatch * tasks))
        cut = jax.tree.map(lambda x: x.reshape(dispatch, tasks, *x.shape[1:]), stacked)
        return Dispatch(dispatch, cut)

    step = mj.train_step(learner, OPTIMIZER)
    given = IterableEpisodes(generate(0), batched=False)
    program = CompiledDispatches(
        dispatch_program(step, start, given, tasks=tasks, non_finite="stop", mesh=None)
    )
    first = read(given)
    first = first._replace(data=jax.device_put(first.data))
    state = jax.tree.map(jnp.asarray, start)
    program.prepare(state, first, StopSignal())

    def in_line(*, run: bool) -> float:
        source, now = IterableEpisodes(generate(0), batched=False), state
        began = time.perf_counter()
        for _ in range(dispatches):
            each = read(source)
            if run:
                now, _ = program(now, each._replace(data=jax.device_put(each.data)))
        return time.perf_counter() - began

    ways = {
        "sampled on the device, ms": lambda: train(sample),
        "read ahead, ms": lambda: train(generate(0)),
        "read in line, ms": lambda: in_line(run=True),
        "reading alone, ms": lambda: in_line(run=False),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for run in ways.values():
        run()  # Once to warm up.
    for _ in range(turns):
        for way, run in ways.items():
            seconds[way].append(run())
    medians = {way: 1e3 * statistics.median(each) / steps for way, each in seconds.items()}
    return {
        "episodes": name,
        "tasks a step": tasks,
        **medians,
        "episodes read a second": 1e3 * tasks / medians["reading alone, ms"],
    }


def run(args: argparse.Namespace) -> list[dict]:
    """Measures, prints and writes the records."""
    console = wide_console()
    settings = {"sinusoids": sinusoids(), "glyphs, 5-way 1-shot": glyphs(args.filters)}
    records = [
        measure(name, setting, dispatches=args.dispatches, turns=args.turns)
        for name, setting in settings.items()
    ]
    console.print(devices())
    console.print(plain_table("a meta-step", records, list(records[0])))
    write(records, args.out)
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--dispatches", type=int, default=10, help="of a run")
    out.add_argument("--turns", type=int, default=7)
    out.add_argument("--filters", type=int, default=64, help="of the glyph network")
    out.add_argument("--out", type=Path, default=Path("runs") / "iterators.json")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
