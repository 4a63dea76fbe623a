"""The benchmarks' count of operations, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from operations import count_operations

import metajax as mj


def test_products() -> None:
    left, right = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    assert count_operations(jnp.matmul, left, right) == 2 * 3 * 4 * 5
    batched = jax.vmap(jnp.matmul)
    assert count_operations(batched, jnp.zeros((7, 3, 4)), jnp.zeros((7, 4, 5))) == 7 * 120


def test_loops_branches_and_functions_within() -> None:
    square = jnp.zeros((3, 3))

    def loop(x: jax.Array) -> jax.Array:
        return lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, x), None), x, length=5)[0]

    def branch(x: jax.Array) -> jax.Array:
        return lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert count_operations(loop, square) == 5 * 54
    assert count_operations(branch, square) == 2 * 54
    assert count_operations(jax.checkpoint(jnp.matmul), square, square) == 54


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolutions_without_their_border(padding: str) -> None:
    images, weights = jnp.zeros((2, 6, 7, 9)), jnp.zeros((3, 3, 9, 4))

    def stock(images: jax.Array, weights: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            images, weights, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(images: jax.Array, weights: jax.Array) -> jax.Array:
        return mj.models.kernels.convolution(images, weights, (1, 1), padding)

    rows, columns = (4 * 3, 5 * 3) if padding == "VALID" else (6 * 3 - 2, 7 * 3 - 2)
    for form in (stock, ours):

        def slopes(images: jax.Array, weights: jax.Array, form=form) -> tuple:
            return jax.grad(lambda *args: (form(*args) ** 2).sum(), argnums=(0, 1))(images, weights)

        once = 2 * 2 * 9 * 4 * rows * columns
        assert count_operations(form, images, weights) == once
        assert count_operations(slopes, images, weights) == 3 * once
