"""The linear baseline against least squares in NumPy, and that of the other roll-outs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from metajax import rl

Array = jax.Array
ROLLOUTS, HORIZON = 6, 9


def trajectories(
    observations: Any, mask: Any = None, weights: Any = None, shape: tuple[int, int] | None = None
) -> rl.Trajectories:
    shape = (ROLLOUTS, HORIZON) if shape is None else shape
    zeros = jnp.zeros(shape)
    mask = jnp.ones(shape, bool) if mask is None else mask
    return rl.Trajectories(observations, zeros, zeros, mask, zeros, None, weights)


def ended() -> Array:
    return jnp.arange(HORIZON)[None] < jnp.array([9, 4, 1, 6, 9, 2])[:, None]


def least_squares(
    observations: Any, returns: Any, mask: Any = None, weights: Any = None
) -> np.ndarray:
    """The ridge is rows of the features' lengths, for which 0 is aimed at; in float64."""
    rollouts, horizon = returns.shape
    features = []
    for n in range(rollouts):
        for t in range(horizon):
            seen = np.clip(np.float64(observations[n, t]).ravel(), -10, 10)
            time = t / 100
            features.append([*seen, *seen**2, time, time**2, time**3, 1.0])
    features = np.array(features)
    counts = np.ones(returns.shape) if mask is None else np.float64(mask)
    counts = counts * (1.0 if weights is None else np.asarray(weights)[:, None])
    roots = np.sqrt(counts).reshape(-1)
    rows = features * roots[:, None]
    lengths = np.linalg.norm(rows, axis=0)
    targets = np.float64(returns).reshape(-1) * roots
    system = np.concatenate([rows, np.sqrt(1e-5) * np.diag(np.where(lengths > 0, lengths, 1))])
    slopes, *_ = np.linalg.lstsq(system, np.append(targets, np.zeros(len(lengths))), rcond=None)
    return (features @ slopes).reshape(returns.shape)


def worth(observations: Array) -> Array:
    """Returns that features explain in part."""
    noise = oracles.normals(1, observations.shape[:2])[0]
    return 3 * observations[..., 0] - observations[..., 1] ** 2 + 0.5 * noise - 2


@pytest.mark.usefixtures("float64")
def test_linear_is_least_squares() -> None:
    observations = 6 * oracles.normals(0, (ROLLOUTS, HORIZON, 3))[0]  # Beyond 10, too.
    returns, weights = worth(observations), jnp.array([1.0, 0.5, 3.0, 2.0, 0.0, 1.0])
    run = jax.jit(rl.linear_baseline)
    for options in ({}, {"mask": ended()}, {"mask": ended(), "weights": weights}):
        junk = jnp.where(options.get("mask", True), returns, jnp.nan)  # None is read after an end.
        found = run(trajectories(observations, **options), junk)
        expected = least_squares(observations, returns, **options)
        # The normal equations square what 1e-5 leaves of the condition.
        oracles.assert_close(found, expected, 1e-9)


def test_linear_in_single_precision() -> None:
    observations = 6 * oracles.normals(0, (ROLLOUTS, HORIZON, 3))[0]
    returns = worth(observations)
    assert returns.dtype == jnp.float32
    found = jax.jit(rl.linear_baseline)(trajectories(observations, ended()), returns)
    expected = least_squares(observations, returns, ended())
    oracles.assert_close(found, expected, 1e-3)


def test_linear_reads_a_tree_of_any_numbers() -> None:
    """Unsigned bytes, flags and an image are what they are as floats."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (ROLLOUTS, HORIZON, 2, 2), np.uint8)
    flag = generator.integers(0, 2, (ROLLOUTS, HORIZON)).astype(bool)
    flat = np.concatenate([flag[..., None], image.reshape(ROLLOUTS, HORIZON, 4)], axis=-1)
    returns = oracles.normals(0, (ROLLOUTS, HORIZON))[0]
    run = jax.jit(rl.linear_baseline)
    tree = {"a flag": jnp.asarray(flag), "an image": jnp.asarray(image)}
    found = run(trajectories(tree), returns)
    np.testing.assert_allclose(found, run(trajectories(jnp.float32(flat)), returns), rtol=1e-5)
    oracles.assert_close(found, least_squares(flat, returns), 1e-2)


@pytest.mark.parametrize("features", [pytest.param(2, marks=pytest.mark.slow), 100])
def test_linear_over_long_horizons_of_features_that_are_alike(features: int) -> None:
    """A thousand steps, of which none tells more than the time; single precision takes it."""
    shape = (4, 1000)
    observations = jnp.full((*shape, features), 3.0)
    time = jnp.arange(1000) / 1000
    returns = jnp.tile(20 * (1 - time)[None], (4, 1)) + oracles.normals(0, shape)[0]
    found = jax.jit(rl.linear_baseline)(trajectories(observations, shape=shape), returns)
    assert jnp.isfinite(found).all()
    expected = least_squares(observations[:, :, :2], returns)
    assert np.abs(found - expected).max() < 0.1  # Of returns up to 20, with a noise of 1.


def test_linear_of_one_step() -> None:
    """More features than steps: the ridge decides, and what is fitted is close to the return."""
    one = trajectories(jnp.ones((1, 1, 3)), shape=(1, 1))
    found = jax.jit(rl.linear_baseline)(one, jnp.full((1, 1), 7.0))
    np.testing.assert_allclose(found, 7.0, rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_leave_one_out_is_the_mean_of_the_others() -> None:
    returns = jnp.where(ended(), oracles.normals(0, (ROLLOUTS, HORIZON))[0], 0)
    found = rl.leave_one_out(trajectories(jnp.zeros((ROLLOUTS, HORIZON, 1)), ended()), returns)
    for n in range(ROLLOUTS):
        others = [returns[m] for m in range(ROLLOUTS) if m != n]
        oracles.assert_close(found[n], np.mean(others, axis=0))


def test_leave_one_out_asks_for_others() -> None:
    one = trajectories(jnp.zeros((1, 3, 1)), shape=(1, 3))
    with pytest.raises(ValueError, match="of trajectories of one roll-out; expected rollouts=2"):
        rl.leave_one_out(one, jnp.zeros((1, 3)))
    weighted = trajectories(jnp.zeros((2, 3, 1)), weights=jnp.ones(2), shape=(2, 3))
    with pytest.raises(ValueError, match="of trajectories with weights; expected"):
        rl.leave_one_out(weighted, jnp.zeros((2, 3)))
