"""Programs of fitted tasks, run where the library is not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax import export
from learners import LEARNERS, Row, episode

import metajax as mj

pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")

# Learners whose programs differ, and of those that compare one of each kind of reading.
DEFAULT = ("maml",)
BESIDE = (
    "proto_maml",
    "prototypical",
    "anil",
    "meta_sgd",
    "reptile",
    "matching_full_context",
    "linear_probe",
)
BESIDE += ("ridge_head", "mahalanobis_head", "nearest_class_mean", "relation")
# Runs a program on arrays, in a process that cannot import the library.
ALONE = """
import pathlib, sys
sys.modules["metajax"] = None
import jax, numpy as np
folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz")
for path in folder.glob("*.bin"):
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    for name in inputs:
        np.save(folder / f"{path.stem}-{name}.npy", program.call(inputs[name]))
"""


def _row(name: str) -> Row:
    return next(row for row in LEARNERS if row.name == name)


def _fitted(row: Row) -> tuple[mj.Learner, Any, Any, jax.Array]:
    """A learner, parameters, a task, and queries for it."""
    learner, task = row.learner(), episode(jax.random.key(1))
    params = learner.init(jax.random.key(0), task.support.inputs)
    fitted = learner.adapt(params, task.support, jax.random.key(2))
    return learner, params, fitted, task.query.inputs


def _check_alone(names: tuple[str, ...], folder: Path) -> None:
    """Outputs of programs in a process with JAX alone are those of the learners."""
    queries = np.asarray(episode(jax.random.key(3)).query.inputs)
    asked = {"one": queries[:1], "more": queries[:3]}
    np.savez(folder / "inputs.npz", **asked)
    expected = {}
    for name in names:
        learner, params, task, inputs = _fitted(_row(name))
        program = mj.export_predict(learner, params, task, inputs)
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert (len(program.in_avals), len(program.out_avals)) == (1, 1)
        (folder / f"{name}.bin").write_bytes(program.serialize())
        expected[name] = {n: learner.predict(params, task, x) for n, x in asked.items()}
    subprocess.run([sys.executable, "-W", "error", "-c", ALONE, str(folder)], check=True)
    for name, outputs in expected.items():
        for n, outputs_of in outputs.items():
            got = np.load(folder / f"{name}-{n}.npy")
            np.testing.assert_allclose(got, outputs_of, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_fitted_task_is_run_by_jax_alone(tmp_path: Path) -> None:
    _check_alone(DEFAULT, tmp_path)


@pytest.mark.slow
def test_tasks_of_other_learners_are_run_by_jax_alone(tmp_path: Path) -> None:
    _check_alone(BESIDE, tmp_path)


@pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
def test_learners_parameters_and_tasks_have_names_in_programs(row: Row) -> None:
    """As arguments of a program, too, so that one serves many tasks."""
    if row.name == "reptile_carry":
        pytest.skip("its parameters hold a state of Optax, whose tuples are not the library's")
    learner, inputs = row.learner(), episode(jax.random.key(1)).support.inputs
    params = jax.eval_shape(learner.init, jax.random.key(0), inputs)
    support = jax.eval_shape(lambda: episode(jax.random.key(1)).support)
    key = jax.random.key(0)
    task = jax.eval_shape(lambda params, x: learner.adapt(params, x, key), params, support)
    program = export.export(jax.jit(lambda *given: given))(params, task)
    read = export.deserialize(bytearray(program.serialize()))
    assert read.out_tree == jax.tree.structure((params, task))


def test_a_pytree_s_arrays_are_arguments_of_their_own() -> None:
    model = mj.Model(
        lambda key, x: {"w": jnp.ones((4, 3))},
        lambda params, x: {"b": x["mask"] * (x["ids"] @ params["w"]), "a": x["ids"][:, 0]},
    )

    def loss(outputs: Any, targets: Any) -> jax.Array:
        return ((outputs["b"] - targets) ** 2).mean(-1)

    learner = mj.maml(model, inner=optax.sgd(0.1), num_steps=1, loss_fn=loss)
    ids = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    inputs = {"mask": np.ones((2, 1), np.float32), "ids": ids}
    support = mj.Examples(inputs, np.zeros((2, 3), np.float32))
    params = learner.init(jax.random.key(0), inputs)
    task = learner.adapt(params, support)
    program = mj.export_predict(learner, params, task, inputs)
    outputs = program.call(*jax.tree.leaves(inputs))
    expected = jax.tree.leaves(learner.predict(params, task, inputs))
    for got, want in zip(outputs, expected, strict=True):
        oracles.assert_close(got, want, 1e-6)


def test_models_of_one_number_of_items_are_told() -> None:
    def apply(params: Any, x: jax.Array) -> jax.Array:
        return jnp.stack([params["w"] * x[i].sum() for i in range(x.shape[0])])

    learner = mj.maml(
        mj.Model(lambda key: {"w": jnp.ones(3)}, apply), inner=optax.sgd(0.1), num_steps=1
    )
    inputs = np.ones((2, 4), np.float32)
    params = learner.init(jax.random.key(0), inputs)
    task = learner.adapt(params, mj.Examples(inputs, np.array([0, 1])))
    with pytest.raises(ValueError, match="takes 2 items, and cannot be exported for any number"):
        mj.export_predict(learner, params, task, inputs)
