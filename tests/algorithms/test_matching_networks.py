"""Matching networks: the equations in NumPy, full context embeddings step by step, padding."""

import itertools
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


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def conv_encoder() -> mj.Model:
    return mj.models.from_linen(mj.models.ConvNet(None, FEATURES, blocks=1))


def slope(learner: mj.Learner) -> Callable[[Any, mj.Episode], tuple[tuple[Array, mj.Aux], Any]]:
    return jax.jit(jax.value_and_grad(learner.loss, has_aux=True))


# The oracles hold for complex numbers too, so that a step along the imaginary axis gives the
# derivative: no maximum is taken off before exponentials, and no conjugate or absolute value used.


def assert_gradient_is(function: Callable[[Any], Any], params: Any, gradient: Any) -> None:
    """Compares along one direction in each leaf, so that no leaf hides behind another."""
    leaves, structure = jax.tree.flatten(params)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for number in range(len(leaves)):
        direction = structure.unflatten(
            [
                np.random.default_rng(number).normal(size=leaf.shape) * (number == other)
                for other, leaf in enumerate(leaves)
            ]
        )
        np.testing.assert_allclose(
            oracles.dot(gradient, direction),
            complex_step(function, params, direction),
            rtol=1e-11,
            atol=1e-13 * largest,
        )


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum()


def cosine(x: np.ndarray, y: np.ndarray) -> Any:
    return (x @ y) / np.sqrt((x @ x) * (y @ y))


def dot_unit(x: np.ndarray, y: np.ndarray) -> Any:
    """The cosine times the length of x."""
    return (x @ y) / np.sqrt(y @ y)


def numpy_probabilities(
    queries: np.ndarray,
    support: np.ndarray,
    similarity: Callable = cosine,
    temperature: float = 1.0,
) -> np.ndarray:
    """`[queries, ways]`, `sum_i a(x, x_i) [y_i = k]`."""
    rows = []
    for query in queries:
        attention = softmax(np.array([similarity(query, item) for item in support]) / temperature)
        rows.append([sum(attention[label == SUPPORT_LABELS]) for label in range(WAYS)])
    return np.array(rows)


def numpy_loss(probabilities: np.ndarray) -> Any:
    chosen = [row[label] for row, label in zip(probabilities, QUERY_LABELS, strict=True)]
    return -np.mean(np.log(chosen))


def numpy_encoder(params: dict[str, np.ndarray], examples: mj.Examples) -> np.ndarray:
    return np.tanh(np.asarray(examples.inputs) @ params["kernel"] + params["bias"])


@pytest.mark.parametrize(
    ("similarity", "options"),
    [
        (cosine, {}),
        (cosine, {"temperature": 0.3}),
        (np.dot, {"similarity": mj.metric.dot_products, "temperature": 2.0}),
        (dot_unit, {"normalize": "support", "temperature": 0.5}),
    ],
    ids=["cosine", "sharp_cosine", "dot_products", "unit_support"],
)
def test_probabilities_loss_and_gradient_are_those_of_the_equations(
    similarity: Callable, options: dict[str, Any]
) -> None:
    learner = mj.matching_network(tanh_encoder(FEATURES), ways=WAYS, **options)
    params, episode = start(learner, INPUTS)

    def oracle(params: dict[str, np.ndarray]) -> np.ndarray:
        support, query = (numpy_encoder(params, examples) for examples in episode)
        return numpy_probabilities(query, support, similarity, options.get("temperature", 1.0))

    (value, aux), gradient = slope(learner)(params, episode)
    probabilities = oracle(jax.tree.map(np.asarray, params))
    oracles.assert_close(aux.outputs, np.log(probabilities))
    np.testing.assert_allclose(value, numpy_loss(probabilities), rtol=1e-13)
    oracles.assert_close(
        aux.metrics["accuracy"], np.mean(probabilities.argmax(axis=1) == QUERY_LABELS)
    )
    assert_gradient_is(lambda moved: numpy_loss(oracle(moved)), params, gradient)


@pytest.mark.parametrize(("ways", "cap"), [(5, 0.65), (20, 0.28)])
def test_one_shot_probability_is_capped_without_a_temperature(ways: int, cap: float) -> None:
    # The best case: cosine 1 with the right item and -1 with every other.
    bound = np.e / (np.e + (ways - 1) / np.e)
    best = jnp.ones((1, FEATURES))
    labels = jnp.arange(ways)
    support = mj.Examples(jnp.where(labels[:, None] == 0, best, -best), labels)
    query = mj.Examples(best, labels[:1])

    def probability(support: mj.Examples, query: mj.Examples, **options: Any) -> np.ndarray:
        learner = mj.matching_network(identity(), ways=ways, **options)
        run = jax.jit(lambda *sets: learner.loss({}, mj.Episode(*sets))[1].outputs)
        return np.exp(run(support, query))

    reached = probability(support, query)[0, 0]
    np.testing.assert_allclose(reached, bound, rtol=1e-13)
    assert abs(reached - cap) < 0.005
    spread, asked = oracles.normals(0, (ways, FEATURES), (50, FEATURES))
    queries = mj.Examples(jnp.concatenate([asked, spread]), jnp.arange(50 + ways) % ways)
    assert probability(support._replace(inputs=spread), queries).max() < bound
    # A temperature lifts the cap.
    assert probability(support, query, temperature=0.1)[0, 0] > 1 - 1e-6


def test_only_a_query_that_is_left_long_sharpens_its_attention() -> None:
    support, query = oracles.normals(0, (WAYS, FEATURES), (1, FEATURES))
    labels = jnp.arange(WAYS)

    def scores(normalize: Any, stretch_support: float, stretch_query: float) -> Array:
        learner = mj.matching_network(identity(), normalize=normalize)
        known = mj.Examples(stretch_support * support, labels)
        asked = mj.Examples(stretch_query * query, labels[:1])
        return learner.loss({}, mj.Episode(known, asked))[1].outputs

    ours = scores("support", 1.0, 1.0)
    oracles.assert_close(scores("support", 7.0, 1.0), ours)
    oracles.assert_close(scores("both", 1.0, 5.0), scores(None, 7.0, 1.0))
    # Differences of log-probabilities are differences of |f(x)| cos.
    longer = scores("support", 1.0, 5.0)
    oracles.assert_close(longer - longer[:, :1], 5 * (ours - ours[:, :1]))
    length = jnp.linalg.norm(query)
    oracles.assert_close(scores("support", 1.0, 1.0 / length), scores("both", 1.0, 1.0))


@pytest.mark.parametrize("normalize", ["both", "support"])
def test_embeddings_of_zero_have_finite_gradients(normalize: Any) -> None:
    learner = mj.matching_network(identity(), normalize=normalize, ways=WAYS)
    support, query = oracles.normals(0, (len(SUPPORT_LABELS), INPUTS), (len(QUERY_LABELS), INPUTS))
    support, query = support.at[1].set(0.0), query.at[0].set(0.0)

    def loss(support: Array, query: Array) -> tuple[Array, Array]:
        known = mj.Examples(support, jnp.asarray(SUPPORT_LABELS))
        asked = mj.Examples(query, jnp.asarray(QUERY_LABELS))
        value, aux = learner.loss({}, mj.Episode(known, asked))
        return value, aux.outputs

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, outputs), gradients = jax.jit(run)(support, query)
    # A query of zeros attends to all items alike.
    shares = [np.mean(label == SUPPORT_LABELS) for label in range(WAYS)]
    np.testing.assert_allclose(np.exp(outputs[0]), shares, rtol=1e-13)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_one_of_normalize_and_similarity() -> None:
    for normalize in ("both", "support"):
        with pytest.raises(ValueError, match=f"normalize='{normalize}' with a similarity, which"):
            mj.matching_network(identity(), normalize=normalize, similarity=mj.metric.dot_products)
    with pytest.raises(ValueError, match='normalize=\'query\'; expected "both" or "support"'):
        mj.matching_network(identity(), normalize="query")


def test_one_shot_dot_products_are_softmax_attention() -> None:
    support, query = oracles.normals(0, (WAYS, INPUTS), (4, INPUTS))
    episode = mj.Episode(
        mj.Examples(support, jnp.arange(WAYS)), mj.Examples(query, jnp.asarray(QUERY_LABELS))
    )
    learner = mj.matching_network(identity(), similarity=mj.metric.dot_products)
    _, aux = learner.loss({}, episode)
    expected = [softmax(np.asarray(support) @ x) for x in np.asarray(query)]
    np.testing.assert_allclose(np.exp(aux.outputs), expected, rtol=1e-13)


def test_attention_is_summed_over_the_shots_of_a_class() -> None:
    support = mj.Examples(jnp.ones((5, 2)), jnp.array([0, 1, 0, 0, 2]))
    query = mj.Examples(jnp.array([[1.0, 2.0]]), jnp.array([0]))
    _, aux = mj.matching_network(identity(), ways=WAYS).loss({}, mj.Episode(support, query))
    np.testing.assert_allclose(np.exp(aux.outputs), [[0.6, 0.2, 0.2]], rtol=1e-13)


@pytest.mark.parametrize("normalize", ["both", "support"])
def test_a_weight_of_two_counts_an_item_twice(normalize: Any) -> None:
    learner = mj.matching_network(tanh_encoder(FEATURES), normalize=normalize, ways=WAYS)
    params, episode = start(learner, INPUTS)
    weights = [jnp.ones(len(s.targets)).at[1].set(2.0) for s in episode]
    weighted = mj.Episode(*(s._replace(weights=w) for s, w in zip(episode, weights, strict=True)))
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x[1:2]]), episode)
    loss = jax.jit(learner.loss)
    value = loss(params, weighted)[0]
    np.testing.assert_allclose(value, loss(params, twice)[0], rtol=1e-13)
    assert abs(value - loss(params, episode)[0]) > 1e-3


def test_without_ways_there_is_a_column_for_every_possible_class() -> None:
    learner = mj.matching_network(tanh_encoder(FEATURES))
    params, episode = start(learner, INPUTS)
    (value, aux), gradient = slope(learner)(params, episode)
    told = slope(mj.matching_network(tanh_encoder(FEATURES), ways=WAYS))
    (expected, expected_aux), expected_gradient = told(params, episode)
    assert aux.outputs.shape == (len(QUERY_LABELS), len(SUPPORT_LABELS))
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(
        (value, aux.outputs[:, :WAYS], gradient),
        (expected, expected_aux.outputs, expected_gradient),
    )


def test_temperature_may_be_traced() -> None:
    params, episode = start(mj.matching_network(tanh_encoder(FEATURES)), INPUTS)

    def loss(temperature: Array | float) -> Array:
        learner = mj.matching_network(tanh_encoder(FEATURES), temperature=temperature)
        return learner.loss(params, episode)[0]

    temperatures = np.array([0.1, 0.5, 1.0, 3.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.asarray(temperatures))
    support, query = (
        numpy_encoder(jax.tree.map(np.asarray, params), examples) for examples in episode
    )

    def oracle(temperature: Any) -> Any:
        return numpy_loss(numpy_probabilities(query, support, cosine, temperature))

    np.testing.assert_allclose(values, [oracle(t) for t in temperatures], rtol=1e-13)
    derivatives = [complex_step(oracle, t, 1.0) for t in temperatures]
    np.testing.assert_allclose(slopes, derivatives, rtol=1e-11)


# Full context embeddings, from section 2.1.2 and appendix A of the paper.

Gates = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def gates(params: dict[str, Any]) -> Gates:
    """`W`, `U` and `b` of every gate of `W f' + U state + b`, rows being outputs.

    Flax's cell files the columns of `U = [U_h, U_r]` under two names: `U_h` acts on its state and
    `U_r` on what stands beside f' in its input. A plain LSTM has no `U_r`.
    """
    named = {}
    for gate in "ifgo":
        inputs, state = params[f"i{gate}"]["kernel"], params[f"h{gate}"]
        width = state["kernel"].shape[0]
        weights = inputs[:width].T
        recurrent = np.concatenate([state["kernel"].T, inputs[width:].T], axis=1)
        named[gate] = (weights, recurrent, state["bias"])
    return named


def numpy_lstm(
    cell: Gates, item: np.ndarray, state: np.ndarray, memory: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of an LSTM: its output and its new memory."""

    def gate(name: str) -> np.ndarray:
        weights, recurrent, bias = cell[name]
        return weights @ item + recurrent @ state + bias

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    memory = sigmoid(gate("f")) * memory + sigmoid(gate("i")) * np.tanh(gate("g"))
    return sigmoid(gate("o")) * np.tanh(memory), memory


def numpy_support(params: dict[str, Any], items: np.ndarray) -> np.ndarray:
    """g: forward and backward LSTM over the items in order, and the skip connection."""
    total = list(items)
    for name, order in (("forward", range(len(items))), ("backward", range(len(items))[::-1])):
        cell = gates(params[name])
        output = memory = np.zeros(items.shape[1])
        for i in order:
            output, memory = numpy_lstm(cell, items[i], output, memory)
            total[i] = total[i] + output
    return np.array(total)


def numpy_query(
    params: dict[str, Any], query: np.ndarray, support: np.ndarray, read_steps: int
) -> np.ndarray:
    """attLSTM: the recurrent state is [h, r], the input f' alone, and r_0 is read at h_0 = 0."""
    cell = gates(params["attention"])
    assert cell["i"][1].shape == (len(query), 2 * len(query))
    h = memory = np.zeros(len(query))
    for _ in range(read_steps):
        attention = softmax(np.array([h @ item for item in support]))
        r = sum(share * item for share, item in zip(attention, support, strict=True))
        output, memory = numpy_lstm(cell, query, np.concatenate([h, r]), memory)
        h = output + query
    return h if read_steps else query


@pytest.mark.exact
@pytest.mark.parametrize("read_steps", [0, 1, 3])
def test_full_context_embeddings_are_those_of_the_equations(read_steps: int) -> None:
    context = mj.models.full_context(FEATURES, read_steps=read_steps)
    params = oracles.normal_like(1, jax.eval_shape(context.init, jax.random.key(0)), 0.7)
    items, queries = oracles.normals(0, (5, FEATURES), (2, FEATURES))
    numbers, items_, queries_ = jax.tree.map(np.asarray, (params, items, queries))
    support = jax.jit(context.support)(params, items, None)
    expected = numpy_support(numbers, items_)
    oracles.assert_close(support, expected)
    outputs = jax.jit(context.query)(params, queries, support, None)
    oracles.assert_close(
        outputs, np.array([numpy_query(numbers, x, expected, read_steps) for x in queries_])
    )
    if read_steps == 0:
        np.testing.assert_array_equal(outputs, queries)
    else:
        assert jnp.abs(outputs - queries).max() > 1e-2


@pytest.mark.parametrize(
    ("read_steps", "separate", "normalize"),
    [
        (None, True, None),
        (0, False, None),
        (3, False, "both"),
        (3, True, None),
        (2, True, "support"),
    ],
    ids=str,
)
def test_loss_and_gradient_with_every_part_are_those_of_the_equations(
    read_steps: int | None, separate: bool, normalize: Any
) -> None:
    learner = mj.matching_network(
        tanh_encoder(FEATURES),
        normalize=normalize,
        support_encoder=tanh_encoder(FEATURES) if separate else None,
        full_context=None
        if read_steps is None
        else mj.models.full_context(3, read_steps=read_steps),
        ways=WAYS,
    )
    params, episode = start(learner, INPUTS)
    assert (params.support_encoder is not None) == separate
    assert (params.full_context is None) == (read_steps is None)

    def oracle(params: Any) -> np.ndarray:
        support = numpy_encoder(params.support_encoder or params.encoder, episode.support)
        queries = numpy_encoder(params.encoder, episode.query)
        if read_steps is not None:
            support = numpy_support(params.full_context, support)
            queries = np.array(
                [numpy_query(params.full_context, x, support, read_steps) for x in queries]
            )
        return numpy_probabilities(queries, support, dot_unit if normalize == "support" else cosine)

    (value, aux), gradient = slope(learner)(params, episode)
    probabilities = oracle(jax.tree.map(np.asarray, params))
    oracles.assert_close(aux.outputs, np.log(probabilities))
    np.testing.assert_allclose(value, numpy_loss(probabilities), rtol=1e-12)
    assert_gradient_is(lambda moved: numpy_loss(oracle(moved)), params, gradient)


def reordered(episode: mj.Episode, order: tuple[int, ...]) -> mj.Episode:
    support = jax.tree.map(lambda x: x[np.array(order)], episode.support)
    return episode._replace(support=support)


def test_order_of_the_support_matters_only_with_full_context() -> None:
    backwards = tuple(range(len(SUPPORT_LABELS)))[::-1]
    gaps = []
    for context in (None, mj.models.full_context(FEATURES, read_steps=1)):
        learner = mj.matching_network(tanh_encoder(FEATURES), full_context=context, ways=WAYS)
        params, episode = start(learner, INPUTS)
        loss = jax.jit(learner.loss)
        gaps.append(abs(loss(params, episode)[0] - loss(params, reordered(episode, backwards))[0]))
    assert gaps[0] < 1e-14
    assert gaps[1] > 1e-3


def test_a_key_shuffles_the_support_with_full_context() -> None:
    learner = mj.matching_network(
        tanh_encoder(FEATURES),
        full_context=mj.models.full_context(FEATURES, read_steps=1),
        ways=WAYS,
    )
    params, (support, query) = start(learner, INPUTS)
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    # Labels and weights have to travel with the inputs.
    support = jax.tree.map(lambda x: x[:4], support)._replace(weights=weights)
    episode = mj.Episode(support, query)
    orders = list(itertools.permutations(range(4)))
    every = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(reordered(episode, order) for order in orders)
    )
    outputs = jax.jit(jax.vmap(lambda episode: learner.loss(params, episode)[1].outputs))(every)
    drawn = jax.jit(jax.vmap(lambda key: learner.loss(params, episode, key)[1].outputs))(
        jax.random.split(jax.random.key(0), 8)
    )
    # A draw is one of the orders; padding may stand anywhere, so that four orders are alike.
    distances = np.abs(np.asarray(drawn)[:, None] - np.asarray(outputs)[None]).max(axis=(2, 3))
    assert distances.min(axis=1).max() < 1e-13
    assert len(set(distances.argmin(axis=1))) > 2
    quiet = jax.jit(mj.matching_network(tanh_encoder(FEATURES), ways=WAYS).loss)
    first, second = (quiet(params.encoder, episode, key)[0] for key in (None, jax.random.key(1)))
    np.testing.assert_allclose(first, second, rtol=1e-13)


@pytest.mark.parametrize(
    ("full", "normalize"), [(False, "both"), (True, "support")], ids=["plain", "full_context"]
)
def test_padding_counts_for_nothing(full: bool, normalize: Any) -> None:
    def learner(ways: int) -> mj.Learner:
        context = mj.models.full_context(FEATURES, read_steps=2) if full else None
        return mj.matching_network(
            conv_encoder(), normalize=normalize, full_context=context, ways=ways
        )

    params, episode = start(learner(WAYS), 6, 6, 1)
    # Rows of real classes, of a whole padded class (3), and of no class at all.
    support = padded(episode.support, [0, 3, 3, 2, -1], 0)
    query = padded(episode.query, [3, 99, 1], 2)
    between = np.flatnonzero(support.weights == 0)
    assert between.min() < 3
    assert ((between > 0) & (between < len(support.weights) - 1)).any()
    (value, aux), gradient = slope(learner(WAYS + 1))(params, mj.Episode(support, query))
    (expected, expected_aux), expected_gradient = slope(learner(WAYS))(params, episode)
    oracles.assert_close((value, gradient), (expected, expected_gradient))
    oracles.assert_close(aux.outputs[query.weights > 0, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])


def test_query_batching_decides_who_shares_a_batch() -> None:
    encoder = conv_encoder()
    params, episode = start(mj.matching_network(encoder), 6, 6, 1)
    apply = jax.jit(encoder.apply)
    support, query = (s.inputs for s in episode)
    shots = len(support)
    whole = apply(params, jnp.concatenate([support, query]), None)
    alone = apply(params, support, None)
    singles = [apply(params, jnp.concatenate([support, item[None]]), None)[shots] for item in query]
    expected = {
        "separate": (alone, apply(params, query, None)),
        "joint": (whole[:shots], whole[shots:]),
        "single": (alone, singles),
    }
    expected = {
        batching: np.log(numpy_probabilities(np.asarray(second), np.asarray(first)))
        for batching, (first, second) in expected.items()
    }
    for batching, outputs in expected.items():
        options = {} if batching == "separate" else {"query_batching": batching}
        learner = mj.matching_network(encoder, ways=WAYS, **options)
        _, aux = jax.jit(learner.loss)(params, episode)
        oracles.assert_close(aux.outputs, outputs)
    for one, other in itertools.combinations(expected.values(), 2):
        assert np.abs(one - other).max() > 1e-3
