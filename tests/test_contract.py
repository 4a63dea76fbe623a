"""What every learner of the library must do: each row of `learners.LEARNERS` goes through it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import LEARNERS, SIDE, WAYS, Row, episode

import metajax as mj

each = pytest.mark.parametrize("row", LEARNERS, ids=lambda row: row.name)
KEY = jax.random.key(7)
OPTIMIZER = optax.sgd(1e-2)  # Adam would blow up the rounding of gradients that are zero.


class _Subject(NamedTuple):
    """A learner, and the programs of it that several tests run."""

    learner: mj.Learner
    params: dict
    value_and_grad: Callable
    step: Callable
    traces: list[mj.TrainState]


@functools.cache
def _start(row: Row) -> _Subject:
    learner = row.make()
    with jax.enable_x64(False):
        params = jax.jit(learner.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    step, traces = mj.train_step(learner, OPTIMIZER), []

    def counted(state: mj.TrainState, episodes: mj.Episode) -> tuple[mj.TrainState, dict]:
        traces.append(state)
        return step(state, episodes)

    value_and_grad = jax.value_and_grad(learner.loss, has_aux=True)
    return _Subject(learner, params, jax.jit(value_and_grad), jax.jit(counted), traces)


@functools.cache
def _episode() -> mj.Episode:
    with jax.enable_x64(False):
        return jax.jit(episode)(KEY)


@functools.cache
def _batch(tasks: int) -> mj.Episode:
    with jax.enable_x64(False):
        return jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), tasks))


@each
def test_loss_is_a_finite_scalar_with_outputs_and_query_loss(row: Row) -> None:
    start = _start(row)
    (value, aux), _ = start.value_and_grad(start.params, _episode(), KEY)
    assert value.shape == ()
    assert jnp.isfinite(value)
    queries = len(_episode().query.targets)
    assert aux.outputs.shape[0] == queries
    assert jnp.isfinite(aux.outputs[:, :WAYS]).all()
    # A learner that was not told the number of ways has room for more of them.
    assert (aux.outputs[:, WAYS:] == -jnp.inf).all()
    assert {"query_loss", "accuracy"} <= set(aux.metrics)
    np.testing.assert_allclose(
        aux.metrics["accuracy"],
        mj.accuracy(aux.outputs, _episode().query.targets),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        aux.metrics["query_loss"],
        row.loss_fn(aux.outputs, _episode().query.targets),
        rtol=1e-6,
    )


@each
def test_loss_is_pure_and_needs_no_key(row: Row) -> None:
    start = _start(row)
    first = start.learner.loss(start.params, _episode())
    second = jax.jit(start.learner.loss)(start.params, _episode())
    chex.assert_trees_all_close(first, second, rtol=1e-5, atol=1e-6)


@each
def test_gradient_is_finite_and_reaches_every_parameter(row: Row) -> None:
    start = _start(row)
    _, gradient = start.value_and_grad(start.params, _episode(), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, start.params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


@each
def test_adapt_and_predict_reproduce_the_outputs_of_loss(row: Row) -> None:
    learner, params, value_and_grad, *_ = _start(row)
    support, query = _episode()
    task = learner.adapt(params, support, KEY)
    outputs = learner.predict(params, task, query.inputs)
    expected = value_and_grad(params, _episode(), KEY)[0][1].outputs
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.exact
@each
def test_a_task_is_arrays_that_can_be_saved(row: Row) -> None:
    learner, params, *_ = _start(row)
    support, query = _episode()
    task = learner.adapt(params, support, KEY)
    empty = jax.tree.map(jnp.zeros_like, task)
    copied = flax.serialization.from_bytes(empty, flax.serialization.to_bytes(task))
    chex.assert_trees_all_equal(copied, task)
    # Saving computes nothing; a prediction may round otherwise from NumPy's arrays.
    np.testing.assert_allclose(
        learner.predict(params, copied, query.inputs),
        learner.predict(params, task, query.inputs),
        rtol=1e-5,
        atol=1e-6,
    )


@each
@pytest.mark.usefixtures("float64")
def test_chunked_looped_and_vmapped_gradients_agree(row: Row) -> None:
    learner, params, value_and_grad, *_ = _start(row)
    params, episodes = _cast((params, _batch(4)))
    keys = mj.task_keys(KEY, 4)
    ways = {
        size: jax.jit(functools.partial(mj.meta_gradient, learner.loss, chunk_size=size))(
            params, episodes, keys
        )
        for size in (4, 1, 2)
    }
    single = [
        value_and_grad(params, jax.tree.map(lambda x, task=task: x[task], episodes), keys[task])
        for task in range(4)
    ]
    looped = jax.tree.map(
        lambda *leaves: np.mean(leaves, axis=0), *(gradient for _, gradient in single)
    )
    for gradient, (loss, metrics) in ways.values():
        chex.assert_trees_all_close(gradient, looped, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(loss, np.mean([value for (value, _), _ in single]), rtol=1e-12)
        accuracies = [aux.metrics["accuracy"] for (_, aux), _ in single]
        np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-12)


@each
@pytest.mark.usefixtures("float64")
def test_steps_over_devices_equal_the_step_on_one(row: Row) -> None:
    start = _start(row)
    params, episodes = _cast((start.params, _batch(8)))
    state = mj.init_state(params, OPTIMIZER, KEY)
    expected, expected_metrics = start.step(state, episodes)

    devices = jax.devices()[:4]
    step = mj.train_step(start.learner, OPTIMIZER, axis_name="tasks")
    for over_devices in (
        mj.parallel.pmap_step(step, devices=devices),
        mj.parallel.mesh_step(step, mj.parallel.task_mesh(devices)),
    ):
        after, metrics = over_devices(state, episodes)
        for leaf, wanted in zip(
            jax.tree.leaves(after.params), jax.tree.leaves(expected.params), strict=True
        ):
            assert len(leaf.addressable_shards) == 4
            for shard in leaf.addressable_shards:
                np.testing.assert_allclose(shard.data, wanted, rtol=1e-10, atol=1e-12)
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-12)


@each
def test_step_in_a_scan_learns(row: Row) -> None:
    learner, params, *_ = _start(row)
    rate = 0.5 if row.name.startswith("reptile") else 0.1
    optimizer = optax.sgd(rate)
    step = mj.train_step(learner, optimizer)

    @jax.jit
    def run(state: mj.TrainState, batch: mj.Episode) -> tuple[mj.TrainState, dict]:
        return jax.lax.scan(lambda state, _: step(state, batch), state, length=30)

    state, metrics = run(mj.init_state(params, optimizer, KEY), _batch(4))
    assert int(state.step) == 30
    assert metrics["query_loss"][-1] < 0.8 * metrics["query_loss"][0]


@each
@pytest.mark.usefixtures("float64")
def test_step_is_traced_once(row: Row) -> None:
    start = _start(row)
    params, episodes = _cast((start.params, _batch(8)))
    state = mj.init_state(params, OPTIMIZER, KEY)
    for _ in range(3):
        state, _ = start.step(state, episodes)
    assert len(start.traces) == 1


@each
@pytest.mark.usefixtures("float64")
def test_padding_changes_nothing(row: Row) -> None:
    start = _start(row)
    params, plain = _cast((start.params, _episode()))

    def padded(examples: mj.Examples, rows: int) -> mj.Examples:
        inputs, targets, _ = examples
        # Not a number, labels of no class, and in between the items that count.
        junk = np.full((rows, *inputs.shape[1:]), np.nan)
        return mj.Examples(
            np.concatenate([inputs[:2], junk, inputs[2:]]),
            np.concatenate([targets[:2], np.full(rows, 99, targets.dtype), targets[2:]]),
            np.concatenate([np.ones(2), np.zeros(rows), np.ones(len(inputs) - 2)]),
        )

    both = mj.Episode(padded(plain.support, 3), padded(plain.query, 2))
    (value, aux), gradient = start.value_and_grad(params, plain)
    (padded_value, padded_aux), padded_gradient = start.value_and_grad(params, both)
    np.testing.assert_allclose(padded_value, value, rtol=1e-12)
    chex.assert_trees_all_close(padded_gradient, gradient, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(padded_aux.metrics, aux.metrics, rtol=1e-12)


def _cast(tree: object) -> object:
    """`tree` in NumPy's float64."""
    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        lambda x: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x, arrays
    )
