"""Batch statistics: what they are, padding, and derivatives against the plain formula's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj

KEY = jax.random.key(0)


def normalize(
    images: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    weights: jax.Array | None = None,
    epsilon: float = 1e-5,
) -> jax.Array:
    """`BatchStatistics` with these parameters."""
    channels = images.shape[-1]
    params = {"bias": jnp.zeros(channels) if bias is None else bias}
    if scale is not None:
        params["scale"] = scale
    layer = mj.models.BatchStatistics(use_scale=scale is not None, epsilon=epsilon)
    return layer.apply({"params": params}, images, weights)


def test_batch_statistics() -> None:
    images = 3 + 2 * jax.random.normal(KEY, (5, 4, 4, 2))
    layer = mj.models.BatchStatistics()
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
    assert set(mj.models.BatchStatistics(use_scale=False).init(KEY, images)["params"]) == {"bias"}


def test_half_precision_takes_its_statistics_in_single() -> None:
    images = 3 + jax.random.normal(KEY, (5, 8, 8, 2))
    half = normalize(images.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    single = normalize(images.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(half.astype(jnp.float32), single, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1000, 1), (33, 1e-2), (3, 1e-3)])
def test_single_precision_bears_a_mean_far_from_zero(mean: float, deviation: float) -> None:
    images = mean + deviation * jax.random.normal(KEY, (5, 8, 8, 2))
    ours = normalize(images)
    exact = np.asarray(images, np.float64)
    exact -= exact.mean((0, 1, 2), keepdims=True)
    exact /= np.sqrt(exact.var((0, 1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.exact
def test_a_constant_channel_is_its_offset_and_its_slope_epsilon_s() -> None:
    images = jnp.full((5, 4, 4, 2), 7.3)
    value, slope = jax.value_and_grad(
        lambda images: normalize(images, bias=jnp.ones(2))[0, 0, 0, 0]
    )(images)
    assert value == 1
    np.testing.assert_allclose(slope[0, 0, 0, 0], (1 - 1 / 80) / np.sqrt(1e-5), rtol=1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padded", [False, True])
def test_derivatives_are_those_of_the_textbook(padded: bool) -> None:
    images, direction = jax.random.normal(KEY, (2, 4, 3, 3, 2), jnp.float64)
    scale, bias = jnp.array([[1.3, -0.7], [0.2, 0.4]])
    weights = jnp.array([1.0, 1.0, 0.0, 1.0]) if padded else None
    counted = (weights > 0)[:, None, None, None] if padded else None

    def textbook(images: jax.Array) -> jax.Array:
        axes = (0, 1, 2)
        mean = images.mean(axes, where=counted, keepdims=True)
        variance = ((images - mean) ** 2).mean(axes, where=counted, keepdims=True)
        spread = jnp.sqrt(variance + 1e-3)
        return (images - mean) / spread * scale[None, None, None] + bias[None, None, None]

    def derivatives(form) -> list[jax.Array]:
        def loss(images: jax.Array) -> jax.Array:
            return jnp.sum(jnp.tanh(form(images)) ** 3)

        def slope(images: jax.Array) -> jax.Array:
            return jnp.vdot(jax.grad(loss)(images), direction)

        return [loss(images), jax.grad(loss)(images), jax.grad(slope)(images)]

    ours = derivatives(lambda images: normalize(images, scale, bias, weights, 1e-3))
    for mine, theirs in zip(ours, derivatives(textbook), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-12)
