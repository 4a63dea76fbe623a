"""Whole training runs, sampling and Adam included: tasks a second, beside loops in PyTorch.

Two runs: the sinusoids of Finn et al. (2017), and 5-way 1-shot episodes of the glyphs that come
with metajax, each with one inner step, the exact gradient and Adam at 1e-3. metajax trains by
`metajax.train`, whose sampler runs on the device; the PyTorch loops draw on the host, as the
papers' code does. Each has the machine to itself, one after another. "start" is compiling, or
PyTorch's first iteration; imports are not counted.

Both sides start from the same weights. That it is the same training shows before anything is timed:
each PyTorch loop does ten iterations in double precision, and metajax the same on the same tasks;
"difference" is the largest of their losses', relative. The runs themselves draw tasks of their own,
so their final losses agree as two seeds' do. On the sinusoids seeds differ much: after 70,000
iterations, 0.35 to 0.66 over eight.

The PyTorch side needs an environment: `bash benchmarks/peers/install.sh FOLDER`, then `--peers
FOLDER/bin/python`. Without it metajax is measured alone. Run it on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from meta_gradients import make_learner
from peers.jax_names import from_tree
from peers.protocol import Case, Training, interpreter
from records import devices, plain_table, wide_console, write
from workloads import WORKLOADS, Workload, arrays

import metajax as mj
from metajax.keys import episode_keys

SCRIPT = Path(__file__).parent / "peers" / "torch_training.py"
WINDOWS = 20  # Records of a run; the final loss is the mean of the last two, a tenth of it.
CHECKED = 10
STEPS = 1
OUTER_RATE = 1e-3


class Run(NamedTuple):
    """A training run: the workload whose network and numbers it has, and who runs it in PyTorch."""

    workload: str
    iterations: int
    peers: tuple[str, ...]


RUNS = {
    "sinusoid": Run("W1", 10_000, ("learn2learn", "torch.func compiled")),
    "glyphs": Run("W2", 200, ("learn2learn",)),
}


class Contest:
    """One run, for metajax and then for PyTorch.

    Args:
      name: of the run, for its records.
      workload: its network and numbers.
      iterations: a multiple of `WINDOWS`.
      seed: of the tasks.
    """

    def __init__(self, name: str, workload: Workload, iterations: int, seed: int) -> None:
        self.name, self.workload, self.iterations, self.seed = name, workload, iterations, seed
        self.images = None if workload.regression else mj.data.glyphs("train")
        self.ways = workload.widths[-1]
        self.shots, self.queries = workload.support // self.ways, workload.query // self.ways
        self.learner = make_learner(workload, STEPS)
        self.optimizer = optax.adam(OUTER_RATE)
        params = self.learner.init(jax.random.key(0), jnp.zeros((1, *workload.item)))
        self.state = mj.init_state(params, self.optimizer, jax.random.key(seed))

    def metajax(self) -> dict:
        """By `metajax.train`; the sampling is timed by itself, in a loop that does nothing else."""
        shots, queries = self.shots, self.queries
        sample: Callable[[jax.Array], mj.Episode]
        if self.images is None:
            sample = mj.data.sinusoid_episodes(shots=shots, queries=queries)
        else:
            sample = mj.data.image_episodes(
                self.images, ways=self.ways, shots=shots, queries=queries
            )
        window = self.iterations // WINDOWS
        started = time.perf_counter()
        result = mj.train(
            *(self.learner, self.optimizer, self.state, sample),
            iterations=self.iterations,
            meta_batch=self.workload.tasks,
            chunk_size=self.workload.chunk_size,
            dispatch=window,
        )
        whole = time.perf_counter() - started
        if result.stopped != "finished":
            raise SystemExit(f"{self.name}: {result.stopped} at step {int(result.state.step)}")
        sampling = sampling_seconds(sample, self.state, self.workload.tasks, window)
        history = [
            {"step": record["step"], "seconds": record["seconds"] + result.compile_seconds}
            | {"loss": record["loss"]}
            for record in result.history
        ]
        steady = result.run_seconds / self.iterations
        return self._record("metajax", history, whole, result.compile_seconds, steady, sampling)

    def torch(self, python: Path, contender: str) -> dict:
        """By a loop in PyTorch, in a process of its own."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            difference = self._difference(python, contender, folder)
            found = self._run_torch(
                *(python, contender, folder, self.iterations, self.iterations // WINDOWS),
                check=False,
            )
        history, first = found["history"], found["first_s"]
        whole = history[-1]["seconds"]
        steady = (whole - first) / (self.iterations - 1)
        sampling = found["sampling_s"] / self.iterations
        return self._record(contender, history, whole, first, steady, sampling, difference)

    def _run_torch(
        self,
        python: Path,
        contender: str,
        folder: Path,
        iterations: int,
        window: int,
        *,
        check: bool,
    ) -> dict:
        """The worker's result; with `check` in double precision, the tasks in the folder."""
        workload = self.workload
        weights = from_tree(self.state.params)
        data = {name: weights[name] for name in arrays(workload) if "/" in name}
        if self.images is not None:
            data["images"] = self.images
        np.savez(folder / "data.npz", allow_pickle=False, **data)
        case = Case(
            *(str(folder / "data.npz"), workload.network, workload.regression, workload.inner_rate),
            *(STEPS, False, workload.chunk_size, "float64" if check else "float32"),
        )
        training = Training(
            *(case, self.ways, self.shots, self.queries, workload.tasks, OUTER_RATE),
            *(iterations, window, self.seed, check),
        )
        plan, result = folder / "plan.json", folder / "result.json"
        plan.write_text(json.dumps(training._asdict() | {"case": case._asdict()}))
        # Compiling is to be timed, not the reading of an earlier run's result.
        compiled = folder / ("compiled64" if check else "compiled32")
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(compiled)}
        command = [str(python), str(SCRIPT), contender, str(plan), str(result)]
        subprocess.run(command, check=True, env=environment)
        return json.loads(result.read_text())

    def _difference(self, python: Path, contender: str, folder: Path) -> float:
        """Largest relative difference of losses, PyTorch's to metajax's on the same tasks."""
        found = self._run_torch(python, contender, folder, CHECKED, 1, check=True)
        theirs = np.array([record["loss"] for record in found["history"]])
        with np.load(folder / "result.npz") as file:
            drawn = dict(file)
        if self.images is not None:  # PyTorch's have the channels before height and width.
            drawn |= {name: np.moveaxis(drawn[name], -3, -1) for name in ("xs", "xq")}
        with jax.enable_x64(True):
            params, drawn = jax.tree.map(
                lambda x: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else None),
                (self.state.params, drawn),
            )
            episodes = mj.Episode(
                *(mj.Examples(drawn[f"x{name}"], drawn[f"y{name}"]) for name in "sq")
            )
            step = mj.train_step(self.learner, self.optimizer, chunk_size=self.workload.chunk_size)
            state = mj.init_state(params, self.optimizer, self.state.key)
            _, metrics = jax.jit(lambda *carry: jax.lax.scan(step, *carry))(state, episodes)
            return float(np.max(np.abs(np.asarray(metrics["loss"]) / theirs - 1)))

    def _record(
        self,
        contender: str,
        history: list[dict],
        whole: float,
        start: float,
        steady: float,
        sampling: float,
        difference: float | None = None,
    ) -> dict:
        """Seconds: of the whole run, of its start, of an iteration, of an iteration's sampling."""
        return {
            "run": self.name,
            "contender": contender,
            "iterations": self.iterations,
            "tasks": self.workload.tasks,
            "seconds": whole,
            "start_s": start,
            "tasks/s": self.workload.tasks / steady,
            "tasks/s with start": self.workload.tasks * self.iterations / whole,
            "sampling": sampling / steady,
            "loss": float(np.mean([record["loss"] for record in history[-WINDOWS // 10 :]])),
            "difference": difference,
            "history": history,
        }


def sampling_seconds(
    sample: Callable[[jax.Array], mj.Episode], state: mj.TrainState, tasks: int, iterations: int
) -> float:
    """Seconds to draw one iteration's episodes, in a compiled loop as `metajax.train` has it."""

    def draw(state: mj.TrainState) -> mj.Episode:
        return jax.vmap(sample)(episode_keys(state.key, state.step, tasks))

    @jax.jit
    def loop(state: mj.TrainState) -> mj.Episode:
        return jax.lax.fori_loop(
            1, iterations + 1, lambda step, _: draw(state._replace(step=step)), draw(state)
        )

    jax.block_until_ready(loop(state))
    started = time.perf_counter()
    jax.block_until_ready(loop(state))
    return (time.perf_counter() - started) / (iterations + 1)


def draw(records: list[dict], path: Path) -> None:
    """Training loss by seconds, what a start takes included; one panel a run."""
    names = list(dict.fromkeys(record["run"] for record in records))
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        for record in records:
            if record["run"] == name:
                seconds = [entry["seconds"] for entry in record["history"]]
                losses = [entry["loss"] for entry in record["history"]]
                panel.semilogx(seconds, losses, marker=".", label=record["contender"])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set(title=name, xlabel="seconds", ylabel="training loss", ylim=(0, None))
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def run(args: argparse.Namespace) -> list[dict]:
    """Trains, prints the tables, writes the records and the figure; returns the records."""
    console = wide_console()
    console.print(devices())
    results: list[dict] = []
    for name in args.runs:
        plan = RUNS[name]
        workload = WORKLOADS[plan.workload]
        workload = workload._replace(tasks=min(workload.tasks, args.tasks or workload.tasks))
        contest = Contest(name, workload, args.iterations or plan.iterations, args.seed)
        records = [contest.metajax()]
        chosen = [peer for peer in plan.peers if peer in args.contenders] if args.peers else []
        for contender in chosen:
            with console.status(f"{name}, {contender}"):
                records.append(contest.torch(args.peers, contender))
        columns = ["contender", "tasks/s", "tasks/s with start", "start_s", "seconds", "sampling"]
        title = f"{name}: {contest.iterations} iterations of {workload.tasks} tasks"
        console.print(plain_table(title, records, [*columns, "loss", "difference"]))
        results += records
    write(results, args.out)
    draw(results, args.out.with_suffix(".png"))
    console.print(f"written: {args.out}, {args.out.with_suffix('.png')}")
    return results


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    default = ", ".join(f"{plan.iterations} for {name}" for name, plan in RUNS.items())
    out.add_argument("--peers", type=interpreter, help="Python of the peers' environment")
    peers = sorted({peer for plan in RUNS.values() for peer in plan.peers})
    out.add_argument("--contenders", nargs="+", choices=peers, default=peers, help="of the peers")
    out.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    out.add_argument("--iterations", type=int, help=f"of every run; default: {default}")
    out.add_argument("--tasks", type=int, help="at most so many; default: the workload's")
    out.add_argument("--seed", type=int, default=0, help="of the tasks")
    out.add_argument("--out", type=Path, default=Path("runs/end_to_end.json"))
    return out


def main() -> None:
    arguments = parser()
    args = arguments.parse_args()
    if args.iterations is not None and (args.iterations < 1 or args.iterations % WINDOWS):
        arguments.error(f"--iterations {args.iterations}; expected a multiple of {WINDOWS}")
    run(args)


if __name__ == "__main__":
    main()
