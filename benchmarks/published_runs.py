"""Trains one job of `published.py`, tests its cells and writes what came out."""

import contextlib
import dataclasses
import fcntl
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
    if job.deadline is not None and time.time() > job.deadline:
        return "not begun: the time is over"
    runs.mkdir(parents=True, exist_ok=True)
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        # What was compiled before, here or in a run that is gone on with, is not compiled again.
        jax.config.update("jax_compilation_cache_dir", str((runs / "compiled").resolve()))
    began = time.monotonic()
    training = job.training
    built = mj.recipes.build(
        dataclasses.replace(job.recipes[0], training=training),
        backward=mj.Backward(unroll=not on_cpu),
    )
    sample = mj.recipes.sampler(training.data, training.drawing, data, pixels=training.pixels)
    example = jax.eval_shape(sample, jax.random.key(0)).support.inputs

    def begin(seed: jax.Array) -> mj.TrainState:
        params_key, run_key = jax.random.split(jax.random.key(seed))
        params = built.learner.init(params_key, jnp.zeros((1, *example.shape[1:]), example.dtype))
        return mj.init_state(params, built.optimizer, run_key)

    state = jax.jit(jax.vmap(begin))(jnp.arange(job.seeds))
    # Between two of them nobody looks at the clock.
    dispatch = max(1, min(50 if on_cpu else 1_000, training.iterations // 20))
    options = {"training": dataclasses.asdict(training), "seeds": job.seeds}
    with contextlib.ExitStack() as stack:
        part = Part(runs, job, command)
        stack.callback(part.leave)
        checkpoints = stack.enter_context(
            mj.Checkpoints(
                runs / job.name,
                options=options,
                every=dispatch * max(1, training.iterations // dispatch // _SAVES),
            )
        )
        state = checkpoints.restore(state)
        result = mj.TrainResult(state, "finished", [], 0.0, 0.0)
        if _steps(state).max() < training.iterations:
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
                on_dispatch=part.go_on,
            )
            part.end(result)
    steps = _steps(result.state)
    done = int(steps.max())
    if result.stopped == "non-finite" or done < _WORTH_A_TEST * training.iterations:
        return f"{result.stopped} at {done} of {training.iterations}, saved"
    # A seed whose loss was not finite stopped before the others.
    seeds = np.flatnonzero(steps == done)
    told = []
    for recipe in job.recipes:
        tests = {
            name: _tested(recipe, test, result.state, seeds, data)
            for name, test in tests_of(recipe, job.episodes).items()
        }
        record = {
            "cell": recipe.name,
            "jax": jax.__version__,
            "seeds": seeds.tolist(),
            "stopped_seeds": np.flatnonzero(steps < done).tolist(),
            "iterations": done,
            "of": recipe.training.iterations,
            "stopped": result.stopped,
            "parts": part.parts,
            "training": dataclasses.asdict(training),
            "tests": tests,
        }
        told.append(_in_short(recipe, tests))
        if is_more(record_of(results, recipe), record):
            told[-1] += ", not kept: there is a result of more iterations"
        else:
            write(record, results / f"{recipe.name}.json")
    return (
        f"{done} of {training.iterations} iterations ({time.monotonic() - began:.0f} s in all): "
        f"{'; '.join(told)}"
    )


class Part:
    """One part of a training that may be gone on with, and its turn on the device.

    One training at a time has the device; the others compile, and wait after one dispatch.

    Attributes:
      parts: what is written of this one and those before it.
    """

    def __init__(self, runs: Path, job: Job, command: str) -> None:
        self._path = runs / f"{job.name}.parts.json"
        self._lock = (runs / "device.lock").open("w")
        self._job = job
        self._held = False
        self.parts: list[dict[str, Any]] = []
        if self._path.exists():
            self.parts = json.loads(self._path.read_text(encoding="utf-8"))
        self._new = {
            "command": command,
            "commit": os.environ.get("METAJAX_COMMIT", "unknown"),
            "device": device_name(),
        }

    def go_on(self, state: mj.TrainState, record: dict[str, Any]) -> bool:
        """Called after every dispatch: whether the time is over."""
        del state
        tasks = self._job.training.meta_batch * self._job.seeds
        accuracies = record.get("accuracy") or []
        self._write(
            to=record["step"],
            seconds=round(record["seconds"], 2),
            ms_an_iteration=round(1000 * tasks / record["tasks_per_second"], 4),
            training_accuracy=[x if x is None else round(100 * x, 3) for x in accuracies],
        )
        if not self._held:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._held = True
        return self._job.deadline is not None and time.time() > self._job.deadline

    def end(self, result: mj.TrainResult) -> None:
        """Called when the part is over."""
        self._write(compile_seconds=round(result.compile_seconds, 2))

    def leave(self) -> None:
        """Lets the next have the device."""
        self._lock.close()

    def _write(self, **told: Any) -> None:
        if not self.parts or self.parts[-1] is not self._new:
            self.parts.append(self._new)
        self._new |= told
        write(self.parts, self._path)


def _tested(
    recipe: Recipe, test: Testing, state: mj.TrainState, seeds: np.ndarray, data: str
) -> dict[str, Any]:
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
        "mean": [round(unit * float(x), 4) for x in scores.mean(name)[seeds]],
        "interval": [round(unit * float(x), 4) for x in scores.interval(name)[seeds]],
        "seconds": round(time.monotonic() - began, 2),
    }
    return out | _regression(scores, seeds) if regression else out


def _regression(scores: mj.Evaluation, seeds: np.ndarray) -> dict[str, Any]:
    """Of each seed, before adaptation and after each step; a task that diverges is not in the mean.

    Trained for one step, a network takes some tasks astray in ten.
    """
    per_step = scores.scores["query_loss_per_step"][seeds]
    kept = [run[(run < _ASTRAY).all(axis=1)] for run in per_step]
    return {
        "mean": [round(float(run[:, -1].mean()), 4) for run in kept],
        "interval": [
            round(1.96 * float(run[:, -1].std(ddof=1)) / len(run) ** 0.5, 4) for run in kept
        ],
        "astray": [int(len(run) - len(left)) for run, left in zip(per_step, kept, strict=True)],
        "per_step": [np.round(run.mean(axis=0), 4).tolist() for run in kept],
        "median_per_step": np.round(np.median(_largest_is_inf(per_step), axis=1), 4).tolist(),
    }


def _largest_is_inf(losses: np.ndarray) -> np.ndarray:
    """NaN comes of a loss that overflowed."""
    return np.where(np.isnan(losses), np.inf, losses)


def _steps(state: mj.TrainState) -> np.ndarray:
    """Of each seed."""
    return np.asarray(state.step)


def _in_short(recipe: Recipe, tests: dict[str, Any]) -> str:
    shown = (f"{name} {np.mean(test['mean']):.2f}" for name, test in tests.items())
    return f"{recipe.name} {', '.join(shown)} (published {recipe.published})"


def device_name() -> str:
    kind = jax.devices()[0].device_kind
    return f"{os.cpu_count()} cores of {processor()}" if kind == "cpu" else kind


def finished(job: Job, results: Path) -> bool:
    """Whether all cells have a file of this training, done, and of these tests."""

    def is_done(recipe: Recipe) -> bool:
        record = record_of(results, recipe)
        if record is None or record["training"] != _as_json(dataclasses.asdict(job.training)):
            return False
        asked = tests_of(recipe, job.episodes)
        tested = {name: test["testing"] for name, test in record["tests"].items()}
        return (
            record["iterations"] >= job.training.iterations
            and len(record["seeds"]) + len(record["stopped_seeds"]) >= job.seeds
            and tested == {name: _as_json(dataclasses.asdict(test)) for name, test in asked.items()}
        )

    return all(map(is_done, job.recipes))


def is_more(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Whether the old record is of the same settings, and of more iterations over all seeds."""
    if old is None:
        return False

    def settings(record: dict[str, Any]) -> dict[str, Any]:
        training = _as_json(record["training"])
        del training["iterations"], training["outer"]["every"]
        return training

    iterations = [record["iterations"] * len(record["seeds"]) for record in (old, new)]
    return settings(old) == settings(new) and iterations[0] > iterations[1]


def seconds_known(job: Job, results: Path) -> float | None:
    """What training and tests are to take on this device, by the last time; None if nobody knows.

    What was trained before the job was stopped counts as well.
    """
    record = record_of(results, job.recipes[0])
    if record is None or record["parts"][-1]["device"] != device_name():
        return None
    part = record["parts"][-1]
    a_seed = part["ms_an_iteration"] / len(record["seeds"])
    tests = sum(test["seconds"] for test in record["tests"].values()) * len(job.recipes)
    training = a_seed * job.seeds * job.training.iterations / 1000
    return training + part.get("compile_seconds", 0.0) + tests


def record_of(results: Path, recipe: Recipe) -> dict[str, Any] | None:
    """What is written of a cell, if something is."""
    path = results / f"{recipe.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
