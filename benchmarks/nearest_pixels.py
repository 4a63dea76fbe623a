"""The floor under a table: the class of the support image whose pixels are nearest to the query's.

    python benchmarks/nearest_pixels.py --cells "prototypical-emoji-*"

The test episodes are those of the cells that are named; each is written to a JSON file beside those
of `published.py`.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from published import RESULTS, commit_here, told_command
from published_cells import asked
from published_runs import device_name
from records import write

import metajax as mj


def correct(sample: Callable[[jax.Array], mj.Episode], key: jax.Array) -> jax.Array:
    """The share of an episode's queries that are told right."""
    support, query = sample(key)
    points, places = (x.reshape(x.shape[0], -1) for x in (query.inputs, support.inputs))
    nearest = jnp.argmin(mj.metric.squared_distances(points, places), axis=1)
    return jnp.mean(support.targets[nearest] == query.targets)


def run(args: argparse.Namespace) -> None:
    for recipe, _, _ in asked(args.cells):
        training, drawing = recipe.training, recipe.testing.drawing
        data = os.environ.get("METAJAX_DATA_DIR", "data")
        sample = mj.recipes.sampler(training.data, drawing, data, pixels=training.pixels)
        keys = jax.random.split(jax.random.key(0), args.episodes)
        each = jax.jit(functools.partial(jax.lax.map, functools.partial(correct, sample)))
        scores = 100 * np.asarray(each(keys))
        name = recipe.name.replace(training.algorithm, "nearest_pixels", 1)
        interval = 1.96 * scores.std(ddof=1) / np.sqrt(args.episodes)
        record = {
            "cell": name,
            "command": args.command,
            "commit": commit_here(),
            "device": device_name(),
            "jax": jax.__version__,
            "episodes": args.episodes,
            "mean": round(float(scores.mean()), 4),
            "interval": round(float(interval), 4),
        }
        write(record, args.results / f"{name}.json")
        print(f"{name}: {record['mean']:.2f} ± {record['interval']:.2f} %")


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--cells", nargs="+", default=["prototypical-emoji-*"])
    out.add_argument("--episodes", type=int, default=2_000)
    out.add_argument("--results", type=Path, default=RESULTS)
    return out


def main(given: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if given is None else given
    args = parser().parse_args(words)
    args.command = told_command("nearest_pixels.py", words)
    run(args)


if __name__ == "__main__":
    main()
