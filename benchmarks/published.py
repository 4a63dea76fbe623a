"""The published tables, made again from the recipes: one command for all cells.

    python benchmarks/published.py --cells "maml-omniglot-*" --minutes 30 --resume
    python benchmarks/published.py --report

Cells that differ in their tests alone share a training. Every cell is written to a JSON file when
it is done; a training is saved on the way and with `--resume` goes on from there, on another
machine too. With `--minutes` those are begun that fit, by what others took on this device, and the
one in progress is saved when the time is over. On an accelerator the next trainings are compiled
while one has the device. `--report` makes the page from the files.

Each cell is tested by its published protocol and, with the same parameters, strictly: 15 queries a
class, each judged by the support set alone. Data comes from METAJAX_DATA_DIR.

Cells are asked for by patterns of their names: "maml-omniglot-20w1s", with a tenth of the recipe's
iterations "relation-*@0.1", with three seeds "prototypical-*@1x3"; those that are trained on the
split of Vinyals et al. in place of a random one are called "maml-vinyals-omniglot-5w1s".
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from published_cells import FIRST, Job, asked, jobs_of
from published_page import write_page
from published_runs import finished, run_job, seconds_known
from records import wide_console
from rich.console import Console

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"


def run(args: argparse.Namespace) -> None:
    console = wide_console()
    if args.report:
        write_page(args.results, ROOT.parent / "docs")
        console.print("docs/published.md is made")
        return
    jobs = [
        dataclasses.replace(job, deadline=args.deadline)
        for job in jobs_of(asked(args.cells), episodes=args.episodes)
        if not finished(job, args.results)
    ]
    chosen = fitting(jobs, args.minutes, args.results, console)
    began = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=1 + args.ahead,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,  # A process leaves the device's memory to the next.
    ) as pool:
        waiting = {
            pool.submit(run_job, job, args.results, args.runs, args.data, command=args.command): job
            for job in chosen
        }
        failed = 0
        try:
            for done in concurrent.futures.as_completed(waiting):
                error = done.exception()
                failed += error is not None
                told = f"failed: {error!r}" if error else done.result()
                console.print(f"{time.monotonic() - began:6.0f} s  {waiting[done].name}: {told}")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Those in progress are saved, no other begins.
            raise
    if failed:
        raise SystemExit(f"{failed} of {len(chosen)} trainings failed")


def fitting(
    jobs: Sequence[Job], minutes: float | None, results: Path, console: Console
) -> list[Job]:
    """Those that fit the time, in order, by what is known of this device; others are tried."""
    if minutes is None:
        return list(jobs)
    left, out = 60 * minutes, []
    for job in jobs:
        seconds = seconds_known(job, results)
        if seconds is not None and seconds > left and out:
            console.print(f"{job.name} would take {seconds:.0f} s: left for another time")
            continue
        left -= seconds or 0.0
        out.append(job)
    return out


def told_command(script: str, words: Sequence[str]) -> str:
    """The command that makes the same numbers: without the folders of this machine."""
    folders = ("--results", "--runs", "--out")
    told, skipped = [], False
    for word in words:
        if not skipped and word.split("=")[0] not in folders:
            told.append(word)
        skipped = not skipped and word in folders
    return shlex.join(["python", f"benchmarks/{script}", *told])


def commit_here() -> str:
    """The commit of the code, with `+` where it was changed since."""
    if told := os.environ.get("METAJAX_COMMIT"):
        return told
    here = ["git", "-C", str(ROOT)]
    hashed = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True)
    if hashed.returncode:
        return "unknown"
    changed = subprocess.run(
        [*here, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return hashed.stdout.strip()[:9] + ("+" if changed.stdout.strip() else "")


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--cells", nargs="+", default=FIRST, help="as above; default: Omniglot's")
    out.add_argument("--minutes", type=float, help="begin what fits, and stop then")
    out.add_argument("--resume", action="store_true", help="go on with what was begun")
    out.add_argument("--episodes", type=int, help="of each test; default: the recipe's")
    out.add_argument("--ahead", type=int, help="compiled beside one training; default 2 or 0")
    out.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    out.add_argument("--runs", type=Path, default=Path("runs/published"), help="of checkpoints")
    out.add_argument("--report", action="store_true", help="make the page of all results")
    return out


def main(given: Sequence[str] | None = None) -> None:
    # Several processes share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    args = parser().parse_args(given)
    args.deadline = None if args.minutes is None else time.time() + 60 * args.minutes
    args.data = os.environ.get("METAJAX_DATA_DIR", "data")
    os.environ["METAJAX_COMMIT"] = commit_here()
    words = sys.argv[1:] if given is None else given
    args.command = told_command("published.py", words)
    if args.ahead is None:
        args.ahead = 0 if jax.default_backend() == "cpu" else 2
    if args.runs.exists() and not args.resume and not args.report:
        raise SystemExit(f"{args.runs} holds runs; pass --resume to go on, or another --runs")
    run(args)


if __name__ == "__main__":
    main()
