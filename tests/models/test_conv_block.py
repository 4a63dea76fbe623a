"""The blocks of the networks, against stock layers: value, derivatives, padding, rounding."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.models import conv_block as block
from metajax.models.conv_block import conv_block
from metajax.models.kernels import patch_moments
from metajax.models.kernels.convolution_forms import window_of

KEY = jax.random.key(0)
FILTERS = 4


class _Block(nn.Module):
    stride: int = 1
    padding: str = "SAME"
    pool: Literal["VALID", "SAME"] | None = None
    pool_first: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, inputs: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        return conv_block(
            inputs,
            weights,
            filters=FILTERS,
            stride=self.stride,
            padding=self.padding,
            pool=self.pool,
            pool_first=self.pool_first,
            epsilon=self.epsilon,
        )


def _stock(module: _Block, params: dict, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The same in Flax's layers and the textbook's normalisation."""
    hidden = nn.Conv(
        FILTERS, (3, 3), strides=module.stride, padding=module.padding, use_bias=False
    ).apply({"params": params["Conv_0"]}, inputs)
    if module.pool_first:
        hidden = nn.max_pool(hidden, (2, 2), (2, 2), module.pool)
    counted = None if weights is None else (weights > 0)[:, None, None, None]
    axes = (0, 1, 2)
    mean = hidden.mean(axes, where=counted, keepdims=True)
    variance = ((hidden - mean) ** 2).mean(axes, where=counted, keepdims=True)
    scale, bias = (
        params["BatchStatistics_0"][name][None, None, None] for name in ("scale", "bias")
    )
    hidden = nn.relu((hidden - mean) / jnp.sqrt(variance + module.epsilon) * scale + bias)
    last = module.pool and not module.pool_first
    return nn.max_pool(hidden, (2, 2), (2, 2), module.pool) if last else hidden


def _case(channels: int, dtype: type, items: int = 5) -> tuple[dict, jax.Array]:
    """Parameters with scales of both signs, and images."""
    images = jax.random.normal(KEY, (items, 9, 12, channels), dtype) + 3
    shapes = jax.eval_shape(_Block().init, KEY, images)["params"]
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(k, x.shape, dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn), images


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("channels", "module"),
    [
        (3, _Block(pool="SAME", epsilon=0.3)),
        (3, _Block(pool="VALID", padding="VALID")),
        (3, _Block(pool="SAME", pool_first=True, epsilon=0.3)),
        (1, _Block(stride=2, epsilon=0.3)),
        (6, _Block(pool="VALID", epsilon=0.3)),
    ],
    ids=[
        "few, pooled SAME",
        "few, pooled, VALID",
        "few, pooled first",
        "one, strided",
        "many, pooled",
    ],
)
def test_derivatives_are_those_of_stock_layers(
    channels: int, module: _Block, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Groups of two of the five items, so that there is a rest.
    outputs, patches = (30, 12 * 18) if module.stride == 2 else (108, 27 * 18)
    monkeypatch.setattr(block, "_GROUP_BYTES", 2 * 8 * FILTERS * outputs)
    monkeypatch.setattr(patch_moments, "_GROUP_BYTES", 2 * 8 * channels * patches)
    params, images = _case(channels, jnp.float64)
    weights = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0]) if padded else None

    def derivatives(form) -> list:
        def loss(params: dict, images: jax.Array) -> jax.Array:
            return jnp.sin(form(params, images)).sum()

        def slopes(params: dict, images: jax.Array) -> jax.Array:
            gradient = jax.grad(loss, argnums=(0, 1))(params, images)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))

        return [
            form(params, images),
            jax.grad(loss, argnums=(0, 1))(params, images),
            jax.grad(slopes, argnums=(0, 1))(params, images),
        ]

    ours = jax.jit(lambda: derivatives(lambda p, x: module.apply({"params": p}, x, weights)))()
    theirs = jax.jit(lambda: derivatives(lambda p, x: _stock(module, p, x, weights)))()
    for mine, stock in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, stock, rtol=1e-9, atol=1e-9 * np.abs(stock).max())


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.3), (1000, 1), (3, 1e-3)])
def test_single_precision_bears_images_far_from_zero(mean: float, deviation: float) -> None:
    """As far as the outputs themselves do, which single precision rounds in proportion to them."""
    module = _Block(padding="VALID")
    params, images = _case(1, jnp.float32)
    images = mean + deviation * (images - 3)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, images))
        exact = np.asarray(_stock(module, *wide, None))
    size = mean / deviation
    outputs = jax.jit(module.apply)({"params": params}, images)
    np.testing.assert_allclose(outputs, exact, atol=1e-5 * max(1, size))


def test_filters_that_hardly_respond() -> None:
    """Smooth images under differences: their variance is a fraction of the patches'."""
    ramp = jnp.sin(jnp.linspace(0, 1, 12))[None, None, :, None] * jnp.ones((1, 12, 1, 1))
    images = ramp + 0.01 * jax.random.normal(KEY, (5, 12, 12, 1))
    kernel = jnp.array([[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]])[:, :, None, None]
    window = window_of(images, kernel, (1, 1), "VALID")
    outputs = np.asarray(mj.models.kernels.convolution(images, kernel, (1, 1), "VALID"), np.float64)
    found = patch_moments.patch_moments(images, None, window).output_variance(kernel)
    np.testing.assert_allclose(found[0, 0, 0, 0], outputs.var(), rtol=2e-3)


@pytest.mark.usefixtures("float64")
def test_single_precision_images_under_double_precision_weights() -> None:
    module = _Block(pool="VALID")
    params, images = _case(3, jnp.float64)
    outputs = jax.jit(module.apply)({"params": params}, images.astype(jnp.float32))
    expected = _stock(module, params, images.astype(jnp.float32).astype(jnp.float64), None)
    np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-9)


def test_parameters_are_those_of_flax_layers() -> None:
    _, images = _case(3, jnp.float32)
    params = jax.eval_shape(_Block().init, KEY, images)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "Conv_0": {"kernel": (3, 3, 3, FILTERS)},
        "BatchStatistics_0": {"scale": (FILTERS,), "bias": (FILTERS,)},
    }
    with jax.enable_x64(True):
        wide = jax.eval_shape(_Block().init, KEY, images)["params"]
    assert wide["Conv_0"]["kernel"].dtype == jnp.float32


def test_images_that_vanish() -> None:
    with pytest.raises(ValueError, match="images shrank to 0x0 before a 2x2 pooling"):
        _Block(padding="VALID", pool="VALID").init(KEY, jnp.zeros((1, 2, 2, 1)))
    params, _ = _case(3, jnp.float32)
    for module in (_Block(), _Block(pool="VALID")):
        outputs = module.apply({"params": params}, jnp.zeros((0, 8, 8, 3)))
        assert outputs.shape[0] == 0


def test_blank_images() -> None:
    params, images = _case(1, jnp.float32)
    module = _Block(pool="VALID", padding="VALID")
    value_and_slopes = jax.value_and_grad(
        lambda params: module.apply({"params": params}, jnp.full_like(images, 0.3)).sum()
    )
    outputs, slopes = jax.jit(value_and_slopes)(params)
    bias = nn.relu(params["BatchStatistics_0"]["bias"]).sum()
    np.testing.assert_allclose(outputs, bias * 5 * 3 * 5, rtol=1e-2, atol=1e-2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_vmap_over_weights() -> None:
    module = mj.models.from_linen(_Block(pool="VALID"))
    params, images = _case(3, jnp.float32)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    together = jax.jit(jax.vmap(module.apply, (0, None)))(many, images)
    apply = jax.jit(module.apply)
    for i in range(2):
        alone = apply(jax.tree.map(lambda x, i=i: x[i], many), images)
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-4)
