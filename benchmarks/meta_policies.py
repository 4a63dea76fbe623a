"""2D navigation by meta-learned policies: estimators of the inner gradient, and algorithms.

At the size of Finn et al. (2017, section 5.3), 20 goals of 20 roll-outs of 100 moves, in the
numbers of the authors' code: a policy of two layers of 100, inner rate 0.5, TRPO outside (KL 0.01).
Trains each way from several seeds, and scores it after 0, 1, 2 and 3 updates on 40 fresh goals, at
each of several rates, with twice the roll-outs and half the rate after the first. Inside MAML are
the plain surrogate (`naive`), that of low variance, and the unbiased one; beside it first order,
ANIL (the last layer adapts), ProMP, a plain policy gradient with Adam outside, Reptile,
pre-training on all goals, and a policy that is told the goal. Prints returns with 95 % intervals
over the seeds (Student's), and what a meta-step costs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from records import devices, plain_table, processor, wide_console, write

import metajax as mj

UPDATES = 3


class Way(NamedTuple):
    """How a policy is trained.

    Attributes:
      objective: of the training.
      learner: a meta-step, or a learner.
      optimizer: that of `train`: None beside a step.
      state_optimizer: that which makes the state.
      batches: of roll-outs a goal and meta-step.
      adapt: what an update changes; None is everything.
    """

    objective: mj.rl.PolicyGradient
    learner: Any
    optimizer: optax.GradientTransformation | None
    state_optimizer: optax.GradientTransformation
    batches: int
    adapt: str | None = None


def objective_of(
    args: argparse.Namespace, rollouts: int, dice_lambda: float | None = 0.0, *, told: bool = False
) -> mj.rl.PolicyGradient:
    environment = mj.rl.navigation()
    return mj.rl.PolicyGradient(
        mj.rl.gaussian_policy(mj.models.mlp((*args.hidden, 2), stddev=0.1)),
        mj.rl.observing_task(environment) if told else environment,
        horizon=args.horizon,
        rollouts=rollouts,
        surrogate=mj.rl.Surrogate(dice_lambda=dice_lambda),
    )


def ways(args: argparse.Namespace) -> dict[str, Callable[[], Way]]:
    inner = optax.sgd(args.inner_rate)
    last = f"model/Dense_{len(args.hidden)}"

    def trpo(
        dice_lambda: float | None = 0.0,
        steps: int = 1,
        first_order: bool = False,
        adapt: str | None = None,
        told: bool = False,
    ) -> Way:
        objective = objective_of(args, args.rollouts, dice_lambda, told=told)
        step = mj.rl.trpo_step(
            objective, inner=inner, num_steps=steps, first_order=first_order, adapt=adapt
        )
        return Way(objective, step, None, optax.identity(), steps + 1, adapt)

    def promp() -> Way:
        objective, adam = objective_of(args, args.rollouts), optax.adam(args.outer_rate)
        step = mj.rl.ppo_step(objective, adam, inner=inner, num_steps=1)
        return Way(objective, step, None, adam, 2)

    def plain() -> Way:
        objective, adam = objective_of(args, args.rollouts), optax.adam(args.outer_rate)
        learner = mj.maml(objective, inner=inner, num_steps=1)
        return Way(objective, learner, adam, adam, 2)

    def reptile() -> Way:
        objective = objective_of(args, args.rollouts)
        learner = mj.reptile(objective, inner=inner, num_steps=UPDATES)
        outer = optax.sgd(optax.linear_schedule(1.0, 0.0, args.iterations))
        return Way(objective, learner, outer, outer, UPDATES + 1)

    return {
        "maml": trpo,
        "maml, unbiased": lambda: trpo(1.0),
        "maml, naive": lambda: trpo(None),
        "fomaml": lambda: trpo(first_order=True),
        "anil": lambda: trpo(adapt=last),
        "promp": promp,
        "maml, plain": plain,
        "reptile": reptile,
        "pre-trained": lambda: trpo(steps=0),
        "told": lambda: trpo(steps=0, told=True),
    }


def measure(args: argparse.Namespace, name: str, way: Way) -> dict[str, Any]:
    """Trains from all seeds and scores; a record."""
    sample = mj.rl.task_episodes(way.objective.environment)

    def begin(seed: jax.Array) -> mj.TrainState:
        first, run = jax.random.split(jax.random.key(seed))
        params = way.objective.init(first, jnp.zeros((1, 2)))
        return mj.init_state(params, way.state_optimizer, run)

    states = jax.vmap(begin)(jnp.arange(args.seeds))
    result = mj.train(
        way.learner,
        way.optimizer,
        states,
        sample,
        iterations=args.iterations,
        meta_batch=args.tasks,
        dispatch=min(10, args.iterations),
        progress=False,
    )
    told = name == "told"
    objective, tests = objective_of(args, 2 * args.rollouts, told=told), []
    for rate in args.test_rates[:1] if told else args.test_rates:
        tester = mj.maml(
            objective,
            inner=optax.sgd(optax.piecewise_constant_schedule(rate, {1: 0.5})),
            num_steps=0 if told else UPDATES,
            first_order=True,
            adapt=way.adapt,
            record_steps=True,
        )
        scores = mj.evaluate(tester, result.state, sample, episodes=args.goals)
        returns = scores.mean("return_per_step")
        half = scores.over_runs("return_per_step")[1].tolist() if args.seeds > 1 else None
        tests.append(
            {
                "rate": rate,
                "returns": returns.mean(axis=0).tolist(),
                "half_widths": half,
                "of_seeds": returns.tolist(),
            }
        )
    moves = args.tasks * args.rollouts * args.horizon * way.batches
    meta_steps = args.iterations * args.seeds
    return {
        "way": name,
        "stopped": result.stopped,
        "tests": tests,
        "ms_a_meta_step": 1e3 * result.run_seconds / meta_steps,
        "moves_a_second": moves * meta_steps / result.run_seconds,
        "temporary_mb": temporary_mb(args, way, sample, jax.tree.map(lambda x: x[0], states)),
        "compile_s": result.compile_seconds,
    }


def temporary_mb(args: argparse.Namespace, way: Way, sample: Any, state: mj.TrainState) -> float:
    """The memory that one meta-step needs for what it computes on the way."""
    step = way.learner
    if isinstance(step, mj.Learner):
        assert way.optimizer is not None
        step = mj.train_step(step, way.optimizer)
    episodes = jax.vmap(sample)(jax.random.split(jax.random.key(0), args.tasks))
    memory = jax.jit(step).lower(state, episodes).compile().memory_analysis()
    if memory is None:
        raise RuntimeError(f"the {jax.default_backend()} backend does not report memory")
    return memory.temp_size_in_bytes / 1e6


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A record as the table shows it, a row a rate."""
    costs = ("ms_a_meta_step", "moves_a_second", "temporary_mb", "compile_s")
    out = []
    for test in record["tests"]:
        shown = dict.fromkeys([f"after {update}" for update in range(UPDATES + 1)], "")
        halves = test["half_widths"] or [None] * (UPDATES + 1)
        for update, (mean, half) in enumerate(zip(test["returns"], halves, strict=False)):
            around = "" if half is None else f" ± {half:.2f}"
            shown[f"after {update}"] = f"{mean:.2f}{around}"
        row = {"way": record["way"], "rate": test["rate"], **shown}
        out.append(row | {name: record[name] for name in costs})
    return out


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures, prints the table and writes the records as they come; returns them."""
    console = wide_console()
    console.print(f"{devices()}; processor: {processor()}")
    known, records = ways(args), []
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "ways")}
    for name in args.ways:
        started = time.perf_counter()
        records.append(measure(args, name, known[name]()))
        console.print(f"{name}: {time.perf_counter() - started:.0f} s in all")
        device = jax.devices()[0].device_kind
        about = {"device": device, "processor": processor(), "jax": jax.__version__}
        write({**about, "settings": settings, "ways": records}, args.out)
    table = [row for record in records for row in rows(record)]
    console.print(plain_table(f"returns, {args.seeds} seeds", table, list(table[0])))
    return records


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [
        *("maml", "maml, unbiased", "maml, naive", "fomaml", "anil"),
        *("promp", "maml, plain", "reptile", "pre-trained", "told"),
    ]
    out.add_argument("--ways", nargs="+", choices=names, default=names)
    out.add_argument("--seeds", type=int, default=3)
    out.add_argument("--iterations", type=int, default=100)
    out.add_argument("--tasks", type=int, default=20, help="goals a meta-step")
    out.add_argument("--rollouts", type=int, default=20, help="of a goal, before an update")
    out.add_argument("--horizon", type=int, default=100, help="moves of a roll-out")
    out.add_argument("--inner-rate", type=float, default=0.5)
    out.add_argument(
        "--test-rates", type=float, nargs="+", default=[0.5, 0.1], help="of the first update"
    )
    out.add_argument("--outer-rate", type=float, default=1e-3, help="of Adam, where it is outside")
    out.add_argument("--hidden", type=int, nargs="+", default=[100, 100], help="widths of layers")
    out.add_argument("--goals", type=int, default=40, help="test goals")
    out.add_argument("--out", type=Path, default=Path("benchmarks/results/meta_policies.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
