"""What all learners share at their doors: arrays, documentation, what they show of themselves."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import LEARNERS, Row, episode

import metajax as mj
from metajax.checked_learners import make_learner

KEY = jax.random.key(7)
MODEL = mj.models.mlp((3,))
INNER = {"inner": optax.sgd(0.1), "num_steps": 2}


def test_an_algorithm_is_given_jax_arrays_alone() -> None:
    given: list = []

    def seen(result: Callable[..., object]) -> Any:
        return lambda *args: given.append(jax.tree.leaves(args)) or result(*args)

    learner = make_learner(
        seen(lambda *_: {"w": jnp.ones(2)}),
        seen(lambda *_: (0, None)),
        seen(lambda *_: {}),
        seen(lambda params, task, inputs: inputs),
        title="a test",
    )
    task = jax.tree.map(np.asarray, episode(KEY))
    learner.init(KEY, task.support.inputs)
    learner.loss({"w": np.ones(2), "b": 1.0}, task, KEY)
    learner.adapt({"w": np.ones(2)}, task.support)
    learner.predict({"w": np.ones(2)}, {"reading": np.ones(3)}, task.query.inputs)
    counts = [len([x for x in leaves if isinstance(x, jax.Array)]) for leaves in given]
    # `adapt` is traced for the checks of values, then compiled; `init` for those of `predict`.
    assert counts == [2, 2 + 4 + 1, 1 + 2, 1 + 2, 2, 1 + 1 + 1]
    others = [x for leaves in given for x in leaves if not isinstance(x, jax.Array)]
    assert others == [True, False, False]  # Whether models are in training mode.


def test_a_prediction_is_one_an_item() -> None:
    def predict(params: object, task: object, inputs: jax.Array) -> jax.Array:
        return inputs.sum()

    def other(*_: object) -> Any:
        return None

    learner = make_learner(other, other, other, predict, title="a test")
    for inputs in (jnp.ones((3, 2)), jnp.ones((4, 2))):
        with pytest.raises(ValueError, match=r"outputs have shape \(\); expected \[items, ...\]"):
            learner.predict({}, {}, inputs)


def test_the_loss_of_a_learner_is_a_scalar() -> None:
    def loss(*_: object) -> tuple[jax.Array, None]:
        return jnp.zeros(3), None

    learner = make_learner(loss, loss, loss, loss, title="a test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the meta-loss has shape \(3,\); expected a scalar"):
        learner.loss({}, episode(KEY))


@pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
def test_the_functions_of_a_learner_are_documented(row: Row) -> None:
    learner = row.learner()
    for function in learner[:4]:
        text = inspect.getdoc(function) or ""
        assert "params: the meta-parameters" in text or "random key" in text


@pytest.mark.parametrize(
    ("learner", "shown"),
    [
        (mj.maml(MODEL, **INNER), "maml(num_steps=2, inner=..., exact)"),
        (mj.maml(MODEL, **INNER, first_order=True), "maml(num_steps=2, inner=..., first order)"),
        (mj.fomaml(MODEL, **INNER), "maml(num_steps=2, inner=..., first order)"),
        (
            mj.maml(MODEL, **INNER, backward=mj.Backward(last_steps=1)),
            "maml(num_steps=2, inner=..., exact through the last 1)",
        ),
        (
            mj.maml(MODEL, **INNER, adapt="*/bias"),
            "maml(num_steps=2, inner=..., exact, adapt='*/bias')",
        ),
        (
            mj.meta_sgd(MODEL, num_steps=1, adapt="*/bias"),
            "meta_sgd(num_steps=1, exact, adapt='*/bias', granularity='parameter', per_step=False)",
        ),
        (mj.reptile(MODEL, **INNER), "reptile(num_steps=2, inner=..., batch_size=None)"),
        (mj.proto_maml(MODEL, **INNER), "proto_maml(num_steps=2, inner=..., exact, ways=None)"),
        (
            mj.matching_network(MODEL, full_context=mj.models.full_context(3), ways=5),
            "matching_network(ways=5, query_batching='separate', full_context=...)",
        ),
        (
            mj.prototypical_network(MODEL, query_batching="single"),
            "prototypical_network(ways=None, query_batching='single')",
        ),
        (
            mj.relation_network(MODEL, MODEL),
            "relation_network(ways=None, query_batching='separate')",
        ),
    ],
)
def test_a_learner_says_what_it_is(learner: mj.Learner, shown: str) -> None:
    assert repr(learner) == shown


def test_results_print_no_arrays() -> None:
    sample = mj.data.sinusoid_episodes(shots=5, queries=5)
    learner = mj.maml(
        mj.models.mlp((4, 1)),
        inner=optax.sgd(0.01),
        num_steps=3,
        loss_fn=mj.squared_error,
        record_steps=True,
    )
    optimizer = optax.sgd(0.01)
    state = mj.init_state(learner.init(KEY, jnp.zeros((1, 1))), optimizer, KEY)
    result = mj.train(
        learner, optimizer, state, sample, iterations=2, meta_batch=1, dispatch=2, progress=False
    )
    last = result.history[-1]
    assert repr(result).startswith("TrainResult, finished: step 2, seconds ")
    assert f"loss {last['loss']:.6g}" in repr(result)
    scores = mj.evaluate(learner, result.state.params, sample, episodes=4, seed=3)
    mean, interval = scores.mean("query_loss"), scores.interval("query_loss")
    first, *_, end = scores.mean("query_loss_per_step")
    lines = repr(scores).splitlines()
    assert lines[0] == "Evaluation of 4 episodes, seed 3:"
    assert lines[1] == f"  query_loss {mean:.4f} ± {interval:.4f}"
    assert lines[2].startswith(f"  query_loss_per_step {first:.4f} ± ")
    assert f" ... {end:.4f} ± " in lines[2]
    assert "rray" not in repr(result) + repr(scores)


SLIPS = """
import metajax

def slips(learner: metajax.Learner, params: dict, episode: metajax.Episode) -> None:
    learner.loss(params)
    learner.adapt(params, episode)
    learner.predict(params, episode.query.inputs)
    learner.loss(params, episode)[1].output
    learner.init(episode.support.inputs)
    learner.loss(params, episode, key=None)
"""


@pytest.mark.slow
def test_a_type_checker_finds_slips(tmp_path: Path) -> None:
    page = tmp_path / "slips.py"
    page.write_text(SLIPS)
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(page)],
        capture_output=True,
        text=True,
        cwd=Path(mj.__file__).parent.parent,
    )
    wrong = {int(line.split(":")[1]) for line in found.stdout.splitlines() if " - error" in line}
    assert wrong == {5, 6, 7, 8, 9}, found.stdout
