"""2D navigation (Finn et al. 2017, section 5.3): a policy that finds a goal it is not told.

Meta-trains a policy by MAML with TRPO outside, pre-trains the same policy on all goals at once, and
trains one that is told the goal. Prints the return of each after 0, 1, 2 and 3 policy-gradient
updates on fresh goals (of the one that is told, after 0), with 95 % intervals, and draws how a
point moves before and after them. The default is the paper's size, 20 goals of 20 roll-outs of 100
moves, in the numbers of the authors' code: inner rate 0.5, halved after the first update in the
test, 100 iterations. The pre-trained policy, whose actions vary less, has a rate of its own.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

import metajax as mj

mpl.use("agg")
import matplotlib.pyplot as plt

UPDATES = 3  # in the test; training uses --steps
COLOURS = {
    "maml": "tab:green",
    "fomaml": "tab:olive",
    "anil": "tab:purple",
    "pre-trained": "tab:blue",
    "told": "tab:red",
}


class Trained(NamedTuple):
    """A policy after its training, what adapts it in the test, and its scores there."""

    params: mj.rl.GaussianParams
    objective: mj.rl.PolicyGradient
    tester: mj.Learner
    scores: mj.Evaluation


def objective_of(args: argparse.Namespace, name: str, rollouts: int) -> mj.rl.PolicyGradient:
    """A learner's objective; the policy that is told the goal sees it, the others do not."""
    environment = mj.rl.navigation()
    return mj.rl.PolicyGradient(
        mj.rl.gaussian_policy(mj.models.mlp((*args.hidden, 2), stddev=args.stddev)),
        mj.rl.observing_task(environment) if name == "told" else environment,
        horizon=args.horizon,
        rollouts=rollouts,
        surrogate=mj.rl.Surrogate(dice_lambda=args.dice_lambda),
    )


def step_of(
    args: argparse.Namespace, name: str, objective: mj.rl.PolicyGradient
) -> Callable[..., Any]:
    """The meta-step of a learner; without inner steps it is TRPO on all goals."""
    adapts = name in ("maml", "fomaml", "anil")
    return mj.rl.trpo_step(
        objective,
        inner=optax.sgd(args.inner_rate),
        num_steps=args.steps if adapts else 0,
        first_order=name == "fomaml",
        adapt=adapt_of(args, name),
        max_kl=args.max_kl,
    )


def adapt_of(args: argparse.Namespace, name: str) -> str | None:
    """What a task adapts: with ANIL the last layer alone, else everything."""
    return f"model/Dense_{len(args.hidden)}" if name == "anil" else None


def train(args: argparse.Namespace, name: str, out: Path, console: Console) -> Trained:
    """Trains one policy, from its last checkpoint if there is one, and tests it."""
    objective = objective_of(args, name, args.rollouts)
    sample = mj.rl.task_episodes(objective.environment)
    begin, run = jax.random.split(jax.random.key(args.seed))
    params = objective.init(begin, jnp.zeros((1, 2)))
    state = mj.init_state(params, optax.identity(), run)
    # What a longer run or another test may change.
    free = ("out", "learners", "iterations", "goals", "pre_trained_rate")
    options = {key: value for key, value in vars(args).items() if key not in free}
    with mj.Checkpoints(out / f"{name}_checkpoints", options=options) as saved:
        state = saved.restore(state)
        if int(state.step) < args.iterations:
            result = mj.train(
                step_of(args, name, objective),
                None,
                state,
                sample,
                iterations=args.iterations,
                meta_batch=args.tasks,
                dispatch=min(10, args.iterations),
                checkpoints=saved,
                metrics_file=out / f"{name}.jsonl",
            )
            batches = args.steps + 1 if name in ("maml", "fomaml", "anil") else 1
            moves = args.tasks * args.rollouts * args.horizon * batches
            moves *= int(result.state.step - state.step)
            console.print(
                f"{name}: {int(result.state.step)} iterations of {args.tasks} goals, "
                f"{result.stopped}, {result.run_seconds:.1f} s of training, "
                f"{result.compile_seconds:.1f} s of compiling, "
                f"{moves / result.run_seconds:,.0f} moves a second"
            )
            state = result.state
    # The authors' test: twice the roll-outs, and half the rate after the first update.
    objective = objective_of(args, name, 2 * args.rollouts)
    rate = args.pre_trained_rate if name == "pre-trained" else args.inner_rate
    tester = mj.maml(
        objective,
        inner=optax.sgd(optax.piecewise_constant_schedule(rate, {1: 0.5})),
        num_steps=0 if name == "told" else UPDATES,
        first_order=True,
        adapt=adapt_of(args, name),
        record_steps=True,
    )
    scores = mj.evaluate(tester, state.params, sample, episodes=args.goals, seed=args.seed)
    return Trained(state.params, objective, tester, scores)


def run(args: argparse.Namespace) -> dict[str, mj.Evaluation]:
    """Trains the policies, prints the table and draws the figure; returns the test scores."""
    out = args.out or Path("runs") / f"navigation_{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    trained = {name: train(args, name, out, console) for name in args.learners}
    scores = {name: one.scores for name, one in trained.items()}
    console.print(table(args, scores))
    draw(args, trained, out / "navigation.png")
    console.print(f"figure and checkpoints in {out}")
    return scores


def table(args: argparse.Namespace, scores: dict[str, mj.Evaluation]) -> Table:
    """The mean return after each update."""
    out = Table(
        "updates",
        *(f"{name}, return" for name in scores),
        title=f"{args.goals} fresh goals, seed {args.seed}",
    )
    for update in range(UPDATES + 1):
        cells = []
        for score in scores.values():
            mean, half = score.mean("return_per_step"), score.interval("return_per_step")
            told = update >= len(mean)
            cells.append("" if told else f"{mean[update]:.2f} ± {half[update]:.2f}")
        out.add_row(str(update), *cells)
    return out


def draw(args: argparse.Namespace, trained: dict[str, Trained], path: Path) -> None:
    """Returns by updates, and for each policy how a point moves before and after them."""
    figure, panels = plt.subplots(
        1,
        len(trained) + 1,
        figsize=(3.6 * (len(trained) + 1), 3.8),
        layout="constrained",
        squeeze=False,
    )
    returns, *planes = panels[0]
    for (name, one), plane in zip(trained.items(), planes, strict=True):
        mean = one.scores.mean("return_per_step")
        half = one.scores.interval("return_per_step")
        if name == "told":
            returns.axhline(mean[0], label=name, color=COLOURS[name], ls="--")
        else:
            returns.errorbar(range(len(mean)), mean, half, label=name, color=COLOURS[name])
        draw_moves(args, one, plane)
        plane.set(title=name, aspect="equal", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6))
    returns.set(xlabel="updates", ylabel="return", xticks=range(UPDATES + 1))
    returns.grid(alpha=0.3)
    returns.legend()
    planes[0].legend(loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_moves(args: argparse.Namespace, one: Trained, axes: Axes) -> None:
    """Two roll-outs before the updates, and two after, towards one goal."""
    goal = jnp.array([0.35, 0.25])
    support = mj.rl.task_examples(goal)
    adapt_key, before_key, after_key = jax.random.split(jax.random.key(args.seed), 3)
    adapted = one.tester.adapt(one.params, support, adapt_key).params
    roll_out = jax.jit(one.objective.roll_out)
    ways = [
        (one.params, before_key, "tab:gray", "before"),
        (adapted, after_key, "tab:green", f"after {UPDATES} updates"),
    ]
    for params, key, colour, label in ways[: one.scores.mean("return_per_step").size]:
        moves = roll_out(params, goal, key)
        for index in range(2):
            where = np.asarray(moves.observations[index, :, :2])[np.asarray(moves.mask[index])]
            axes.plot(*where.T, color=colour, lw=1, label=label if index == 0 else None)
    axes.plot(*goal, "*", color="tab:red", ms=12, label="goal")
    axes.grid(alpha=0.3)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument(
        "--learners",
        nargs="+",
        choices=[*COLOURS],
        default=["maml", "pre-trained", "told"],
        help="'told' sees the goal; 'anil' adapts the last layer alone",
    )
    out.add_argument("--iterations", type=int, default=100)
    out.add_argument("--tasks", type=int, default=20, help="goals a meta-step")
    out.add_argument("--rollouts", type=int, default=20, help="of a goal, before an update")
    out.add_argument("--horizon", type=int, default=100, help="moves of a roll-out")
    out.add_argument("--steps", type=int, default=1, help="inner steps in training")
    out.add_argument("--inner-rate", type=float, default=0.5)
    out.add_argument(
        "--pre-trained-rate", type=float, default=0.1, help="of the pre-trained policy, in the test"
    )
    out.add_argument("--dice-lambda", type=float, default=0.0, help="see metajax.rl.Surrogate")
    out.add_argument("--max-kl", type=float, default=0.01, help="of a step of TRPO")
    out.add_argument("--hidden", type=int, nargs="+", default=[100, 100], help="widths of layers")
    out.add_argument("--stddev", type=float, default=0.1, help="of initial weights")
    out.add_argument("--goals", type=int, default=40, help="test goals")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, help="folder of the run; default: a new one in runs/")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
