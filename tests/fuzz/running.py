"""Calls of what trains, evaluates and saves."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj
from metajax import parallel

NUMBER_OR_NONE = k.number().without("None", "nan")
DEVICES = k.Kind("devices", lambda: {"3": 3, "a text": "cpu", "numbers": [0, 1], "none": []})


def _train() -> dict[str, Any]:
    return {
        "learner": things.learner(),
        "optimizer": things.OUTER,
        "state": things.state(),
        "sample": things.sample,
        "iterations": 1,
        "meta_batch": 1,
        "progress": False,
    }


def _another_optimisers() -> dict[str, Any]:
    return {"another than the state's": optax.sgd(0.1, momentum=0.9)}


def _checkpoints(method: str) -> Any:
    def call(**given: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = mj.Checkpoints(Path(folder) / "run", options={})
            with contextlib.closing(checkpoints):
                getattr(checkpoints, method)(**given)

    return call


def _restore(**given: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        with mj.Checkpoints(folder, options={}) as checkpoints:
            checkpoints.save(things.state())
        return mj.restore_state(**{"folder": folder, **given})


def _start(**given: Any) -> None:
    """Joins no processes: only what is checked before is looked at."""
    nothing = mock.Mock()
    with (
        mock.patch.object(jax.distributed, "initialize", nothing),
        mock.patch.object(jax.config, "update", nothing),
    ):
        parallel.start_processes(**given)


def _step_of_run(**given: Any) -> Any:
    return things.step()(**given)


CALLS = (
    Call(
        "metajax.train",
        lambda **given: mj.train(**given).state,
        _train,
        {
            "learner": k.LEARNER,
            "optimizer": k.OPTIMIZER.also(_another_optimisers),
            "state": k.STATE,
            "sample": k.SAMPLE,
            "iterations": k.integer(1),
            "meta_batch": k.integer(1),
            "chunk_size": k.optional_integer(1),
            "dispatch": k.integer(1),
            "mesh": k.MESH.without("None"),
            "non_finite": k.choice("STOP"),
            "checkpoints": k.Kind(
                "checkpoints",
                lambda: {"a text": "runs/maml", "a path": Path("runs"), "True": True, "7": 7},
            ),
            "validate": k.OPTIONAL_FUNCTION,
            "validate_every": k.optional_integer(1),
            "metrics_file": k.OPTIONAL_PATH,
            "progress": k.FLAG,
            "on_dispatch": k.OPTIONAL_FUNCTION,
        },
        slow=True,
    ),
    Call(
        "metajax.evaluate",
        mj.evaluate,
        lambda: {
            "learner": things.learner(),
            "params": things.params(),
            "sample": things.sample,
            "episodes": 2,
        },
        {
            "learner": k.LEARNER,
            "params": k.PARAMS,
            "sample": k.SAMPLE,
            "episodes": k.optional_integer(2),
            "seed": k.integer(0),
            "chunk_size": k.optional_integer(1),
            "training": k.FLAG,
        },
        slow=True,
    ),
    Call(
        "metajax.diagnose",
        mj.diagnose,
        lambda: {
            "learner": things.learner(),
            "params": things.params(),
            "sample": things.sample,
            "episodes": 2,
        },
        {
            "learner": k.LEARNER,
            "params": k.PARAMS,
            "sample": k.SAMPLE,
            "episodes": k.integer(2),
            "seed": k.integer(0),
        },
        late=True,
    ),
    Call(
        "metajax.init_state",
        mj.init_state,
        lambda: {"params": things.params(), "optimizer": things.OUTER, "key": things.KEY},
        {
            # Whose they are it cannot know, and a model may have none.
            "params": k.PARAMS.without(
                "None", "another model's", "an empty dictionary", "the whole variables"
            ),
            "optimizer": k.OPTIMIZER,
            "key": k.KEY,
        },
    ),
    Call(
        "metajax.train_step",
        mj.train_step,
        lambda: {"learner": things.learner(), "optimizer": things.OUTER},
        {
            "learner": k.LEARNER,
            "optimizer": k.OPTIMIZER,
            "chunk_size": k.optional_integer(1),
            "task_transform": k.OPTIONAL_OPTIMIZER,
            "task_weight": k.OPTIONAL_FUNCTION,
            "axis_name": k.TEXT.without("None"),
        },
    ),
    Call(
        "a step",
        _step_of_run,
        lambda: {"state": things.state(), "episodes": things.episodes()},
        {"state": k.STATE, "episodes": k.EPISODES},
        slow=True,
    ),
    Call(
        "metajax.meta_gradient",
        mj.meta_gradient,
        lambda: {
            "loss": things.learner().loss,
            "params": things.params(),
            "episodes": things.episodes(),
            "keys": jax.random.split(things.KEY, 4),
        },
        {
            "loss": k.FUNCTION,
            "params": k.PARAMS,
            "episodes": k.EPISODES,
            "keys": k.KEYS,
            "chunk_size": k.optional_integer(1),
            "task_transform": k.OPTIONAL_OPTIMIZER,
            "task_weights": k.OPTIONAL_ARRAY.also(lambda: {"too few": jnp.ones(3), "one": 1.0}),
            "axis_name": k.TEXT.without("None"),
        },
        late=True,
    ),
    Call(
        "metajax.task_keys",
        mj.task_keys,
        lambda: {"key": things.KEY, "tasks": 2},
        {
            "key": k.KEY,
            "tasks": k.integer(0),
            # An array of integers it may be, a device's index say.
            "first": k.integer(0).without("an array", "one that overflows"),
        },
    ),
    Call(
        "metajax.Checkpoints",
        mj.Checkpoints,
        lambda: {"folder": "runs", "options": {}},
        {
            "folder": k.PATH,
            "options": k.MAPPING.also(lambda: {"what JSON has not": {"rate": jnp.ones(())}}),
            "every": k.integer(1),
            "keep": k.integer(1),
            "best": k.integer(0),
            "mode": k.choice("MAX"),
        },
    ),
    Call(
        "metajax.Checkpoints.restore",
        _checkpoints("restore"),
        lambda: {"like": things.state()},
        {"like": k.STATE},
    ),
    Call(
        "metajax.Checkpoints.begin",
        _checkpoints("begin"),
        lambda: {"state": things.state()},
        {"state": k.STATE},
        slow=True,
    ),
    Call(
        "metajax.Checkpoints.save",
        _checkpoints("save"),
        lambda: {"state": things.state()},
        {
            "state": k.STATE,
            "score": NUMBER_OR_NONE,
            "position": k.Kind("JSON", lambda: {"an array": jnp.ones(2), "a set": {1}}),
        },
        slow=True,
    ),
    Call(
        "metajax.Checkpoints.due",
        _checkpoints("due"),
        lambda: {"step": 500},
        {"step": k.integer(0)},
    ),
    Call(
        "metajax.restore_state",
        _restore,
        lambda: {"like": things.state()},
        {
            "folder": k.PATH.also(lambda: {"nothing there": "no/such/folder"}),
            "like": k.STATE,
            "which": k.choice("NEWEST").also(lambda: {"1.5": 1.5, "no such step": 77}),
            "options": k.OPTIONAL_MAPPING,
        },
        late=True,
    ),
    *[
        Call(
            f"metajax.Evaluation.{method}",
            lambda method=method, **given: getattr(things.evaluation(), method)(**given),
            lambda: {"name": "accuracy"},
            {"name": k.choice("ACCURACY")},
        )
        for method in ("mean", "interval", "over_runs")
    ],
    Call(
        "metajax.parallel.mesh_step",
        parallel.mesh_step,
        lambda: {"step": things.step(), "mesh": things.mesh()},
        {"step": k.FUNCTION, "mesh": k.MESH},
    ),
    Call(
        "metajax.parallel.pmap_step",
        parallel.pmap_step,
        lambda: {"step": things.step()},
        {"step": k.FUNCTION, "axis_name": k.TEXT, "devices": DEVICES},
    ),
    Call(
        "metajax.parallel.place_episodes",
        parallel.place_episodes,
        lambda: {"episodes": things.episodes(), "mesh": things.mesh()},
        {"episodes": k.EPISODES, "mesh": k.MESH},
        slow=True,
    ),
    Call(
        "metajax.parallel.place_state",
        parallel.place_state,
        lambda: {"state": things.state(), "mesh": things.mesh()},
        {"state": k.STATE, "mesh": k.MESH},
    ),
    Call(
        "metajax.parallel.state_shardings",
        parallel.state_shardings,
        lambda: {"state": things.state(), "mesh": things.mesh()},
        {
            # It takes the shapes of a state alone, too.
            "state": k.STATE.without("no key", "an integer for its key", "half a step"),
            "mesh": k.MESH,
        },
    ),
    Call(
        "metajax.parallel.process_tasks",
        parallel.process_tasks,
        lambda: {"tasks": 4, "mesh": things.mesh()},
        {"tasks": k.integer(1), "mesh": k.MESH},
    ),
    Call(
        "metajax.parallel.task_mesh",
        parallel.task_mesh,
        dict,
        {"devices": DEVICES, "model": k.integer(1)},
    ),
    Call(
        "metajax.parallel.start_processes",
        _start,
        lambda: {"coordinator": "node1:12345", "processes": 2, "process": 0},
        {
            "coordinator": k.TEXT.also(lambda: {"no port": "node1"}),
            "processes": k.integer(1),
            "process": k.integer(0),
            "timeout": k.integer(1),
            "heartbeat": k.integer(1),
        },
    ),
)
