"""Max-pooling: Flax's values, and the derivative at the first of equals, in every mode."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.models.kernels.max_pooling import max_pool_2x2

pytestmark = pytest.mark.exact

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((6, 6), "VALID"),
        ((7, 5), "VALID"),
        ((2, 3), "VALID"),
        ((7, 5), "SAME"),
        ((1, 1), "SAME"),
    ],
    ids=str,
)
def test_equals_flax(size: tuple[int, int], padding: Literal["VALID", "SAME"]) -> None:
    images = jax.random.normal(KEY, (3, *size, 4))
    pool = partial(max_pool_2x2, padding=padding)

    def second(pool) -> jax.Array:
        def slope(images: jax.Array) -> jax.Array:
            return (jax.grad(lambda x: jnp.sin(pool(x)).sum())(images) ** 2).sum()

        return jax.grad(slope)(images)

    def flax(images: jax.Array) -> jax.Array:
        return nn.max_pool(images, (2, 2), (2, 2), padding)

    np.testing.assert_array_equal(pool(images), flax(images))
    np.testing.assert_allclose(second(pool), second(flax), rtol=1e-6, atol=1e-7)
    direction = jax.random.normal(jax.random.key(1), images.shape)
    ours, theirs = (jax.jvp(each, (images,), (direction,))[1] for each in (pool, flax))
    np.testing.assert_array_equal(ours, theirs)


def test_of_equals_the_first_has_the_gradient() -> None:
    images = jnp.array([[1.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 2.0]])[None, :, :, None]
    slope = jax.grad(lambda x: max_pool_2x2(x).sum())(images)[0, :, :, 0]
    np.testing.assert_array_equal(slope, [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_of_equals_the_first_has_the_gradient_in_windows_that_are_half_empty() -> None:
    for value in (0.0, -jnp.inf):
        images = jnp.full((1, 3, 3, 1), value)
        pool = partial(max_pool_2x2, padding="SAME")
        slope = jax.jit(jax.grad(lambda x, pool=pool: pool(x).sum()))(images)[0, :, :, 0]
        np.testing.assert_array_equal(slope, [[1, 0, 1], [0, 0, 0], [1, 0, 1]])


def test_without_images_or_pixels() -> None:
    assert max_pool_2x2(jnp.ones((0, 3, 4, 1)), padding="SAME").shape == (0, 2, 2, 1)
    for padding, size in (("VALID", (1, 4)), ("SAME", (0, 4))):
        with pytest.raises(ValueError, match=rf"images shrank to {size[0]}x4 before a 2x2 pooling"):
            max_pool_2x2(jnp.ones((1, *size, 1)), padding=padding)


def test_of_equals_the_first_has_the_second_derivative() -> None:
    images = jnp.ones((1, 2, 2, 1))

    def slope(images: jax.Array) -> jax.Array:
        return jax.grad(lambda x: (max_pool_2x2(x) ** 2).sum())(images)

    curvature = jax.jacobian(slope)(images).reshape(4, 4)
    np.testing.assert_array_equal(curvature, np.diag([2, 0, 0, 0]))


def test_under_vmap() -> None:
    images = jax.random.normal(KEY, (2, 3, 4, 4, 1))

    def slope(images: jax.Array) -> jax.Array:
        return jax.grad(lambda x: (max_pool_2x2(x) ** 2).sum())(images)

    looped = jnp.stack([slope(each) for each in images])
    np.testing.assert_array_equal(jax.vmap(slope)(images), looped)
