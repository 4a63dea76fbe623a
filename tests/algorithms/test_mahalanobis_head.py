"""The classifier of Simple CNAPS: explicit inverses in NumPy, both systems, limits, weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from metric_cases import QUERY_LABELS, SUPPORT_LABELS, complex_step, padded, start, tanh_encoder

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

WAYS, INPUTS, ITEMS = 3, 4, len(SUPPORT_LABELS)
# No more than the six support items, so that covariances are formed; and more, so that none is.
each_system = pytest.mark.parametrize("features", [3, 9], ids=["formed", "not_formed"])
mostly_one = pytest.mark.parametrize("features", [pytest.param(3, marks=pytest.mark.slow), 9])


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def numpy_covariance(rows: Any, weights: Any) -> tuple[Any, Any]:
    """The mean, and the covariance with `n - 1`, with 1 where that is less."""
    total = weights.sum()
    mean = weights @ rows / total
    scatter = ((rows - mean).T * weights) @ (rows - mean)
    return mean, scatter / (total - 1 if total >= 2 else 1)


def numpy_logits(support: Any, query: Any, weights: Any, beta: float) -> np.ndarray:
    _, whole = numpy_covariance(support, weights)
    columns = []
    for label in range(WAYS):
        member = (label == SUPPORT_LABELS) & (weights > 0)
        centre, own = numpy_covariance(support[member], weights[member])
        count = weights[member].sum()
        mixing = count / (count + 1)
        matrix = mixing * own + (1 - mixing) * whole + beta * np.eye(support.shape[1])
        apart = query - centre
        columns.append(-(apart @ np.linalg.inv(matrix) * apart).sum(axis=1) / 2)
    return np.array(columns).T


@each_system
def test_logits_loss_and_gradient_are_those_of_the_equations(features: int) -> None:
    learner = mj.mahalanobis_head(tanh_encoder(features), strength=0.3, ways=WAYS)
    params, episode = start(learner, INPUTS)
    weights = [np.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]), np.array([1.0, 0.0, 2.0, 0.5])]
    episode = mj.Episode(
        *(s._replace(weights=jnp.asarray(w)) for s, w in zip(episode, weights, strict=True))
    )

    def oracle(params: Any) -> tuple[np.ndarray, Any]:
        support, query = (
            np.tanh(np.asarray(s.inputs) @ params["kernel"] + params["bias"]) for s in episode
        )
        logits = numpy_logits(support, query, weights[0], 0.3)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        chosen = shares[np.arange(len(QUERY_LABELS)), QUERY_LABELS]
        return logits, -(weights[1] * np.log(chosen)).sum() / weights[1].sum()

    (value, aux), gradient = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(
        params, episode
    )
    logits, loss = oracle(jax.tree.map(np.asarray, params))
    counted = weights[1] > 0
    oracles.assert_close(aux.outputs[counted], logits[counted])
    np.testing.assert_allclose(value, loss, rtol=1e-12)
    for seed in range(3):
        direction = oracles.normal_like(seed, params)
        expected = complex_step(lambda moved: oracle(moved)[1], params, direction)
        np.testing.assert_allclose(oracles.dot(gradient, direction), expected, rtol=1e-10)
    reading = jax.eval_shape(learner.adapt, params, episode.support).reading
    assert (reading.rows is None) == (features == 3)


def test_a_covariance_that_is_not_formed_is_the_same() -> None:
    """Padding, of NaN here, makes the items as many as the features, and counts for nothing."""
    params, episode = start(tanh_encoder(9), INPUTS)
    learner = mj.mahalanobis_head(tanh_encoder(9), strength=0.01, ways=WAYS + 2)
    junk = padded(episode.support, [0, 3, 3, 4, -1], 0)
    junk = junk._replace(inputs=jnp.where(junk.weights[:, None] > 0, junk.inputs, jnp.nan))

    def run(support: mj.Examples) -> Any:
        whole = episode._replace(support=support)
        return jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(params, whole)

    assert jax.eval_shape(learner.adapt, params, junk).reading.rows is None
    (value, aux), gradient = run(junk)
    (expected, expected_aux), expected_gradient = run(episode.support)
    oracles.assert_close((value, gradient), (expected, expected_gradient), 1e-10)
    oracles.assert_close(aux.outputs[:, :WAYS], expected_aux.outputs[:, :WAYS], 1e-10)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)


@each_system
def test_padding_may_be_embedded_as_anything(features: int) -> None:
    """Its inputs are zeros to the encoder, whose embedding of them is not a number here."""
    encoder = mj.Model(
        lambda key, inputs: {},
        lambda params, inputs: inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True),
    )
    _, episode = start(encoder, features)
    support = episode.support._replace(weights=jnp.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]))
    learner = mj.mahalanobis_head(encoder, ways=WAYS)

    def loss(scale: jax.Array) -> jax.Array:
        weighed = support._replace(weights=scale * support.weights)
        return learner.loss({}, episode._replace(support=weighed))[0]

    assert all(jnp.isfinite(x) for x in jax.jit(jax.value_and_grad(loss))(1.0))


@mostly_one
def test_without_covariances_it_is_half_of_the_distance_to_prototypes(features: int) -> None:
    _, episode = start(identity(), features)

    def outputs(learner: mj.Learner, episode: mj.Episode) -> jax.Array:
        return jax.jit(learner.loss)({}, episode)[1].outputs

    distances = outputs(mj.prototypical_network(identity(), ways=WAYS), episode)
    wide = outputs(mj.mahalanobis_head(identity(), strength=1e14, ways=WAYS), episode)
    oracles.assert_close(1e14 * wide, distances / 2)
    # One class whose items are the same: both covariances are 0.
    inputs = jnp.broadcast_to(episode.support.inputs[:1], episode.support.inputs.shape)
    same = mj.Episode(
        mj.Examples(inputs, jnp.zeros(ITEMS, int)),
        episode.query._replace(targets=jnp.zeros(len(QUERY_LABELS), int)),
    )
    distances = -((episode.query.inputs - inputs[:1]) ** 2).sum(axis=1, keepdims=True)
    oracles.assert_close(outputs(mj.mahalanobis_head(identity(), ways=1), same), distances / 2)


@pytest.mark.slow
@each_system
def test_a_weight_of_two_counts_an_item_twice(features: int) -> None:
    params, episode = start(tanh_encoder(features), INPUTS)
    learner = mj.mahalanobis_head(tanh_encoder(features), ways=WAYS)
    weighted = episode.support._replace(weights=jnp.ones(ITEMS).at[1].set(2.0))
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[1:2]]), episode.support)
    loss = jax.jit(learner.loss)
    values = [loss(params, episode._replace(support=each))[0] for each in (weighted, twice)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    assert abs(values[0] - loss(params, episode)[0]) > 1e-3


@mostly_one
def test_gradient_of_weights_is_finite_at_zero(features: int) -> None:
    learner = mj.mahalanobis_head(tanh_encoder(features), ways=WAYS)
    params, episode = start(learner, INPUTS)
    weights = jnp.array([1.0, 2.0, 1.0, 0.6, 3.0, 0.0])

    def loss(weights: jax.Array) -> jax.Array:
        support = episode.support._replace(weights=weights)
        return learner.loss(params, episode._replace(support=support))[0]

    slope = jax.jit(jax.grad(loss))(weights)
    assert jnp.isfinite(slope).all()
    direction = np.array([1.0, -2.0, 0.5, 1.5, 1.0, 0.0])
    difference = oracles.central_difference(jax.jit(loss), weights, direction)
    np.testing.assert_allclose(oracles.dot(slope, direction), difference, rtol=1e-7)


@pytest.mark.parametrize("features", [5, 200], ids=["formed", "not_formed"])
def test_single_precision_is_enough(features: int) -> None:
    support, query = (
        30 * np.random.default_rng(i).normal(size=(n, features)).astype(np.float32)
        for i, n in enumerate((ITEMS, len(QUERY_LABELS)))
    )
    exact = numpy_logits(support.astype(float), query.astype(float), np.ones(ITEMS), 0.5)
    with jax.enable_x64(False):
        learner = mj.mahalanobis_head(identity(), strength=0.5, ways=WAYS)
        whole = mj.Episode(mj.Examples(support, SUPPORT_LABELS), mj.Examples(query, QUERY_LABELS))
        logits = np.asarray(jax.jit(learner.loss)({}, whole)[1].outputs, float)
    np.testing.assert_allclose(logits, exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("strength", "error"), [(0.0, ValueError), (np.nan, ValueError), ("1", TypeError)]
)
def test_strength(strength: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"strength='?{strength}'?; expected a finite number above 0"):
        mj.mahalanobis_head(identity(), strength=strength)
