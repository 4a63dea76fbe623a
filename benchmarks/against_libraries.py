"""Metajax against naive JAX and four PyTorch libraries: the same weights, the same episodes.

Every contender runs in a process of its own and computes the mean meta-gradient of MAML or FOMAML
over a batch of tasks. First all of them do so in double precision: one that is not metajax's to
1e-8, in the norm of every weight array, is shown and not timed. Then, in single precision, the
first call is timed by itself (tracing and compiling, where there is any), and after that they run
in turns, so that noise of the machine falls on all; the table has medians. Only one computes at a
time. For the exact gradient the arithmetic of the program is set against what a matrix product
reaches on the same machine. Run it on a quiet machine.

The PyTorch libraries need an environment: `bash benchmarks/peers/install.sh FOLDER`, then `--peers
FOLDER/bin/python`. Without it metajax and naive JAX run alone.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import library_report as report
import numpy as np
from operations import count_operations, matrix_product_rate
from peers import naive_jax
from peers.protocol import Arrays, Case, LeftOutError, Worker, interpreter
from records import wide_console, write
from rich.console import Console
from workloads import WORKLOADS, Workload, arrays

HERE = Path(__file__).parent / "peers"
LIBRARIES = ("learn2learn", "higher", "TorchOpt")
FORMS = ("torch.func loop", "torch.func vmap", "torch.func compiled")
TOLERANCE = 1e-8
PAUSE = 0.25  # Longer than the threads of the one before may spin for more work.
NAIVE = "naive JAX"


def disagreement(gradient: Arrays, reference: Arrays) -> float:
    """Largest error of a weight array, in its norm and relative to that of `reference`."""
    errors = [
        np.linalg.norm(gradient[name] - array) / np.linalg.norm(array)
        for name, array in reference.items()
    ]
    return float(np.max(errors))  # Unlike `max`, it does not pass over NaN.


class Contest:
    """The contenders on one workload after another.

    Args:
      args: see `parser`.
      folder: for the arrays that go between the processes.
      console: to say what is happening.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, console: Console) -> None:
        self.args, self.folder, self.console = args, folder, console
        memory = str(int(args.memory * 1e9))
        jax_script, torch_script = str(HERE / "jax_worker.py"), str(HERE / "torch_worker.py")
        commands = {
            "metajax": [sys.executable, jax_script, "metajax", memory],
            NAIVE: [sys.executable, jax_script, "naive", memory],
        }
        if args.peers:
            for name in (*LIBRARIES, *FORMS):
                commands[name] = [str(args.peers), torch_script, name, memory]
        chosen = args.contenders or list(commands)
        self.workers = {
            name: Worker(command, folder / f"{name.replace(' ', '_')}.log")
            for name, command in commands.items()
            if name == "metajax" or name in chosen
        }
        self.gave_up: dict[tuple[str, str, bool], str] = {}

    def close(self) -> None:
        """Ends every contender's process."""
        for worker in self.workers.values():
            worker.close()

    def row(self, key: str, workload: Workload, steps: int, first_order: bool) -> list[dict]:
        """One meta-gradient by all contenders, a record each."""
        case = Case(
            *(str(self.folder / f"{key}.npz"), workload.network, workload.regression),
            *(workload.inner_rate, steps, first_order, workload.chunk_size, "float64"),
        )
        try:
            reference = self._prepare("metajax", case)[1]
        except LeftOutError as reason:
            raise SystemExit(f"metajax itself failed on {key}: {reason}") from None
        records = {}
        for name in self.workers:
            if name == NAIVE and (first_order or f"{key}:{steps}" not in self.args.naive):
                continue
            record = {"workload": key, "steps": steps, "first_order": first_order}
            records[name] = record | {"contender": name} | self._check(name, key, case, reference)
        self._turns({name: record for name, record in records.items() if "note" not in record})
        return list(records.values())

    def _prepare(self, name: str, case: Case) -> tuple[float, Arrays]:
        out = self.folder / "gradient.npz"
        limit = self.args.compile_limit if name == FORMS[-1] else self.args.limit
        message = {"do": "prepare", "case": case._asdict(), "out": str(out)}
        with self.console.status(f"{name}, {case.precision}"):
            answer = self.workers[name].ask(message, limit)
        with np.load(out) as file:
            return answer["seconds"], dict(file)

    def _check(self, name: str, key: str, case: Case, reference: Arrays) -> dict:
        """Agreement in double precision; then the first call in single precision."""
        known = name, key, case.first_order
        if known in self.gave_up:
            return {"note": f"left out: with fewer steps it {self.gave_up[known]}"}
        try:
            error = disagreement(self._prepare(name, case)[1], reference)
            if not error < TOLERANCE:
                return {"error64": error, "note": "disagrees"}
            seconds, gradient = self._prepare(name, case._replace(precision="float32"))
        except LeftOutError as reason:
            if "took more than" in str(reason):
                self.gave_up[known] = str(reason)
            return {"note": str(reason)}
        single = disagreement(gradient, reference)
        return {"error64": error, "error32": single, "first_call_s": seconds}

    def _turns(self, records: dict[str, dict]) -> None:
        """Runs in turns and adds the times; whoever has used three times the seconds leaves."""
        times: dict[str, list[float]] = {name: [] for name in records}
        message = {"do": "run", "seconds": self.args.seconds / self.args.turns}
        for _ in range(self.args.turns):
            for name, spent in times.items():
                if "note" in records[name] or sum(spent) > 3 * self.args.seconds:
                    continue
                time.sleep(PAUSE)
                try:
                    spent += self.workers[name].ask(message, self.args.limit)["times"]
                except LeftOutError as reason:
                    records[name]["note"] = str(reason)
        for name, record in records.items():
            if "note" not in record:
                low, median, high = 1e3 * np.quantile(times[name], (0.25, 0.5, 0.75))
                record |= {"ms": median, "quartiles_ms": [low, high], "runs": len(times[name])}


def arithmetic(key: str, workload: Workload, data: Arrays, steps: int, seconds: float) -> dict:
    """The exact gradient's operations and their rate, beside a matrix product's.

    Counted on the plain algorithm (`naive_jax`: reverse over reverse, nothing computed twice), not
    on what metajax does for it.
    """
    weights = {name: array for name, array in data.items() if "/" in name}
    episodes = {name: array for name, array in data.items() if "/" not in name}
    plain = naive_jax.meta_gradient(workload.network, workload.inner_rate, steps, first_order=False)
    operations = count_operations(plain, weights, episodes)
    rate = matrix_product_rate()
    return {
        "workload": key,
        "steps": steps,
        "operations": operations,
        "gflops": operations / seconds / 1e9,
        "product_best_gflops": rate.best,
        "product_median_gflops": rate.median,
    }


def run(args: argparse.Namespace) -> dict:
    """Compares, prints tables, writes the records and the figure; returns the records."""
    console = wide_console()
    results: dict = {"cores": len(os.sched_getaffinity(0)), "rows": [], "arithmetic": []}
    with tempfile.TemporaryDirectory() as temporary:
        contest = Contest(args, Path(temporary), console)
        try:
            for key in args.workloads:
                workload = WORKLOADS[key]
                data = arrays(workload)
                np.savez(Path(temporary) / f"{key}.npz", allow_pickle=False, **data)
                for steps in args.steps or workload.steps:
                    rows = [
                        record
                        for first_order in (False, True)
                        for record in contest.row(key, workload, steps, first_order)
                    ]
                    results["rows"] += rows
                    console.print(report.table(workload, steps, rows))
                    ours = next(row for row in rows if row["contender"] == "metajax")
                    if key != "W1" and "ms" in ours:
                        results["arithmetic"].append(
                            arithmetic(key, workload, data, steps, ours["ms"] / 1e3)
                        )
        finally:
            contest.close()
    if results["arithmetic"]:
        console.print(report.arithmetic_table(results["arithmetic"]))
    write(results, args.out)
    report.figure(results["rows"], args.out.with_suffix(".png"))
    console.print(f"written: {args.out}, {args.out.with_suffix('.png')}")
    return results


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = ("metajax", NAIVE, *LIBRARIES, *FORMS)
    out.add_argument("--peers", type=interpreter, help="Python of the peers' environment")
    out.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    out.add_argument("--steps", type=int, nargs="+", help="inner steps; default: the workload's")
    out.add_argument("--contenders", nargs="+", choices=names, help="beside metajax; default: all")
    out.add_argument(
        "--naive",
        nargs="+",
        metavar="WORKLOAD:STEPS",
        default=["W2:1"],
        help="where naive JAX runs, exact only (a minute a run on W2)",
    )
    out.add_argument("--no-naive", dest="naive", action="store_const", const=[], help="nowhere")
    out.add_argument("--seconds", type=float, default=10.0, help="of running, a contender and row")
    out.add_argument("--turns", type=int, default=5, help="over which they are spread")
    out.add_argument("--limit", type=float, default=600.0, help="seconds for anything else")
    out.add_argument("--compile-limit", type=float, default=120.0, help="for torch.compile")
    out.add_argument("--memory", type=float, default=12.0, help="GB that a contender may allocate")
    out.add_argument("--out", type=Path, default=Path("runs/against_libraries.json"))
    return out


def main() -> None:
    arguments = parser()
    args = arguments.parse_args()
    if min(args.seconds, args.turns, args.memory, *(args.steps or [1])) <= 0:
        arguments.error("--seconds, --turns, --memory and --steps must be above 0")
    # Ended from outside, it still ends the contenders.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    run(args)


if __name__ == "__main__":
    main()
