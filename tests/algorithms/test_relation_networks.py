"""Relation networks: the equations in NumPy, the published modules, padding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from metric_cases import complex_step, padded

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
WAYS, SIDE, INPUTS, CHANNELS = 3, 2, 4, 3
# Three shots of class 0, one of class 1, two of class 2.
SUPPORT_LABELS = np.array([2, 0, 1, 0, 2, 0])
QUERY_LABELS = np.array([1, 0, 2, 0])


def tiny_encoder() -> mj.Model:
    """A 1x1 convolution with tanh, so that the oracle's encoder is one line."""

    def init(key: Array, inputs: Array) -> Array:
        return jax.random.normal(key, (inputs.shape[-1], CHANNELS))

    return mj.Model(init, lambda params, inputs: jnp.tanh(inputs @ params))


def tiny_relation() -> mj.Model:
    """Two layers over the flattened maps of a pair; every entry has weights of its own."""

    def init(key: Array, pairs: Array) -> dict[str, Array]:
        hidden = jax.random.normal(key, (pairs[0].size, 2))
        return {"hidden": hidden, "out": jnp.ones((2, 1)), "bias": jnp.zeros(1)}

    def apply(params: dict[str, Array], pairs: Array) -> Array:
        flat = pairs.reshape(pairs.shape[0], -1)
        return jnp.tanh(flat @ params["hidden"]) @ params["out"] + params["bias"][None]

    return mj.Model(init, apply)


def start(learner: mj.Learner, *shape: int, seed: int = 1) -> tuple[Any, mj.Episode]:
    """Parameters, none of them zero, and an episode of items of `shape`."""
    support, query = oracles.normals(0, (len(SUPPORT_LABELS), *shape), (len(QUERY_LABELS), *shape))
    shapes = jax.eval_shape(learner.init, jax.random.key(0), support)
    episode = mj.Episode(
        mj.Examples(support, jnp.asarray(SUPPORT_LABELS)),
        mj.Examples(query, jnp.asarray(QUERY_LABELS)),
    )
    return oracles.normal_like(seed, shapes, 0.5), episode


def slope(learner: mj.Learner) -> Callable[[Any, mj.Episode], tuple[tuple[Array, mj.Aux], Any]]:
    return jax.jit(jax.value_and_grad(learner.loss, has_aux=True))


def numpy_scores(params: Any, episode: mj.Episode, weights: np.ndarray) -> np.ndarray:
    """`[queries, ways]`, a pair at a time."""
    support, query = (np.tanh(np.asarray(s.inputs) @ params.encoder) for s in episode)
    relation = params.relation
    scores = np.zeros((len(query), WAYS), np.result_type(query, relation["out"]))
    for row, maps in enumerate(query):
        for label in range(WAYS):
            shots = [
                w * s
                for w, s, k in zip(weights, support, SUPPORT_LABELS, strict=True)
                if k == label
            ]
            pair = np.concatenate([sum(shots), maps], axis=-1).ravel()
            logit = np.tanh(pair @ relation["hidden"]) @ relation["out"] + relation["bias"]
            scores[row, label] = 1 / (1 + np.exp(-logit[0]))
    return scores


def numpy_loss(scores: np.ndarray) -> Any:
    total = 0
    for row, target in zip(scores, QUERY_LABELS, strict=True):
        for label, score in enumerate(row):
            total += (score - (label == target)) ** 2
    return total / scores.size


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_scores_loss_and_gradient_are_those_of_the_equations(weighted: bool) -> None:
    learner = mj.relation_network(tiny_encoder(), tiny_relation(), ways=WAYS)
    params, episode = start(learner, SIDE, SIDE, INPUTS)
    weights = np.array([1.0, 2.0, 1.0, 0.5, 3.0, 0.0]) if weighted else np.ones(6)
    if weighted:
        support = episode.support._replace(weights=jnp.asarray(weights))
        episode = episode._replace(support=support)
    (value, aux), gradient = slope(learner)(params, episode)
    scores = numpy_scores(jax.tree.map(np.asarray, params), episode, weights)
    oracles.assert_close(aux.outputs, scores)
    np.testing.assert_allclose(value, numpy_loss(scores), rtol=1e-13)
    oracles.assert_close(aux.metrics["query_loss"], value)
    oracles.assert_close(aux.metrics["accuracy"], np.mean(scores.argmax(axis=1) == QUERY_LABELS))
    for seed in range(3):
        direction = oracles.normal_like(seed, params)
        expected = complex_step(
            lambda moved: numpy_loss(numpy_scores(moved, episode, weights)), params, direction
        )
        np.testing.assert_allclose(oracles.dot(gradient, direction), expected, rtol=1e-11)


def clipped_adam(steps: list[Any], bound: float, rate: float) -> Any:
    """The sum of Adam's updates by these gradients, clipped at the norm `bound` over all leaves."""
    first = second = moved = jax.tree.map(np.zeros_like, steps[0])
    for count, gradient in enumerate(steps, 1):
        norm = np.sqrt(oracles.dot(gradient, gradient))
        assert norm > bound  # Or there would be nothing to see.
        clipped = jax.tree.map(lambda g, norm=norm: g * bound / norm, gradient)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, clipped)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, clipped)
        corrected = (1 - 0.9**count, 1 - 0.999**count)
        moved = jax.tree.map(
            lambda x, m, v, c=corrected: x - rate * (m / c[0]) / (np.sqrt(v / c[1]) + 1e-8),
            moved,
            first,
            second,
        )
    return moved


def test_modules_are_clipped_apart_by_a_partition() -> None:
    learner = mj.relation_network(tiny_encoder(), tiny_relation(), ways=WAYS)
    params, episode = start(learner, SIDE, SIDE, INPUTS)
    bound, rate, run = 0.02, 0.1, slope(learner)
    module = optax.chain(optax.clip_by_global_norm(bound), optax.adam(rate))
    labels = mj.RelationParams("encoder", "relation")
    optimizer = optax.partition({"encoder": module, "relation": module}, labels)
    step = jax.jit(mj.train_step(learner, optimizer))
    state = mj.init_state(params, optimizer, jax.random.key(0))
    gradients = []
    for _ in range(3):
        gradients.append(jax.tree.map(np.asarray, run(state.params, episode)[1]))
        state, _ = step(state, jax.tree.map(lambda x: x[None], episode))
    encoder, relation = (
        clipped_adam([getattr(gradient, name) for gradient in gradients], bound, rate)
        for name in ("encoder", "relation")
    )
    moved = jax.tree.map(lambda after, before: after - before, state.params, params)
    oracles.assert_close(moved, mj.RelationParams(encoder, relation))
    together = clipped_adam(gradients, bound, rate)
    apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), together, moved)
    assert min(jax.tree.leaves(apart)) > 1e-4


def linear_pair(weights: list[float]) -> mj.Model:
    """The relation module `pair @ weights` of vectors."""
    return mj.Model(
        lambda key, pairs: {}, lambda params, pairs: pairs @ jnp.array(weights)[:, None]
    )


def identity() -> mj.Model:
    return mj.Model(lambda key, inputs: {}, lambda params, inputs: inputs)


def test_shots_are_summed_and_stand_before_the_query() -> None:
    support = mj.Examples(jnp.array([[1.0], [2.0], [5.0]]), jnp.array([0, 0, 1]))
    query = mj.Examples(jnp.array([[7.0]]), jnp.array([0]))
    learner = mj.relation_network(identity(), linear_pair([0.1, -0.02]), ways=2)
    params = learner.init(jax.random.key(0), support.inputs)
    value, aux = learner.loss(params, mj.Episode(support, query))
    scores = 1 / (1 + np.exp([[-(0.3 - 0.14), -(0.5 - 0.14)]]))
    np.testing.assert_allclose(aux.outputs, scores, rtol=1e-14)
    np.testing.assert_allclose(value, ((scores[0, 0] - 1) ** 2 + scores[0, 1] ** 2) / 2, rtol=1e-14)


def test_without_ways_only_present_classes_count() -> None:
    learners = [
        mj.relation_network(tiny_encoder(), tiny_relation(), ways=ways) for ways in (None, WAYS)
    ]
    params, episode = start(learners[0], SIDE, SIDE, INPUTS)
    ((value, aux), gradient), ((expected, expected_aux), expected_gradient) = (
        slope(learner)(params, episode) for learner in learners
    )
    assert aux.outputs.shape == (len(QUERY_LABELS), len(SUPPORT_LABELS))
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(
        (value, aux.outputs[:, :WAYS], gradient),
        (expected, expected_aux.outputs, expected_gradient),
    )


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_published_modules_have_the_published_shapes() -> None:
    encoder, relation = mj.models.relation_encoder(), mj.models.relation_module()
    learner = mj.relation_network(encoder, relation, ways=5)
    params = jax.eval_shape(learner.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    found = shapes(params)
    kernels = [found[f"encoder/Conv_{i}/kernel"] for i in range(4)]
    assert kernels == [(3, 3, 1, 64)] + 3 * [(3, 3, 64, 64)]
    assert found["relation/Conv_0/kernel"] == (3, 3, 128, 64)
    assert found["relation/Conv_1/kernel"] == (3, 3, 64, 64)
    # Maps of 5x5 are pooled to 1x1 by the two blocks.
    dense = [found[f"relation/Dense_{i}/kernel"] for i in range(2)]
    assert sorted(dense) == [(8, 1), (64, 8)]
    for size, side in ((28, 5), (84, 19)):
        images = jnp.zeros((2, size, size, 1))
        weights = jax.eval_shape(encoder.init, jax.random.key(0), images)
        maps = jax.eval_shape(encoder.apply, weights, images, None)
        assert maps.shape == (2, side, side, 64)
    for padding, width in (("SAME", 64 * 4 * 4), ("VALID", 64 * 3 * 3)):
        module = mj.models.relation_module(padding=padding)
        pairs = jnp.zeros((1, 19, 19, 128))
        weights = shapes(jax.eval_shape(module.init, jax.random.key(0), pairs))
        assert (width, 8) in weights.values()
    pairs = jnp.zeros((6, 5, 5, 128))
    weights = jax.eval_shape(relation.init, jax.random.key(0), pairs)
    assert jax.eval_shape(relation.apply, weights, pairs, None).shape == (6, 1)
    images = mj.Examples(jnp.zeros((10, 28, 28, 1)), jnp.repeat(jnp.arange(5), 2))
    value, aux = jax.eval_shape(learner.loss, params, mj.Episode(images, images))
    assert value.shape == ()
    assert aux.outputs.shape == (10, 5)


def small_published(ways: int) -> mj.Learner:
    return mj.relation_network(
        mj.models.relation_encoder(filters=2),
        mj.models.relation_module(filters=2, hidden=3),
        ways=ways,
    )


@functools.cache
def published_run() -> tuple[Any, mj.Episode, Callable]:
    """Parameters, an episode, and the compiled loss with its gradient."""
    learner = small_published(WAYS)
    return *start(learner, 22, 22, 1, seed=0), slope(learner)


def test_gradient_of_the_published_modules_is_the_finite_difference() -> None:
    params, episode, run = published_run()
    _, gradient = run(params, episode)
    # Every parameter counts: with a dead hidden layer there would be nothing to see.
    assert min(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 0
    direction = oracles.normal_like(3, params)
    difference = oracles.central_difference(lambda p: run(p, episode)[0][0], params, direction)
    np.testing.assert_allclose(oracles.dot(gradient, direction), difference, rtol=1e-5)


def test_padding_stays_out_of_the_statistics_of_both_modules() -> None:
    params, episode, run = published_run()
    # Rows of real classes, of a whole padded class (3), and of no class at all.
    support = padded(episode.support, [0, 3, 3, -1], 0)
    query = padded(episode.query, [3, 99, 1], 2)
    (value, aux), gradient = slope(small_published(WAYS + 1))(params, mj.Episode(support, query))
    (expected, expected_aux), expected_gradient = run(params, episode)
    oracles.assert_close((value, gradient), (expected, expected_gradient))
    oracles.assert_close(aux.outputs[query.weights > 0, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])


@pytest.mark.parametrize("query_batching", ["separate", "single"])
def test_query_batching_decides_whether_the_pairs_of_an_episode_share_a_batch(
    query_batching: Any,
) -> None:
    learner = mj.relation_network(
        tiny_encoder(),
        mj.models.from_linen(mj.models.RelationModule(filters=2, hidden=3)),
        ways=WAYS,
        query_batching=query_batching,
    )
    params, episode = start(learner, 4, 4, INPUTS, seed=0)
    loss = jax.jit(learner.loss)
    outputs = loss(params, episode)[1].outputs
    fewer = episode._replace(query=jax.tree.map(lambda x: x[:2], episode.query))
    gap = jnp.abs(loss(params, fewer)[1].outputs - outputs[:2]).max()
    assert gap < 1e-13 if query_batching == "single" else gap > 1e-4
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-4
