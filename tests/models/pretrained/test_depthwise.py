"""The depthwise convolution is XLA's grouped one."""

import jax
import numpy as np
import pytest
from oracles import assert_close, normal_like

from metajax.models.pretrained.depthwise import DepthwiseConv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_is_a_grouped_convolution(float64: None, size: int, stride: int) -> None:
    module = DepthwiseConv(size, stride)
    for sides in ((2, 2), (5, 6)):
        images = jax.random.normal(jax.random.key(0), (2, *sides, 3))
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)
        params = normal_like(1, shapes)
        expected = jax.lax.conv_general_dilated(
            images,
            params["params"]["kernel"],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )
        got = jax.jit(module.apply)(params, images)
        assert_close(got, expected, 1e-12)
        assert np.shape(got)[1] == -(-sides[0] // stride)
