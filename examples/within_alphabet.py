"""Lake's 20-way one-shot classification within an alphabet, by a prototypical network.

Trains on Omniglot's background alphabets alone; is tested on the 20 published runs (400 queries;
one drawer gives the support, another the queries), and on fresh episodes of the 20 evaluation
alphabets that are drawn by the same rules. Needs the files of Omniglot:
`metajax.data.download_omniglot(folder)` fetches them.
"""

import argparse
import collections
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metajax as mj

WAYS = 20


def published_runs(evaluation: mj.data.ImageClasses) -> Any:
    """The 20 published runs, a list of episodes."""
    runs = mj.data.lake_runs()
    labels = np.broadcast_to(np.arange(WAYS), runs.classes.shape)

    def places(targets: np.ndarray, drawers: np.ndarray) -> mj.data.Places:
        items = np.broadcast_to(drawers[:, None], targets.shape)
        classes = np.take_along_axis(runs.classes, targets, axis=1)
        return mj.data.Places(*map(jnp.asarray, (classes, items, targets)))

    drawn = mj.data.Drawn(
        places(labels, runs.support_drawer), places(runs.labels, runs.query_drawer)
    )
    return mj.data.listed_episodes(evaluation, drawn)


def training_episodes(args: argparse.Namespace, background: mj.data.ImageClasses) -> Any:
    """Episodes of one alphabet each, or of characters of any."""
    groups: bool | dict[str, float] = False
    if not args.across_alphabets:
        # An alphabet is drawn by its number of characters; its quarter turns are characters too.
        sizes = collections.Counter(background.groups)
        groups = {name: float(size) for name, size in sizes.items() if 4 * size >= args.train_ways}
    return mj.data.image_episodes(
        background,
        ways=args.train_ways,
        shots=1,
        queries=args.queries,
        rotations="classes",
        groups=groups,
        augment=mj.data.augmentation(shift=args.shift, rotation=args.rotation),
    )


def run(args: argparse.Namespace) -> mj.Evaluation:
    """Trains, tests and prints the errors; returns the scores on the published runs."""
    console = Console(width=max(Console().width, 100))
    background, evaluation = (
        mj.data.omniglot_classes(args.data_dir, split, protocol="lake")
        for split in ("background", "evaluation")
    )
    encoder = mj.models.embedding_net(filters=args.filters)
    learner = mj.prototypical_network(encoder, query_batching="joint")
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, args.iterations))
    sample = training_episodes(args, background)
    params_key, run_key = jax.random.split(jax.random.key(args.seed))
    params = learner.init(params_key, jnp.zeros((1, *sample.images.shape[1:])))
    state = mj.init_state(params, optimizer, run_key)
    options = {k: v for k, v in vars(args).items() if k not in ("out", "data_dir", "episodes")}
    with mj.Checkpoints(args.out, options=options) as saved:
        state = saved.restore(state)
        if int(state.step) < args.iterations:
            result = mj.train(
                learner,
                optimizer,
                state,
                sample,
                iterations=args.iterations,
                meta_batch=1,
                dispatch=min(50, args.iterations),
                checkpoints=saved,
            )
            state = result.state
            console.print(f"{result.run_seconds:.0f} s of training")
    # Lake's trials are judged one by one: no query knows of another, as by batch statistics.
    alone = mj.prototypical_network(encoder, query_batching="single")
    tests = {
        "the 20 published runs": (published_runs(evaluation), None),
        "fresh episodes by their rules": (
            mj.data.image_episodes(
                evaluation, ways=WAYS, shots=1, queries=1, groups=True, same_items=True
            ),
            args.episodes,
        ),
        "fresh episodes across alphabets": (
            mj.data.image_episodes(evaluation, ways=WAYS, shots=1, queries=1),
            args.episodes,
        ),
    }
    scores = {}
    table = Table("error, %, 20 ways, one shot", "episodes", "queries alone", "in one batch")
    for name, (episodes, count) in tests.items():
        both = [
            mj.evaluate(tester, state.params, episodes, episodes=count)
            for tester in (alone, learner)
        ]
        errors = [
            f"{100 * (1 - s.mean('accuracy')):.2f} ± {100 * s.interval('accuracy'):.2f}"
            for s in both
        ]
        table.add_row(name, str(both[0].episodes), *errors)
        scores[name] = both[0]
    console.print(table)
    console.print(f"{int(state.step)} iterations; checkpoints in {args.out}")
    return scores["the 20 published runs"]


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    folder = Path(os.environ.get("METAJAX_DATA_DIR", "data")) / "omniglot"
    out.add_argument("--data-dir", type=Path, default=folder, help="folder of Omniglot")
    out.add_argument("--iterations", type=int, default=4000)
    out.add_argument("--train-ways", type=int, default=WAYS)
    out.add_argument("--queries", type=int, default=5, help="a class, in training")
    out.add_argument(
        "--across-alphabets", action="store_true", help="train on characters of any alphabet"
    )
    out.add_argument("--shift", type=int, default=0, help="pixels, at most, in training")
    out.add_argument("--rotation", type=float, default=0.0, help="degrees, at most, in training")
    out.add_argument("--filters", type=int, default=64)
    out.add_argument("--episodes", type=int, default=200, help="fresh test episodes")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, default=Path("runs") / "within_alphabet")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
