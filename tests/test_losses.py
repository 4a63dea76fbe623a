"""Losses and scores as people have them: one value an item, two arguments, weights by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from learners import WAYS, encoder, episode, model, relation

import metajax as mj
from metajax.losses import as_loss, as_scores

INTEGER_LABELS = optax.softmax_cross_entropy_with_integer_labels
SLOW = pytest.mark.slow
SGD = {"inner": optax.sgd(0.1), "num_steps": 1}


def case(*, weighted: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    (logits,) = oracles.normals(0, (5, 3))
    weights = jnp.array([1.0, 2.0, 0.0, 1.0, 0.5]) if weighted else None
    return logits, jnp.array([0, 2, 1, 1, 0]), weights


@pytest.mark.parametrize("weighted", [False, True])
def test_one_value_an_item_is_averaged_by_the_weights(weighted: bool) -> None:
    logits, labels, weights = case(weighted=weighted)
    got = as_loss(INTEGER_LABELS)(logits, labels, weights)
    np.testing.assert_allclose(got, mj.cross_entropy(logits, labels, weights), rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_values_of_several_axes_are_averaged_within_an_item(weighted: bool) -> None:
    logits, _, weights = case(weighted=weighted)
    targets = jnp.ones_like(logits)
    got = as_loss(optax.squared_error)(logits, targets, weights)
    np.testing.assert_allclose(got, mj.squared_error(logits, targets, weights), rtol=1e-12)


def test_a_scalar_of_two_arguments() -> None:
    logits, labels, _ = case(weighted=False)
    got = as_loss(lambda outputs, targets: INTEGER_LABELS(outputs, targets).mean())
    np.testing.assert_allclose(
        got(logits, labels, None), mj.cross_entropy(logits, labels), rtol=1e-12
    )


def test_padding_of_a_loss_by_item_reaches_nothing() -> None:
    logits, labels, weights = case(weighted=True)
    junk = logits.at[2].set(jnp.nan)
    loss = as_loss(INTEGER_LABELS)
    value, slope = jax.value_and_grad(lambda x: loss(x, labels, weights))(junk)
    np.testing.assert_allclose(value, loss(logits, labels, weights), rtol=1e-12)
    assert np.isfinite(slope[:2]).all()


@pytest.mark.parametrize(
    ("loss_fn", "error", "message"),
    [
        (lambda x, y: x.mean(), ValueError, "returned a scalar and takes no weights"),
        (lambda x, y, weights: x, ValueError, r"takes weights and returned the shape \(5, 3\)"),
        (lambda x, y: x[:2], ValueError, r"returned the shape \(2, 3\) for 5 items"),
        (lambda x: x, TypeError, r"loss_fn has the parameters \(x\), and is called with"),
        (lambda x, y, z: x, TypeError, "missing a required argument: 'z'"),
        ("mse", TypeError, "loss_fn is 'mse'; expected a function"),
    ],
)
def test_what_a_loss_cannot_be(loss_fn: Callable, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        as_loss(loss_fn)(*case(weighted=True))


def test_outputs_and_targets_that_are_broadcast() -> None:
    """A column less a row is a square, whose mean would look like a loss."""
    column, row = jnp.ones((5, 1)), jnp.ones(5)
    with jax.numpy_rank_promotion("allow"):
        loss = as_loss(lambda outputs, targets: (outputs - targets) ** 2)
        with pytest.raises(ValueError, match=r"\(5, 5\) for 5 items, each against every other, of"):
            loss(column, row, None)
    assert loss(jnp.ones((5, 5)), jnp.zeros((5, 5)), None) == 1


@pytest.mark.parametrize("loss_fn", [mj.cross_entropy, INTEGER_LABELS])
def test_a_model_that_gives_more_than_logits(loss_fn: Callable) -> None:
    pair = mj.Model(lambda key: jnp.ones((3, 2)), lambda params, x: (x @ params, x))
    items = mj.Examples(jnp.ones((2, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match=r"the model gave a tuple; expected the logits \[items"):
        mj.supervised(pair, loss_fn).loss(jnp.ones((3, 2)), items, None, None)


def test_weighted_mean() -> None:
    values, weights = jnp.array([[1.0, 3.0], [jnp.nan, 0.0]]), jnp.array([2.0, 0.0])
    assert mj.weighted_mean(values, weights) == 2.0
    assert mj.weighted_mean(values[:1]) == 2.0


@pytest.mark.parametrize(
    ("dtype", "weight"),
    [(jnp.bfloat16, 1), (jnp.float16, 60_000), (jnp.int32, 2**31 - 1), (jnp.int8, 100)],
)
def test_weights_of_any_type_are_added_exactly(dtype: jnp.dtype, weight: float) -> None:
    weights = jnp.full(257, weight, dtype)
    assert mj.accuracy(jnp.ones((257, 2)), jnp.zeros(257, int), weights) == 1
    for values in (
        jnp.full(257, 3.0),
        jnp.full(257, 3.0, jnp.bfloat16),
        jnp.full(257, 3, jnp.int8),
    ):
        assert mj.weighted_mean(values, weights) == 3
    half = jnp.ones(257, jnp.bfloat16)
    assert mj.weighted_mean(half, half).dtype == jnp.bfloat16


def test_scores_are_added_to_the_librarys() -> None:
    logits, labels, _ = case(weighted=False)
    own = {"accuracy": mj.accuracy}
    top = {"second": lambda x, y: (jnp.argsort(x)[:, -2] == y) * 1.0}
    scores = as_scores(top, own)(logits, labels, None)
    assert sorted(scores) == ["accuracy", "second"]
    replaced = as_scores({"accuracy": lambda x, y: jnp.zeros(5)}, own)(logits, labels, None)
    assert replaced["accuracy"] == 0


def halves(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return 0.5 * INTEGER_LABELS(jnp.maximum(outputs, -1e3), targets)


FACTORIES = {
    "maml": lambda **options: mj.maml(model(), **SGD, **options),
    "fomaml": lambda **options: mj.fomaml(model(), **SGD, **options),
    "anil": lambda **options: mj.anil(encoder(), mj.models.mlp((WAYS,)), **SGD, **options),
    "boil": lambda **options: mj.boil(encoder(), mj.models.mlp((WAYS,)), **SGD, **options),
    "meta_sgd": lambda **options: mj.meta_sgd(model(), num_steps=1, **options),
    "reptile": lambda **options: mj.reptile(model(), **SGD, **options),
    "proto_maml": lambda **options: mj.proto_maml(encoder(), **SGD, **options),
    "fo_proto_maml": lambda **options: mj.fo_proto_maml(encoder(), **SGD, **options),
    "prototypical_network": lambda **options: mj.prototypical_network(encoder(), **options),
    "matching_network": lambda **options: mj.matching_network(encoder(), **options),
    "relation_network": relation,
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("reptile", "prototypical_network") else pytest.param(name, marks=SLOW)
        for name in FACTORIES
    ],
)
def test_every_learner_takes_losses_and_metrics(name: str) -> None:
    learner = FACTORIES[name](loss_fn=halves, metrics={"loss_again": halves})
    task = episode(jax.random.key(0))
    params = jax.eval_shape(learner.init, jax.random.key(0), task.support.inputs)
    params = oracles.normal_like(0, params, 0.3)
    _, aux = jax.jit(learner.loss)(params, task)
    np.testing.assert_allclose(
        aux.metrics["query_loss"], halves(aux.outputs, task.query.targets).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(aux.metrics["query_loss"], aux.metrics["loss_again"], rtol=1e-6)
    compares = "network" in name or "proto" in name
    assert ("accuracy" in aux.metrics) == compares  # halves is no classification that is known.


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_reaches_the_gradient(label: int) -> None:
    logits, targets = jnp.ones((3, 2)), jnp.array([0, 1, label])
    gradient = jax.grad(mj.cross_entropy)
    assert jnp.isnan(gradient(logits, targets)).any()
    padded = gradient(logits, targets, jnp.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(padded, gradient(logits, targets % 2, jnp.array([1.0, 1.0, 0.0])))


LOGITS, LABELS = jnp.zeros((4, 3)).at[:, 0].set(1.0), jnp.array([0, 1, 0, 2])
# A public loss or score, outputs and targets for it, and its mean over the first and third items.
PUBLIC = (
    (mj.cross_entropy, LOGITS, LABELS, float(jnp.log(jnp.e + 2) - 1)),
    (mj.match_error, LOGITS, LABELS, 0.0),
    (mj.accuracy, LOGITS, LABELS, 1.0),
    (mj.squared_error, jnp.ones(4), jnp.array([3.0, 0.0, 3.0, 0.0]), 4.0),
    (lambda outputs, targets, weights: mj.weighted_mean(outputs, weights), LOGITS, None, 1 / 3),
)


@pytest.mark.parametrize(("score", "outputs", "targets", "mean"), PUBLIC)
def test_weights_that_are_known(
    score: Callable, outputs: jax.Array, targets: jax.Array | None, mean: float
) -> None:
    for weights in ([True, False, True, False], np.array([2, 0, 2, 0]), [0.5, 0.0, 0.5, 0.0]):
        np.testing.assert_allclose(score(outputs, targets, weights), mean, rtol=1e-6)
    if targets is not None:
        given = outputs.tolist(), targets.tolist(), [1, 0, 1, 0]
        np.testing.assert_allclose(score(*given), mean, rtol=1e-6)
    for wrong, error, message in (
        ([1, 1, 1, -1.0], ValueError, r"weights hold -1.0; expected finite numbers of 0 or more"),
        ([1, 1, 1, np.nan], ValueError, "weights hold nan; expected finite"),
        (np.array([1, np.inf, 1, 1]), ValueError, "weights hold inf; expected finite"),
        (jnp.ones((4, 1)), ValueError, r"shape \(4, 1\); expected \(4,\), one number an item"),
        (np.ones(1), ValueError, r"weights have shape \(1,\); expected \(4,\)"),
        (1.0, ValueError, r"weights have shape \(\); expected \(4,\)"),
        (np.ones(4, complex), TypeError, "weights are complex64; expected real numbers"),
        ("even", TypeError, "weights is 'even'; expected an array"),
    ):
        with pytest.raises(error, match=message):
            score(outputs, targets, wrong)


@pytest.mark.parametrize(("score", "outputs", "targets", "mean"), PUBLIC)
def test_weights_that_a_program_does_not_know(
    score: Callable, outputs: jax.Array, targets: jax.Array | None, mean: float
) -> None:
    compiled = jax.jit(lambda weights: score(outputs, targets, weights))
    np.testing.assert_allclose(compiled(jnp.array([2, 0, 2, 0])), mean, rtol=1e-6)
    for wrong in (-1.0, np.nan, np.inf):
        assert np.isnan(compiled(jnp.array([1, 1, 1, wrong])))
    assert np.isnan([compiled(jnp.zeros(4)), score(outputs, targets, jnp.zeros(4))]).all()


@pytest.mark.parametrize(("score", "outputs", "targets", "mean"), PUBLIC[:4])
def test_targets_that_would_be_broadcast(
    score: Callable, outputs: jax.Array, targets: jax.Array, mean: float
) -> None:
    with jax.numpy_rank_promotion("allow"):
        for wrong in (targets[:, None], targets[:1], targets[0], [targets]):
            with pytest.raises(ValueError, match=r"got outputs of shape .* and targets of shape"):
                score(outputs, wrong)
            with pytest.raises(ValueError, match=r"got outputs of shape .* and targets of shape"):
                jax.jit(score)(outputs, wrong)
    for wrong in (None, {"y": targets}, lambda: 0):
        with pytest.raises(TypeError, match=r"targets is .*; expected an array"):
            score(outputs, wrong)


def test_no_items_have_no_mean() -> None:
    for wrong in (jnp.ones(()), jnp.ones((0, 3))):
        with pytest.raises(ValueError, match=r"values have shape .*; expected \[items, ...\]"):
            mj.weighted_mean(wrong)


@pytest.mark.parametrize("score", [mj.accuracy, mj.cross_entropy, mj.match_error])
def test_outputs_that_are_no_numbers_are_scored_so(score: Callable) -> None:
    """The largest of them would be the NaN: chance, where labels are drawn at random."""
    for place in range(3):
        spoilt = LOGITS.at[0, place].set(jnp.nan)
        assert np.isnan([score(spoilt, LABELS), jax.jit(score)(spoilt, LABELS)]).all()
        slope = np.asarray(jax.grad(score)(spoilt, LABELS))
        assert not slope.any() if score is mj.accuracy else np.isnan(slope[0]).any()
        of_others = jnp.array([0.0, 1.0, 1.0, 1.0])
        np.testing.assert_array_equal(
            score(spoilt, LABELS, of_others), score(LOGITS, LABELS, of_others)
        )
        stack = jnp.stack([spoilt, LOGITS])
        assert np.isnan(jax.vmap(score, (0, None))(stack, LABELS)).tolist() == [True, False]
    absent = LOGITS.at[:, 1].set(-jnp.inf)
    assert mj.accuracy(absent, LABELS) == 0.5


def test_accuracy_of_several_labels_an_item() -> None:
    outputs = jnp.zeros((2, 3, 2)).at[0, 0, 1].set(1.0)
    labels = jnp.zeros((2, 3), int)
    assert mj.accuracy(outputs, labels, jnp.array([1.0, 0.0])) == np.float32(2 / 3)
