"""The linear probe against Newton's method in NumPy, run in complex numbers for its derivative."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import metric_cases
import numpy as np
import oracles
import pytest

import metajax as mj

WAYS, STRENGTH = 3, 0.3
WEIGHTS = np.array([0.5, 1.0, 2.0, 3.0, 1.0, 0.25])


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


def identity() -> mj.Model:
    return mj.Model(lambda key: {}, lambda params, inputs: inputs)


def probe(width: int, **options: Any) -> mj.Learner:
    encoder = metric_cases.tanh_encoder(width)
    return mj.linear_probe(encoder, strength=STRENGTH, learn_strength=True, **options)


def fit_by_hand(
    x: np.ndarray, labels: np.ndarray, strength: Any, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """W and b by Newton steps on the whole Hessian, of an entry after the other."""
    items, width = x.shape
    ways = int(labels.max()) + 1
    rows = np.concatenate([x, np.ones((items, 1))], axis=1)
    penalty = np.diag([strength] * width + [0.0 * strength])
    line = np.zeros((width + 1, ways), np.result_type(rows, strength, weights))
    for _ in range(30):
        shares = softmax(rows @ line)
        slope = rows.T @ (weights[:, None] * (shares - np.eye(ways)[labels])) + penalty @ line
        bend = np.zeros((width + 1, ways, width + 1, ways), line.dtype)
        for k in range(ways):
            bend[:, k, :, k] += penalty
            for j in range(ways):
                curve = weights * shares[:, k] * ((k == j) - shares[:, j])
                bend[:, k, :, j] += (rows.T * curve) @ rows
        bend[width, :, width, :] += 1  # Keeps the sum of the biases where it is.
        move = np.linalg.solve(bend.reshape(line.size, -1), slope.reshape(-1)).reshape(line.shape)
        line = line - move * min(1, 2 / np.abs(move).max())
    return line[:width], line[width]


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.real.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def loss_by_hand(moving: tuple, episode: mj.Episode) -> Any:
    (support, query), (params, weights) = jax.tree.map(np.asarray, (episode, moving))

    def embed(inputs: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ params.encoder["kernel"] + params.encoder["bias"])

    w, b = fit_by_hand(embed(support.inputs), support.targets, np.exp(params.log_strength), weights)
    shares = softmax(embed(query.inputs) @ w + b)
    return -np.log(shares[np.arange(len(query.targets)), query.targets]).mean()


# More features than the support items, of which there are 6, and fewer.
@pytest.mark.parametrize("width", [9, pytest.param(4, marks=pytest.mark.slow)])
def test_loss_and_gradient_are_those_by_hand(width: int) -> None:
    """With room for classes that nobody is of, which are not in the softmax by hand."""
    learner = probe(width, ways=WAYS + 2)
    params, episode = metric_cases.start(learner, 5)

    def loss(moving: tuple) -> jax.Array:
        params, weights = moving
        support = episode.support._replace(weights=weights)
        return learner.loss(params, mj.Episode(support, episode.query))[0]

    moving = (params, jnp.asarray(WEIGHTS))
    value, gradient = jax.jit(jax.value_and_grad(loss))(moving)
    np.testing.assert_allclose(value, loss_by_hand(moving, episode), rtol=1e-12)
    for seed in range(4):
        direction = oracles.normal_like(seed, moving)
        slope = metric_cases.complex_step(
            lambda moved: loss_by_hand(moved, episode), moving, direction
        )
        np.testing.assert_allclose(oracles.dot(gradient, direction), slope, rtol=1e-10)


@pytest.mark.slow
def test_second_derivative() -> None:
    learner = probe(9, ways=WAYS)
    params, episode = metric_cases.start(learner, 5)
    gradient = jax.jit(jax.grad(lambda params: learner.loss(params, episode)[0]))
    along, across = (oracles.normal_like(seed, params) for seed in (1, 2))
    claimed = jax.jvp(gradient, (params,), (along,))[1]
    slope = oracles.central_difference(
        lambda moved: jnp.asarray(oracles.dot(gradient(moved), across)), params, along
    )
    np.testing.assert_allclose(oracles.dot(claimed, across), slope, rtol=1e-7)


@pytest.mark.slow
def test_a_class_without_items_changes_nothing_for_the_others() -> None:
    learner, wider = probe(4, ways=WAYS), probe(4, ways=5)
    params, episode = metric_cases.start(learner, 5)
    places = jnp.array([0, 2, 4])
    spread = mj.Episode(*(x._replace(targets=places[x.targets]) for x in episode))
    spread = spread._replace(support=metric_cases.padded(spread.support, [1, 1, 3], 0))
    found = [
        jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(params, task)
        for learner, task in ((learner, episode), (wider, spread))
    ]
    (value, aux), gradient = found[0]
    (wide_value, wide_aux), wide_gradient = found[1]
    np.testing.assert_allclose(wide_value, value, rtol=1e-12)
    np.testing.assert_allclose(wide_aux.outputs[:, places], aux.outputs, rtol=1e-10)
    assert (wide_aux.outputs[:, [1, 3]] == -jnp.inf).all()
    oracles.assert_close(wide_gradient, gradient, 1e-10)
    reading = wider.adapt(params, spread.support).reading
    assert (reading.weights[:, [1, 3]] == 0).all()
    assert (reading.biases[jnp.array([1, 3])] == 0).all()
    assert abs(reading.biases.sum()) < 1e-14


@pytest.mark.slow
def test_scikit_learn_finds_the_same() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is missing")
    support = metric_cases.start(identity(), 8)[1].support
    theirs = linear_model.LogisticRegression(C=1 / STRENGTH, tol=1e-12, max_iter=10_000)
    theirs.fit(support.inputs, support.targets, WEIGHTS)
    learner = mj.linear_probe(identity(), strength=STRENGTH, ways=WAYS)
    params = mj.LinearProbeParams({}, None)
    ours = learner.adapt(params, support._replace(weights=jnp.asarray(WEIGHTS))).reading
    np.testing.assert_allclose(ours.weights, theirs.coef_.T, atol=1e-6)
    np.testing.assert_allclose(ours.biases, theirs.intercept_ - theirs.intercept_.mean(), atol=1e-6)


@pytest.mark.slow
def test_padding_may_be_embedded_as_anything() -> None:
    """Its inputs are zeros to the encoder, whose embedding of them is not a number here."""
    lengths = mj.Model(
        lambda key, inputs: {},
        lambda params, inputs: inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True),
    )
    learner, params = mj.linear_probe(lengths, ways=WAYS), mj.LinearProbeParams({}, None)
    support = metric_cases.start(lengths, 4)[1].support
    whole, junk = (
        learner.adapt(params, each).reading
        for each in (support, metric_cases.padded(support, [1, 1, 3], 0))
    )
    oracles.assert_close(junk[:2], whole[:2], 1e-9)


@pytest.mark.slow
def test_longer_features_ask_for_their_square_in_strength() -> None:
    params, (support, query) = metric_cases.start(mj.linear_probe(identity()), 4)
    plain = mj.linear_probe(identity(), strength=2.0).adapt(params, support).reading
    longer = mj.linear_probe(identity(), strength=18.0)
    task = longer.adapt(params, support._replace(inputs=3 * support.inputs))
    expected = query.inputs @ plain.weights[:, :WAYS] + plain.biases[None, :WAYS]
    outputs = longer.predict(params, task, 3 * query.inputs)
    np.testing.assert_allclose(outputs[:, :WAYS], expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_fit_reaches_rounding_where_items_can_be_told_apart(dtype: Any) -> None:
    """One item a class, hardly any penalty: without it the weights would grow for ever."""
    (inputs,) = oracles.normals(0, (5, 12))
    learner = mj.linear_probe(identity(), strength=1e-6)
    support = mj.Examples(inputs.astype(dtype), jnp.arange(5))
    params = mj.LinearProbeParams({}, None)
    task = learner.adapt(params, support)
    assert task.reading.weights.dtype == dtype
    assert task.reading.residual < 4 * jnp.finfo(dtype).eps
    outputs = learner.predict(params, task, support.inputs)
    assert (jnp.diagonal(outputs) > 5 + jnp.where(jnp.eye(5), -jnp.inf, outputs).max(axis=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "items"), [(3, 60), (40, 10)])
def test_features_far_from_zero_in_single_precision(width: int, items: int) -> None:
    """Of pixels, say: next to their squares the strength is lost in rounding, and so are slopes."""
    rng = np.random.default_rng(0)
    support, query = (
        1280 + 60 * rng.normal(size=(n, width)).astype(np.float32) for n in (items, 4)
    )
    learner = mj.linear_probe(identity(), ways=2)
    params, labels = mj.LinearProbeParams({}, None), jnp.arange(items) % 2

    def outputs(dtype: Any) -> np.ndarray:
        examples = mj.Examples(jnp.asarray(support, dtype), labels)
        task = jax.jit(learner.adapt)(params, examples)
        assert task.reading.residual < 4 * jnp.finfo(dtype).eps
        return np.asarray(learner.predict(params, task, jnp.asarray(query, dtype)), float)

    oracles.assert_close(outputs(jnp.float32), outputs(jnp.float64), 1e-3)


def test_a_strength_alone_is_learned() -> None:
    """Over features of a frozen network, of several tasks at once."""
    learner = mj.linear_probe(identity(), ways=WAYS, learn_strength=True)
    _, episode = metric_cases.start(identity(), 4)

    def loss(log_strength: jax.Array) -> jax.Array:
        return learner.loss(mj.LinearProbeParams({}, log_strength), episode)[0]

    at = jnp.array([-2.0, 1.0])
    losses, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.append(at, at + 1e-5))
    slopes = (losses[2:] - losses[:2]) / 1e-5
    np.testing.assert_allclose((gradient[2:] + gradient[:2]) / 2, slopes, rtol=1e-7)


@pytest.mark.slow
def test_what_cannot_be_fitted_ends() -> None:
    inputs = 1e3 * oracles.normals(0, (6, 4))[0]
    support = mj.Examples(inputs, jnp.asarray(metric_cases.SUPPORT_LABELS))
    params = mj.LinearProbeParams({}, None)
    short = mj.linear_probe(identity(), max_steps=1).adapt(params, support).reading
    assert 1e-6 < short.residual < 1
    whole = mj.linear_probe(identity()).adapt(params, support).reading
    assert whole.residual < 1e-14
    lost = mj.Model(lambda key: {}, lambda params, inputs: inputs * jnp.nan)
    assert jnp.isnan(mj.linear_probe(lost).adapt(params, support).reading.residual)


@pytest.mark.slow
def test_half_precision_is_solved_in_single() -> None:
    params, (support, query) = metric_cases.start(mj.linear_probe(identity()), 12)
    learner = mj.linear_probe(identity())
    task = learner.adapt(params, support._replace(inputs=support.inputs.astype(jnp.bfloat16)))
    assert task.reading.weights.dtype == jnp.float32
    outputs = learner.predict(params, task, query.inputs.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.float32


def test_where_a_learned_strength_starts() -> None:
    learner = mj.linear_probe(identity(), strength=3.0, learn_strength=True)
    params = learner.init(jax.random.key(0), jnp.ones((2, 4)))
    np.testing.assert_allclose(jnp.exp(params.log_strength), 3.0, rtol=1e-15)


@pytest.mark.parametrize("strength", [0, -1.0, math.inf, math.nan])
def test_strength(strength: float) -> None:
    with pytest.raises(ValueError, match=rf"^strength={strength}; expected a finite number above"):
        mj.linear_probe(identity(), strength=strength)
