"""What each setting of the published 20-way MAML does for how fast it learns, one change at a time.

    python benchmarks/one_change.py

Small, so that two cores do it in minutes: fewer filters, tasks and iterations than the recipe. From
the published settings one is changed to this library's, and from this library's one is changed
back.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from published import RESULTS, commit_here, told_command
from published_cells import asked
from published_runs import device_name
from records import plain_table, wide_console, write

import metajax as mj
from metajax.recipes import Recipe

# Each by the record it belongs to; the first is as published, the second this library's.
SETTINGS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "inner rate": ("inner", {"rate": 2.0}, {"rate": 0.4}),
    "head": ("network", {"head_kernel_init": "normal(1)"}, {"head_kernel_init": "lecun_normal"}),
    "epsilon": ("network", {"epsilon": 1e-3}, {"epsilon": 1e-5}),
    "outer rate": ("outer", {"rate": 1e-3}, {"rate": 3e-3}),
    "schedule": ("outer", {"schedule": "constant"}, {"schedule": "cosine"}),
    "convolutions": (
        "network",
        {"kernel_init": "xavier_uniform"},
        {"kernel_init": "lecun_normal"},
    ),
    "adapted": ("inner", {"adapts": "but statistics"}, {"adapts": "all"}),
    "scale": ("network", {"use_scale": False}, {"use_scale": True}),
}
# What the recipe `tuned` has.
OURS = ("inner rate", "head", "epsilon", "outer rate", "schedule")


def changed(recipe: Recipe, ours: Sequence[str], args: argparse.Namespace) -> Recipe:
    """The published recipe, small, with this library's values of the settings that are named."""
    training = recipe.training
    parts = {"inner": training.inner, "network": training.network, "outer": training.outer}
    parts["network"] = dataclasses.replace(training.network, filters=args.filters)
    for name, (part, published, own) in SETTINGS.items():
        given: Any = parts[part]
        parts[part] = dataclasses.replace(given, **(own if name in ours else published))
    small = {"iterations": args.iterations, "meta_batch": args.meta_batch}
    return dataclasses.replace(recipe, training=dataclasses.replace(training, **parts, **small))


def learned(recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy in %: in each tenth of training, and at test."""
    training, testing = recipe.training, recipe.testing
    built = mj.recipes.build(recipe)
    data = os.environ.get("METAJAX_DATA_DIR", "data")
    sample = mj.recipes.sampler(training.data, training.drawing, data)
    shape = jax.eval_shape(sample, jax.random.key(0)).support.inputs.shape
    params = built.learner.init(jax.random.key(args.seed), jnp.zeros((1, *shape[1:])))
    result = mj.train(
        built.learner,
        built.optimizer,
        mj.init_state(params, built.optimizer, jax.random.key(args.seed + 1)),
        sample,
        iterations=training.iterations,
        meta_batch=training.meta_batch,
        dispatch=max(1, training.iterations // 10),
        progress=False,
    )
    unseen = mj.recipes.sampler(training.data, testing.drawing, data)
    scores = mj.evaluate(built.tester, result.state, unseen, episodes=args.episodes)
    return {
        "training": [round(100 * float(record["accuracy"]), 2) for record in result.history],
        "test": round(100 * float(scores.mean("accuracy")), 2),
        "interval": round(100 * float(scores.interval("accuracy")), 2),
    }


def run(args: argparse.Namespace) -> None:
    console = wide_console()
    [(recipe, _, _)] = asked([args.cell])
    cases: dict[str, tuple[str, ...]] = {"as published": ()}
    cases |= {f"published, {name} as here": (name,) for name in SETTINGS}
    cases["as here"] = OURS
    cases |= {
        f"here, {name} as published": tuple(each for each in OURS if each != name) for name in OURS
    }
    cases |= {f"here, {name} too": (*OURS, name) for name in SETTINGS if name not in OURS}
    if args.cases:
        cases = {case: cases[case] for case in args.cases}
    records = []
    for case, ours in cases.items():
        records.append({"case": case, **learned(changed(recipe, ours, args), args)})
        console.print(records[-1])
        write(
            {
                "command": args.command,
                "commit": args.commit,
                "device": device_name(),
                "jax": jax.__version__,
                "cell_of": args.cell,
                "filters": args.filters,
                "meta_batch": args.meta_batch,
                "iterations": args.iterations,
                "episodes": args.episodes,
                "records": records,
            },
            args.out,
        )
    rows = [{**record, "training": record["training"][-1]} for record in records]
    console.print(plain_table(args.cell, rows, ["case", "training", "test", "interval"]))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--cell", default="maml-omniglot-20w1s")
    out.add_argument("--filters", type=int, default=24)
    out.add_argument("--meta-batch", type=int, default=4)
    out.add_argument("--iterations", type=int, default=800)
    out.add_argument("--episodes", type=int, default=200)
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--cases", nargs="+", help='such as "as published"; default: all')
    out.add_argument("--out", type=Path, default=RESULTS / "one_change.json")
    return out


def main(given: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if given is None else given
    args = parser().parse_args(words)
    args.commit = commit_here()
    args.command = told_command("one_change.py", words)
    run(args)


if __name__ == "__main__":
    main()
