"""A training run of any length takes the memory of its beginning: what a dispatch, a save cost.

A tiny sinusoid learner trains in dispatches of one meta-step, in a process of its own for every
way: alone, scored after every dispatch in ten, saved after every one in ten, and both. After each
tenth of the run the process says how much memory is resident, after a collection of garbage.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import plain_table, processor, wide_console, write

import metajax as mj

WAYS = ("alone", "scored", "saved", "scored and saved")
EVERY = 10
OPTIMIZER = optax.adam(1e-3)
LEARNER = mj.maml(
    mj.models.mlp((8, 1)), inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error
)
SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)


def resident() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def score(state: mj.TrainState) -> np.ndarray:
    return mj.evaluate(LEARNER, state, SAMPLE, episodes=4).mean("query_loss")


def work(args: argparse.Namespace) -> None:
    """Trains in one way, and prints a JSON line for each tenth of the run."""
    params = LEARNER.init(jax.random.key(0), jnp.zeros((1, 1)))
    state = mj.init_state(params, OPTIMIZER, jax.random.key(1))

    def tell(state: mj.TrainState, record: dict) -> None:
        del state
        if record["step"] % (args.dispatches // 10):
            return
        gc.collect()
        told = {
            "way": args.worker,
            "dispatches": record["step"],
            "MB": resident(),
            "objects": len(gc.get_objects()),
            "threads": threading.active_count(),
            "open files": len(os.listdir("/proc/self/fd")),
        }
        print(json.dumps(told), flush=True)

    scored, saved = "scored" in args.worker, "saved" in args.worker
    with (
        tempfile.TemporaryDirectory() as folder,
        mj.Checkpoints(folder, options={}, every=EVERY) as checkpoints,
    ):
        mj.train(
            LEARNER,
            OPTIMIZER,
            state,
            SAMPLE,
            iterations=args.dispatches,
            meta_batch=2,
            dispatch=1,
            validate=score if scored else None,
            validate_every=EVERY if scored else None,
            checkpoints=checkpoints if saved else None,
            metrics_file=Path(folder) / "metrics.jsonl",
            on_dispatch=tell,
            progress=False,
        )


def run(args: argparse.Namespace) -> list[dict]:
    """Runs every way, prints the table, returns what was told."""
    console = wide_console()
    console.print(f"{processor()}, {os.cpu_count()} cores, JAX {jax.__version__}")
    told = []
    for way in args.ways:
        command = [sys.executable, __file__, "--worker", way, "--dispatches", str(args.dispatches)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        told += records
        console.print(plain_table(way, records, list(records[0])[1:]))
        # The last 1,000 records are kept, and compilers and allocators settle.
        late = records[len(records) // 2 - 1 :]
        steps, sizes = ([record[name] for record in late] for name in ("dispatches", "MB"))
        slope = 1e3 * np.polyfit(steps, sizes, 1)[0]
        console.print(f"{way}, second half: {slope:.3f} kB a dispatch")
    write(told, args.out)
    return told


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--dispatches", type=int, default=10_000, help="a multiple of ten")
    out.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    out.add_argument("--out", type=Path, default=Path("runs/flat_memory.json"))
    out.add_argument("--worker", help=argparse.SUPPRESS)
    return out


def main() -> None:
    args = parser().parse_args()
    if args.worker is not None:
        work(args)
    else:
        run(args)


if __name__ == "__main__":
    main()
