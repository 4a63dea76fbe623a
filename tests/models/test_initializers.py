"""Initializers of somebody else: what they return is what they were asked for, or is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj

KEY = jax.random.key(0)
IMAGES, PAIRS = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 8, 8, 4))


def _wrong(key: Any, shape: Any, dtype: Any) -> Any:
    del key
    return jnp.zeros(shape[::-1], dtype)[..., None]


FACTORIES = (
    (mj.models.strided_conv_net, {"ways": 5, "filters": 2}, IMAGES),
    (mj.models.max_pool_conv_net, {"ways": 5, "filters": 2, "pool_padding": "SAME"}, IMAGES),
    (mj.models.embedding_net, {"filters": 2}, jnp.zeros((1, 16, 16, 1))),
    (mj.models.relation_encoder, {"filters": 2}, jnp.zeros((1, 28, 28, 1))),
    (mj.models.relation_module, {"filters": 2}, PAIRS),
)
ARGUMENTS = [
    (factory, given, inputs, name)
    for factory, given, inputs in FACTORIES
    for name in ("kernel_init", "head_kernel_init", "head_bias_init")
    if name == "kernel_init" or "ways" in given or inputs is PAIRS
]


@pytest.mark.parametrize(
    ("factory", "given", "inputs", "name"),
    ARGUMENTS,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_shape_in_every_place(
    factory: Callable, given: dict[str, Any], inputs: jax.Array, name: str
) -> None:
    model = factory(**given, **{name: _wrong})
    message = rf"^{name} returned float32\[.*\]; expected floats of the shape \(.*\) that it was "
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, KEY, inputs)


@pytest.mark.parametrize(
    ("initializer", "shown"),
    [
        (jax.nn.initializers.lecun_normal, "<function .*>"),  # What makes one, not called.
        (lambda key, shape, dtype: 0.1, "0.1"),
        (lambda key, shape, dtype: None, "None"),
        (lambda key, shape, dtype: jnp.ones(shape, jnp.int32), r"int32\[3, 3, 1, 2\]"),
        (lambda key, shape, dtype: jnp.ones(shape, complex), r"complex64\[3, 3, 1, 2\]"),
    ],
    ids=["not called", "a number", "nothing", "integers", "complex"],
)
def test_what_are_no_floats(initializer: Any, shown: str) -> None:
    model = mj.models.strided_conv_net(5, filters=2, kernel_init=initializer)
    with pytest.raises(ValueError, match=rf"^kernel_init returned {shown}; expected floats of the"):
        jax.eval_shape(model.init, KEY, IMAGES)


@pytest.mark.usefixtures("float64")
def test_values_given_outright_become_the_parameters_in_their_precision() -> None:
    kernel = np.arange(5.0)[None] + np.ones((2, 1))
    model = mj.models.strided_conv_net(
        5, filters=2, head_kernel_init=lambda key, shape, dtype: kernel
    )
    drawn = jax.jit(model.init)(KEY, IMAGES)["Dense_0"]["kernel"]
    assert drawn.dtype == jnp.float32
    np.testing.assert_array_equal(drawn, kernel)


def test_what_takes_too_little_is_refused_at_once() -> None:
    message = r"^head_bias_init has the parameters \(shape, .*is called with \(key, shape, dtype\)"
    with pytest.raises(TypeError, match=message):
        mj.models.relation_module(head_bias_init=lambda shape, dtype: jnp.ones(shape, dtype))
