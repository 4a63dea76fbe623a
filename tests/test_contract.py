"""What every learner of the library must do: each row of `learners.LEARNERS` goes through it."""

import functools
from collections.abc import Callable

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


def _start(row: Row) -> tuple[mj.Learner, dict]:
    learner = row.make()
    return learner, learner.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))


def _batch(tasks: int) -> mj.Episode:
    return jax.vmap(episode)(jax.random.split(jax.random.key(1), tasks))


@each
def test_loss_is_a_finite_scalar_with_outputs_and_query_loss(row: Row) -> None:
    learner, params = _start(row)
    value, aux = learner.loss(params, episode(KEY), KEY)
    assert value.shape == ()
    assert jnp.isfinite(value)
    queries = len(episode(KEY).query.targets)
    assert aux.outputs.shape[0] == queries
    assert jnp.isfinite(aux.outputs[:, :WAYS]).all()
    # A learner that was not told the number of ways has room for more of them.
    assert (aux.outputs[:, WAYS:] == -jnp.inf).all()
    assert {"query_loss", "accuracy"} <= set(aux.metrics)
    np.testing.assert_allclose(
        aux.metrics["accuracy"],
        mj.accuracy(aux.outputs, episode(KEY).query.targets),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        aux.metrics["query_loss"],
        row.loss_fn(aux.outputs, episode(KEY).query.targets),
        rtol=1e-6,
    )


@each
def test_loss_is_pure_and_needs_no_key(row: Row) -> None:
    learner, params = _start(row)
    first = learner.loss(params, episode(KEY))
    second = jax.jit(learner.loss)(params, episode(KEY))
    chex.assert_trees_all_close(first, second, rtol=1e-5, atol=1e-6)


@each
def test_gradient_is_finite_and_reaches_every_parameter(row: Row) -> None:
    learner, params = _start(row)
    gradient = jax.grad(learner.loss, has_aux=True)(params, episode(KEY))[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    for leaf in jax.tree.leaves(gradient):
        assert jnp.isfinite(leaf).all()
        assert jnp.abs(leaf).max() > 0


@each
def test_adapt_and_predict_reproduce_the_outputs_of_loss(row: Row) -> None:
    learner, params = _start(row)
    support, query = episode(KEY)
    task = learner.adapt(params, support, KEY)
    outputs = learner.predict(params, task, query.inputs)
    expected = learner.loss(params, episode(KEY), KEY)[1].outputs
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.exact
@each
def test_a_task_is_arrays_that_can_be_saved(row: Row) -> None:
    learner, params = _start(row)
    support, query = episode(KEY)
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
    learner, params = _start(row)
    params, episodes = _cast((params, _batch(4)))
    keys = mj.task_keys(KEY, 4)
    ways = {
        size: jax.jit(functools.partial(mj.meta_gradient, learner.loss, chunk_size=size))(
            params, episodes, keys
        )
        for size in (4, 1, 2)
    }
    one = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    single = [
        one(params, *jax.tree.map(lambda x, task=task: x[task], (episodes, keys)))
        for task in range(4)
    ]
    looped = jax.tree.map(lambda *leaves: sum(leaves) / 4, *(gradient for _, gradient in single))
    for gradient, (loss, metrics) in ways.values():
        chex.assert_trees_all_close(gradient, looped, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(loss, np.mean([value for (value, _), _ in single]), rtol=1e-12)
        accuracies = [aux.metrics["accuracy"] for (_, aux), _ in single]
        np.testing.assert_allclose(metrics["accuracy"], np.mean(accuracies), rtol=1e-12)


@each
@pytest.mark.usefixtures("float64")
def test_steps_over_devices_equal_the_step_on_one(row: Row) -> None:
    learner, params = _start(row)
    params, episodes = _cast((params, _batch(8)))
    optimizer = optax.sgd(1e-2)  # Adam would blow up the rounding of gradients that are zero.
    state = mj.init_state(params, optimizer, KEY)
    expected, expected_metrics = jax.jit(mj.train_step(learner, optimizer))(state, episodes)

    devices = jax.devices()[:4]
    step = mj.train_step(learner, optimizer, axis_name="tasks")
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
    learner, params = _start(row)
    rate = 0.5 if row.name.startswith("reptile") else 0.1
    optimizer = optax.sgd(rate)
    step = mj.train_step(learner, optimizer)

    @jax.jit
    def run(state: mj.TrainState) -> tuple[mj.TrainState, dict]:
        return jax.lax.scan(lambda state, _: step(state, _batch(4)), state, length=30)

    state, metrics = run(mj.init_state(params, optimizer, KEY))
    assert int(state.step) == 30
    assert metrics["query_loss"][-1] < 0.8 * metrics["query_loss"][0]


@each
def test_step_is_traced_once(row: Row) -> None:
    learner, params = _start(row)
    optimizer = optax.adam(1e-3)
    step = jax.jit(chex.assert_max_traces(mj.train_step(learner, optimizer), 1))
    state = mj.init_state(params, optimizer, KEY)
    for _ in range(3):
        state, _ = step(state, _batch(2))
    chex.clear_trace_counter()


@each
@pytest.mark.usefixtures("float64")
def test_padding_changes_nothing(row: Row) -> None:
    learner, params = _start(row)
    params, plain = _cast((params, episode(KEY)))

    def padded(examples: mj.Examples, rows: int) -> mj.Examples:
        inputs, targets, _ = examples
        # Not a number, labels of no class, and in between the items that count.
        junk = jnp.full((rows, *inputs.shape[1:]), jnp.nan)
        return mj.Examples(
            jnp.concatenate([inputs[:2], junk, inputs[2:]]),
            jnp.concatenate([targets[:2], jnp.full(rows, 99, targets.dtype), targets[2:]]),
            jnp.concatenate([jnp.ones(2), jnp.zeros(rows), jnp.ones(len(inputs) - 2)]),
        )

    both = mj.Episode(padded(plain.support, 3), padded(plain.query, 2))
    loss: Callable = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    (value, aux), gradient = loss(params, plain)
    (padded_value, padded_aux), padded_gradient = loss(params, both)
    np.testing.assert_allclose(padded_value, value, rtol=1e-12)
    chex.assert_trees_all_close(padded_gradient, gradient, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(padded_aux.metrics, aux.metrics, rtol=1e-12)


def _cast(tree: object) -> object:
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
