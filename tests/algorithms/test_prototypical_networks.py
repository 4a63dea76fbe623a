"""Prototypical networks: the equations in NumPy, batches of the encoder, padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from metric_cases import QUERY_LABELS, SUPPORT_LABELS, complex_step, padded, start, tanh_encoder

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
WAYS, INPUTS, FEATURES = 3, 4, 3
batchings = pytest.mark.parametrize("query_batching", ["joint", "separate", "single"])


def conv_encoder() -> mj.Model:
    return mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1))


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def numpy_logits(
    support: np.ndarray, query: np.ndarray, distance: Callable, weights: np.ndarray
) -> np.ndarray:
    """`[queries, ways]`, `-distance(f(x), c_k)`."""
    support, query = np.asarray(support), np.asarray(query)
    columns = []
    for label in range(WAYS):
        members = [i for i in range(len(support)) if SUPPORT_LABELS[i] == label]
        total = sum(weights[i] * support[i] for i in members)
        centre = total / sum(weights[i] for i in members)
        columns.append([-distance(point, centre) for point in query])
    return np.array(columns).T


def numpy_loss(logits: np.ndarray, weights: np.ndarray) -> Any:
    """Weighted mean of `-log softmax(logits)[label]`; holds for complex logits too."""
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = [row[label] for row, label in zip(shares, QUERY_LABELS, strict=True)]
    return -(weights * np.log(chosen)).sum() / weights.sum()


def squared(x: np.ndarray, c: np.ndarray) -> Any:
    return ((x - c) ** 2).sum()


def plain(x: np.ndarray, c: np.ndarray) -> Any:
    return np.sqrt(squared(x, c))


def cosine(x: np.ndarray, c: np.ndarray) -> Any:
    return 1 - (x @ c) / np.sqrt((x @ x) * (c @ c))


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("distance", "options"),
    [(squared, {}), (cosine, {"distance": mj.metric.cosine_distances})],
    ids=["squared", "cosine"],
)
def test_logits_loss_and_gradient_are_those_of_the_equations(
    distance: Callable, options: dict[str, Any], weighted: bool
) -> None:
    params, episode = start(tanh_encoder(FEATURES), INPUTS)
    weights = [np.ones(len(s.targets)) for s in episode]
    if weighted:
        weights = [np.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]), np.array([1.0, 0.0, 2.0, 0.5])]
        episode = mj.Episode(
            *(s._replace(weights=jnp.asarray(w)) for s, w in zip(episode, weights, strict=True))
        )

    def oracle(params: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
        support, query = (
            np.tanh(np.asarray(s.inputs) @ params["kernel"] + params["bias"]) for s in episode
        )
        logits = numpy_logits(support, query, distance, weights[0])
        return logits, numpy_loss(logits, weights[1])

    learner = mj.prototypical_network(tanh_encoder(FEATURES), ways=WAYS, **options)
    run = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    (value, aux), gradient = run(params, episode)
    logits, loss = oracle(jax.tree.map(np.asarray, params))
    counted = weights[1] > 0  # What a query of weight 0 gets means nothing.
    oracles.assert_close(aux.outputs[counted], logits[counted])
    np.testing.assert_allclose(value, loss, rtol=1e-13)
    oracles.assert_close(value, aux.metrics["query_loss"])
    correct = logits.argmax(axis=1) == QUERY_LABELS
    accuracy = (weights[1] * correct).sum() / weights[1].sum()
    oracles.assert_close(aux.metrics["accuracy"], accuracy)
    for seed in range(3):
        direction = oracles.normal_like(seed, params)
        expected = complex_step(lambda moved: oracle(moved)[1], params, direction)
        np.testing.assert_allclose(oracles.dot(gradient, direction), expected, rtol=1e-12)


def test_gradient_is_the_finite_difference() -> None:
    params, episode = start(tanh_encoder(FEATURES), INPUTS)
    learner = mj.prototypical_network(tanh_encoder(FEATURES))
    run = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    _, gradient = run(params, episode)
    direction = oracles.normal_like(3, params)
    difference = oracles.central_difference(lambda p: run(p, episode)[0][0], params, direction)
    np.testing.assert_allclose(oracles.dot(gradient, direction), difference, rtol=1e-7)


@pytest.mark.exact
def test_distance_is_the_squared_one() -> None:
    support = mj.Examples(jnp.array([[-1.0], [1.0], [3.0]]), jnp.array([0, 0, 1]))
    query = mj.Examples(jnp.array([[1.0], [-2.0]]), jnp.array([0, 0]))
    value, aux = mj.prototypical_network(identity(), ways=2).loss({}, mj.Episode(support, query))
    np.testing.assert_array_equal(aux.outputs, [[-1.0, -4.0], [-4.0, -25.0]])
    expected = (np.log1p(np.exp(-3.0)) + np.log1p(np.exp(-21.0))) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_a_weight_of_two_counts_an_item_twice() -> None:
    params, episode = start(tanh_encoder(FEATURES), INPUTS)
    weights = [jnp.ones(len(s.targets)).at[1].set(2.0) for s in episode]
    weighted = mj.Episode(*(s._replace(weights=w) for s, w in zip(episode, weights, strict=True)))
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[1:2]]), episode)
    loss = jax.jit(mj.prototypical_network(tanh_encoder(FEATURES), ways=WAYS).loss)
    value = loss(params, weighted)[0]
    np.testing.assert_allclose(value, loss(params, twice)[0], rtol=1e-13)
    assert abs(value - loss(params, episode)[0]) > 1e-3


def test_order_of_items_and_names_of_classes_do_not_matter() -> None:
    params, episode = start(tanh_encoder(FEATURES), INPUTS)
    renamed = jnp.array([2, 0, 1])
    order = np.array([3, 5, 0, 2, 4, 1])
    support, query = (s._replace(targets=renamed[s.targets]) for s in episode)
    other = mj.Episode(jax.tree.map(lambda x: x[order], support), query)
    loss = jax.jit(mj.prototypical_network(tanh_encoder(FEATURES), ways=WAYS).loss)
    value, aux = loss(params, episode)
    other_value, other_aux = loss(params, other)
    np.testing.assert_allclose(other_value, value, rtol=1e-13)
    oracles.assert_close(other_aux.outputs[:, renamed], aux.outputs)


def test_without_ways_there_is_a_column_for_every_possible_class() -> None:
    params, episode = start(tanh_encoder(FEATURES), INPUTS)
    (value, aux), gradient = jax.jit(
        jax.value_and_grad(mj.prototypical_network(tanh_encoder(FEATURES)).loss, has_aux=True)
    )(params, episode)
    told = mj.prototypical_network(tanh_encoder(FEATURES), ways=WAYS)
    (expected, expected_aux), expected_gradient = jax.jit(
        jax.value_and_grad(told.loss, has_aux=True)
    )(params, episode)
    assert aux.outputs.shape == (len(QUERY_LABELS), len(SUPPORT_LABELS))
    assert expected_aux.outputs.shape == (len(QUERY_LABELS), WAYS)
    oracles.assert_close(aux.outputs[:, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    oracles.assert_close(gradient, expected_gradient)
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])


def test_query_batching_decides_who_shares_a_batch() -> None:
    encoder = conv_encoder()
    params, episode = start(encoder, 6, 6, 1)
    apply = jax.jit(encoder.apply)
    support, query = (s.inputs for s in episode)
    shots = len(support)
    whole = apply(params, jnp.concatenate([support, query]), None)
    alone = apply(params, support, None)
    singles = jnp.stack(
        [apply(params, jnp.concatenate([support, item[None]]), None)[shots] for item in query]
    )
    counted = jnp.arange(shots + len(query)) < shots
    under_support = apply(params, jnp.concatenate([support, query]), counted)[shots:]
    expected = {
        "joint": numpy_logits(whole[:shots], whole[shots:], squared, np.ones(shots)),
        "separate": numpy_logits(alone, apply(params, query, None), squared, np.ones(shots)),
        "single": numpy_logits(alone, singles, squared, np.ones(shots)),
        "support": numpy_logits(alone, under_support, squared, np.ones(shots)),
    }
    for batching, logits in expected.items():
        learner = mj.prototypical_network(encoder, ways=WAYS, query_batching=batching)
        value, aux = jax.jit(learner.loss)(params, episode)
        oracles.assert_close(aux.outputs, logits)
        np.testing.assert_allclose(value, numpy_loss(logits, np.ones(len(query))), rtol=1e-12)
        task = learner.adapt(params, episode.support)
        predicted = jax.jit(learner.predict)(params, task, query)
        oracles.assert_close(predicted, expected["support"])
    for one, other in (("separate", "joint"), ("joint", "single"), ("separate", "single")):
        assert np.abs(expected[one] - expected[other]).max() > 1e-2
    default = jax.jit(mj.prototypical_network(encoder, ways=WAYS).loss)(params, episode)
    oracles.assert_close(default[1].outputs, expected["joint"])


@batchings
def test_padding_counts_for_nothing(query_batching: Any) -> None:
    params, episode = start(conv_encoder(), 6, 6, 1)
    # Rows of real classes, of whole padded classes (3 and 4), and of no class at all.
    support = padded(episode.support, [0, 3, 3, 4, -1], 0)
    query = padded(episode.query, [4, 99, 1], 2)

    def run(ways: int, episode: mj.Episode) -> tuple[tuple[Array, mj.Aux], Any]:
        learner = mj.prototypical_network(conv_encoder(), ways=ways, query_batching=query_batching)
        return jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(params, episode)

    (value, aux), gradient = run(WAYS + 2, mj.Episode(support, query))
    (expected, expected_aux), expected_gradient = run(WAYS, episode)
    oracles.assert_close((value, gradient), (expected, expected_gradient))
    oracles.assert_close(aux.outputs[query.weights > 0, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])
