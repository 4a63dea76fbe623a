"""What a task adapts: MAML beside ANIL, BOIL and Meta-SGD, on glyphs and on sinusoids.

All are trained on the same tasks, with the same body and head. Prints each one's score on
fresh tasks with 95 % intervals, after the inner steps it was trained with and after more of them;
what a meta-gradient of one task costs, in operations, temporary memory and time (medians of runs in
turns, on a quiet machine); and how the operations grow with the inner steps.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from meta_gradients import Program, interleaved_medians, program_of
from records import devices, plain_table, wide_console, write

import metajax as mj

MORE_STEPS = 10
DATA_DIR = Path(os.environ.get("METAJAX_DATA_DIR", ".")) / "omniglot"


class Subject(NamedTuple):
    """A learner by its inner steps, and the steps that it is trained with."""

    make: Callable[..., mj.Learner]
    steps: int = 1


class Family(NamedTuple):
    """Tasks of one kind, and the learners that are compared on them.

    Attributes:
      sample: episodes to train on.
      test_sample: episodes to score.
      score: what is scored, among the metrics, in percent if it is the accuracy.
      outer_rate: of Adam, under a cosine.
      meta_batch: tasks a meta-step.
      subjects: by name.
    """

    sample: Callable[[jax.Array], mj.Episode]
    test_sample: Callable[[jax.Array], mj.Episode]
    score: str
    outer_rate: float
    meta_batch: int
    subjects: dict[str, Subject]


def subjects(
    body: mj.Model,
    head: mj.Model,
    *,
    rates: dict[str, float],
    anil_steps: int,
    **options: Any,
) -> dict[str, Subject]:
    """The learners of a body and a head; the rates of Meta-SGD start from those given."""
    model = mj.models.chain(body, head)

    def sgd(name: str, factory: Callable[..., mj.Learner], *models: mj.Model) -> Callable:
        inner = optax.sgd(rates[name])
        return lambda **more: factory(*models, inner=inner, **options, **more)

    def learned(granularity: Literal["parameter", "leaf"]) -> Callable:
        settings = {"rate": rates["meta_sgd"], "granularity": granularity, **options}
        return lambda **more: mj.meta_sgd(model, **settings, **more)

    return {
        "maml": Subject(sgd("maml", mj.maml, model)),
        "anil": Subject(sgd("anil", mj.anil, body, head), anil_steps),
        "boil": Subject(sgd("boil", mj.boil, body, head)),
        "meta_sgd": Subject(learned("parameter")),
        "meta_sgd, by leaf": Subject(learned("leaf")),
    }


def glyphs(args: argparse.Namespace) -> Family:
    """5-way 1-shot classification of embedded characters, of classes never seen before."""
    return characters({part: mj.data.glyphs(part) for part in ("train", "test")}, args)


def omniglot(args: argparse.Namespace) -> Family:
    """The same of Omniglot, the split of Vinyals et al."""
    return characters(
        {part: mj.data.omniglot(args.data_dir, part) for part in ("train", "test")}, args
    )


def characters(images: dict[str, np.ndarray], args: argparse.Namespace) -> Family:
    sample, test_sample = (
        mj.data.image_episodes(images[part], ways=5, shots=1, queries=queries, rotations="tasks")
        for part, queries in (("train", 5), ("test", 15))
    )
    net = mj.models.ConvNet(None, args.filters, pooling="stride", features="mean")
    return Family(
        sample,
        test_sample,
        "accuracy",
        outer_rate=3e-3,
        meta_batch=16,
        subjects=subjects(
            mj.models.from_linen(net),
            mj.models.mlp((5,), stddev=0.2),
            rates={"maml": 0.4, "anil": 0.4, "boil": 0.5, "meta_sgd": 0.4},
            anil_steps=5,
        ),
    )


def sinusoids(args: argparse.Namespace) -> Family:
    """Ten points of a sine curve (Finn et al. 2017, section 5.1)."""
    del args
    hidden = mj.models.mlp((40, 40))

    def features(params: Any, inputs: jax.Array) -> jax.Array:
        return jax.nn.relu(hidden.apply(params, inputs, None))

    return Family(
        mj.data.sinusoid_episodes(shots=10, queries=10),
        mj.data.sinusoid_episodes(shots=10, queries=100),
        "query_loss",
        outer_rate=1e-3,
        meta_batch=25,
        subjects=subjects(
            mj.Model(hidden.init, features),
            mj.models.mlp((1,)),
            rates={"maml": 0.01, "anil": 0.1, "boil": 0.01, "meta_sgd": 0.01},
            anil_steps=5,
            loss_fn=mj.squared_error,
        ),
    )


FAMILIES = {"glyphs": glyphs, "omniglot": omniglot, "sinusoids": sinusoids}


def scores(family: Family, args: argparse.Namespace, iterations: int) -> list[dict]:
    """Trains each learner and scores it on fresh tasks."""
    records = []
    example = jax.jit(family.sample)(jax.random.key(0))
    scale = 100 if family.score == "accuracy" else 1
    for name, subject in family.subjects.items():
        learner = subject.make(num_steps=subject.steps)
        optimizer = optax.adam(optax.cosine_decay_schedule(family.outer_rate, iterations))
        params = jax.jit(learner.init)(jax.random.key(args.seed), example.support.inputs)
        result = mj.train(
            learner,
            optimizer,
            mj.init_state(params, optimizer, jax.random.key(args.seed + 1)),
            family.sample,
            iterations=iterations,
            meta_batch=family.meta_batch,
            dispatch=min(iterations, 100),
            progress=False,
        )
        record = {"learner": name, "steps": subject.steps, "stopped": result.stopped}
        for label, steps in (("", subject.steps), ("_more", MORE_STEPS)):
            found = mj.evaluate(
                subject.make(num_steps=steps),
                result.state.params,
                family.test_sample,
                episodes=args.episodes,
                seed=args.seed,
                chunk_size=min(args.episodes, 50),
            )
            record[f"{family.score}{label}"] = scale * float(found.mean(family.score))
            record[f"interval{label}"] = scale * float(found.interval(family.score))
        records.append(record | {"train_s": result.run_seconds})
    return records


def cost(family: Family, args: argparse.Namespace) -> list[dict]:
    """What each learner's meta-gradient of one meta-batch costs, by inner steps."""
    keys = mj.task_keys(jax.random.key(args.seed), family.meta_batch)
    episodes = jax.jit(jax.vmap(family.sample))(keys)
    programs: dict[tuple[str, int], Program] = {}
    for name, subject in family.subjects.items():
        for steps in args.steps:
            learner = subject.make(num_steps=steps)
            inputs = jnp.zeros_like(episodes.support.inputs[0])
            params = jax.jit(learner.init)(jax.random.key(0), inputs)
            programs[name, steps] = program_of(learner, params, episodes, keys)
    times = interleaved_medians(programs, args.seconds)
    return [
        {
            "learner": name,
            "steps": steps,
            "Mflop_a_task": program.operations / 1e6 / family.meta_batch,
            "ms": 1e3 * times[name, steps],
            "temporary_mb": program.temporary_bytes / 1e6,
            "compile_s": program.compile_seconds,
        }
        for (name, steps), program in programs.items()
    ]


def run(args: argparse.Namespace) -> dict[str, dict[str, list[dict]]]:
    """Measures, prints the tables and writes the records; returns them."""
    console = wide_console()
    console.print(devices())
    results = {}
    for place, name in enumerate(args.families):
        family = FAMILIES[name](args)
        chosen = {key: family.subjects[key] for key in args.learners or family.subjects}
        family = family._replace(subjects=chosen)
        found = {"cost": cost(family, args)}
        if iterations := args.iterations[place]:
            found["scores"] = scores(family, args, iterations)
        for kind, records in found.items():
            console.print(plain_table(f"{name}, {kind}", records, list(records[0])))
        results[name] = found
    write(results, args.out)
    return results


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=["glyphs", "sinusoids"])
    parser.add_argument("--learners", nargs="+", help="some of those of the table; default all")
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR, help="folder of Omniglot's zips")
    parser.add_argument(
        "--iterations", type=int, nargs="+", default=[700, 70_000], help="of each family; 0 is none"
    )
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 5, 10], help="for the cost")
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, a family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/what_to_adapt.json"))
    return parser


if __name__ == "__main__":
    run(parser().parse_args())
