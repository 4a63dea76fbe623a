"""Class sums, distances and attention, against plain NumPy loops."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import metajax as mj
from metajax import metric

WAYS, FEATURES = 5, 3
# Out of order, of unequal counts, and without the class 3.
LABELS = np.array([4, 0, 2, 0, 4, 1, 0, 4], np.int32)
WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0, 0.0, 1.0])
weightings = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
truth = pytest.mark.usefixtures("float64")


def numpy_sums(embeddings: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    sums, counts = np.zeros((WAYS, *embeddings.shape[1:])), np.zeros(WAYS)
    for item, label in enumerate(LABELS):
        weight = 1.0 if weights is None else weights[item]
        sums[label] += weight * embeddings[item]
        counts[label] += weight
    return sums, counts


def numpy_pairs(
    pair: Callable[[np.ndarray, np.ndarray], float], points: jax.Array, centres: jax.Array
) -> np.ndarray:
    return np.array([[pair(x, c) for c in np.asarray(centres)] for x in np.asarray(points)])


def numpy_cosine(x: np.ndarray, y: np.ndarray) -> float:
    return (x @ y) / np.sqrt((x @ x) * (y @ y))


@pytest.mark.exact
@truth
@weightings
@pytest.mark.parametrize("shape", [(), (FEATURES,), (2, 4, FEATURES)], ids=str)
def test_class_sums_add_up_the_items_of_each_class(
    shape: tuple[int, ...], weights: np.ndarray | None
) -> None:
    (embeddings,) = oracles.normals(0, (len(LABELS), *shape))
    sums, counts = metric.class_sums(embeddings, jnp.asarray(LABELS), WAYS, weights)
    expected, numbers = numpy_sums(np.asarray(embeddings), weights)
    oracles.assert_close(sums, expected)
    np.testing.assert_array_equal(counts, numbers)
    assert not np.asarray(sums[3]).any()


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, bool])
def test_integers_are_numbers_as_floats_are(dtype: jnp.dtype) -> None:
    given = jnp.array([[100, 1, 0], [0, 120, 9]]).astype(dtype)
    labels, weights = jnp.array([1, 1]), jnp.array([0.25, 0.75])
    for function in (
        lambda x: metric.prototypes(x, labels, 2, weights),
        lambda x: metric.squared_distances(x, x[::-1]),
        lambda x: metric.dot_products(x, x),
        lambda x: metric.cosine_distances(x, x[::-1]),
        lambda x: metric.linear_reading(x),
        lambda x: metric.log_attention(x),
    ):
        jax.tree.map(np.testing.assert_array_equal, function(given), function(given * 1.0))


@truth
@weightings
def test_prototypes_are_class_means_and_zero_for_an_absent_class(
    weights: np.ndarray | None,
) -> None:
    (embeddings,) = oracles.normals(0, (len(LABELS), FEATURES))
    centres = mj.metric.prototypes(embeddings, jnp.asarray(LABELS), WAYS, weights)
    sums, counts = numpy_sums(np.asarray(embeddings), weights)
    for label in range(WAYS):
        expected = sums[label] / counts[label] if counts[label] else np.zeros(FEATURES)
        np.testing.assert_allclose(centres[label], expected, rtol=1e-13)
    assert (counts == 0).sum() == (1 if weights is None else 2)


@pytest.mark.exact
@truth
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e300], ids=str)
def test_items_of_weight_zero_never_reach_the_prototypes(garbage: float) -> None:
    clean, direction = oracles.normals(0, (len(LABELS), FEATURES), (WAYS, FEATURES))
    masked = WEIGHTS == 0
    spoilt = jnp.where(masked[:, None], garbage, clean)

    def read(embeddings: jax.Array) -> jax.Array:
        centres = mj.metric.prototypes(embeddings, jnp.asarray(LABELS), WAYS, WEIGHTS)
        return (jnp.sin(centres) * direction).sum()

    slope = jax.jit(jax.value_and_grad(read))
    (value, gradient), expected = slope(spoilt), slope(clean)
    oracles.assert_close((value, gradient), expected, 0.0)
    assert not np.asarray(gradient)[masked].any()
    assert np.abs(np.asarray(gradient)[~masked]).min() > 0


@truth
@pytest.mark.parametrize(
    ("function", "pair"),
    [
        (mj.metric.squared_distances, lambda x, y: sum((x - y) ** 2)),
        (mj.metric.dot_products, lambda x, y: sum(x * y)),
        (mj.metric.cosine_similarities, numpy_cosine),
        (mj.metric.cosine_distances, lambda x, y: 1 - numpy_cosine(x, y)),
    ],
    ids=["squared_distances", "dot_products", "cosine_similarities", "cosine_distances"],
)
def test_comparison_of_every_point_with_every_centre(function: Callable, pair: Callable) -> None:
    points, centres = oracles.normals(0, (4, FEATURES), (6, FEATURES))
    oracles.assert_close(function(points, centres), numpy_pairs(pair, points, centres), 1e-14)


@pytest.mark.exact
@truth
def test_squared_distance_of_far_near_twins_does_not_cancel() -> None:
    far = jnp.full((1, FEATURES), 1e8)
    np.testing.assert_array_equal(mj.metric.squared_distances(far, far), [[0.0]])
    # ||x||^2 - 2 x.c + ||c||^2 would lose every digit of this.
    np.testing.assert_array_equal(mj.metric.squared_distances(far + 0.5, far), [[0.25 * FEATURES]])


@truth
def test_linear_reading_is_the_squared_distance_up_to_a_constant_of_the_point() -> None:
    points, centres = oracles.normals(0, (7, FEATURES), (WAYS, FEATURES))
    weights, biases = mj.metric.linear_reading(centres)
    assert weights.shape == (FEATURES, WAYS)
    assert biases.shape == (WAYS,)
    logits = np.asarray(points) @ np.asarray(weights) + np.asarray(biases)
    distances = numpy_pairs(lambda x, c: sum((x - c) ** 2), points, centres)
    constant = logits + distances
    assert np.ptp(constant, axis=1).max() < 1e-12
    np.testing.assert_allclose(constant[:, 0], (np.asarray(points) ** 2).sum(axis=1), rtol=1e-12)


@truth
def test_cosine_of_a_zero_vector_is_zero_with_a_finite_gradient() -> None:
    points, centres = oracles.normals(0, (3, FEATURES), (4, FEATURES))
    points, centres = points.at[1].set(0), centres.at[2].set(0)
    cosines = np.asarray(mj.metric.cosine_similarities(points, centres))
    assert not cosines[1].any()
    assert not cosines[:, 2].any()
    assert np.abs(cosines[np.ix_([0, 2], [0, 1, 3])]).min() > 0

    def total(points: jax.Array, centres: jax.Array) -> jax.Array:
        return jnp.sin(mj.metric.cosine_similarities(points, centres)).sum()

    for gradient in jax.grad(total, argnums=(0, 1))(points, centres):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@truth
def test_cosine_ignores_lengths() -> None:
    points, centres = oracles.normals(0, (3, FEATURES), (4, FEATURES))
    stretched = mj.metric.cosine_similarities(1e3 * points, 1e-3 * centres)
    oracles.assert_close(stretched, mj.metric.cosine_similarities(points, centres), 1e-14)
    oracles.assert_close(jnp.diag(mj.metric.cosine_similarities(points, points)), np.ones(3), 1e-14)


@truth
def test_unit_vectors_have_length_1_along_the_last_axis() -> None:
    (vectors,) = oracles.normals(0, (2, 3, FEATURES))
    lengths = np.sqrt((np.asarray(vectors) ** 2).sum(axis=-1, keepdims=True))
    oracles.assert_close(mj.metric.unit_vectors(vectors), vectors / lengths, 1e-14)
    assert not mj.metric.unit_vectors(jnp.zeros(FEATURES)).any()


@truth
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_centred_features_are_those_less_the_mean_at_length_1(centred: bool, unit: bool) -> None:
    features, mean = oracles.normals(0, (2, 4, FEATURES), (FEATURES,))
    given = mean if centred else None
    expected = np.asarray(features) - (np.asarray(mean) if centred else 0)
    if unit:
        expected = expected / np.sqrt((expected**2).sum(axis=-1, keepdims=True))
    oracles.assert_close(metric.centred_features(features, given, unit), expected, 1e-14)


def test_centred_features_of_integers_and_of_the_mean_itself() -> None:
    pixels = np.array([[0, 255], [250, 255]], np.uint8)
    centred = metric.centred_features(pixels, np.array([3, 255]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(centred, [[-1, 0], [1, 0]])
    mean = jnp.arange(3.0)
    within = jax.jit(lambda x: metric.centred_features(x, mean))(jnp.ones((2, 3)))
    np.testing.assert_allclose(within, metric.centred_features(jnp.ones((2, 3)), mean), rtol=1e-6)
    gradient = jax.grad(lambda x: metric.centred_features(x, mean).sum())(mean)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.ones(2), r"the mean has shape \(2,\) and features \(5, 3\); expected \[..., 2\]"),
        (np.ones((5, 3)), r"the mean has shape \(5, 3\); expected \[features\]"),
        (np.array([0, np.nan, 0]), "the mean is nan at feature 1; expected finite numbers"),
    ],
)
def test_a_mean_of_other_features(mean: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric.centred_features(jnp.ones((5, 3)), mean)  # type: ignore[arg-type]


def numpy_attention(scores: jax.Array, weights: np.ndarray | None) -> np.ndarray:
    weights = np.ones(len(LABELS)) if weights is None else weights
    powers = np.exp(np.asarray(scores)) * weights
    return powers / powers.sum(axis=1, keepdims=True)


@truth
@weightings
def test_attention_is_a_weighted_softmax_over_the_items(weights: np.ndarray | None) -> None:
    (scores,) = oracles.normals(0, (4, len(LABELS)))
    attention = np.asarray(metric.log_attention(scores, weights))
    expected = numpy_attention(scores, weights)
    np.testing.assert_allclose(np.exp(attention), expected, rtol=1e-13)
    np.testing.assert_array_equal(attention == -np.inf, expected == 0)


@truth
@weightings
def test_class_probability_is_the_attention_summed_over_the_class(
    weights: np.ndarray | None,
) -> None:
    (scores,) = oracles.normals(0, (4, len(LABELS)))
    outputs = metric.class_log_probabilities(
        metric.log_attention(scores, weights), jnp.asarray(LABELS), WAYS, weights
    )
    attention = numpy_attention(scores, weights)
    expected = np.zeros((4, WAYS))
    for item, label in enumerate(LABELS):
        expected[:, label] += attention[:, item]
    np.testing.assert_allclose(np.exp(outputs), expected, rtol=1e-13)
    absent = [3] if weights is None else [2, 3]
    np.testing.assert_array_equal(np.asarray(outputs)[:, absent], -np.inf)
    np.testing.assert_allclose(np.exp(outputs).sum(axis=1), np.ones(4), rtol=1e-13)


def class_loss(scores: jax.Array, weights: np.ndarray | None) -> jax.Array:
    """Minus the mean log-probability of the present classes 0, 1 and 4."""
    outputs = metric.class_log_probabilities(
        metric.log_attention(scores, weights), jnp.asarray(LABELS), WAYS, weights
    )
    return -outputs[:, jnp.array([0, 1, 4])].mean()


@pytest.mark.exact
@truth
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30, -1e30], ids=str)
def test_scores_of_masked_items_reach_neither_values_nor_gradients(garbage: float) -> None:
    (clean,) = oracles.normals(0, (4, len(LABELS)))
    masked = WEIGHTS == 0
    spoilt = jnp.where(masked[None], garbage, clean)
    slope = jax.jit(jax.value_and_grad(lambda scores: class_loss(scores, WEIGHTS)))
    value, gradient = slope(spoilt)
    kept = np.flatnonzero(~masked)
    attention = numpy_attention(clean, WEIGHTS)
    losses = [-np.log(attention[:, label == LABELS].sum(axis=1)) for label in (0, 1, 4)]
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-13)
    oracles.assert_close((value, gradient), slope(clean), 0.0)
    assert not np.asarray(gradient)[:, masked].any()
    assert np.abs(np.asarray(gradient)[:, kept]).min() > 0


@truth
def test_gradient_of_class_probabilities_is_the_finite_difference() -> None:
    scores, direction = oracles.normals(0, (4, len(LABELS)), (4, len(LABELS)))
    slope = jax.jit(jax.value_and_grad(lambda scores: class_loss(scores, WEIGHTS)))
    difference = oracles.central_difference(lambda x: slope(x)[0], scores, direction)
    np.testing.assert_allclose(oracles.dot(slope(scores)[1], direction), difference, rtol=1e-7)


@weightings
def test_very_sharp_attention_is_finite_in_single_precision(weights: np.ndarray | None) -> None:
    weights = None if weights is None else weights.astype(np.float32)
    generator = np.random.default_rng(0)
    cosines = jnp.asarray(generator.uniform(-1, 1, (4, len(LABELS))), jnp.float32)
    # The scores reach 1,000, where the exponential of a difference is 0 and of a score infinite.
    cosines = cosines.at[0].set(-1).at[0, 0].set(1)

    def loss(cosines: jax.Array) -> jax.Array:
        return class_loss(cosines / 1e-3, weights)

    value, gradient = jax.jit(jax.value_and_grad(loss))(cosines)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    assert value > 100
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@truth
def test_attention_with_every_item_masked_has_a_finite_gradient() -> None:
    (scores,) = oracles.normals(0, (4, len(LABELS)))
    nothing = np.zeros(len(LABELS))
    attention, backward = jax.vjp(lambda x: metric.log_attention(x, nothing), scores)
    assert (np.asarray(attention) == -np.inf).all()
    assert not np.asarray(backward(jnp.ones_like(attention))[0]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: metric.class_sums(jnp.ones((8, 3)), jnp.asarray(LABELS), WAYS, w), "weights"),
        (lambda w: metric.log_attention(jnp.ones((2, 8)), w), "weights"),
        (
            lambda w: metric.prototypes(jnp.ones((8, 3)), jnp.asarray(LABELS)[:, None], WAYS),
            r"targets have shape \(8, 1\) with .* expected one integer label an item",
        ),
    ],
)
def test_weights_and_labels_of_other_shapes_or_values(call: Callable, message: str) -> None:
    for wrong in (np.ones((8, 1)), np.ones(4), -WEIGHTS, WEIGHTS * np.nan):
        with pytest.raises(ValueError, match=message):
            call(wrong)
