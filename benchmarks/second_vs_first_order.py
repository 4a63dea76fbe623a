"""What exact second order costs against first order: time, compile time and temporary memory.

The same weights and episodes for both, for several networks and numbers of inner steps, beside the
arithmetic floor: the ratio of the operations that the two must do, counted where nothing is
computed twice. `--frontier` measures every way to compute the exact derivative (`Backward`) and
task chunks besides, `--long` the memory of long inner loops. Runs are interleaved, so that noise of
the machine falls on all; times are medians. Run it on a quiet machine.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from meta_gradients import compile_meta_gradient, interleaved_medians
from records import devices, plain_table, wide_console, write
from rich.table import Table
from workloads import WORKLOADS, Workload

import metajax as mj

WAYS = {
    "plain": mj.Backward(),
    "unrolled": mj.Backward(unroll=True),
    "steps": mj.Backward(checkpoint="steps"),
    "nested": mj.Backward(checkpoint="nested"),
    "mixed": mj.Backward(mixed=True),
    "mixed, steps": mj.Backward(mixed=True, checkpoint="steps"),
    "mixed, nested": mj.Backward(mixed=True, checkpoint="nested"),
}

# What the comparison shows beside first order: the default, the fastest, the leanest.
EXACT = {"exact": WAYS["plain"], "unrolled": WAYS["unrolled"], "lean": WAYS["steps"]}


def compare(name: str, workload: Workload, num_steps: int, seconds: float) -> dict:
    """Exact, in three ways, and first order of one workload, as a record."""
    programs = {
        order: compile_meta_gradient(workload, num_steps, backward=backward)
        for order, backward in EXACT.items()
    }
    programs["first"] = compile_meta_gradient(workload, num_steps, first_order=True)
    times = interleaved_medians(programs, seconds)
    record = {"workload": name, "tasks": workload.tasks, "steps": num_steps}
    for order, program in programs.items():
        record[f"{order}_ms"] = 1e3 * times[order]
        record[f"{order}_temporary_mb"] = program.temporary_bytes / 1e6
        record[f"{order}_compile_s"] = program.compile_seconds
    # By default nothing is computed twice, so the exact program's count is the least there is.
    record["floor"] = programs["exact"].operations / programs["first"].operations
    return record


def frontier(name: str, workload: Workload, num_steps: int, seconds: float) -> list[dict]:
    """Time and memory of every way to compute the exact derivative, for chunks of tasks."""
    programs = {}
    for chunk_size in sorted({1, workload.tasks}):
        chunked = workload._replace(chunk_size=chunk_size)
        programs["first order", chunk_size] = compile_meta_gradient(
            chunked, num_steps, first_order=True
        )
        for way, backward in WAYS.items():
            programs[way, chunk_size] = compile_meta_gradient(chunked, num_steps, backward=backward)
    times = interleaved_medians(programs, seconds)
    return [
        {
            "workload": name,
            "steps": num_steps,
            "way": way,
            "chunk_size": chunk_size,
            "ms": 1e3 * times[way, chunk_size],
            "temporary_mb": program.temporary_bytes / 1e6,
            "compile_s": program.compile_seconds,
        }
        for (way, chunk_size), program in programs.items()
    ]


def long_loops(name: str, workload: Workload, counts: list[int]) -> list[dict]:
    """Temporary memory of many inner steps, one task; nothing is run."""
    one = workload._replace(tasks=1, chunk_size=1)
    return [
        {
            "workload": name,
            "way": way,
            "steps": steps,
            "temporary_mb": compile_meta_gradient(one, steps, backward=WAYS[way]).temporary_bytes
            / 1e6,
        }
        for way in WAYS
        if not WAYS[way].unroll  # That would be a thousand steps to compile.
        for steps in counts
    ]


def compare_tables(title: str, records: list[dict]) -> tuple[Table, Table]:
    """Times and their ratios to first order's; temporary memory, its ratio, and compile times."""
    orders = (*EXACT, "first")
    time = Table(
        "steps",
        *(f"{order} ms" for order in orders),
        *("exact / first", "unrolled / first", "floor"),
        title=title,
    )
    memory = Table(
        "steps",
        *(f"{order} MB" for order in orders),
        *("exact / first", "lean / first", "compile s"),
        title=title,
    )
    for record in records:
        exact, unrolled, lean, first = (record[f"{order}_ms"] for order in orders)
        times = exact, unrolled, lean, first, exact / first, unrolled / first, record["floor"]
        exact, unrolled, lean, first = (record[f"{order}_temporary_mb"] for order in orders)
        sizes = exact, unrolled, lean, first, exact / first, lean / first
        seconds = " / ".join(f"{record[f'{order}_compile_s']:.1f}" for order in orders)
        time.add_row(str(record["steps"]), *(f"{value:.2f}" for value in times))
        memory.add_row(str(record["steps"]), *(f"{value:.2f}" for value in sizes), seconds)
    return time, memory


def draw(records: list[dict], path: Path) -> None:
    """Exact over first-order time, and its floor, by inner steps."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(record["workload"] for record in records)):
        mine = [record for record in records if record["workload"] == name]
        steps = [record["steps"] for record in mine]
        ratios = [record["exact_ms"] / record["first_ms"] for record in mine]
        axes.plot(steps, ratios, marker="o", color=f"C{index}", label=name)
        axes.plot(steps, [record["floor"] for record in mine], "--", color=f"C{index}")
    axes.set(
        xlabel="inner steps", ylabel="exact over first-order time (dashed: floor)", ylim=(1, None)
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def run(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Measures, prints the tables, writes the records and the figure; returns the records."""
    console = wide_console()
    console.print(devices())
    results: dict[str, list[dict]] = {"orders": [], "frontier": [], "long": []}
    for name in args.workloads:
        workload = WORKLOADS[name]
        tasks = min(workload.tasks, args.tasks or workload.tasks)
        workload = workload._replace(tasks=tasks)
        title = f"{name}, {workload.title}, {tasks} tasks of {workload.support} + {workload.query}"
        records = [compare(name, workload, steps, args.seconds) for steps in args.steps]
        console.print(*compare_tables(title, records), sep="\n")
        results["orders"] += records
        if args.frontier:
            records = frontier(name, workload, args.frontier, args.seconds)
            columns = ["way", "chunk_size", "ms", "temporary_mb", "compile_s"]
            console.print(plain_table(f"{title}, {args.frontier} steps", records, columns))
            results["frontier"] += records
        if args.long:
            records = long_loops(name, workload, args.long)
            console.print(plain_table(title, records, ["way", "steps", "temporary_mb"]))
            results["long"] += records
    write(results, args.out)
    draw(results["orders"], args.out.with_suffix(".png"))
    return results


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1", "W2"])
    out.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10], help="inner steps")
    out.add_argument("--tasks", type=int, help="at most so many; default: the workload's")
    out.add_argument("--frontier", type=int, metavar="STEPS", help="measure every `Backward` too")
    out.add_argument("--long", type=int, nargs="+", metavar="STEPS", help="memory of long loops")
    out.add_argument("--seconds", type=float, default=10.0, help="of running, a row or table")
    out.add_argument("--out", type=Path, default=Path("runs/second_vs_first_order.json"))
    return out


if __name__ == "__main__":
    run(parser().parse_args())
