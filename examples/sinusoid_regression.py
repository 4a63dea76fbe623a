"""Sinusoid regression (Finn et al. 2017, section 5.1): MAML, FOMAML and pre-training.

Meta-trains the paper's 1-40-40-1 network, exactly and to first order, pre-trains the same network
on the query points without meta-learning, and prints the query error of each after 0, 1, ..., 10
inner steps on fresh tasks, with 95 % intervals. Draws one task: the true curve, and the network
before, after 1 and after 10 steps. The default is the paper's 70,000 iterations of 25 tasks.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

import metajax as mj

mpl.use("agg")
import matplotlib.pyplot as plt

STEPS = 10  # inner steps at test; training uses --steps


def recipe_of(args: argparse.Namespace, name: str) -> mj.recipes.Recipe:
    """The recipe of MAML or FOMAML, with what was asked for in its place.

    Pre-training takes no inner step: the loss is that of the query points of all tasks, with
    nothing to tell them apart.
    """
    recipe = mj.recipes.find("maml" if name == "pre-trained" else name, "sinusoids", shots=10)
    training, testing = recipe.training, recipe.testing
    assert training.inner is not None
    steps = 0 if name == "pre-trained" else args.steps
    training = dataclasses.replace(
        training,
        drawing=dataclasses.replace(training.drawing, shots=args.shots, queries=args.shots),
        inner=dataclasses.replace(training.inner, rate=args.inner_rate, steps=steps),
        outer=dataclasses.replace(training.outer, rate=args.outer_rate),
        iterations=args.iterations,
    )
    drawing = dataclasses.replace(testing.drawing, shots=args.shots)
    testing = dataclasses.replace(testing, drawing=drawing, steps=STEPS)
    return dataclasses.replace(recipe, training=training, testing=testing)


def run(args: argparse.Namespace) -> dict[str, mj.Evaluation]:
    """Trains the three networks, prints the table and draws the figure; returns the test scores."""
    out = args.out or Path("runs") / f"sinusoid_{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    recipes = {name: recipe_of(args, name) for name in ("maml", "fomaml", "pre-trained")}
    training, testing = recipes["maml"].training, recipes["maml"].testing
    sample = mj.recipes.sampler("sinusoids", training.drawing)
    test_sample = mj.recipes.sampler("sinusoids", testing.drawing)
    tester = mj.recipes.build(recipes["maml"], record_steps=True).tester
    params_key, run_key = jax.random.split(jax.random.key(args.seed))
    params = tester.init(params_key, jnp.zeros((1, 1)))

    trained, scores = {}, {}
    for name, recipe in recipes.items():
        learner, _, optimizer = mj.recipes.build(recipe)
        options = {"training": dataclasses.asdict(recipe.training), "seed": args.seed}
        with mj.Checkpoints(out / f"{name}_checkpoints", options=options) as checkpoints:
            result = mj.train(
                learner,
                optimizer,
                mj.init_state(params, optimizer, run_key),
                sample,
                iterations=args.iterations,
                meta_batch=training.meta_batch,
                dispatch=min(1000, args.iterations),
                checkpoints=checkpoints,
                metrics_file=out / f"{name}.jsonl",
            )
        trained[name] = result.state.params
        console.print(
            f"{name}: {int(result.state.step)} iterations of {training.meta_batch} tasks, "
            f"{result.stopped}, "
            f"{result.run_seconds:.1f} s of training, {result.compile_seconds:.1f} s of compiling"
        )
        scores[name] = mj.evaluate(
            tester,
            result.state.params,
            test_sample,
            episodes=args.episodes,
            seed=args.seed,
        )
        if result.stopped in ("interrupted", "terminated"):
            break
    console.print(table(args, scores))
    draw_task(args, trained, out / "sinusoid.png")
    console.print(f"figure and checkpoints in {out}")
    return scores


def table(args: argparse.Namespace, scores: dict[str, mj.Evaluation]) -> Table:
    """Mean squared query error after each inner step."""
    out = Table(
        "inner steps",
        *(f"{name}, MSE" for name in scores),
        title=f"K = {args.shots}: {args.episodes} fresh tasks, seed {args.seed}",
    )
    for step in range(STEPS + 1):
        cells = []
        for score in scores.values():
            mean = score.mean("query_loss_per_step")[step]
            half = score.interval("query_loss_per_step")[step]
            cells.append(f"{mean:.3f} ± {half:.3f}")
        out.add_row(str(step), *cells)
    return out


def draw_task(args: argparse.Namespace, trained: dict, path: Path) -> None:
    """One task, fitted from each starting point by 0, 1 and 10 inner steps."""
    amplitude, phase = 4.0, 1.0
    x = jax.random.uniform(jax.random.key(args.seed), (args.shots, 1), minval=-5.0, maxval=5.0)
    support = mj.Examples(x, mj.data.sinusoid(x, amplitude, phase))
    grid = jnp.linspace(-5, 5, 200)[:, None]
    figure, panels = plt.subplots(
        1, len(trained), figsize=(12, 3.8), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (name, params) in zip(panels[0], trained.items(), strict=True):
        axes.plot(
            grid, mj.data.sinusoid(grid, amplitude, phase), color="tab:red", label="true curve"
        )
        axes.plot(*support[:2], "^", color="tab:purple", label=f"{args.shots} support points")
        for steps, style in ((0, ":"), (1, "--"), (STEPS, "-")):
            recipe = recipe_of(args, "maml")
            testing = dataclasses.replace(recipe.testing, steps=steps)
            fitter = mj.recipes.build(dataclasses.replace(recipe, testing=testing)).tester
            task = fitter.adapt(params, support)
            label = "before" if steps == 0 else f"after {steps} step{'s' * (steps > 1)}"
            fit = np.asarray(fitter.predict(params, task, grid))
            axes.plot(grid, fit, style, color="tab:green", label=label)
        axes.set(title=name, xlabel="x", ylim=(-6.5, 6.5))
        axes.grid(alpha=0.3)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--shots", type=int, default=10, help="points in the support set, K")
    out.add_argument("--iterations", type=int, default=70_000)
    out.add_argument("--steps", type=int, default=1, help="inner steps in training")
    out.add_argument("--inner-rate", type=float, default=0.01)
    out.add_argument("--outer-rate", type=float, default=1e-3)
    out.add_argument("--episodes", type=int, default=1000, help="test tasks")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, help="folder of the run; default: a new one in runs/")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
