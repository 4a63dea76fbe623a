"""Ridge heads: the closed form in NumPy, both systems, limits, weights, targets of numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from metric_cases import QUERY_LABELS, SUPPORT_LABELS, complex_step, padded, start, tanh_encoder

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

WAYS, INPUTS, ITEMS = 3, 4, len(SUPPORT_LABELS)
# Fewer than the six support items, so that the system is one of features; and more.
each_system = pytest.mark.parametrize("features", [3, 9], ids=["features", "items"])
mostly_one = pytest.mark.parametrize("features", [pytest.param(3, marks=pytest.mark.slow), 9])


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def numpy_weights(rows: Any, targets: Any, strength: Any, weights: Any) -> np.ndarray:
    """`(X^T D X + lambda I)^-1 X^T D Y`, by the inverse."""
    weighed = rows.T * weights
    return np.linalg.inv(weighed @ rows + strength * np.eye(rows.shape[1])) @ weighed @ targets


def with_ones(rows: Any) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def read(support: mj.Examples, **options: Any) -> jax.Array:
    """W of features as they are."""
    learner = mj.ridge_head(identity(), **options)
    params = learner.init(jax.random.key(0), support.inputs)
    return learner.adapt(params, support).reading


@each_system
def test_logits_loss_and_gradient_are_those_of_the_equations(features: int) -> None:
    learner = mj.ridge_head(tanh_encoder(features), ways=WAYS)
    params, episode = start(learner, INPUTS)
    weights = [np.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]), np.array([1.0, 0.0, 2.0, 0.5])]
    episode = mj.Episode(
        *(s._replace(weights=jnp.asarray(w)) for s, w in zip(episode, weights, strict=True))
    )

    def oracle(params: mj.RidgeParams) -> tuple[np.ndarray, Any]:
        layer: Any = params.encoder
        support, query = (
            with_ones(np.tanh(np.asarray(s.inputs) @ layer["kernel"] + layer["bias"]))
            for s in episode
        )
        labels, strength = np.eye(WAYS)[SUPPORT_LABELS], np.exp(params.log_strength)
        solution = numpy_weights(support, labels, strength, weights[0])
        logits = np.exp(params.log_scale) * (query @ solution) + params.offset
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
    assert abs(gradient.log_strength) > 1e-3
    for seed in range(3):
        direction = oracles.normal_like(seed, params)
        expected = complex_step(lambda moved: oracle(moved)[1], params, direction)
        np.testing.assert_allclose(oracles.dot(gradient, direction), expected, rtol=1e-11)


def test_learned_numbers_start_where_they_are_told_to() -> None:
    inputs = jnp.ones((1, 3))
    params = mj.ridge_head(identity()).init(jax.random.key(0), inputs)
    oracles.assert_close(params, mj.RidgeParams({}, np.log(50.0), np.log(10.0), np.zeros(())), 1e-7)
    params = mj.ridge_head(identity(), loss_fn=mj.squared_error, strength=2.0).init(
        jax.random.key(0), inputs
    )
    oracles.assert_close(params[1:3], (np.log(2.0), np.zeros(())), 1e-7)


@mostly_one
def test_numbers_that_are_not_learned_are_used(features: int) -> None:
    params, episode = start(tanh_encoder(features), INPUTS)
    fixed = mj.ridge_head(
        tanh_encoder(features), strength=3.0, learn_strength=False, scale=2.0, learn_scale=False
    )
    bare = mj.RidgeParams(params, None, None, None)
    learned = mj.ridge_head(tanh_encoder(features))
    whole = mj.RidgeParams(params, jnp.log(3.0), jnp.log(2.0), jnp.zeros(()))
    assert jax.tree.structure(jax.eval_shape(fixed.init, jax.random.key(0), jnp.ones((1, 4)))) == (
        jax.tree.structure(bare)
    )
    oracles.assert_close(
        jax.jit(fixed.loss)(bare, episode)[0], jax.jit(learned.loss)(whole, episode)[0]
    )


@each_system
def test_a_large_strength_leaves_sums_of_classes(features: int) -> None:
    _, (support, _) = start(identity(), features)
    sums = mj.metric.class_sums(support.inputs, support.targets, WAYS)[0]
    weights = read(support, ways=WAYS, strength=1e14, bias=False)
    oracles.assert_close(1e14 * weights, sums.T)


@pytest.mark.parametrize("items", [4, 6], ids=["fewer items", "as many"])
def test_orthonormal_items_are_only_shrunk(items: int) -> None:
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:items]
    labels = np.arange(items) % WAYS
    support = mj.Examples(jnp.asarray(rows), jnp.asarray(labels))
    weights = read(support, ways=WAYS, strength=3.0, bias=False)
    oracles.assert_close(weights, rows.T @ np.eye(WAYS)[labels] / (1 + 3.0))


@mostly_one
def test_weights_count_items_and_padding_may_hold_anything(features: int) -> None:
    # Its embedding of zeros, which padding is given for inputs, is not a number.
    encoder = mj.Model(
        lambda key, inputs: {},
        lambda params, inputs: inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True),
    )
    params, (support, _) = start(encoder, features)
    learner = mj.ridge_head(encoder, ways=WAYS + 2)
    params = mj.RidgeParams(params, jnp.log(0.7), jnp.zeros(()), jnp.zeros(()))
    # Eleven items: for nine features, the other of the two systems.
    junk = padded(support, [0, 3, 3, 4, -1], 0)
    junk = junk._replace(inputs=jnp.where(junk.weights[:, None] > 0, junk.inputs, jnp.nan))
    oracles.assert_close(
        learner.adapt(params, junk).reading, learner.adapt(params, support).reading
    )
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[1:2]]), support)
    heavy = support._replace(weights=jnp.ones(ITEMS).at[1].set(2.0))
    oracles.assert_close(learner.adapt(params, heavy).reading, learner.adapt(params, twice).reading)


@mostly_one
def test_gradient_of_weights_is_finite_at_zero(features: int) -> None:
    learner = mj.ridge_head(tanh_encoder(features), ways=WAYS)
    params, episode = start(learner, INPUTS)
    weights = jnp.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0])

    def loss(weights: jax.Array) -> jax.Array:
        support = episode.support._replace(weights=weights)
        return learner.loss(params, episode._replace(support=support))[0]

    slope = jax.jit(jax.grad(loss))(weights)
    assert slope[-1] == 0
    direction = np.array([1.0, -2.0, 0.5, 1.5, 1.0, 0.0])
    difference = oracles.central_difference(jax.jit(loss), weights, direction)
    np.testing.assert_allclose(oracles.dot(slope, direction), difference, rtol=1e-7)


@pytest.mark.parametrize("features", [5, 40], ids=["features", "items"])
def test_single_precision_is_enough(features: int) -> None:
    rows = 100 * np.random.default_rng(0).normal(size=(12, features)).astype(np.float32)
    labels = np.arange(12) % WAYS
    exact = numpy_weights(
        with_ones(rows.astype(float)), np.eye(WAYS)[labels], np.float32(0.01), np.ones(12)
    )
    with jax.enable_x64(False):
        support = mj.Examples(jnp.asarray(rows), jnp.asarray(labels))
        weights = read(support, ways=WAYS, strength=0.01)
        oracles.assert_close(np.asarray(weights, float), exact, 1e-5)
        # Items that are alike, of which a Gram matrix in single precision is singular.
        alike = mj.Examples(
            jnp.asarray(np.repeat(rows[:3], 4, axis=0)), jnp.repeat(jnp.arange(3), 4)
        )
        assert jnp.isfinite(read(alike, ways=WAYS, strength=0.01)).all()


def test_more_ways_than_items() -> None:
    learner = mj.ridge_head(tanh_encoder(9), ways=ITEMS + 4)
    params, episode = start(learner, INPUTS)
    value, aux = jax.jit(learner.loss)(params, episode)
    told = mj.ridge_head(tanh_encoder(9), ways=WAYS)
    expected, expected_aux = jax.jit(told.loss)(params, episode)
    oracles.assert_close(aux.outputs[:, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(value, expected)
    bad = episode._replace(query=episode.query._replace(targets=jnp.array([0, 1, 2, 5])))
    with pytest.raises(ValueError, match=r"query has the labels \[5\] but no support item has"):
        learner.loss(params, bad)
    assert jnp.isnan(jax.jit(learner.loss)(params, bad)[0])


# Numbers instead of labels


def sinusoids(key: jax.Array) -> mj.Episode:
    return mj.data.sinusoid_episodes(shots=10, queries=10)(key)


def bumps() -> mj.Model:
    """Features without parameters: 12 Gaussian bumps on [-5, 5]."""
    places = jnp.linspace(-5, 5, 12)
    return mj.Model(
        lambda key, inputs: {},
        lambda params, inputs: jnp.exp(-((inputs - places.astype(inputs.dtype)[None]) ** 2) / 2),
    )


def test_regression_is_the_posterior_mean() -> None:
    """Of a normal prior of variance 1 on the weights, under noise of variance 0.1."""
    learner = mj.ridge_head(bumps(), strength=0.1, loss_fn=mj.squared_error)
    episode = sinusoids(jax.random.key(0))
    params = learner.init(jax.random.key(1), episode.support.inputs)
    value, aux = jax.jit(learner.loss)(params, episode)
    support, query = (with_ones(np.asarray(bumps().apply({}, s.inputs), float)) for s in episode)
    known = np.asarray(episode.support.targets, float)
    # By the covariance of what is observed and what is asked, not by the weights.
    observed = support @ support.T + 0.1 * np.eye(len(support))
    expected = query @ support.T @ np.linalg.inv(observed) @ known
    oracles.assert_close(np.asarray(aux.outputs, float), expected, 1e-4)
    np.testing.assert_allclose(value, ((expected - episode.query.targets) ** 2).mean(), rtol=1e-3)
    assert [*aux.metrics] == ["query_loss"]
    assert value < 0.3 * (episode.query.targets**2).mean()
    task = learner.adapt(params, episode.support)
    assert task.present is None
    oracles.assert_close(learner.predict(params, task, episode.query.inputs), aux.outputs, 1e-5)


@mostly_one
def test_regression_of_one_number_or_several(features: int) -> None:
    learner = mj.ridge_head(tanh_encoder(features), loss_fn=mj.squared_error, bias=False)
    params, episode = start(learner, INPUTS)
    numbers = oracles.normals(3, *((len(s.targets), 2) for s in episode))
    several = mj.Episode(*(s._replace(targets=y) for s, y in zip(episode, numbers, strict=True)))
    layer: Any = jax.tree.map(np.asarray, params.encoder)
    support, query = (
        np.tanh(np.asarray(s.inputs) @ layer["kernel"] + layer["bias"]) for s in episode
    )
    strength = np.exp(params.log_strength)
    solution = numpy_weights(support, np.asarray(numbers[0]), strength, np.ones(ITEMS))
    expected = np.exp(params.log_scale) * query @ solution + params.offset
    one = mj.Episode(*(s._replace(targets=s.targets[:, 0]) for s in several))
    oracles.assert_close(jax.jit(learner.loss)(params, one)[1].outputs, expected[:, 0])
    # Padding may hold anything here too.
    inputs, targets = (
        jnp.concatenate([x, jnp.full((2, x.shape[1]), jnp.nan)]) for x in several.support[:2]
    )
    weights = jnp.array([1.0] * ITEMS + [0.0] * 2)
    junk = several._replace(support=mj.Examples(inputs, targets, weights))
    (value, aux), gradient = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(params, junk)
    oracles.assert_close(aux.outputs, expected)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, gradient)))


@pytest.mark.slow
def test_features_for_sinusoids_are_learned() -> None:
    """By a perceptron, in a thousand steps."""
    with jax.enable_x64(False):
        learner = mj.ridge_head(
            mj.models.mlp((40, 40), stddev=0.3), strength=1.0, loss_fn=mj.squared_error
        )
        sample = mj.data.sinusoid_episodes(shots=10, queries=10)
        params = learner.init(jax.random.key(0), jnp.ones((1, 1)))
        optimizer = optax.adam(3e-3)
        state = mj.init_state(params, optimizer, jax.random.key(1))
        result = mj.train(
            learner, optimizer, state, sample, iterations=1_000, meta_batch=16, progress=False
        )
        before = mj.evaluate(learner, params, sample, episodes=200)
        after = mj.evaluate(learner, result.state.params, sample, episodes=200)
        seen = jax.jit(learner.inspect)(params, jax.jit(sample)(jax.random.key(2)))
    assert [*seen] == ["active_units", "batchings", "query_loss"]
    assert after.mean("query_loss") < 0.2 < 1 < before.mean("query_loss")


def test_labels_are_classes_under_any_loss() -> None:
    learner = mj.ridge_head(tanh_encoder(3), ways=WAYS, loss_fn=mj.match_error)
    params, episode = start(learner, INPUTS)
    _, aux = jax.jit(learner.loss)(params, episode)
    assert aux.outputs.shape == (len(QUERY_LABELS), WAYS)
    assert "accuracy" in aux.metrics


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": 0.0}, ValueError, r"strength=0.0; expected a finite number above 0"),
        ({"strength": np.inf}, ValueError, r"strength=inf; expected a finite number above 0"),
        ({"scale": -1.0}, ValueError, r"scale=-1.0; expected a finite number above 0"),
        ({"strength": "1"}, TypeError, r"strength='1'; expected a finite number above 0"),
        ({"bias": 1}, TypeError, r"bias=1; expected True or False"),
        ({"learn_strength": None}, TypeError, r"learn_strength=None; expected True or False"),
        ({"learn_scale": "no"}, TypeError, r"learn_scale='no'; expected True or False"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mj.ridge_head(identity(), **options)


def test_targets_that_do_not_fit() -> None:
    learner = mj.ridge_head(identity(), loss_fn=mj.squared_error)
    params = learner.init(jax.random.key(0), jnp.ones((1, 3)))
    cube = mj.Examples(jnp.ones((2, 3)), jnp.ones((2, 2, 2)))
    message = (
        r"ridge_head got targets of shape \(2, 2, 2\); expected \[items\] or \[items, outputs\]"
    )
    with pytest.raises(ValueError, match=message):
        learner.adapt(params, cube)
    mixed = mj.Episode(
        mj.Examples(jnp.ones((2, 3)), jnp.ones(2)), mj.Examples(jnp.ones((2, 3)), jnp.arange(2))
    )
    with pytest.raises(ValueError, match=r"support has float64 targets of shape \(2,\); expected"):
        learner.loss(params, mixed)
