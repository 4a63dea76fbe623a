"""Trains one job of `published.py`, tests its cells and writes what came out."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from published_cells import Job, tests_of
from records import processor, write

import metajax as mj
from metajax.recipes import Recipe, Testing

# Of a training whose time was over so much is worth a test.
_WORTH_A_TEST = 0.25
_SAVES = 10
# The mean squared error of a task that has diverged; before adaptation it is at most about 30.
_ASTRAY = 100.0


def run_job(job: Job, results: Path, runs: Path, data: str, *, command: str) -> str:
    """Trains, tests and writes a file a cell; returns what to tell of it.

    A training that was stopped is saved in `runs`, and goes on from there the next time.
    """
    runs.mkdir(parents=True, exist_ok=True)
    if jax.default_backend() != "cpu":
        # What was compiled before, here or in a run that is gone on with, is not compiled again.
        jax.config.update("jax_compilation_cache_dir", str((runs / "compiled").resolve()))
    began = time.monotonic()
    training = job.training
    built = mj.recipes.build(
        dataclasses.replace(job.recipes[0], training=training),
        backward=mj.Backward(unroll=jax.default_backend() != "cpu"),
    )
    sample = mj.recipes.sampler(training.data, training.drawing, data, pixels=training.pixels)
    example = jax.eval_shape(sample, jax.random.key(0)).support.inputs

    def begin(seed: jax.Array) -> mj.TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        params = built.learner.init(params_key, jnp.zeros((1, *example.shape[1:]), example.dtype))
        return mj.init_state(params, built.optimizer, run_key)

    state = jax.jit(jax.vmap(begin))(jnp.arange(job.seeds))
    dispatch = max(1, min(1_000, training.iterations // 20))
    options = {"training": dataclasses.asdict(training), "seeds": job.seeds}
    with contextlib.ExitStack() as stack:
        device = _Device(runs / "device.lock", job.deadline)
        stack.callback(device.leave)
        checkpoints = stack.enter_context(
            mj.Checkpoints(
                runs / job.name,
                options=options,
                every=dispatch * max(1, training.iterations // dispatch // _SAVES),
            )
        )
        state = checkpoints.restore(state)
        result = mj.TrainResult(state, "finished", [], 0.0, 0.0)
        if _step(state) < training.iterations:
            result = mj.train(
                built.learner,
                built.optimizer,
                state,
                sample,
                iterations=training.iterations,
                meta_batch=training.meta_batch,
                dispatch=dispatch,
                checkpoints=checkpoints,
                metrics_file=runs / f"{job.name}.jsonl",
                progress=False,
                on_dispatch=device.go_on,
            )
    done = _step(result.state)
    of_training = _of_training(runs / f"{job.name}.jsonl", result, training.meta_batch * job.seeds)
    if done < _WORTH_A_TEST * training.iterations:
        return f"{result.stopped} at {done} of {training.iterations}, saved"
    told = []
    for recipe in job.recipes:
        tests = {
            name: _tested(recipe, test, result.state, data)
            for name, test in tests_of(recipe, job.episodes).items()
        }
        record = {
            "cell": recipe.name,
            "command": command,
            "commit": os.environ.get("METAJAX_COMMIT", "unknown"),
            "device": device_name(),
            "jax": jax.__version__,
            "seeds": list(range(job.seeds)),
            "iterations": done,
            "of": recipe.training.iterations,
            "stopped": result.stopped,
            **of_training,
            "training": dataclasses.asdict(training),
            "tests": tests,
        }
        write(record, results / f"{recipe.name}.json")
        told.append(_in_short(recipe, tests))
    return (
        f"{done} of {training.iterations} iterations in {of_training['seconds']:.0f} s "
        f"({time.monotonic() - began:.0f} s in all): {'; '.join(told)}"
    )


class _Device:
    """One training at a time has the device; the others compile, and wait after one dispatch."""

    def __init__(self, lock: Path, deadline: float | None) -> None:
        self._file = lock.open("w")
        self._deadline = deadline
        self._held = False

    def go_on(self, state: mj.TrainState, record: dict[str, Any]) -> bool:
        """Called after every dispatch: whether the time is over."""
        del state, record
        if not self._held:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._held = True
        return self._deadline is not None and time.time() > self._deadline

    def leave(self) -> None:
        self._file.close()


def _tested(recipe: Recipe, test: Testing, state: mj.TrainState, data: str) -> dict[str, Any]:
    """Accuracy in %, or the mean squared error, of each seed, with the intervals over episodes."""
    began = time.monotonic()
    regression = recipe.training.data == "sinusoids"
    built = mj.recipes.build(dataclasses.replace(recipe, testing=test), record_steps=regression)
    sample = mj.recipes.sampler(
        recipe.training.data, test.drawing, data, pixels=recipe.training.pixels
    )
    scores = mj.evaluate(built.tester, state, sample, episodes=test.episodes)
    name, unit = ("query_loss", 1) if regression else ("accuracy", 100)
    out = {
        "testing": dataclasses.asdict(test),
        "mean": [round(unit * float(x), 4) for x in scores.mean(name)],
        "interval": [round(unit * float(x), 4) for x in scores.interval(name)],
        "seconds": round(time.monotonic() - began, 2),
    }
    return out | _regression(scores) if regression else out


def _regression(scores: mj.Evaluation) -> dict[str, Any]:
    """Of each seed, before adaptation and after each step; a task that diverges is not in the mean.

    Trained for one step, a network takes some tasks astray in ten.
    """
    per_step = scores.scores["query_loss_per_step"]
    kept = [run[(run < _ASTRAY).all(axis=1)] for run in per_step]
    return {
        "mean": [round(float(run[:, -1].mean()), 4) for run in kept],
        "interval": [
            round(1.96 * float(run[:, -1].std(ddof=1)) / len(run) ** 0.5, 4) for run in kept
        ],
        "astray": [int(len(run) - len(left)) for run, left in zip(per_step, kept, strict=True)],
        "per_step": [np.round(run.mean(axis=0), 4).tolist() for run in kept],
        "median_per_step": np.round(np.median(per_step, axis=1), 4).tolist(),
    }


def _step(state: mj.TrainState) -> int:
    return int(np.asarray(state.step).max())


def _of_training(metrics: Path, result: mj.TrainResult, tasks: int) -> dict[str, Any]:
    """Seconds over all parts of a run, time an iteration, and the last accuracy, by its records."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    records = [json.loads(line) for line in lines]
    # Seconds begin anew where a run was gone on with.
    told = [*(record["seconds"] for record in records), 0.0]
    rates = [record["tasks_per_second"] for record in records]
    accuracies = records[-1].get("accuracy") if records else None
    return {
        "seconds": round(sum(a for a, b in itertools.pairwise(told) if b < a), 2),
        "compile_seconds": round(result.compile_seconds, 2),
        "ms_an_iteration": round(1000 * tasks / float(np.median(rates)), 4) if rates else None,
        "training_accuracy": accuracies and [round(100 * float(x), 3) for x in accuracies],
    }


def _in_short(recipe: Recipe, tests: dict[str, Any]) -> str:
    shown = (f"{name} {np.mean(test['mean']):.2f}" for name, test in tests.items())
    return f"{recipe.name} {', '.join(shown)} (published {recipe.published})"


def device_name() -> str:
    kind = jax.devices()[0].device_kind
    return f"{os.cpu_count()} cores of {processor()}" if kind == "cpu" else kind


def finished(job: Job, results: Path) -> bool:
    """Whether all cells have a file of this training, done."""
    return all(
        record is not None
        and record["iterations"] >= job.training.iterations
        and len(record["seeds"]) >= job.seeds
        and record["training"] == _as_json(dataclasses.asdict(job.training))
        for record in (_record(results, recipe) for recipe in job.recipes)
    )


def seconds_known(job: Job, results: Path) -> float | None:
    """What the training is to take on this device, by the last time; None where nobody knows."""
    record = _record(results, job.recipes[0])
    if record is None or record["device"] != device_name() or not record["ms_an_iteration"]:
        return None
    a_seed = record["ms_an_iteration"] / len(record["seeds"])
    return a_seed * job.seeds * job.training.iterations / 1000 + record["compile_seconds"]


def _record(results: Path, recipe: Recipe) -> dict[str, Any] | None:
    path = results / f"{recipe.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
