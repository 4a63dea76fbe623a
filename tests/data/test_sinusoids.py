"""Sinusoid tasks: the paper's ranges, and support and query of one curve."""

import jax
import numpy as np
import pytest

import metajax as mj


def test_ranges_and_shapes() -> None:
    sample = mj.data.sinusoid_episodes(shots=10, queries=15)
    support, query = jax.vmap(sample)(jax.random.split(jax.random.key(0), 2000))
    assert support.inputs.shape == support.targets.shape == (2000, 10, 1)
    assert query.inputs.shape == query.targets.shape == (2000, 15, 1)
    inputs = np.asarray(query.inputs)
    assert -5 <= inputs.min() < -4.99
    assert 4.99 < inputs.max() <= 5
    peaks = np.abs(np.asarray(query.targets)).max(axis=(1, 2))
    assert 4.5 < peaks.max() <= 5.0
    assert peaks.min() < 0.3


def test_support_and_query_lie_on_one_curve() -> None:
    support, query = mj.data.sinusoid_episodes(shots=20, queries=20)(jax.random.key(3))

    # a sin(x - p) is a linear combination of sin x and cos x.
    def basis(x: jax.Array) -> np.ndarray:
        return np.concatenate([np.sin(x), np.cos(x)], axis=1)

    weights, *_ = np.linalg.lstsq(basis(support.inputs), np.asarray(support.targets))
    np.testing.assert_allclose(basis(query.inputs) @ weights, query.targets, atol=1e-4)
    amplitude = np.hypot(*weights[:, 0])
    phase = np.arctan2(-weights[1, 0], weights[0, 0])
    assert 0.1 <= amplitude <= 5
    assert 0 <= phase <= np.pi


def test_fixed_task() -> None:
    sample = mj.data.sinusoid_episodes(shots=5, queries=5, amplitude=(2.0, 2.0), phase=(0.5, 0.5))
    support, _ = sample(jax.random.key(0))
    np.testing.assert_allclose(
        support.targets, mj.data.sinusoid(support.inputs, 2.0, 0.5), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["amplitude", "phase", "inputs"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((5, 0.1), ValueError, r"=\(5, 0.1\); expected the least number before the largest"),
        ((0, np.inf), ValueError, r"\[1\]=inf; expected a finite number"),
        ((np.nan, 1), ValueError, r"\[0\]=nan; expected a finite number"),
        (("a", 1), TypeError, r"\[0\]='a'; expected a finite number"),
        ((False, True), TypeError, r"\[0\]=False; expected a finite number"),
        ((1, 2, 3), TypeError, r" is \(1, 2, 3\); expected two numbers, the least and the largest"),
        (3.0, TypeError, " is 3.0; expected two numbers"),
        (None, TypeError, " is None; expected two numbers"),
    ],
)
def test_what_is_no_range(name: str, given: object, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{name}{message}"):
        mj.data.sinusoid_episodes(shots=1, queries=1, **{name: given})
