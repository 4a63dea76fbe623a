"""ProMP against its equations written in loops on all paths, and the plain meta-gradient."""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl.enumeration import (
    Enumerated,
    ascend,
    decisions,
    expected_return,
    paths_of,
    rewards_episode,
)

import metajax as mj

INNER, OUTER, DISCOUNT = 0.7, 0.5, 0.9
PROCESS = decisions(ending=True)
PATHS = paths_of(PROCESS)
REWARDS = np.random.default_rng(1).normal(size=(2, 2, 2))
THETA = np.random.default_rng(2).normal(size=(2, 2))
EXACT = mj.rl.Surrogate(
    dice_lambda=1.0, discount=DISCOUNT, baseline=None, normalize=False, scale="return"
)
KEY = jax.random.key(0)


def _step(objective: object, optimizer: object = optax.sgd(OUTER), **options: object) -> Callable:
    options = {"inner": optax.sgd(INNER), "num_steps": 1, **options}
    return mj.rl.ppo_step(objective, optimizer, **options)  # type: ignore[arg-type]


def _tasks() -> mj.Episode:
    return jax.vmap(rewards_episode)(jnp.asarray(REWARDS, float))


def _policy(theta: np.ndarray) -> np.ndarray:
    weights = np.exp(theta)
    return weights / weights.sum(axis=1, keepdims=True)


def _steps(path: int) -> list[tuple[int, int]]:
    length = PATHS.mask[path].sum()
    return list(zip(PATHS.states[path, :length], PATHS.actions[path, :length], strict=True))


def _weights(theta: np.ndarray) -> list[float]:
    policy = _policy(theta)
    return [
        chance * np.prod([policy[step] for step in _steps(path)])
        for path, chance in enumerate(PATHS.moves)
    ]


def _worth(rewards: np.ndarray, path: int, t: int) -> float:
    return sum(DISCOUNT**k * rewards[step] for k, step in enumerate(_steps(path)[t:]))


def _adapt(theta: np.ndarray, old: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """One ascent step by ratios of probabilities, of the paths of `old`."""
    policy, before = _policy(theta), _policy(old)
    slope = np.zeros_like(theta)
    for path, weight in enumerate(_weights(old)):
        for t, (s, a) in enumerate(_steps(path)):
            gain = policy[s, a] / before[s, a] * _worth(rewards, path, t)
            slope[s] += weight * DISCOUNT**t * gain * (np.eye(2)[a] - policy[s])
    return theta + INNER * slope


def _kl(theta: np.ndarray, old: np.ndarray) -> float:
    policy, before = _policy(theta), _policy(old)
    each = (before * np.log(before / policy)).sum(axis=1)
    total = count = 0.0
    for path, weight in enumerate(_weights(old)):
        total += weight * sum(each[s] for s, _ in _steps(path))
        count += weight * len(_steps(path))
    return total / count


def _path(theta: np.ndarray, rewards: np.ndarray, olds: list) -> list[np.ndarray]:
    """Before each inner step and after the last, by the paths of `olds`, or else by one's own."""
    path = [theta]
    for old in olds:
        path.append(_adapt(path[-1], path[-1] if old is None else old, rewards))
    return path


def _promp(
    theta: np.ndarray, num_steps: int, clip: float, inner_kl: float
) -> tuple[float, float, int]:
    """What is minimised, of roll-outs by THETA, the adapted policies' divergence, and clips."""
    total, moved, clips = 0.0, 0.0, 0
    for rewards in REWARDS:
        *olds, old = _path(THETA, rewards, [None] * num_steps)
        *before, phi = _path(theta, rewards, olds)
        gain = 0.0
        for path, weight in enumerate(_weights(old)):
            for t, step in enumerate(_steps(path)):
                ratio = _policy(phi)[step] / _policy(old)[step]
                kept = np.clip(ratio, 1 - clip, 1 + clip)
                worth = _worth(rewards, path, t)
                gain += weight * DISCOUNT**t * (min(ratio * worth, kept * worth) - worth)
                clips += kept * worth < ratio * worth
        gone = np.mean([*map(_kl, before, olds)])
        total += (-gain + inner_kl * gone) / 2
        moved += _kl(phi, old) / 2
    return total, moved, clips


def _slope(theta: np.ndarray, *settings: float) -> np.ndarray:
    slope = np.zeros_like(theta)
    for index in np.ndindex(theta.shape):
        by = np.zeros_like(theta)
        by[index] = 1e-5
        slope[index] = (_promp(theta + by, *settings)[0] - _promp(theta - by, *settings)[0]) / 2e-5
    return slope


@pytest.mark.parametrize("num_steps", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_epochs_are_those_of_the_equations_in_loops(num_steps: int, float64: None) -> None:
    settings = (num_steps, 0.05, 0.3)
    objective = Enumerated(PROCESS, dataclasses.replace(EXACT, dice_lambda=0.0))
    options = {"num_steps": num_steps, "clip": settings[1], "inner_kl": settings[2]}
    step = jax.jit(_step(objective, epochs=2, **options))
    state = mj.init_state(jnp.asarray(THETA), optax.sgd(OUTER), KEY)
    state, metrics = step(state, _tasks())
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


@pytest.mark.parametrize("num_steps", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_one_epoch_without_bounds_is_the_meta_gradient(num_steps: int, float64: None) -> None:
    theta = jnp.asarray(THETA)
    options = {"num_steps": num_steps, "clip": 1e6, "inner_kl": 0.0, "epochs": 1}
    step = jax.jit(_step(Enumerated(PROCESS, EXACT), **options))
    state, metrics = step(mj.init_state(theta, optax.sgd(OUTER), KEY), _tasks())

    def loss(theta: jax.Array) -> jax.Array:
        def of_task(rewards: jax.Array) -> jax.Array:
            phi = ascend(PATHS, theta, rewards, DISCOUNT, INNER, num_steps)
            return expected_return(PATHS, phi, rewards, DISCOUNT)

        return -jax.vmap(of_task)(jnp.asarray(REWARDS)).mean()

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
        _step(**{"objective": Enumerated(PROCESS, EXACT), **options})


def test_a_state_of_another_optimiser() -> None:
    step, tasks = _step(Enumerated(PROCESS, EXACT)), _tasks()
    state = mj.init_state(jnp.asarray(THETA, jnp.float32), optax.adam(1.0), KEY)
    with pytest.raises(ValueError, match="the optimiser's state is another's"):
        step(state, tasks)
