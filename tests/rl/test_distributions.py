"""Distributions of actions against SciPy's and against sums and integrals; policies of them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.stats

import metajax as mj
from metajax import rl

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
KEY = jax.random.key(0)
ITEMS, ACTIONS = (4, 3), 2


def gaussians(seed: int) -> rl.Gaussian:
    mean, log_std = oracles.normals(seed, (*ITEMS, ACTIONS), (*ITEMS, ACTIONS))
    return rl.Gaussian(mean, 0.5 * log_std)


def categoricals(seed: int) -> rl.Categorical:
    return rl.Categorical(2 * oracles.normals(seed, (*ITEMS, 5))[0])


def normal(distribution: rl.Gaussian) -> Any:
    return scipy.stats.norm(np.asarray(distribution.mean), np.exp(distribution.log_std))


def probabilities(distribution: rl.Categorical) -> np.ndarray:
    weights = np.exp(np.asarray(distribution.logits))
    return weights / weights.sum(axis=-1, keepdims=True)


def numbers(distribution: Any, other: Any, actions: Array) -> list[Array]:
    """Log-probabilities, entropies and divergences."""

    @jax.jit
    def run(distribution: Any, other: Any, actions: Array) -> list[Array]:
        log_probs = distribution.log_prob(actions)
        return [log_probs, distribution.entropy(), distribution.kl(other)]

    return run(distribution, other, actions)


def test_gaussian_is_scipys() -> None:
    one, other = gaussians(0), gaussians(1)
    (actions,) = oracles.normals(2, (*ITEMS, ACTIONS))
    log_probs, entropies, divergences = numbers(one, other, actions)
    oracles.assert_close(log_probs, normal(one).logpdf(actions).sum(axis=-1))
    oracles.assert_close(entropies, normal(one).entropy().sum(axis=-1))

    # The integral of what is a polynomial of the second degree, to the last digit.
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    at = np.asarray(one.mean) + np.exp(one.log_std) * points[:, None, None, None]
    gaps = normal(one).logpdf(at) - normal(other).logpdf(at)
    expected = np.tensordot(weights / weights.sum(), gaps, 1).sum(axis=-1)
    oracles.assert_close(divergences, expected)
    oracles.assert_close(one.mode(), one.mean)


def test_categorical_is_scipys() -> None:
    one, other = categoricals(0), categoricals(1)
    p, q = probabilities(one), probabilities(other)
    actions = np.random.default_rng(0).integers(5, size=ITEMS)
    log_probs, entropies, divergences = numbers(one, other, jnp.asarray(actions))
    chosen = np.take_along_axis(p, actions[..., None], axis=-1)[..., 0]
    oracles.assert_close(log_probs, np.log(chosen))
    oracles.assert_close(entropies, scipy.stats.entropy(p, axis=-1))
    oracles.assert_close(divergences, scipy.stats.entropy(p, q, axis=-1))
    assert (one.mode() == p.argmax(axis=-1)).all()


DRAWS = 40_000


def test_samples_have_the_moments() -> None:
    many = rl.Gaussian(
        jnp.full((DRAWS, 2), 0.7), jnp.tile(jnp.log(jnp.array([0.5, 2.0])), (DRAWS, 1))
    )
    actions = many.sample(KEY)
    assert actions.shape == (DRAWS, 2)
    std = np.array([0.5, 2.0])
    error = std / math.sqrt(DRAWS)
    assert (np.abs(actions.mean(axis=0) - 0.7) < 4 * error).all()
    assert (np.abs(actions.std(axis=0) - std) < 4 * error).all()
    assert abs(np.corrcoef(actions.T)[0, 1]) < 4 / math.sqrt(DRAWS)

    logits = jnp.log(jnp.array([0.2, 0.0, 0.5, 0.3]))
    drawn = rl.Categorical(jnp.tile(logits, (DRAWS, 1))).sample(KEY)
    assert drawn.shape == (DRAWS,)
    frequencies = np.bincount(drawn, minlength=4) / DRAWS
    assert frequencies[1] == 0
    assert (np.abs(frequencies - np.exp(logits)) < 4 * 0.5 / math.sqrt(DRAWS)).all()


def curvature(distribution: Any) -> list[Any]:
    """KL(self, self), its gradient and its Hessian, at the second."""
    found = lambda other: distribution.kl(other)  # noqa: E731
    return jax.jit(lambda at: [found(at), jax.grad(found)(at), jax.hessian(found)(at)])(
        distribution
    )


def test_divergence_from_itself_is_0_and_curves_like_fishers_information() -> None:
    """The expectation of the score's outer product."""
    mean, log_std = oracles.normals(0, (ACTIONS,), (ACTIONS,))
    divergence, slopes, hessian = curvature(rl.Gaussian(mean, log_std))
    assert divergence == 0
    assert all((slope == 0).all() for slope in slopes)
    # For each component 1/std^2, and 2 for the logarithm of its standard deviation.
    oracles.assert_close(hessian.mean.mean, jnp.diag(jnp.exp(-2 * log_std)))
    oracles.assert_close(hessian.log_std.log_std, 2 * jnp.eye(ACTIONS))
    assert jnp.abs(hessian.mean.log_std).max() < 1e-12

    logits = oracles.normals(1, (5,))[0]
    one = rl.Categorical(logits)
    divergence, slopes, hessian = curvature(one)
    assert divergence == 0
    assert jnp.abs(slopes.logits).max() < 1e-12
    scores = jax.jacrev(lambda x: jax.vmap(rl.Categorical(x).log_prob)(jnp.arange(5)))(logits)
    fisher = jnp.einsum("a,ai,aj->ij", probabilities(one), scores, scores)
    oracles.assert_close(hessian.logits.logits, fisher)


def test_an_action_that_is_never_taken() -> None:
    logits = jnp.array([[0.3, -jnp.inf, 1.2], [0.1, 2.0, -jnp.inf]])
    kept = np.array([[0.3, 1.2], [0.1, 2.0]])
    one, fewer = rl.Categorical(logits), rl.Categorical(jnp.asarray(kept))
    log_probs, entropies, divergences = numbers(one, one, jnp.array([1, 2]))
    assert (log_probs == -jnp.inf).all()
    oracles.assert_close(entropies, fewer.entropy())
    assert (divergences == 0).all()

    # What the other never does it would need infinitely many nats for; not the other way around.
    full = rl.Categorical(jnp.zeros((2, 3)))
    oracles.assert_close(
        one.kl(full), scipy.stats.entropy(probabilities(one), [1 / 3] * 3, axis=-1)
    )
    assert (full.kl(one) == jnp.inf).all()

    def score(logits: Array) -> Array:
        at = rl.Categorical(logits)
        return (at.entropy() + one.kl(at) + at.log_prob(jnp.array([0, 1]))).sum()

    slopes, curves = jax.jit(lambda x: (jax.grad(score)(x), jax.hessian(score)(x)))(logits)
    assert jnp.isfinite(slopes).all()
    assert jnp.isfinite(curves).all()
    assert (slopes[logits == -jnp.inf] == 0).all()


# Policies.


def linear(outputs: int) -> mj.Model:
    return mj.Model(
        lambda key, x: jnp.zeros((x["seen"].shape[-1], outputs)),
        lambda params, x: x["seen"] @ params + x["offset"],
    )


def observations(*axes: int) -> dict[str, Array]:
    seen, offset = oracles.normals(0, (*axes, 3), (*axes, 1))
    return {"seen": seen, "offset": offset}


@pytest.mark.parametrize("make", [rl.gaussian_policy, rl.categorical_policy])
def test_over_steps_is_step_by_step(make: Any) -> None:
    policy, seen = make(linear(2)), observations(4, 5)
    params = oracles.normal_like(1, policy.init(KEY, observations(1)))
    whole = policy.over_steps(params, seen)
    for t in range(5):
        step = policy.distribution(params, jax.tree.map(lambda x, t=t: x[:, t], seen))
        oracles.assert_close(jax.tree.map(lambda x, t=t: x[:, t], whole), step)


def test_standard_deviations_begin_and_end() -> None:
    policy = rl.gaussian_policy(linear(2), std=0.5, min_std=0.1)
    params = policy.init(KEY, observations(1))
    oracles.assert_close(params.log_std, jnp.full(2, math.log(0.5)))
    low = params._replace(log_std=jnp.array([-9.0, 0.0]))
    given = policy.distribution(low, observations(3))
    oracles.assert_close(jnp.exp(given.log_std), jnp.tile(jnp.array([0.1, 1.0]), (3, 1)))
    free = rl.gaussian_policy(linear(2), min_std=0.0).distribution(low, observations(3))
    oracles.assert_close(free.log_std[0], low.log_std)


def test_policies_are_checked() -> None:
    for make in (rl.gaussian_policy, rl.categorical_policy):
        with pytest.raises(TypeError, match=r"model is 5; expected a metajax\.Model"):
            make(5)
    for options in ({"std": 0.0}, {"min_std": -1.0}, {"std": math.inf}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(options))}=.*; expected a finite number"
        ):
            rl.gaussian_policy(linear(2), **options)
    scalar = mj.Model(lambda key, x: jnp.zeros(3), lambda params, x: x @ params)
    inputs = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \[items, actions\]"):
        rl.gaussian_policy(scalar).init(KEY, inputs)
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \[items, actions\]"):
        rl.categorical_policy(scalar).distribution(jnp.zeros(3), inputs)
    with pytest.raises(TypeError, match="distribution"):
        rl.Policy(lambda key, observations: 0, lambda params: 0)
