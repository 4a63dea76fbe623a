"""Batch statistics: what they are, padding, and derivatives against the plain formula's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.models.normalization import standardize

KEY = jax.random.key(0)


def test_batch_statistics() -> None:
    images = 3 + 2 * jax.random.normal(KEY, (5, 4, 4, 2))
    layer = mj.BatchStatistics()
    params = layer.init(KEY, images)
    normalised = layer.apply(params, images)
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.var((0, 1, 2)), 1, rtol=1e-4)
    weights = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])
    kept = jnp.array([0, 1, 3])
    np.testing.assert_allclose(
        layer.apply(params, images, weights)[kept],
        layer.apply(params, images[kept]),
        rtol=1e-5,
        atol=1e-5,
    )
    assert set(mj.BatchStatistics(use_scale=False).init(KEY, images)["params"]) == {"bias"}


def test_half_precision_takes_its_statistics_in_single() -> None:
    images = 100 + jax.random.normal(KEY, (5, 8, 8, 2))
    half = standardize(images.astype(jnp.bfloat16), None, 1e-5)
    assert half.dtype == jnp.bfloat16
    rounded = standardize(images.astype(jnp.bfloat16).astype(jnp.float32), None, 1e-5)
    np.testing.assert_allclose(half.astype(jnp.float32), rounded, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padded", [False, True])
def test_derivatives_are_those_of_the_plain_formula(padded: bool) -> None:
    images, direction = jax.random.normal(KEY, (2, 4, 3, 3, 2), jnp.float64)
    counted = jnp.array([1, 1, 0, 1], bool)[:, None, None, None] if padded else None

    def plain(images: jax.Array, counted: jax.Array | None, epsilon: float) -> jax.Array:
        axes = (0, 1, 2)
        mean = images.mean(axes, where=counted, keepdims=True)
        variance = ((images - mean) ** 2).mean(axes, where=counted, keepdims=True)
        return (images - mean) / jnp.sqrt(variance + epsilon)

    def derivatives(form) -> list[jax.Array]:
        def loss(images: jax.Array) -> jax.Array:
            return jnp.sum(jnp.tanh(form(images, counted, 1e-3)) ** 3)

        def slope(images: jax.Array) -> jax.Array:
            return jnp.vdot(jax.grad(loss)(images), direction)

        return [
            loss(images),
            jax.grad(loss)(images),
            jax.grad(slope)(images),
            jax.jvp(jax.grad(loss), (images,), (direction,))[1],
            jax.jvp(lambda x: form(x, counted, 1e-3), (images,), (direction,))[1],
        ]

    for ours, theirs in zip(derivatives(standardize), derivatives(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)
