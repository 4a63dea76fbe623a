"""The convolution: the stock one's values and derivatives, at any order, in each of its forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import metajax as mj
from metajax.models.kernels import convolution_forms

pytestmark = pytest.mark.usefixtures("float64")


def _stock(images, weights, strides, padding):
    return lax.conv_general_dilated(
        images, weights, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _operands(size=(7, 6), kernel=(3, 3), channels=3, items=2, tasks=()):
    images = jax.random.normal(jax.random.key(0), (*tasks, items, *size, channels), jnp.float64)
    weights = jax.random.normal(jax.random.key(1), (*tasks, *kernel, channels, 4), jnp.float64)
    return images, weights


def _close(ours, stock) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), ours, stock)


def _compare(function, *operands) -> None:
    """`function` of our convolution and of the stock one, in one compiled program."""
    both = jax.jit(
        lambda *args: [function(form)(*args) for form in (mj.models.kernels.convolution, _stock)]
    )
    _close(*both(*operands))


def _meta(convolution, strides, padding):
    """A step of gradient descent and the loss after it: every kind of derivative is in it."""

    def loss(images, weights):
        return jnp.sum(jnp.tanh(convolution(images, weights, strides, padding)) ** 2)

    def after(images, weights):
        slopes = jax.grad(loss, argnums=(0, 1))(images, weights)
        return loss(images - 0.1 * slopes[0], weights - 0.1 * slopes[1])

    return after


# Few channels and many, so that each form has its turn.
@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((7, 6), (3, 3), (1, 1), "SAME"),
        ((7, 6), (3, 3), (2, 2), "SAME"),
        ((8, 9), (2, 5), (1, 1), ((2, 1), (0, 3))),
        ((8, 9), (2, 7), (1, 1), "SAME"),
        ((8, 9), (2, 5), (1, 3), "VALID"),
        ((7, 6), (3, 2), (1, 1), ((-1, 0), (1, 0))),
        ((6, 17), (3, 11), (2, 2), "SAME"),
        ((5, 5), (1, 1), (1, 1), "VALID"),
    ],
    ids=str,
)
def test_equals_the_stock_convolution(size, kernel, strides, padding, channels) -> None:
    _compare(
        lambda form: jax.value_and_grad(_meta(form, strides, padding), argnums=(0, 1)),
        *_operands(size, kernel, channels),
    )


@pytest.mark.parametrize("channels", [3, 9])
def test_weight_gradient_of_groups_of_images(channels, monkeypatch) -> None:
    operands = _operands(channels=channels, items=7)
    monkeypatch.setattr(convolution_forms, "_GROUP_BYTES", 3 * 8 * 9 * 6 * 3 * (channels + 4))
    _compare(lambda form: jax.grad(_meta(form, (1, 1), "SAME"), argnums=1), *operands)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_form_for_several_threads(padding, monkeypatch) -> None:
    monkeypatch.setattr(convolution_forms, "_WORTH_THREADS", 0)
    monkeypatch.setattr(convolution_forms, "_cores", lambda: 2)
    operands = _operands(channels=9, items=3)
    _compare(lambda form: jax.value_and_grad(_meta(form, (1, 1), padding), (0, 1)), *operands)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 2)], ids=str)
def test_vmap_and_every_mode_of_differentiation(axes, strides) -> None:
    images, weights = _operands(channels=9, tasks=(3,))
    place = [
        x[0] if axis is None else jnp.moveaxis(x, 0, axis)
        for x, axis in zip((images, weights), axes, strict=True)
    ]

    def derivatives(form):
        meta = _meta(form, strides, "SAME")
        mapped = jax.vmap(meta, axes)
        slope = jax.grad(lambda *args: mapped(*args).sum(), argnums=(0, 1))
        forward = jax.jvp(slope, place, [jnp.cos(x) for x in place])
        return forward, jax.vmap(jax.grad(meta, argnums=(0, 1)), axes)(*place)

    ours, stock = (
        jax.jit(derivatives, static_argnums=0)(form)
        for form in (mj.models.kernels.convolution, _stock)
    )
    _close(ours, stock)


def test_runs_outside_jit() -> None:
    operands = _operands()
    _close(
        mj.models.kernels.convolution(*operands, (2, 2), "SAME"), _stock(*operands, (2, 2), "SAME")
    )
    ours, stock = (
        jax.grad(_meta(form, (1, 1), "SAME"))(*operands)
        for form in (mj.models.kernels.convolution, _stock)
    )
    _close(ours, stock)


def test_serves_a_stock_flax_layer() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 2), jnp.float64)
    stock = nn.Conv(4, (3, 3), strides=2)
    params = stock.init(jax.random.key(1), images)
    ours = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=mj.models.kernels.convolution)
    np.testing.assert_allclose(ours.apply(params, images), stock.apply(params, images), atol=1e-12)


def test_no_convolution_is_left_under_vmap_over_weights() -> None:
    images = jnp.zeros((3, 2, 6, 6, 1))
    weights = jnp.zeros((3, 3, 3, 1, 4))
    task = jax.vmap(lambda x, w: mj.models.kernels.convolution(x, w, (2, 2), "SAME").sum())
    gradient = jax.grad(lambda w: task(images, w).sum())
    program = jax.jit(gradient).lower(weights).as_text()
    assert "stablehlo.dot_general" in program
    assert "stablehlo.convolution" not in program


def test_half_precision_sums_its_groups_in_single(monkeypatch) -> None:
    images, weights = (x.astype(jnp.bfloat16) for x in _operands(channels=9, items=60))
    monkeypatch.setattr(convolution_forms, "_GROUP_BYTES", 1)  # Every image is a group.

    def slope(form, *operands):
        def loss(images, weights):
            return form(images, weights, (1, 1), "SAME").astype(jnp.float32).sum()

        return jax.jit(jax.grad(loss, argnums=1))(*operands).astype(jnp.float64)

    wide = [x.astype(jnp.float64) for x in (images, weights)]
    exact = slope(_stock, *wide)
    np.testing.assert_allclose(
        slope(mj.models.kernels.convolution, images, weights), exact, rtol=1e-2
    )


def _slopes(form):
    def loss(images, weights):
        return (form(images, weights, (1, 1), "SAME") ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))


def _mesh_and_places(axis_type, images_axis, weights_axis):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(axis_type,))
    return mesh, (jax.P(images_axis), jax.P(None, None, None, weights_axis))


@pytest.mark.parametrize("axes", [("d", None), (None, "d"), ("d", "d")], ids=str)
def test_under_shard_map_with_its_check(axes) -> None:
    operands = _operands(channels=9, items=4)
    mesh, places = _mesh_and_places(jax.sharding.AxisType.Auto, *axes)
    ours, stock = (
        jax.jit(jax.shard_map(_slopes(form), mesh=mesh, in_specs=places, out_specs=places))(
            *operands
        )
        for form in (mj.models.kernels.convolution, _stock)
    )
    _close(ours, stock)


@pytest.mark.parametrize("axes", [("d", None), (None, "d")], ids=str)
def test_on_a_mesh_with_explicit_axes(axes) -> None:
    operands = _operands(channels=9, items=4)
    mesh, places = _mesh_and_places(jax.sharding.AxisType.Explicit, *axes)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, at) for x, at in zip(operands, places, strict=True)]
        ours = jax.jit(_slopes(mj.models.kernels.convolution))(*placed)
    _close(ours, jax.jit(_slopes(_stock))(*operands))


@pytest.mark.parametrize(
    ("images", "weights", "padding"),
    [
        ((0, 6, 6, 9), (3, 3, 9, 4), "SAME"),
        ((2, 6, 6, 9), (3, 3, 9, 0), "SAME"),
        ((2, 2, 2, 9), (3, 3, 9, 4), "VALID"),
        ((2, 1, 5, 3), (3, 3, 3, 4), "VALID"),
    ],
    ids=str,
)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
def test_nothing_is_as_empty_as_the_stock_convolution_s(images, weights, padding, strides) -> None:
    operands = jnp.ones(images), jnp.ones(weights)
    ours = mj.models.kernels.convolution(*operands, strides, padding)
    assert ours.shape == _stock(*operands, strides, padding).shape
    assert ours.size == 0
    slope = jax.grad(
        lambda *args: mj.models.kernels.convolution(*args, strides, padding).sum(), argnums=(0, 1)
    )
    assert not any(x.any() for x in slope(*operands))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lhs": jnp.zeros((2, 6, 1))}, r"images of shape \(2, 6, 1\); expected \[items, height"),
        ({"rhs": jnp.zeros((3, 3, 2, 4))}, r"expected weights \[kernel height, .*, 1, filters\]"),
        ({"rhs": jnp.zeros((3, 1, 4))}, r"weights of shape \(3, 1, 4\)"),
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
        mj.models.kernels.convolution(**arguments)
