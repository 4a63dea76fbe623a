"""ProMP against its equations written in loops on all paths, and the plain meta-gradient."""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumerated_paths import (
    DISCOUNT,
    DYNAMICS,
    EXACT,
    HORIZON,
    REWARDS,
    TAKEN,
    THETA,
    VISITED,
    EveryPath,
    all_tasks,
    ascend,
    expected_return,
)

import metajax as mj

INNER, OUTER = 0.7, 0.5
KEY = jax.random.key(0)


def _step(objective: object, optimizer: object = optax.sgd(OUTER), **options: object) -> Callable:
    options = {"inner": optax.sgd(INNER), "num_steps": 1, **options}
    return mj.rl.ppo_step(objective, optimizer, **options)  # type: ignore[arg-type]


def _policy(theta: np.ndarray) -> np.ndarray:
    weights = np.exp(theta)
    return weights / weights.sum(axis=1, keepdims=True)


def _weights(theta: np.ndarray) -> np.ndarray:
    return DYNAMICS * _policy(theta)[VISITED, TAKEN].prod(axis=1)


def _to_go(rewards: np.ndarray, path: int, step: int) -> float:
    pairs = zip(VISITED[path, step:], TAKEN[path, step:], strict=True)
    return sum(DISCOUNT**k * rewards[pair] for k, pair in enumerate(pairs))


def _adapt(theta: np.ndarray, old: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """One ascent step by ratios of probabilities, of the paths of `old`."""
    policy, before = _policy(theta), _policy(old)
    slope = np.zeros_like(theta)
    for path, weight in enumerate(_weights(old)):
        for t in range(HORIZON):
            s, a = VISITED[path, t], TAKEN[path, t]
            ratio = policy[s, a] / before[s, a]
            score = np.eye(2)[a] - policy[s]
            slope[s] += weight * DISCOUNT**t * ratio * _to_go(rewards, path, t) * score
    return theta + INNER * slope


def _kl(theta: np.ndarray, old: np.ndarray) -> float:
    policy, before = _policy(theta), _policy(old)
    each = (before * np.log(before / policy)).sum(axis=1)
    return sum(w * each[VISITED[p]].mean() for p, w in enumerate(_weights(old)))


def _promp(theta: np.ndarray, clip: float, inner_kl: float) -> tuple[float, float, int]:
    """What is minimised, of roll-outs by THETA, the adapted policies' divergence, and clips."""
    total, moved, clips = 0.0, 0.0, 0
    for rewards in REWARDS:
        old = _adapt(THETA, THETA, rewards)
        phi = _adapt(theta, THETA, rewards)
        gain = 0.0
        for path, weight in enumerate(_weights(old)):
            for t in range(HORIZON):
                at = VISITED[path, t], TAKEN[path, t]
                ratio = _policy(phi)[at] / _policy(old)[at]
                kept = np.clip(ratio, 1 - clip, 1 + clip)
                worth = _to_go(rewards, path, t)
                gain += weight * DISCOUNT**t * (min(ratio * worth, kept * worth) - worth)
                clips += kept * worth < ratio * worth
        total += (-gain + inner_kl * _kl(theta, THETA)) / 2
        moved += _kl(phi, old) / 2
    return total, moved, clips


def _slope(theta: np.ndarray, *settings: float) -> np.ndarray:
    slope = np.zeros_like(theta)
    for index in np.ndindex(theta.shape):
        by = np.zeros_like(theta)
        by[index] = 1e-5
        slope[index] = (_promp(theta + by, *settings)[0] - _promp(theta - by, *settings)[0]) / 2e-5
    return slope


def test_two_epochs_are_those_of_the_equations_in_loops(float64: None) -> None:
    settings = (0.05, 0.3)
    objective = EveryPath(dataclasses.replace(EXACT, dice_lambda=0.0))
    step = jax.jit(_step(objective, clip=settings[0], inner_kl=settings[1], epochs=2))
    state = mj.init_state(jnp.asarray(THETA), optax.sgd(OUTER), KEY)
    state, metrics = step(state, all_tasks())
    slope = _slope(THETA, *settings)
    once = THETA - OUTER * slope
    twice = once - OUTER * _slope(once, *settings)
    value, kl, clips = _promp(twice, *settings)
    assert clips > 10
    assert np.abs(twice - once).max() > 1e-3
    np.testing.assert_allclose(state.params, twice, rtol=1e-8)
    assert metrics["improvement"] == pytest.approx(-value, rel=1e-8)
    assert metrics["kl"] == pytest.approx(kl, rel=1e-7)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(slope), rel=1e-8)


@pytest.mark.parametrize("num_steps", [0, 2])
def test_one_epoch_without_bounds_is_the_meta_gradient(num_steps: int, float64: None) -> None:
    theta = jnp.asarray(THETA)
    options = {"num_steps": num_steps, "clip": 1e6, "inner_kl": 0.0, "epochs": 1}
    step = jax.jit(_step(EveryPath(), **options))
    state, metrics = step(mj.init_state(theta, optax.sgd(OUTER), KEY), all_tasks())

    def loss(theta: jax.Array) -> jax.Array:
        values = [expected_return(ascend(theta, r, INNER, num_steps), r) for r in REWARDS]
        return -jnp.stack(values).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(theta)
    np.testing.assert_allclose(state.params, theta - OUTER * gradient, rtol=1e-12)
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-12)
    assert ("return_before" in metrics) == (num_steps > 0)


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"objective": mj.models.mlp((4, 2))}, TypeError, "expected a PolicyGradient, such as"),
        ({"optimizer": 1e-3}, TypeError, "such as optax.adam(1e-3)"),
        ({"clip": 0}, ValueError, "clip=0; expected a finite number above 0"),
        ({"inner_kl": -1.0}, ValueError, "inner_kl=-1.0; expected a finite number, 0 or more"),
        ({"epochs": 0}, ValueError, "epochs=0; expected an integer of 1 or more"),
        ({"axis_name": 1}, TypeError, "axis_name=1; expected a string"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_step(options: dict, kind: type, expected: str) -> None:
    with pytest.raises(kind, match=re.escape(expected)):
        _step(**{"objective": EveryPath(), **options})


def test_a_state_of_another_optimiser() -> None:
    step, tasks = _step(EveryPath()), all_tasks()
    state = mj.init_state(jnp.asarray(THETA, jnp.float32), optax.adam(1.0), KEY)
    with pytest.raises(ValueError, match="the optimiser's state is another's"):
        step(state, tasks)
