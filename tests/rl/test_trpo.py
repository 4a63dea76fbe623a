"""TRPO against dense linear algebra on all paths, and what a step may never do."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl.enumeration import (
    Enumerated,
    ascend,
    chances,
    decisions,
    expected_return,
    paths_of,
    rewards_episode,
)

import metajax as mj
from metajax.rl.frozen import collect
from metajax.rl.trpo import adapted_distributions, fisher_product, line_search, mean_kl

RATE, DISCOUNT = 0.7, 0.9
PROCESS = decisions(ending=True)
PATHS = paths_of(PROCESS)
REWARDS = np.random.default_rng(1).normal(size=(2, 2, 2))
THETA = np.random.default_rng(2).normal(size=(2, 2))
EXACT = mj.rl.Surrogate(
    dice_lambda=1.0, discount=DISCOUNT, baseline=None, normalize=False, scale="return"
)
KEY = jax.random.key(0)
ENVIRONMENT = mj.rl.navigation()
SAMPLE = mj.rl.task_episodes(ENVIRONMENT)
OBJECTIVE = mj.rl.PolicyGradient(
    mj.rl.gaussian_policy(mj.models.mlp((4, 2), stddev=0.3)), ENVIRONMENT, horizon=5, rollouts=4
)


def _state(params: object, key: jax.Array = KEY) -> mj.TrainState:
    return mj.init_state(params, optax.identity(), key)


def _step(objective: mj.rl.PolicyGradient, num_steps: int = 1, **options: object) -> Callable:
    return mj.rl.trpo_step(objective, inner=optax.sgd(RATE), num_steps=num_steps, **options)


def _tasks(rewards: np.ndarray | jax.Array = REWARDS) -> mj.Episode:
    return jax.vmap(rewards_episode)(jnp.asarray(rewards, float))


def _adapt(theta: jax.Array, rewards: jax.Array, num_steps: int) -> jax.Array:
    return ascend(PATHS, theta, rewards, DISCOUNT, RATE, num_steps)


@functools.cache
def _dense(num_steps: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Minus the mean return, its gradient, and the Fisher matrix of adapted policies a step."""
    theta = jnp.asarray(THETA)

    def of_task(rewards: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        def loss(theta: jax.Array) -> jax.Array:
            return -expected_return(PATHS, _adapt(theta, rewards, num_steps), rewards, DISCOUNT)

        phi = _adapt(theta, rewards, num_steps)
        likely = chances(PATHS, phi)
        scores = jax.jacobian(lambda phi: jnp.log(chances(PATHS, phi)))(phi).reshape(-1, 4)
        steps = (likely * PATHS.mask.sum(axis=1)).sum()
        fisher = jnp.einsum("p,pi,pj->ij", likely, scores, scores) / steps
        slope = jax.jacobian(lambda theta: _adapt(theta, rewards, num_steps))(theta)
        slope = slope.reshape(4, 4)
        return loss(theta), jax.grad(loss)(theta).ravel(), slope.T @ fisher @ slope

    each = zip(*map(jax.jit(of_task), REWARDS), strict=True)
    loss, gradient, fisher = (np.mean(values, axis=0) for values in each)
    return float(loss), gradient, fisher


def _judged(
    theta: np.ndarray | jax.Array, old: np.ndarray, rewards: np.ndarray
) -> tuple[float, float]:
    """How much more ratios of probabilities, step by step, give on all paths of `old`; and KL."""
    policy, before = (np.asarray(jax.nn.softmax(jnp.asarray(x), axis=-1)) for x in (theta, old))
    visits = np.asarray(chances(PATHS, jnp.asarray(old)))[:, None] * PATHS.mask
    discounts = DISCOUNT ** np.arange(PROCESS.horizon)[None]
    gains = discounts * PATHS.mask * rewards[PATHS.states, PATHS.actions]
    to_go = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]  # Discounted from the beginning.
    ratios = (policy / before)[PATHS.states, PATHS.actions]
    divergences = (before * np.log(before / policy)).sum(axis=-1)[PATHS.states]
    return (visits * (ratios - 1) * to_go).sum(), (visits * divergences).sum() / visits.sum()


@pytest.mark.parametrize(
    ("num_steps", "cg_steps"), [(0, 1), (1, 8), pytest.param(2, 8, marks=pytest.mark.slow)]
)
def test_a_step_is_that_of_dense_linear_algebra_on_all_paths(
    num_steps: int, cg_steps: int, float64: None
) -> None:
    # Without inner steps the second order of what is judged is known, and a step goes far.
    damping, max_kl = 1e-3, 1e-8 if num_steps else 0.5
    theta = jnp.asarray(THETA)
    loss, gradient, fisher = _dense(num_steps)
    options = {"max_kl": max_kl, "damping": damping, "cg_steps": cg_steps}
    step = jax.jit(_step(Enumerated(PROCESS, EXACT), num_steps, **options))
    state, metrics = step(_state(theta), _tasks())
    damped = fisher + damping * np.eye(theta.size)
    direction = gradient if cg_steps == 1 else np.linalg.solve(damped, gradient)
    length = np.sqrt(2 * max_kl / (direction @ damped @ direction))
    tries = int(metrics["backtracks"])
    moved = np.asarray(theta - state.params).ravel()
    np.testing.assert_allclose(moved, length * 0.8**tries * direction, rtol=1e-9)
    assert tries < 3
    if num_steps:
        judged, exact = [(moved @ gradient, moved @ fisher @ moved / 2)], 0.05
    else:
        judged, exact = [_judged(state.params, THETA, rewards) for rewards in REWARDS], 1e-9
    improvement, kl = np.mean(judged, axis=0)
    assert metrics["improvement"] == pytest.approx(improvement, rel=exact)
    assert metrics["kl"] == pytest.approx(kl, rel=exact)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)
    assert ("return_before" in metrics) == (num_steps > 0)


def test_the_length_is_that_of_whatever_direction_was_found(
    monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    """Rounding leaves conjugate gradients with a residual that their solution is not normal to."""

    def part_of(product: Callable, target: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
        found = 0.1 * target
        return found, target - product(found)

    monkeypatch.setattr("metajax.rl.trpo.conjugate_gradients", part_of)
    max_kl, theta = 1e-8, jnp.asarray(THETA)
    step = jax.jit(_step(Enumerated(PROCESS, EXACT), 0, max_kl=max_kl))
    state, metrics = step(_state(theta), _tasks())
    _, gradient, fisher = _dense(0)
    length = np.sqrt(2 * max_kl / (gradient @ (fisher + 1e-5 * np.eye(theta.size)) @ gradient))
    moved = np.asarray(theta - state.params).ravel()
    tries = int(metrics["backtracks"])
    np.testing.assert_allclose(moved, length * 0.8**tries * gradient, rtol=1e-9)
    assert tries < 3


class _Masked(NamedTuple):
    """A distribution that holds more than floats."""

    allowed: jax.Array
    logits: jax.Array

    def _categorical(self) -> mj.rl.Categorical:
        return mj.rl.Categorical(jnp.where(self.allowed, self.logits, -1e9))

    def sample(self, key: jax.Array) -> jax.Array:
        return self._categorical().sample(key)

    def mode(self) -> jax.Array:
        return self._categorical().mode()

    def entropy(self) -> jax.Array:
        return self._categorical().entropy()

    def log_prob(self, actions: jax.Array) -> jax.Array:
        return self._categorical().log_prob(actions)

    def kl(self, other: "_Masked") -> jax.Array:
        return self._categorical().kl(other._categorical())


def test_products_are_with_the_fisher_matrix(float64: None) -> None:
    def masked(theta: jax.Array, seen: jax.Array) -> _Masked:
        return _Masked(jnp.ones((len(seen), 2), bool), seen @ theta)

    theta = jnp.asarray(THETA)
    policy = mj.rl.Policy(lambda key, observations: jnp.zeros((2, 2)), masked)
    objective, loop = Enumerated(PROCESS, EXACT, policy), mj.InnerLoop(optax.sgd(RATE), 2)
    keys = jax.random.split(KEY, 2)

    @jax.jit
    def matrix(theta: jax.Array) -> jax.Array:
        draw = functools.partial(collect, objective, loop, theta)
        experience = jax.vmap(draw)(_tasks(), keys)
        distributions = functools.partial(adapted_distributions, objective, loop, experience)
        old, push = jax.linearize(distributions, theta)
        pull = jax.linear_transpose(push, theta)
        divergence = functools.partial(mean_kl, experience.query)
        product = functools.partial(fisher_product, push, pull, divergence, old)
        basis = jnp.eye(theta.size).reshape(-1, *theta.shape)
        return jax.vmap(product)(basis).reshape(theta.size, theta.size)

    np.testing.assert_allclose(matrix(theta), _dense(2)[2], rtol=0, atol=1e-13)


def test_a_slope_that_is_zero_or_not_finite_moves_nothing() -> None:
    theta = jnp.asarray(THETA, jnp.float32)
    step = jax.jit(_step(Enumerated(PROCESS, EXACT), 0, damping=0.0))
    for reward in (0.0, jnp.nan, jnp.inf):
        tasks = _tasks(jnp.zeros((2, 2, 2)).at[0, 0, 1].set(reward))
        state, metrics = step(_state(theta), tasks)
        np.testing.assert_array_equal(state.params, theta)
        assert float(metrics["accepted"]) == float(metrics["backtracks"]) == 0
        assert float(metrics["kl"]) == float(metrics["improvement"]) == 0 or reward != 0
        assert bool(jnp.isfinite(metrics["loss"])) == (reward == 0)
        assert int(state.step) == 1


@pytest.mark.parametrize(
    ("losses", "kls", "expected"),
    [
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], None),
        ([-1.0, -0.5, -0.2], [3.0, 0.5, 0.0], 1),
        ([-1.0, -0.5, -0.2], [3.0, 3.0, 3.0], None),
        ([jnp.nan, -jnp.inf, -0.25], [0.0, 0.0, 0.1], 2),
        ([-1.0, -0.5, -0.2], [jnp.nan, -1.0, 0.1], 1),
    ],
)
def test_the_first_try_that_is_better_and_not_too_far(
    losses: list, kls: list, expected: int | None
) -> None:
    lengths = jnp.array([4.0, 2.0, 1.0])

    def judge(params: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = (2 - jnp.log2(1 - params)).astype(int)
        return jnp.array(losses)[index], jnp.array(kls)[index]

    found = line_search(judge, jnp.ones(()), jnp.ones(()), lengths, jnp.zeros(()), 1.0)
    assert bool(found.accepted) == (expected is not None)
    assert int(found.rejected) == (3 if expected is None else expected)
    if expected is None:
        assert [float(x) for x in found[:3]] == [1.0, 0.0, 0.0]
    else:
        assert float(found.params) == 1 - float(lengths[expected])
        assert float(found.loss) == losses[expected]


@pytest.mark.slow
def test_navigation_improves_within_bounds() -> None:
    objective = mj.rl.PolicyGradient(
        mj.rl.gaussian_policy(mj.models.mlp((8, 2), stddev=0.3)),
        ENVIRONMENT,
        horizon=10,
        rollouts=10,
    )
    step = _step(objective, backward=mj.Backward(checkpoint="steps"), adapt="model")
    params = objective.init(KEY, SAMPLE(KEY).support.inputs)
    result = mj.train(
        step, None, _state(params), SAMPLE, iterations=20, meta_batch=8, dispatch=2, progress=False
    )
    for record in result.history:
        assert record["kl"] <= 0.01
        assert record["improvement"] > 0
        assert record["accepted"] == 1
    returns = [record["return"] for record in result.history]
    assert np.mean(returns[-3:]) > np.mean(returns[:3])


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"objective": mj.models.mlp((4, 2))}, TypeError, "expected a PolicyGradient, such as"),
        ({"max_kl": 0}, ValueError, "max_kl=0; expected a finite number above 0"),
        ({"damping": -1.0}, ValueError, "damping=-1.0; expected a finite number, 0 or more"),
        ({"cg_steps": 0}, ValueError, "cg_steps=0; expected an integer of 1 or more"),
        ({"backtracks": 0}, ValueError, "backtracks=0; expected an integer of 1 or more"),
        ({"backtrack_ratio": 1}, ValueError, "backtrack_ratio=1; expected a number between 0 and"),
        ({"backward": mj.Backward(mixed=True)}, ValueError, "expected mixed=False"),
        ({"axis_name": 1}, TypeError, "axis_name=1; expected a string"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_step(options: dict, kind: type, expected: str) -> None:
    with pytest.raises(kind, match=re.escape(expected)):
        _step(**{"objective": OBJECTIVE, **options})


def test_states_and_episodes_that_are_not_a_steps_own() -> None:
    step, key = _step(Enumerated(PROCESS, EXACT)), KEY
    theta = jnp.asarray(THETA, jnp.float32)
    with pytest.raises(ValueError, match=re.escape("init_state(params, optax.identity(), key)")):
        step(mj.init_state(theta, optax.adam(1.0), key), _tasks())
    with pytest.raises(TypeError, match=re.escape("expected metajax.Episode(support, query)")):
        step(_state(theta), _tasks().support)
    with pytest.raises(ValueError, match=re.escape("has shape (3, 2); the model expects (2, 2)")):
        step(_state(jnp.ones((3, 2))), _tasks())
