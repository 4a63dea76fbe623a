"""Evaluation: the scores of episodes, and an interval that covers what it should."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.evaluation_chunks import episode_bytes, episodes_at_once
from metajax.keys import task_keys

SAMPLE = mj.data.sinusoid_episodes(shots=5, queries=5)


def _learner(num_steps: int, *, record_steps: bool) -> mj.Learner:
    return mj.maml(
        mj.models.mlp((8, 1), stddev=0.3),
        inner=optax.sgd(0.01),
        num_steps=num_steps,
        loss_fn=mj.squared_error,
        record_steps=record_steps,
    )


PARAMS = _learner(1, record_steps=False).init(jax.random.key(0), jnp.zeros((1, 1)))


def test_scores_are_those_of_the_episodes_one_by_one() -> None:
    learner = _learner(3, record_steps=True)
    scores = mj.evaluate(learner, PARAMS, SAMPLE, episodes=4, seed=5)
    assert scores.scores["query_loss_per_step"].shape == (4, 4)
    for index, key in enumerate(task_keys(jax.random.key(5), 4)):
        sample_key, learner_key = jax.random.split(key)
        _, aux = learner.loss(PARAMS, SAMPLE(sample_key), learner_key)
        for name, value in aux.metrics.items():
            np.testing.assert_allclose(scores.scores[name][index], value, rtol=1e-5)


def test_chunks_and_seeds() -> None:
    learner = _learner(1, record_steps=False)
    one = mj.evaluate(learner, PARAMS, SAMPLE, episodes=10, seed=1, chunk_size=1)
    other = mj.evaluate(learner, PARAMS, SAMPLE, episodes=10, seed=2)
    for chunk_size in (4, None):
        chunked = mj.evaluate(learner, PARAMS, SAMPLE, episodes=10, seed=1, chunk_size=chunk_size)
        np.testing.assert_allclose(
            chunked.scores["query_loss"], one.scores["query_loss"], rtol=1e-5
        )
    assert not np.allclose(other.scores["query_loss"], one.scores["query_loss"])
    assert (one.episodes, one.seed) == (10, 1)


def test_more_steps_than_trained_begin_alike() -> None:
    short = mj.evaluate(_learner(1, record_steps=True), PARAMS, SAMPLE, episodes=5)
    long = mj.evaluate(_learner(10, record_steps=True), PARAMS, SAMPLE, episodes=5)
    np.testing.assert_allclose(
        long.mean("query_loss_per_step")[:2], short.mean("query_loss_per_step"), rtol=1e-5
    )
    assert long.mean("query_loss_per_step")[10] < long.mean("query_loss_per_step")[0]


def test_interval_covers_the_mean_95_percent_of_the_time() -> None:
    draws = np.random.default_rng(0).exponential(size=(2000, 200))
    covered = 0
    for draw in draws:
        scores = mj.Evaluation({"score": draw}, len(draw), 0)
        covered += abs(scores.mean("score") - 1.0) <= scores.interval("score")
    assert 0.92 < covered / len(draws) < 0.97


def test_interval_by_hand() -> None:
    scores = mj.Evaluation({"score": np.array([1.0, 2.0, 3.0, 4.0])}, 4, 0)
    assert scores.mean("score") == 2.5
    np.testing.assert_allclose(scores.interval("score"), 1.96 * np.sqrt(5 / 3) / 2)


def test_scores_that_are_not_finite_are_warned_of() -> None:
    def sample(key: jax.Array) -> mj.Episode:
        support, query = SAMPLE(key)
        spoilt = jnp.where(jax.random.bernoulli(key), jnp.inf, query.targets)
        return mj.Episode(support, query._replace(targets=spoilt))

    learner = _learner(1, record_steps=True)
    with pytest.warns(RuntimeWarning, match="scores are not finite: query_loss in ") as warned:
        found = mj.evaluate(learner, PARAMS, sample, episodes=12)
    count = (~np.isfinite(found.scores["query_loss"])).sum()
    assert 0 < count < 12
    said = f"query_loss in {count}, query_loss_per_step in {count} of 12 episodes"
    assert said in str(warned[0].message)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_evaluating_again_traces_once() -> None:
    traces = []

    def sample(key: jax.Array) -> mj.Episode:
        traces.append(1)
        return SAMPLE(key)

    learner = _learner(1, record_steps=False)
    mj.evaluate(learner, PARAMS, sample, episodes=3)
    first = len(traces)
    mj.evaluate(learner, PARAMS, sample, episodes=3, seed=1)
    assert len(traces) == first
    mj.evaluate(learner, PARAMS, sample, episodes=10, chunk_size=4)
    assert len(traces) == first  # 3 episodes are a chunk of 4, 10 are three of them.
    mj.evaluate(learner, PARAMS, lambda key: sample(key), episodes=3)
    assert len(traces) > first


@pytest.mark.parametrize(
    ("backend", "largest", "runs", "size"),
    [
        ("cpu", None, None, 1),
        ("cpu", 6_400, None, 64),
        ("cpu", 6_400, 8, 8),
        ("cpu", 2**20, None, 1),
        ("gpu", 6_400, None, 128),
        ("gpu", 2**24, None, 32),
        ("gpu", 2**24, 3, 8),
        ("gpu", 2**40, None, 1),
    ],
)
def test_as_many_at_once_as_fit(
    backend: str, largest: int, runs: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert episodes_at_once(largest, runs) == size


def test_the_largest_array_of_an_episode() -> None:
    learner = _learner(3, record_steps=False)

    def episode(queries: int) -> mj.Episode:
        return mj.data.sinusoid_episodes(shots=5, queries=queries)(jax.random.key(0))

    def metrics(params: Any, episode: mj.Episode, key: jax.Array) -> Any:
        return dict(learner.loss(params, episode, key, False)[1].metrics)

    few, many = (episode_bytes(metrics, PARAMS, lambda n=n: episode(n)) for n in (5, 500))
    assert few == 4 * 8 * 5  # The hidden units of five items.
    assert many == 4 * 8 * 500


@pytest.mark.parametrize(
    "options", [{}, {"checkpoint": "nested", "mixed": True}], ids=["plain", "nested, mixed"]
)
def test_scoring_costs_what_adapting_costs(options: dict[str, Any]) -> None:
    model, rate, steps = mj.models.mlp((8, 1), stddev=0.3), 0.01, 4
    learner = mj.maml(
        model,
        inner=optax.sgd(rate),
        num_steps=steps,
        loss_fn=mj.squared_error,
        backward=mj.Backward(unroll=True, **options),
    )

    def ours(params: Any, episode: mj.Episode) -> Any:
        return dict(learner.loss(params, episode)[1].metrics)

    def theirs(params: Any, episode: mj.Episode) -> Any:
        def loss(params: Any, examples: mj.Examples) -> jax.Array:
            return mj.squared_error(model.apply(params, examples.inputs), examples.targets)

        for _ in range(steps):
            slope = jax.grad(loss)(params, episode.support)
            params = jax.tree.map(lambda p, g: p - rate * g, params, slope)
        return {"query_loss": loss(params, episode.query)}

    episode = SAMPLE(jax.random.key(0))
    programs = [jax.jit(each).lower(PARAMS, episode).compile() for each in (ours, theirs)]
    flops = [dict(program.cost_analysis() or {})["flops"] for program in programs]
    np.testing.assert_allclose(flops[0], flops[1], rtol=0.02)
    results = [program(PARAMS, episode)["query_loss"] for program in programs]
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_what_passed_the_checks_passes_for_these_parameters_alone() -> None:
    learner = _learner(1, record_steps=False)
    mj.evaluate(learner, PARAMS, SAMPLE, episodes=2)
    with pytest.raises(ValueError, match="parameters"):
        mj.evaluate(learner, {"other": jnp.zeros(3)}, SAMPLE, episodes=2)
