"""The patch convolution: the stock one's values and derivatives, at any order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")


def _stock(images, weights, strides, padding):
    return lax.conv_general_dilated(
        images, weights, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3))], ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize(("size", "kernel"), [((7, 6), (3, 3)), ((8, 8), (2, 5))], ids=str)
def test_equals_the_stock_convolution(size, kernel, strides, padding) -> None:
    images = jax.random.normal(jax.random.key(0), (2, *size, 3), jnp.float64)
    weights = jax.random.normal(jax.random.key(1), (*kernel, 3, 4), jnp.float64)
    ours = mj.patch_convolution(images, weights, strides, padding)
    np.testing.assert_allclose(ours, _stock(images, weights, strides, padding), atol=1e-12)


def test_derivatives_of_first_and_second_order() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 5, 5, 2), jnp.float64)
    weights = jax.random.normal(jax.random.key(1), (3, 3, 2, 3), jnp.float64)

    def second(convolution):
        def loss(weights, images):
            return jnp.sum(jnp.tanh(convolution(images, weights, (2, 2), "SAME")) ** 2)

        def inner(weights, images):
            return loss(weights - 0.1 * jax.grad(loss)(weights, images), images)

        return jax.jit(jax.grad(inner, argnums=(0, 1)))(weights, images)

    for ours, stock in zip(second(mj.patch_convolution), second(_stock), strict=True):
        np.testing.assert_allclose(ours, stock, atol=1e-12)


def test_serves_a_stock_flax_layer() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 2), jnp.float64)
    stock = nn.Conv(4, (3, 3), strides=2)
    params = stock.init(jax.random.key(1), images)
    ours = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=mj.patch_convolution)
    np.testing.assert_allclose(ours.apply(params, images), stock.apply(params, images), atol=1e-12)


def test_no_convolution_is_left_under_vmap_over_weights() -> None:
    images = jnp.zeros((3, 2, 6, 6, 1))
    weights = jnp.zeros((3, 3, 3, 1, 4))
    task = jax.vmap(lambda x, w: mj.patch_convolution(x, w, (2, 2), "SAME").sum())
    gradient = jax.grad(lambda w: task(images, w).sum())
    assert "conv_general_dilated" not in str(jax.make_jaxpr(gradient)(weights))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lhs": jnp.zeros((2, 6, 1))}, r"images of shape \(2, 6, 1\); expected \[items, height"),
        ({"rhs_dilation": (2, 2)}, r"rhs_dilation=\(2, 2\).*leave conv_general_dilated"),
        ({"feature_group_count": 2}, r"feature_group_count=2; expected 1"),
    ],
)
def test_what_it_cannot_do(options: dict, message: str) -> None:
    arguments = {
        "lhs": jnp.zeros((2, 6, 6, 1)),
        "rhs": jnp.zeros((3, 3, 1, 4)),
        "window_strides": (1, 1),
        "padding": "SAME",
        **options,
    }
    with pytest.raises(ValueError, match=message):
        mj.patch_convolution(**arguments)
