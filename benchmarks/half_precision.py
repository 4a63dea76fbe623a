"""What computing in half precision does to meta-gradients, and to a short training run.

Meta-gradients of both orders are set against float64's on the same weights and episodes: the error
in the norm, relative, the cosine of the angle between the two, and the relative error of the loss.
Then the same few-shot run on the glyphs is trained and tested in every precision. In the halves
parameters, gradients and updates stay in float32 (`metajax.models.computing_in`). "float32-highest"
forbids the shortened products that accelerators may use for float32; on CPU there are none. Times
on CPU, which has little or no arithmetic in half precision, say nothing of a GPU or TPU.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from meta_gradients import compile_meta_gradient, interleaved_medians, make_learner
from records import devices, plain_table, wide_console, write
from workloads import WORKLOADS, Workload

import metajax as mj

ORDERS = ("exact", "first")


class Precision(NamedTuple):
    """The type that networks compute in, None for their parameters', and that of products."""

    computing: Any = None
    products: str | None = None


PRECISIONS = {
    "float32": Precision(),
    "float32-highest": Precision(products="highest"),
    "bfloat16": Precision(jnp.bfloat16),
    "float16": Precision(jnp.float16),
}


@contextlib.contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """What is compiled within has products as the precision says."""
    with contextlib.ExitStack() as stack:
        if precision.products is not None:
            stack.enter_context(jax.default_matmul_precision(precision.products))
        yield


def flat(gradient: Any) -> np.ndarray:
    """All of a gradient in one float64 vector."""
    return np.asarray(ravel_pytree(gradient)[0], np.float64)


def compare(
    name: str, workload: Workload, num_steps: int, precisions: Sequence[str], seconds: float
) -> list[dict]:
    """A record for each order and precision."""
    programs = {}
    for order in ORDERS:
        for precision in precisions:
            with products_in(PRECISIONS[precision]):
                programs[order, precision] = compile_meta_gradient(
                    *(workload, num_steps),
                    first_order=order == "first",
                    computing=PRECISIONS[precision].computing,
                )
    times = interleaved_medians(programs, seconds)
    records = []
    for order in ORDERS:
        with jax.enable_x64(True):
            true_gradient, (true_loss, _) = compile_meta_gradient(
                workload, num_steps, first_order=order == "first", dtype=jnp.float64
            ).run()
            true = flat(true_gradient)
        for precision in precisions:
            gradient, (loss, _) = programs[order, precision].run()
            found = flat(gradient)
            lengths = np.linalg.norm(found) * np.linalg.norm(true)
            records.append(
                {
                    "workload": name,
                    "steps": num_steps,
                    "order": order,
                    "precision": precision,
                    "error": float(np.linalg.norm(found - true) / np.linalg.norm(true)),
                    "1 - cosine": float(1 - found @ true / lengths),
                    "loss error": float(loss) / float(true_loss) - 1,
                    "ms": 1e3 * times[order, precision],
                }
            )
    return records


def learn(args: argparse.Namespace, name: str, images: dict[str, np.ndarray]) -> dict:
    """Trains and tests 5-way 1-shot in one precision; a record."""
    workload = WORKLOADS["W2"]._replace(filters=args.filters)
    ways = workload.widths[-1]
    train_sample, test_sample = (
        mj.data.image_episodes(images[split], ways=ways, shots=1, queries=5)
        for split in ("train", "test")
    )
    precision = PRECISIONS[name]
    learner = make_learner(workload, 1, computing=precision.computing)
    optimizer = optax.adam(args.outer_rate)
    params = learner.init(jax.random.key(0), jnp.zeros((1, *workload.item)))
    with products_in(precision):
        result = mj.train(
            learner,
            optimizer,
            mj.init_state(params, optimizer, jax.random.key(1)),
            train_sample,
            iterations=args.iterations,
            meta_batch=args.meta_batch,
            chunk_size=1,
            dispatch=-(-args.iterations // 20),
        )
        scores = mj.evaluate(learner, result.state.params, test_sample, episodes=args.episodes)
    return {
        "precision": name,
        "stopped": result.stopped,
        "test accuracy, %": 100 * float(scores.mean("accuracy")),
        "±": 100 * float(scores.interval("accuracy")),
        "training s": result.run_seconds,
        "history": [{name: r[name] for name in ("step", "accuracy")} for r in result.history],
    }


def draw(gradients: list[dict], runs: list[dict], path: Path) -> None:
    """The gradients' relative errors, one panel a workload; the runs' training accuracies."""
    names = list(dict.fromkeys(record["workload"] for record in gradients))
    colors = {name: f"C{index}" for index, name in enumerate(PRECISIONS)}
    figure = Figure(figsize=(4 * len(names) + 4, 3.6), layout="constrained")
    *panels, last = figure.subplots(1, len(names) + 1)
    for panel, name in zip(panels, names, strict=True):
        for order, style in zip(ORDERS, ("-o", "--s"), strict=True):
            for precision, color in colors.items():
                mine = [
                    record
                    for record in gradients
                    if (record["workload"], record["order"], record["precision"])
                    == (name, order, precision)
                ]
                if mine:
                    steps = [record["steps"] for record in mine]
                    errors = [record["error"] for record in mine]
                    label = f"{precision}, {order}"
                    panel.semilogy(steps, errors, style, color=color, label=label)
        panel.set(title=name, xlabel="inner steps", ylabel="relative error of the gradient")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    for record in runs:
        steps = [entry["step"] for entry in record["history"]]
        scores = [entry["accuracy"] for entry in record["history"]]
        last.plot(steps, scores, color=colors[record["precision"]], label=record["precision"])
    last.set(title="5-way 1-shot glyphs", xlabel="iterations", ylabel="training accuracy")
    last.legend()
    last.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def run(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Compares, trains, prints the tables, writes the records and the figure."""
    console = wide_console()
    console.print(devices())
    results: dict[str, list[dict]] = {"gradients": [], "runs": []}
    for name in args.workloads:
        workload = WORKLOADS[name]
        workload = workload._replace(tasks=min(workload.tasks, args.tasks))
        records = [
            record
            for steps in args.steps
            for record in compare(name, workload, steps, args.precisions, args.seconds)
        ]
        columns = ["steps", "order", "precision", "error", "1 - cosine", "loss error", "ms"]
        title = f"{name}, {workload.title}, {workload.tasks} tasks, against float64"
        console.print(plain_table(title, records, columns))
        results["gradients"] += records
    images = {split: mj.data.glyphs(split) for split in ("train", "test")}
    results["runs"] = [learn(args, name, images) for name in args.precisions]
    columns = ["precision", "stopped", "test accuracy, %", "±", "training s"]
    title = f"5-way 1-shot glyphs: {args.iterations} iterations of {args.meta_batch} tasks"
    console.print(plain_table(title, results["runs"], columns))
    write(results, args.out)
    draw(results["gradients"], results["runs"], args.out.with_suffix(".png"))
    console.print(f"written: {args.out}, {args.out.with_suffix('.png')}")
    return results


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    precisions = ["float32", "bfloat16", "float16"]
    out.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=precisions)
    out.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W2", "W4"])
    out.add_argument("--steps", type=int, nargs="+", default=[1, 5], help="inner steps")
    out.add_argument("--tasks", type=int, default=4, help="at most so many, for the gradients")
    out.add_argument("--seconds", type=float, default=10.0, help="of running, a number of steps")
    out.add_argument("--iterations", type=int, default=300, help="of training")
    out.add_argument("--meta-batch", type=int, default=8, help="tasks an iteration")
    out.add_argument("--filters", type=int, default=32, help="of the network that is trained")
    out.add_argument("--outer-rate", type=float, default=3e-3)
    out.add_argument("--episodes", type=int, default=600, help="test episodes")
    out.add_argument("--out", type=Path, default=Path("runs/half_precision.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
