"""Few-shot classification of characters never seen before, by any algorithm of the library.

Trains on one set of characters, is tested on another. Prints the test accuracy (for learners that
adapt by gradient: before adaptation and after each inner step) with 95 % intervals, and draws a
test episode with its predictions and the accuracy curves. With no arguments: 5-way 1-shot MAML on
the embedded glyphs, which need no download. With `--seeds 8` eight runs are trained as one stack,
and intervals are over them. The run can be stopped or killed and resumed, and runs on many devices
and in several processes: see `docs/guides/many_devices.md`.
"""

import argparse
import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from character_figures import draw_curves, draw_episode, score_table
from rich.console import Console

import metajax as mj

RECIPES = {
    "_".join(part for part in (recipe.training.algorithm, recipe.variant) if part): recipe
    for recipe in mj.recipes.RECIPES
    if recipe.training.data == "glyphs"
}


def replaced(record: Any, **changes: Any) -> Any:
    """The record with what is not None in its place."""
    given = {name: change for name, change in changes.items() if change is not None}
    return dataclasses.replace(record, **given)


def recipe_of(args: argparse.Namespace, test_ways: int) -> mj.recipes.Recipe:
    """The algorithm's recipe, with what was asked for in its place.

    A training that has as many ways or shots as its test keeps to that.

    Raises:
      ValueError: something was asked for that the algorithm does not have.
    """
    recipe = RECIPES[args.algorithm]
    trained, tested = recipe.training.drawing, recipe.testing.drawing
    recipe = mj.recipes.changed(
        recipe,
        iterations=args.iterations,
        meta_batch=args.meta_batch,
        ways=test_ways,
        shots=args.shots,
        queries=args.test_queries,
        train_ways=args.train_ways or (args.ways if trained.ways == tested.ways else None),
        train_queries=args.queries or trained.queries,
        filters=args.filters,
        outer_rate=args.outer_rate,
        inner_rate=args.inner_rate,
        steps=args.steps,
    )
    training, testing = recipe.training, recipe.testing
    protocol = "vinyals" if args.data == "omniglot" else ""
    trained = replaced(training.drawing, split=mj.recipes.Split("train", protocol))
    tested = replaced(testing.drawing, split=mj.recipes.Split("test", protocol))
    return replaced(
        recipe,
        training=replaced(training, data=args.data, drawing=trained, temperature=args.temperature),
        testing=replaced(testing, drawing=tested, query_batching=args.query_batching),
    )


def scored_steps(recipe: mj.recipes.Recipe) -> list[int]:
    """The inner steps at test after which there is a score: of many each tenth."""
    if recipe.training.inner is None:
        return []
    steps = recipe.testing.steps
    return [n for n in range(steps + 1) if steps <= 10 or n in (1, 5, steps) or n % 10 == 0]


def validation(
    args: argparse.Namespace, tester: mj.Learner, sample: Callable[[jax.Array], mj.Episode]
) -> Callable[[mj.TrainState], np.ndarray]:
    """The accuracy on the validation set, of a state or of each run of a stack."""

    def validate(state: mj.TrainState) -> np.ndarray:
        episodes = args.validation_episodes
        scores = mj.evaluate(tester, state, sample, episodes=episodes, seed=args.seed)
        return scores.mean("accuracy")

    return validate


def step_of(state: mj.TrainState) -> int:
    """The iterations of a run, or of those of a stack that are furthest."""
    return int(np.asarray(state.step).max())


def run(args: argparse.Namespace) -> mj.Evaluation:
    """Trains, tests, prints the tables and draws the figures; returns the first test's scores."""
    began = time.monotonic()
    if args.cluster or args.coordinator:
        mj.parallel.start_processes(args.coordinator, args.processes, args.process)
    try:
        recipes = [recipe_of(args, ways) for ways in args.test_ways or [args.ways]]
    except ValueError as error:
        raise SystemExit(f"{args.algorithm}: {error}") from None
    training = recipes[0].training
    if args.out is None and (args.resume or jax.process_count() > 1):
        raise SystemExit("--resume and several processes share the folder --out; name it")
    out = args.out or Path("runs") / f"few_shot_{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    console = Console(quiet=jax.process_index() > 0)

    steps = scored_steps(recipes[0])
    built = [mj.recipes.build(recipe, record_steps=steps or False) for recipe in recipes]
    learner, _, optimizer = built[0]
    testers = [each.tester for each in built]
    sampler = functools.partial(
        mj.recipes.sampler, training.data, folder=args.data_dir, place=args.place
    )
    sample = sampler(training.drawing)
    test_samples = [sampler(recipe.testing.drawing) for recipe in recipes]
    validate = None
    if args.validation_episodes:
        drawing = recipes[0].testing.drawing
        split = dataclasses.replace(drawing.split, part="validation")
        unseen = sampler(dataclasses.replace(drawing, split=split))
        validate = validation(args, testers[0], unseen)

    shape = sample(jax.random.key(0)).support.inputs.shape[1:]

    def begin(seed: jax.Array) -> mj.TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        params = learner.init(params_key, jnp.zeros((1, *shape)))
        return mj.init_state(params, optimizer, run_key)

    seeds = args.seed + jnp.arange(args.seeds)
    state = jax.jit(begin)(seeds[0]) if args.seeds == 1 else jax.jit(jax.vmap(begin))(seeds)
    mesh = mj.parallel.task_mesh() if args.mesh or jax.process_count() > 1 else None
    if mesh is not None:
        state = mj.parallel.place_state(state, mesh)
    saved = out / "checkpoints"
    if saved.exists() and not args.resume and jax.process_count() == 1:
        raise SystemExit(f"{out} holds a run already; pass --resume to go on, or another --out")
    # Another run of these would not be the same run.
    options = {"training": dataclasses.asdict(training), "seed": args.seed}

    with mj.Checkpoints(saved, options=options, every=args.checkpoint_every) as checkpoints:
        state = checkpoints.restore(state)
        if step_of(state):
            console.print(f"resumed at step {step_of(state)}")
        if step_of(state) == args.iterations:
            console.print("all iterations are done: testing")
            result = mj.TrainResult(state, "finished", [], 0.0, 0.0)
        else:
            result = mj.train(
                learner,
                optimizer,
                state,
                sample,
                iterations=args.iterations,
                meta_batch=training.meta_batch,
                dispatch=min(args.dispatch, args.iterations),
                mesh=mesh,
                non_finite=args.non_finite,
                checkpoints=checkpoints,
                validate=validate,
                metrics_file=out / "metrics.jsonl",
            )
    if result.stopped == "terminated":
        console.print(f"stopped at step {step_of(result.state)}; --resume goes on from there")
        raise SystemExit(128 + signal.SIGTERM)
    tested = result.state
    if args.validation_episodes and result.stopped == "finished":
        tested = mj.restore_state(saved, state, which="best")
        console.print(f"testing step {step_of(tested)}, the best on the validation set")
    tested = tested._replace(params=mj.parallel.to_host(tested.params))
    tests, testing = [], time.monotonic()
    for recipe, tester, test_sample in zip(recipes, testers, test_samples, strict=True):
        scores = mj.evaluate(tester, tested, test_sample, episodes=args.episodes, seed=args.seed)
        console.print(
            f"{args.algorithm}, {args.data}, {recipe.testing.drawing.ways}-way {args.shots}-shot: "
            f"{args.episodes} test episodes, seed {args.seed}, batches of queries: "
            f"{recipe.testing.query_batching}"
        )
        console.print(score_table(scores, steps))
        if scores.runs is not None:
            each = " ".join(f"{100 * mean:.2f}" for mean in scores.mean("accuracy"))
            console.print(f"± over {scores.runs} runs, seeds {seeds[0]} to {seeds[-1]}: {each} %")
        tests.append(scores)
    console.print(
        f"{step_of(result.state)} iterations of {training.meta_batch} tasks, {result.stopped}: "
        f"{result.run_seconds:.0f} s of training, {result.compile_seconds:.0f} s of compiling; "
        f"{time.monotonic() - testing:.0f} s of testing"
    )
    if jax.process_index() > 0:
        return tests[0]
    if result.history:
        draw_curves(out / "metrics.jsonl", tests[0], steps, out / "curves.png")
    params = tested.params if args.seeds == 1 else jax.tree.map(lambda x: x[0], tested.params)
    draw_episode(testers[0], params, test_samples[0], args.seed, out / "episode.png")
    console.print(f"figures and checkpoints in {out}: {time.monotonic() - began:.0f} s in all")
    return tests[0]


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    of_algorithm = "default: the recipe's, see metajax/recipes"
    out.add_argument("--data", choices=["glyphs", "omniglot"], default="glyphs")
    folder = Path(os.environ.get("METAJAX_DATA_DIR", "data"))
    out.add_argument("--data-dir", type=Path, default=folder, help="Omniglot is in its omniglot/")
    out.add_argument(
        "--place",
        choices=["device", "host"],
        default="device",
        help="where the images lie; from the host they are read ahead, episode by episode",
    )
    out.add_argument("--algorithm", choices=list(RECIPES), default="maml")
    out.add_argument("--ways", type=int, default=5)
    out.add_argument(
        "--test-ways", type=int, nargs="+", help="one test for each number; default: --ways"
    )
    out.add_argument("--shots", type=int, default=1)
    out.add_argument("--test-queries", type=int, default=15, help="a class, at test")
    out.add_argument("--iterations", type=int, default=700)
    out.add_argument("--train-ways", type=int, help=of_algorithm)
    out.add_argument("--queries", type=int, help=f"a class, in training; {of_algorithm}")
    out.add_argument("--meta-batch", type=int, help=f"tasks an iteration; {of_algorithm}")
    out.add_argument("--inner-rate", type=float, help=of_algorithm)
    out.add_argument("--outer-rate", type=float, help=of_algorithm)
    out.add_argument("--steps", type=int, help=f"inner steps in training; {of_algorithm}")
    out.add_argument("--temperature", type=float, help=f"of matching networks; {of_algorithm}")
    out.add_argument("--filters", type=int, help=of_algorithm)
    out.add_argument(
        "--query-batching",
        choices=["separate", "joint", "single"],
        help="which items share batch statistics with a test query: all queries (transductive), "
        f"support and all queries, or the support alone; {of_algorithm}",
    )
    out.add_argument("--episodes", type=int, default=600, help="test episodes")
    out.add_argument(
        "--validation-episodes",
        type=int,
        default=0,
        help="at every checkpoint; the best one is then tested, not the last",
    )
    out.add_argument("--dispatch", type=int, default=50, help="iterations between reports")
    out.add_argument("--checkpoint-every", type=int, default=500, help="iterations")
    out.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint, if there is one; several processes always do",
    )
    out.add_argument(
        "--non-finite",
        choices=["stop", "skip"],
        default="stop",
        help="what a loss or gradient that is not finite does",
    )
    out.add_argument(
        "--mesh", action="store_true", help="train on all devices; several processes always do"
    )
    out.add_argument("--cluster", action="store_true", help="in the processes of a cluster's job")
    out.add_argument("--coordinator", help="in several processes: host:port of the first one")
    out.add_argument("--processes", type=int, help="how many; with --coordinator")
    out.add_argument("--process", type=int, help="which of them, from 0; with --coordinator")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--seeds", type=int, default=1, help="so many runs at once, from --seed on")
    out.add_argument("--out", type=Path, help="folder of the run; default: a new one in runs/")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
