"""How a meta-gradient's time and memory grow with tasks, ways, inner steps and parameters.

Every axis has a ladder of values, growing by a constant factor, while the other axes stay at the
first value of theirs (the parameters: at the workload's own). Exact and first order run interleaved
over the whole ladder; times are medians. An exponent is the least-squares slope of the logarithms:
1 where twice the value costs twice as much. Beside the measured one stands what arithmetic says,
the same slope of the operations of all matrix products and convolutions. Memory is what the
compiled program asks for beside its arguments and results. Run it on a quiet machine.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from meta_gradients import compile_meta_gradient, interleaved_medians
from records import devices, plain_table, wide_console, write
from rich.table import Table
from workloads import WORKLOADS, Workload, count_parameters

ORDERS = ("exact", "first")
WIDTHS = {"perceptron": (128, 256, 512, 1024), "stride": (16, 32, 64, 128), "max": (8, 16, 32, 64)}
Ladder = Mapping[int, tuple[Workload, int]]
compiled = functools.cache(compile_meta_gradient)  # The case where the ladders meet, once.


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """The power of the value that the cost grows with: the slope of the logarithms' best line."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def of_width(workload: Workload, width: int) -> Workload:
    """The workload with so many filters, or units in every hidden layer."""
    if workload.network == "perceptron":
        hidden = len(workload.widths) - 1
        return workload._replace(widths=(*[width] * hidden, workload.widths[-1]))
    return workload._replace(filters=width)


def ladders(args: argparse.Namespace) -> dict[str, Ladder]:
    """For every axis and value on it: the workload and its number of inner steps."""
    own = WORKLOADS[args.workload]

    def of_ways(workload: Workload, ways: int) -> Workload:
        return workload._replace(
            widths=(*workload.widths[:-1], ways),
            support=ways * args.shots,
            query=ways * args.queries,
        )

    base = of_ways(own._replace(tasks=args.tasks[0], chunk_size=1), args.ways[0])
    widths = args.widths or WIDTHS[own.network]
    return {
        "tasks": {tasks: (base._replace(tasks=tasks), args.steps[0]) for tasks in args.tasks},
        "ways": {ways: (of_ways(base, ways), args.steps[0]) for ways in args.ways},
        "inner steps": {steps: (base, steps) for steps in args.steps},
        "parameters": {
            count_parameters(wide): (wide, args.steps[0])
            for wide in (of_width(base, width) for width in widths)
        },
    }


def measure(axis: str, ladder: Ladder, seconds: float) -> list[dict]:
    """Both orders at every value of an axis, a record a value."""
    programs = {
        (value, order): compiled(workload, steps, first_order=order == "first")
        for value, (workload, steps) in ladder.items()
        for order in ORDERS
    }
    times = interleaved_medians(programs, seconds)
    records = []
    for value in ladder:
        record: dict = {"axis": axis, "value": value}
        for order in ORDERS:
            program = programs[value, order]
            record[f"{order}_ms"] = 1e3 * times[value, order]
            record[f"{order}_temporary_mb"] = program.temporary_bytes / 1e6
            record[f"{order}_operations"] = program.operations
        records.append(record)
    return records


def exponents(axis: str, records: Sequence[dict]) -> list[dict]:
    """What each order's time, operations and memory grow with along an axis."""
    values = [record["value"] for record in records]
    return [
        {
            "axis": axis,
            "order": order,
            **{
                cost: exponent(values, [record[f"{order}_{cost}"] for record in records])
                for cost in ("ms", "operations", "temporary_mb")
            },
        }
        for order in ORDERS
    ]


def exponent_table(records: Sequence[dict]) -> Table:
    table = Table("axis", "order", "time", "operations", "memory", title="exponents")
    for record in records:
        slopes = (record[cost] for cost in ("ms", "operations", "temporary_mb"))
        table.add_row(record["axis"], record["order"], *(f"{slope:.2f}" for slope in slopes))
    return table


def draw(records: Sequence[dict], path: Path) -> None:
    """Time by value, both logarithmic, one panel an axis; dashed: as the operations grow."""
    axes = list(dict.fromkeys(record["axis"] for record in records))
    figure = Figure(figsize=(3.2 * len(axes), 3.4), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        mine = [record for record in records if record["axis"] == axis]
        values = [record["value"] for record in mine]
        for index, order in enumerate(ORDERS):
            times = np.array([record[f"{order}_ms"] for record in mine])
            operations = np.array([record[f"{order}_operations"] for record in mine])
            panel.loglog(values, times, marker="o", color=f"C{index}", label=order)
            panel.loglog(values, times[-1] * operations / operations[-1], "--", color=f"C{index}")
        panel.set_xticks(values, [f"{value:,}" for value in values], fontsize="small")
        panel.minorticks_off()
        panel.set(xlabel=axis)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ms a meta-gradient (dashed: operations)")
    panels[0].legend()
    figure.savefig(path, dpi=130)


def run(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Measures, prints the tables, writes the records and the figure; returns the records."""
    console = wide_console()
    console.print(devices())
    results: dict[str, list[dict]] = {"rows": [], "exponents": []}
    for axis, ladder in ladders(args).items():
        records = measure(axis, ladder, args.seconds)
        costs = [f"{order}_{cost}" for cost in ("ms", "temporary_mb") for order in ORDERS]
        title = f"{args.workload}, {WORKLOADS[args.workload].title}: {axis}"
        console.print(plain_table(title, records, ["value", *costs]))
        results["rows"] += records
        results["exponents"] += exponents(axis, records)
    console.print(exponent_table(results["exponents"]))
    write(results, args.out)
    draw(results["rows"], args.out.with_suffix(".png"))
    console.print(f"written: {args.out}, {args.out.with_suffix('.png')}")
    return results


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    classifiers = [name for name, workload in WORKLOADS.items() if not workload.regression]
    out.add_argument("--workload", choices=classifiers, default="W2", help="whose network")
    out.add_argument("--tasks", type=int, nargs="+", default=[4, 8, 16, 32])
    out.add_argument("--ways", type=int, nargs="+", default=[5, 10, 20, 40])
    out.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="inner steps")
    out.add_argument(
        "--widths", type=int, nargs="+", help="filters or hidden units; default: the network's"
    )
    out.add_argument("--shots", type=int, default=1, help="support items a class")
    out.add_argument("--queries", type=int, default=5, help="query items a class")
    out.add_argument("--seconds", type=float, default=60.0, help="of running, an axis")
    out.add_argument("--out", type=Path, default=Path("runs/scaling.json"))
    return out


def main() -> None:
    arguments = parser()
    args = arguments.parse_args()
    for name in ("tasks", "ways", "steps", "widths"):
        ladder = getattr(args, name)
        if ladder and (len(set(ladder)) < 2 or min(ladder) < 1):
            arguments.error(f"--{name} needs two or more different values, each 1 or more")
    run(args)


if __name__ == "__main__":
    main()
