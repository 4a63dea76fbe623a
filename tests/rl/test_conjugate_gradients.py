"""Conjugate gradients against dense linear algebra, and where they stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from metajax.rl.conjugate_gradients import conjugate_gradients

Array = jax.Array


@functools.partial(jax.jit, static_argnums=2)
def solved(matrix: Array, target: Array, steps: int) -> tuple[Array, Array]:
    """`x` and the residual, of equations `A x = target` that are cut into a tree of two."""

    def product(x: dict[str, Array]) -> dict[str, Array]:
        return cut(matrix @ joined(x))

    def cut(x: Array) -> dict[str, Array]:
        return {"one": x[:1], "rest": x[1:]}

    def joined(x: dict[str, Array]) -> Array:
        return jnp.concatenate([x["one"], x["rest"]])

    x, residual = conjugate_gradients(product, cut(target), steps)
    return joined(x), joined(residual)


def rotated(seed: int, *eigenvalues: float) -> np.ndarray:
    """A symmetric matrix of these eigenvalues."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (basis * np.array(eigenvalues)) @ basis.T


@pytest.mark.usefixtures("float64")
def test_steps_are_the_best_that_their_products_reach() -> None:
    """The least of `x A x / 2 - target x` over what target, A target, ... span."""
    matrix, target = rotated(0, 9.0, 4.0, 1.0, 0.5), np.random.default_rng(1).normal(size=4)
    for steps in (1, 2, 4):
        powers = [np.linalg.matrix_power(matrix, power) @ target for power in range(steps)]
        span, _ = np.linalg.qr(np.stack(powers, axis=1))
        expected = span @ np.linalg.solve(span.T @ matrix @ span, span.T @ target)
        x, residual = solved(matrix, target, steps)
        oracles.assert_close(x, expected)
        np.testing.assert_allclose(residual, target - matrix @ expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_what_rounding_leaves_is_not_followed_where_nothing_bends(seed: int) -> None:
    """The least solution, of equations that leave two directions open, as those of softmax do."""
    matrix = rotated(seed, 3.0, 1.0, 0.0, 0.0)
    target = matrix @ np.random.default_rng(seed).normal(size=4)
    x, residual = solved(np.float32(matrix), np.float32(target), 30)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, np.linalg.pinv(matrix) @ target, rtol=0, atol=1e-5)
    assert jnp.abs(residual).max() < 1e-5


def test_a_direction_that_does_not_bend_upwards_is_not_gone() -> None:
    """From the beginning; after one step; flat; and of no target at all."""
    ones = np.ones(2, np.float32)
    for matrix, target, expected in (
        (np.diag([1.0, -2.0]), ones, 0 * ones),
        (np.diag([3.0, -1.0]), ones, ones),
        (np.zeros((2, 2)), ones, 0 * ones),
        (np.eye(2), 0 * ones, 0 * ones),
    ):
        x, residual = solved(np.float32(matrix), target, 5)
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(residual, target - matrix @ expected)
