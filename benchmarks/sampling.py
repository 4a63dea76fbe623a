"""How much of a training step goes into sampling its episodes on the device.

Two compiled programs a setting, both a `lax.scan` over steps: sampling alone, and whole meta-steps
(sampling, inner loops, gradient, Adam). They run in turns; medians are compared.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from meta_gradients import Program, interleaved_medians
from records import devices, plain_table, wide_console, write

import metajax as mj
from metajax.keys import episode_keys
from metajax.training.program import dispatch_program

OPTIMIZER = optax.adam(1e-3)


class Setting(NamedTuple):
    """A learner and the episodes it is trained on, `tasks` of them a step."""

    name: str
    learner: Callable[[int], mj.Learner]
    ways: int
    shots: int
    queries: int
    tasks: int
    rotations: str = "tasks"


def _maml(ways: int) -> mj.Learner:
    return mj.maml(mj.models.strided_conv_net(ways), inner=optax.sgd(0.4), num_steps=1)


def _prototypical(ways: int) -> mj.Learner:
    return mj.prototypical_network(mj.models.embedding_net(), ways=ways, query_batching="joint")


SETTINGS = [
    Setting("maml", _maml, ways=5, shots=1, queries=5, tasks=16),
    Setting("maml", _maml, ways=20, shots=5, queries=5, tasks=4),
    Setting("prototypical", _prototypical, 5, 1, 5, tasks=4, rotations="classes"),
    Setting("prototypical", _prototypical, 20, 5, 5, tasks=1, rotations="classes"),
]


def load() -> tuple[str, Any]:
    """Omniglot's training split where it is, else the embedded glyphs."""
    folder = Path(os.environ.get("METAJAX_DATA_DIR", "data")) / "omniglot"
    if folder.exists():
        return "omniglot", mj.data.omniglot(folder)
    return "glyphs", mj.data.glyphs("train")


def measure(setting: Setting, images: Any, *, steps: int, seconds: float, augment: bool) -> dict:
    """Both programs of a setting, timed."""
    sample = mj.data.image_episodes(
        images,
        ways=setting.ways,
        shots=setting.shots,
        queries=setting.queries,
        rotations=setting.rotations,  # type: ignore[arg-type]
        augment=mj.data.augmentation(shift=2, rotation=10) if augment else None,
    )
    learner = setting.learner(setting.ways)
    params = learner.init(jax.random.key(0), jnp.zeros((1, *sample.images.shape[1:])))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(1))

    def sampling(state: mj.TrainState, sample: Any, length: int) -> mj.Episode:
        def draw(step: Any) -> mj.Episode:
            return jax.vmap(sample)(episode_keys(state.key, step, setting.tasks))

        # Episodes are carried on, so that each is really written to memory.
        return jax.lax.fori_loop(0, length, lambda step, _: draw(step), draw(0))

    training = dispatch_program(
        mj.train_step(learner, OPTIMIZER),
        state,
        sample,
        tasks=setting.tasks,
        non_finite="stop",
        mesh=None,
    )
    sampler = jax.jit(sampling, static_argnums=2)
    programs = {
        "sampling": _program(sampler, state, sample, 50 * steps),
        "training": _program(training, state, sample, steps),
    }
    medians = interleaved_medians(programs, seconds)
    sampled, trained = medians["sampling"] / (50 * steps), medians["training"] / steps
    return {
        "learner": setting.name,
        "episodes": f"{setting.ways}-way {setting.shots}-shot, {setting.queries} queries",
        "tasks a step": setting.tasks,
        "augmented": augment,
        "sampling, ms": 1e3 * sampled,
        "step, ms": 1e3 * trained,
        "share, %": 100 * sampled / trained,
        "episodes a second": setting.tasks / sampled,
    }


def _program(function: Any, *arguments: Any) -> Program:
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - started
    run = lambda: jax.block_until_ready(compiled(*arguments[:-1]))  # noqa: E731
    return Program(run, seconds, compiled.memory_analysis().temp_size_in_bytes, 0.0)


def run(args: argparse.Namespace) -> list[dict]:
    """Measures, prints and writes the records."""
    console = wide_console()
    data, images = load()
    records = [
        measure(setting, images, steps=args.steps, seconds=args.seconds, augment=augment)
        for augment in (False, True)
        for setting in SETTINGS[: args.settings]
    ]
    console.print(f"{devices()}; data: {data}, {images.shape}")
    console.print(plain_table("sampling on the device", records, list(records[0])))
    write(records, args.out)
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--settings", type=int, default=len(SETTINGS), help="the first so many")
    out.add_argument("--steps", type=int, default=5, help="meta-steps a program")
    out.add_argument("--seconds", type=float, default=15.0, help="of measuring, a setting")
    out.add_argument("--out", type=Path, default=Path("runs") / "sampling.json")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
