"""From a learner to calibrated answers: what is collected, fitted, saved and answered."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import calibration

# As many classes of both, so that they share their programs.
IMAGES = {split: mj.data.glyphs(split, drawers=9)[:20] for split in ("validation", "test")}
# Means of pixels: far from calibrated, and better than chance.
PIXELS = mj.Model(lambda key, x: jnp.ones(()), lambda params, x: params * x.reshape(len(x), 784))
LEARNER = mj.prototypical_network(PIXELS, ways=5)


def _closed(split: str = "validation", ways: int = 5) -> mj.data.ImageEpisodes:
    return mj.data.image_episodes(IMAGES[split], ways=ways, shots=5, queries=4)


CLOSED = _closed()
OPEN = mj.data.with_strangers(_closed(ways=10), 5)
PARAMS = LEARNER.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


def test_the_accuracy_is_that_of_evaluate() -> None:
    scores = mj.evaluate(LEARNER, PARAMS, CLOSED, episodes=64, seed=3)
    answers = calibration.collect(LEARNER, PARAMS, CLOSED, episodes=64, seed=3)
    assert answers.outputs.shape == (64, 20, 5)
    right = answers.outputs.argmax(-1) == answers.targets
    np.testing.assert_allclose(right.mean(1), scores.scores["accuracy"], rtol=1e-6)


@pytest.mark.slow
def test_episodes_from_the_host_are_answered_alike() -> None:
    answers = calibration.collect(LEARNER, PARAMS, CLOSED, episodes=64, seed=3)
    host = mj.data.image_episodes(IMAGES["validation"], ways=5, shots=5, queries=4, place="host")
    read = calibration.collect(LEARNER, PARAMS, host, episodes=64, seed=3)
    np.testing.assert_array_equal(read.targets, answers.targets)
    np.testing.assert_allclose(read.outputs, answers.outputs, rtol=1e-4, atol=1e-4)


def _batch_normalised() -> mj.Model:
    def apply(params: jax.Array, x: jax.Array, weights: jax.Array | None) -> jax.Array:
        w = jnp.ones(len(x)) if weights is None else weights
        flat = x.reshape(len(x), -1) @ params
        mean = (w[:, None] * flat).sum(0, keepdims=True) / w.sum()
        return flat - mean

    return mj.Model(lambda key, x: jax.random.normal(key, (x[0].size, 3)), apply)


@pytest.mark.slow
def test_queries_are_answered_as_in_deployment_with_what_adaptation_draws() -> None:
    """A learner with batch statistics and mini-batches, from a list of episodes."""
    learner = mj.reptile(
        _batch_normalised(),
        inner=optax.sgd(0.1),
        num_steps=2,
        batch_size=2,
        query_batching="support",
    )
    sample = mj.data.image_episodes(IMAGES["test"], ways=3, shots=2, queries=2)
    episodes = [sample(key) for key in jax.random.split(jax.random.key(0), 3)]
    params = learner.init(jax.random.key(1), episodes[0].support.inputs)
    scores = mj.evaluate(learner, params, episodes, seed=2)
    answers = calibration.collect(learner, params, episodes, seed=2)
    right = answers.outputs.argmax(-1) == answers.targets
    np.testing.assert_allclose(right.mean(1), scores.scores["accuracy"], rtol=1e-6)
    key = jax.random.split(mj.task_keys(jax.random.key(2), 3)[1])[1]
    task = learner.adapt(params, episodes[1].support, key)
    alone = [learner.predict(params, task, one[None])[0] for one in episodes[1].query.inputs]
    np.testing.assert_allclose(answers.outputs[1], alone, rtol=1e-4, atol=1e-4)


def _loss(answers: calibration.Answers, temperature: float) -> float:
    logits = jnp.asarray(answers.outputs / temperature).reshape(-1, 5)
    return float(mj.cross_entropy(logits, jnp.asarray(answers.targets).reshape(-1)))


def test_on_other_episodes_losses_and_errors_fall_and_strangers_are_told() -> None:
    made = calibration.calibrate(LEARNER, PARAMS, CLOSED, strangers=OPEN, episodes=64)
    assert made.ways == 5
    others = calibration.collect(LEARNER, PARAMS, _closed("test"), episodes=64, seed=1)
    assert _loss(others, made.temperature) < _loss(others, 1.0)
    errors = [
        calibration.expected_calibration_error(others, temperature)
        for temperature in (1.0, made.temperature)
    ]
    assert errors[1] < errors[0]
    test = mj.data.with_strangers(_closed("test", 10), 5)
    asked = calibration.collect(LEARNER, PARAMS, test, episodes=64, seed=1)
    report = calibration.rejection_report(asked, made)
    assert report.auroc.mean - report.auroc.interval > 0.6
    assert abs(report.known_kept.mean - 0.95) < 0.04
    assert report.accuracy_kept.mean > report.accuracy.mean
    np.testing.assert_allclose(
        report.auroc.mean, calibration.auroc(asked, made.kind, made.temperature)
    )

    # What is deployed is what was reported.
    support, query = test(jax.random.split(mj.task_keys(jax.random.key(1), 4)[3])[0])
    again = calibration.Calibration(**json.loads(json.dumps(made._asdict())))
    assert again == made

    @jax.jit
    def answer(params: object, support: mj.Examples, pictures: jax.Array) -> calibration.Answered:
        task = LEARNER.adapt(params, support)
        return again.answer(LEARNER.predict(params, task, pictures))

    labels, probabilities, accepted = answer(PARAMS, support, query.inputs)
    chances = jax.nn.softmax(asked.outputs[3] / made.temperature)
    np.testing.assert_allclose(probabilities, chances, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(accepted, chances.max(-1) >= made.threshold)
    np.testing.assert_array_equal(labels, np.where(accepted, chances.argmax(-1), -1))


def test_answers_without_a_threshold_and_of_nothing() -> None:
    made = calibration.Calibration(2.0)
    outputs = jnp.array([[2.0, 0.0], [0.0, -jnp.inf], [jnp.nan, 1.0]])
    labels, probabilities, accepted = made.answer(outputs)
    np.testing.assert_array_equal(labels, [0, 0, -1])
    np.testing.assert_array_equal(accepted, [True, True, False])
    np.testing.assert_allclose(probabilities[0], jax.nn.softmax(jnp.array([1.0, 0.0])), rtol=1e-6)
    half = made.answer(outputs.astype(jnp.bfloat16)).probabilities
    assert half.dtype == jnp.float32


VECTORS = mj.prototypical_network(mj.Model(lambda key, x: jnp.ones(()), lambda params, x: x))


def _of_vectors(ways: int, *, strange: bool = False) -> list[mj.Episode]:
    """Three episodes of a class a corner, with noise that makes one answer wrong."""
    support = mj.Examples(np.eye(ways, 6, dtype=np.float32), np.arange(ways))
    query = np.repeat(support.inputs, 2, axis=0)
    query[0] = support.inputs[1]
    targets = np.repeat(support.targets, 2)
    targets[-1] = -1 if strange else targets[-1]
    return [mj.Episode(support, mj.Examples(query, targets))] * 3


def test_tasks_of_another_number_of_ways() -> None:
    made = calibration.Calibration(1.0, 0.5, ways=3)
    absent = jnp.array([[1.0, 0.0, 2.0, -jnp.inf, -jnp.inf]])
    assert made.answer(absent).labels.tolist() == [2]
    assert jax.jit(made.answer)(absent).labels.tolist() == [2]
    for outputs in (jnp.ones((2, 4)), jnp.ones((2, 2))):
        with pytest.raises(ValueError, match="classes and the calibration is of 3; expected tasks"):
            made.answer(outputs)
    with pytest.raises(ValueError, match="outputs are of 2 classes"):
        jax.jit(made.answer)(jnp.ones((2, 2)))
    asked = [_of_vectors(ways, strange=ways == 4) for ways in (5, 4)]
    with pytest.raises(ValueError, match="strangers: answers are of 4 classes and the calibration"):
        calibration.calibrate(VECTORS, jnp.ones(()), asked[0], strangers=asked[1])
    with pytest.raises(ValueError, match="strangers: answers have no stranger, a query with the"):
        calibration.calibrate(VECTORS, jnp.ones(()), asked[0], strangers=asked[0])


def test_numbers_out_of_range() -> None:
    for spoilt in (
        {"temperature": 0.0},
        {"threshold": np.nan},
        {"kept": 1.0},
        {"kind": "margin"},
        {"ways": 0},
    ):
        made = calibration.Calibration(1.0)._replace(**spoilt)
        with pytest.raises(ValueError, match="expected"):
            made.answer(jnp.ones((2, 2)))


def test_learners_that_do_not_classify_or_classify_others() -> None:
    def head(ways: int) -> mj.Learner:
        return mj.maml(
            mj.Model(
                lambda key, x: jax.random.normal(key, (6, ways)), lambda params, x: x @ params
            ),
            inner=optax.sgd(0.1),
            num_steps=1,
        )

    regression = mj.data.sinusoid_episodes(shots=3, queries=3)
    learner = mj.maml(
        mj.models.mlp((1,)), inner=optax.sgd(0.1), num_steps=1, loss_fn=mj.squared_error
    )
    params = learner.init(jax.random.key(0), jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match="what is calibrated classifies"):
        calibration.collect(learner, params, regression, episodes=2)
    wide, narrow, episodes = head(8), head(3), _of_vectors(5, strange=True)
    with pytest.raises(ValueError, match="there are outputs for 8 ways, but the queries of 3"):
        calibration.collect(wide, jnp.ones((6, 8)), episodes)
    with pytest.raises(ValueError, match="label"):
        calibration.collect(narrow, jnp.ones((6, 3)), episodes)
    with pytest.raises(ValueError, match="episodes=1; expected an integer of 2"):
        calibration.collect(LEARNER, PARAMS, CLOSED, episodes=1)
    state = mj.init_state(PARAMS, optax.sgd(0.1), jax.random.key(0))
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    with pytest.raises(ValueError, match="params is a stack of 2 runs; expected those of one"):
        calibration.collect(LEARNER, stack, CLOSED, episodes=2)
