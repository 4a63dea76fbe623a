"""Half-cheetahs that learn which way, or how fast, to run (Finn et al. 2017, section 5.3).

Meta-trains a policy by MAML, FOMAML or ANIL with TRPO outside, and prints its return after 0, 1, 2
and 3 policy-gradient updates in fresh tasks, with 95 % intervals. Draws returns over iterations and
updates, and how the cheetah runs before and after them. Rewards are those of the authors' code:
with the velocity v in m/s and the action a, clipped to [-1, 1],

- direction: d v - 0.05 |a|^2, of which d is 1 or -1;
- velocity: -|v - w| - 0.05 |a|^2, of which w is from 0 to 2 m/s;

and so are the sizes of the default: 40 tasks of 20 roll-outs of 200 actions, inner rate 0.1, halved
after the first update in the test. Body and physics are brax's, not rllab's: 17 numbers are
observed and not 20, since the torso's place is not among them, and the ground and the joints are
springs, or whatever `--backend` makes of them. Returns compare with one another, then, and not with
the paper's. Ctrl-C ends the training and goes on to the test. An accelerator is wanted: 320,000
actions make an iteration.
"""

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from locomotion_figures import draw_curves, draw_film
from rich.console import Console
from rich.table import Table

import metajax as mj

UPDATES = 3  # in the test; training uses --num-steps
SHOWN = {"direction": (-1.0, 1.0), "velocity": (0.5, 1.5)}  # the tasks of the film


def cost(action: jax.Array) -> jax.Array:
    """Of torques, which brax clips as rllab does."""
    return 0.05 * (jnp.clip(action, -1, 1) ** 2).sum()


def run_along(direction: jax.Array, action: jax.Array, state: Any) -> jax.Array:
    return direction * state.metrics["x_velocity"] - cost(action)


def run_at(velocity: jax.Array, action: jax.Array, state: Any) -> jax.Array:
    return -jnp.abs(state.metrics["x_velocity"] - velocity) - cost(action)


def direction(key: jax.Array) -> jax.Array:
    return jax.random.rademacher(key, dtype=jnp.float32)


def velocity(key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, maxval=2.0)


def objective_of(args: argparse.Namespace) -> mj.rl.PolicyGradient:
    """The published policy in the tasks that were asked for."""
    reward, sample_task = {"direction": (run_along, direction), "velocity": (run_at, velocity)}[
        args.task
    ]
    return mj.rl.PolicyGradient(
        mj.rl.gaussian_policy(mj.models.mlp((*args.hidden, 6), stddev=0.1)),
        mj.rl.from_brax(
            "halfcheetah", reward=reward, sample_task=sample_task, backend=args.backend
        ),
        horizon=args.horizon,
        rollouts=args.rollouts,
    )


def adapt_of(args: argparse.Namespace) -> str | None:
    """What a task adapts: with ANIL the last layer alone, else everything."""
    return f"model/Dense_{len(args.hidden)}" if args.learner == "anil" else None


def train(
    args: argparse.Namespace, objective: mj.rl.PolicyGradient, out: Path, console: Console
) -> mj.TrainState:
    """Trains the policy, from its last checkpoint if there is one."""
    begin, run = jax.random.split(jax.random.key(args.seed))
    params = objective.init(begin, jnp.zeros((1, 1)))
    state = mj.init_state(params, optax.identity(), run)
    step = mj.rl.trpo_step(
        objective,
        inner=optax.sgd(args.inner_rate),
        num_steps=args.num_steps,
        first_order=args.learner == "fomaml",
        adapt=adapt_of(args),
    )
    # Another run of these would not be the same run.
    other = ("out", "resume", "iterations", "checkpoint_every", "dispatch", "test_tasks")
    options = {name: value for name, value in vars(args).items() if name not in other}
    saved = out / "checkpoints"
    with mj.Checkpoints(saved, options=options, every=args.checkpoint_every) as checkpoints:
        state = checkpoints.restore(state)
        if int(state.step):
            console.print(f"resumed at step {int(state.step)}")
        if int(state.step) >= args.iterations:
            return state
        result = mj.train(
            step,
            None,
            state,
            mj.rl.task_episodes(objective.environment),
            iterations=args.iterations,
            meta_batch=args.tasks,
            dispatch=min(args.dispatch, args.iterations),
            checkpoints=checkpoints,
            metrics_file=out / "metrics.jsonl",
        )
    steps = int(result.state.step - state.step)
    if result.stopped == "terminated" or not steps:
        console.print(f"{result.stopped} at step {int(result.state.step)}; --resume goes on")
        raise SystemExit(128 + signal.SIGTERM)
    actions = steps * args.tasks * args.rollouts * args.horizon * (args.num_steps + 1)
    console.print(
        f"{args.learner}, {args.task}: {steps} iterations of {args.tasks} tasks, "
        f"{result.stopped}, {result.run_seconds:.1f} s of training, "
        f"{result.compile_seconds:.1f} s of compiling: "
        f"{actions / result.run_seconds:,.0f} environment steps a second"
    )
    return result.state


def run(args: argparse.Namespace) -> mj.Evaluation:
    """Trains, tests, prints the table and draws the figures; returns the scores of the test."""
    if args.out is None and args.resume:
        raise SystemExit("--resume goes on with the run in the folder --out; name it")
    out = args.out or Path("runs") / f"locomotion_{time.strftime('%Y%m%d-%H%M%S')}"
    if (out / "checkpoints").exists() and not args.resume:
        raise SystemExit(f"{out} holds a run already; pass --resume to go on, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    objective = objective_of(args)
    params = train(args, objective, out, console).params

    rate = optax.piecewise_constant_schedule(args.inner_rate, {1: 0.5})
    tester = mj.maml(
        objective,
        inner=optax.sgd(rate),
        num_steps=UPDATES,
        first_order=True,
        adapt=adapt_of(args),
        record_steps=True,
    )
    began = time.monotonic()
    scores = mj.evaluate(
        tester,
        params,
        mj.rl.task_episodes(objective.environment),
        episodes=args.test_tasks,
        seed=args.seed,
        chunk_size=args.test_tasks,
    )
    console.print(table(args, scores))
    console.print(f"{time.monotonic() - began:.1f} s of testing, compiling included")
    draw_curves(out / "metrics.jsonl", scores, out / "returns.png")
    draw_film(args.task, films(args, objective, tester, params), out / "film.png")
    console.print(f"figures, metrics and checkpoints in {out}")
    return scores


def table(args: argparse.Namespace, scores: mj.Evaluation) -> Table:
    """The mean return after each update."""
    out = Table(
        "updates",
        "return",
        title=f"{args.learner}, {args.task}: {args.test_tasks} fresh tasks, seed {args.seed}",
    )
    mean, half = scores.mean("return_per_step"), scores.interval("return_per_step")
    for update in range(UPDATES + 1):
        out.add_row(str(update), f"{mean[update]:.1f} ± {half[update]:.1f}")
    return out


def films(
    args: argparse.Namespace,
    objective: mj.rl.PolicyGradient,
    tester: mj.Learner,
    params: mj.rl.GaussianParams,
) -> dict[float, tuple[Any, Any]]:
    """By task, where the body's links are in a roll-out before the updates, and in one after."""
    film = jax.jit(film_of(args, objective))
    adapt = jax.jit(tester.adapt)
    out = {}
    for task in SHOWN[args.task]:
        adapt_key, film_key = jax.random.split(jax.random.key(args.seed))
        given = jnp.asarray(task)
        adapted = adapt(params, mj.rl.task_examples(given), adapt_key).params
        out[task] = (film(params, given, film_key), film(adapted, given, film_key))
    return out


def film_of(args: argparse.Namespace, objective: mj.rl.PolicyGradient) -> Callable[..., Any]:
    """The function `(params, task, key) -> links [horizon, ...]` of one roll-out, in full.

    The links' positions and rotations are brax's: `pipeline_state.x`.
    """
    environment, policy = objective.environment, objective.policy

    def film(params: mj.rl.GaussianParams, task: jax.Array, key: jax.Array) -> Any:
        begin, run = jax.random.split(key)
        state, seen = environment.reset(begin, task)

        def move(carry: Any, key: jax.Array) -> Any:
            state, seen = carry
            act, go = jax.random.split(key)
            action = policy.distribution(params, seen[None]).sample(act)[0]
            after, seen, *_ = environment.step(go, state, action, task)
            return (after, seen), state.pipeline_state.x

        return jax.lax.scan(move, (state, seen), jax.random.split(run, args.horizon))[1]

    return film


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--task", choices=[*SHOWN], default="direction")
    out.add_argument("--learner", choices=["maml", "fomaml", "anil"], default="maml")
    out.add_argument(
        "--backend",
        choices=["generalized", "positional", "spring", "mjx"],
        default="spring",
        help="brax's physics; spring compiles and runs fastest",
    )
    out.add_argument("--iterations", type=int, default=500)
    out.add_argument("--tasks", type=int, default=40, help="a meta-step")
    out.add_argument("--rollouts", type=int, default=20, help="of a task, before an update")
    out.add_argument("--horizon", type=int, default=200, help="actions of a roll-out, 0.05 s each")
    out.add_argument("--num-steps", type=int, default=1, help="inner steps in training")
    out.add_argument("--inner-rate", type=float, default=0.1)
    out.add_argument("--hidden", type=int, nargs="+", default=[100, 100], help="widths of layers")
    out.add_argument("--test-tasks", type=int, default=40)
    out.add_argument("--dispatch", type=int, default=5, help="iterations between reports")
    out.add_argument("--checkpoint-every", type=int, default=25, help="iterations")
    out.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint, if there is one"
    )
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--out", type=Path, help="folder of the run; default: a new one in runs/")
    return out


if __name__ == "__main__":
    run(parser().parse_args())
