"""A training run that is killed again and again ends bit for bit as the one that never was.

A process meta-trains and saves a checkpoint after every dispatch. It is killed with SIGKILL after a
random time, while importing, compiling, training or writing, at the latest when it has done its
share of the iterations, and started again; after the last kill it runs to its end. Every array of
the final checkpoint is then compared with that of a run that was left alone: parameters, optimiser
state, step and key. `--processes 2` does the same to a run of two processes of two devices each,
both killed at once.
"""

import argparse
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import plain_table, wide_console, write
from two_processes import add_worker_arguments, free_address

import metajax as mj

DISPATCH = 20
OPTIMIZER = optax.adam(1e-3)


def start() -> tuple[mj.Learner, mj.TrainState]:
    """Sinusoid regression with the paper's network, and its first state."""
    model = mj.models.mlp((40, 40, 1))
    learner = mj.maml(model, inner=optax.sgd(0.01), num_steps=1, loss_fn=mj.squared_error)
    params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
    return learner, mj.init_state(params, OPTIMIZER, jax.random.key(1))


def work(args: argparse.Namespace) -> None:
    """The process that is killed: goes on from the newest checkpoint to the last iteration."""
    if args.processes > 1:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 2)
        mj.parallel.start_processes(args.coordinator, args.processes, args.process)
    learner, state = start()
    mesh = mj.parallel.task_mesh()
    with mj.Checkpoints(args.worker, options={"algorithm": "maml"}, every=DISPATCH) as checkpoints:
        mj.train(
            learner,
            OPTIMIZER,
            checkpoints.restore(mj.parallel.place_state(state, mesh)),
            mj.data.sinusoid_episodes(shots=10, queries=10),
            iterations=args.iterations,
            meta_batch=24,
            dispatch=DISPATCH,
            mesh=mesh,
            checkpoints=checkpoints,
            progress=False,
        )


def newest(folder: Path) -> int:
    """The step of the newest checkpoint that is complete; 0 where there is none."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return max(steps, default=0)


def unfinished(folder: Path) -> set[tuple[str, int]]:
    """What cut-off writes have left in a folder."""
    rest = folder.glob("*.orbax-checkpoint-tmp*")
    return {(path.name, path.stat().st_ino) for path in rest}


def start_run(args: argparse.Namespace, folder: Path) -> list[subprocess.Popen]:
    """The training's processes, which go on from the newest checkpoint in the folder."""
    command = [sys.executable, __file__, "--worker", str(folder)]
    command += ["--iterations", str(args.iterations), "--processes", str(args.processes)]
    command += ["--coordinator", free_address(), "--process"]
    return [
        subprocess.Popen(
            [*command, str(process)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A process that is killed could leave half a program in a cache of compiled ones.
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        )
        for process in range(args.processes)
    ]


def live(args: argparse.Namespace, folder: Path, seconds: float | None, last: int = 0) -> dict:
    """One life of the training: to its end, or killed after so many seconds, or at a step."""
    before, leftovers = newest(folder), unfinished(folder)
    started, first = time.monotonic(), None
    workers = start_run(args, folder)
    try:
        while any(worker.poll() is None for worker in workers):
            lived = time.monotonic() - started
            if first is None and newest(folder) > before:
                first = lived
            if seconds is not None and (lived >= seconds or newest(folder) >= last):
                break
            time.sleep(0.01)
    finally:
        for worker in workers:
            worker.kill()
    said = [worker.communicate()[1] for worker in workers]
    if seconds is None and any(worker.returncode for worker in workers):
        raise RuntimeError(f"the training failed: {said[0]}")
    return {
        "seconds": time.monotonic() - started,
        "to first checkpoint": first,
        "from step": before,
        "newest checkpoint": newest(folder),
        "cut-off writes": len(unfinished(folder) - leftovers),
        "warnings": sum("RuntimeWarning" in text for text in said),
    }


def moments(args: argparse.Namespace, span: float) -> list[float]:
    """When to kill, in seconds: spread over the span, in any order."""
    generator = random.Random(args.seed)
    order = generator.sample(range(args.kills), args.kills)
    return [0.1 + (place + generator.random()) / args.kills * span for place in order]


def run(args: argparse.Namespace) -> bool:
    """Kills, compares, prints the tables; returns whether the two runs ended alike."""
    console = wide_console()
    args.out.mkdir(parents=True)
    whole, killed = args.out / "whole", args.out / "killed"
    alone = live(args, whole, None)
    steps = f"{args.iterations} iterations, a checkpoint every {DISPATCH}"
    console.print(f"left alone: {steps}, {alone['seconds']:.1f} s")
    lives: list[dict] = []
    for number, seconds in enumerate(moments(args, 2 * alone["to first checkpoint"])):
        # About half of the lives end before they have written anything.
        last = args.iterations * (number + 1) // (args.kills + 1)
        lives.append({"kill": number + 1, **live(args, killed, seconds, last)})
        if newest(killed) >= args.iterations:
            raise SystemExit(f"the run ended before kill {number + 1}; pass more --iterations")
    lives.append({"kill": "none", **live(args, killed, None)})
    console.print(plain_table("lives of the run that is killed", lives, list(lives[0])))
    like = start()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Neither of the last checkpoints may be damaged.
        states = [
            jax.device_get(_plain(mj.restore_state(folder, like))) for folder in (whole, killed)
        ]
    pairs = list(zip(*map(jax.tree.leaves, states), strict=True))
    alike = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    entries = sum(np.size(a) for a, _ in pairs)
    trained = sum(life["newest checkpoint"] > life["from step"] for life in lives[:-1])
    writing = sum(life["cut-off writes"] > 0 for life in lives[:-1])
    console.print(
        f"killed {args.kills} times ({trained} of them after a checkpoint or more, {writing} while "
        f"one was written): the final states, step {int(states[1].step)}, "
        f"{'are equal bit for bit' if alike else 'DIFFER'} ({len(pairs)} arrays, {entries} numbers)"
    )
    write({"lives": lives, "alike": alike}, args.out / "survival.json")
    return alike


def _plain(state: mj.TrainState) -> mj.TrainState:
    return state._replace(key=jax.random.key_data(state.key))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--kills", type=int, default=20)
    out.add_argument("--iterations", type=int, default=20_000)
    out.add_argument("--processes", type=int, default=1, help="of the run")
    out.add_argument("--seed", type=int, default=0, help="of the moments")
    folder = Path("runs") / f"survival_{time.strftime('%Y%m%d-%H%M%S')}"
    out.add_argument("--out", type=Path, default=folder, help="a new folder")
    out.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    add_worker_arguments(out)
    return out


def main() -> None:
    args = parser().parse_args()
    if args.worker is not None:
        work(args)
    elif not run(args):
        sys.exit(1)


if __name__ == "__main__":
    main()
