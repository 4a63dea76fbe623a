"""Networks as published, and one adapter for each kind of user's model."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from learners import episode

import metajax as mj
from metajax.models.kernels.max_pooling import max_pool_2x2

KEY = jax.random.key(0)


def _shapes(params: dict) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def test_sinusoid_network_as_published() -> None:
    params = mj.models.mlp((40, 40, 1)).init(KEY, jnp.zeros((1, 1)))
    assert [_shapes(params)[f"Dense_{i}/kernel"] for i in range(3)] == [(1, 40), (40, 40), (40, 1)]
    kernel = np.asarray(params["Dense_1"]["kernel"])
    # A normal of deviation 0.01 cut at two deviations has the deviation 0.0088.
    assert np.abs(kernel).max() <= 0.02
    np.testing.assert_allclose(kernel.std(), 0.0088, rtol=0.05)
    assert not np.asarray(params["Dense_1"]["bias"]).any()


def test_strided_network_as_published() -> None:
    params = jax.eval_shape(mj.models.strided_conv_net(5).init, KEY, jnp.zeros((1, 28, 28, 1)))
    shapes = _shapes(params)
    assert shapes["Conv_0/kernel"] == (3, 3, 1, 64)
    assert shapes["Conv_3/kernel"] == (3, 3, 64, 64)
    assert shapes["Dense_0/kernel"] == (64, 5)
    assert sum(np.prod(shape) for shape in shapes.values()) == 112_005


def test_max_pool_network_as_published() -> None:
    params = jax.eval_shape(mj.models.max_pool_conv_net(5).init, KEY, jnp.zeros((1, 84, 84, 3)))
    shapes = _shapes(params)
    assert shapes["Conv_0/kernel"] == (3, 3, 3, 32)
    assert shapes["Dense_0/kernel"] == (5 * 5 * 32, 5)


def test_max_pool_network_against_stock_layers() -> None:
    images = jax.random.normal(KEY, (3, 9, 11, 1))
    model = mj.models.from_linen(
        mj.models.ConvNet(None, 4, blocks=1, pooling="max", features="flatten")
    )
    params = jax.jit(model.init)(KEY, images)
    hidden = nn.Conv(4, (3, 3), use_bias=False).apply({"params": params["Conv_0"]}, images)
    mean, variance = (
        statistic(axis=(0, 1, 2), keepdims=True) for statistic in (hidden.mean, hidden.var)
    )
    hidden = nn.relu((hidden - mean) / jnp.sqrt(variance + 1e-5))
    expected = nn.max_pool(hidden, (2, 2), (2, 2)).reshape(3, -1)
    outputs = jax.jit(model.apply)(params, images, None)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_pooling_keeps_its_gradient_however_it_is_compiled() -> None:
    layer = mj.models.BatchStatistics()
    params = {"params": {"scale": jnp.full(16, 1.3), "bias": jnp.full(16, 0.1)}}
    images = jax.random.normal(KEY, (20, 28, 28, 16))

    def loss(images: jax.Array) -> jax.Array:
        return jnp.sin(max_pool_2x2(nn.relu(layer.apply(params, images)))).sum()

    def slope(images: jax.Array) -> jax.Array:
        return (jax.grad(loss)(images) ** 2).sum()

    for derivative in (jax.grad(loss), jax.grad(slope)):
        np.testing.assert_allclose(
            jax.jit(derivative)(images), derivative(images), rtol=1e-3, atol=1e-3
        )


def test_too_many_poolings() -> None:
    with pytest.raises(ValueError, match=r"images shrank to 1x1 before a 2x2 pooling"):
        jax.eval_shape(mj.models.max_pool_conv_net(5).init, KEY, jnp.zeros((1, 14, 14, 1)))


class _Linen(nn.Module):
    """A user's network, stock batch normalisation included."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(8)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(x))


class _NNX(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(64, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=False, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(nnx.relu(self.first(x.reshape(x.shape[0], -1)))))


def _functions() -> mj.Model:
    def init(key: jax.Array, inputs: jax.Array) -> jax.Array:
        return 0.1 * jax.random.normal(key, (inputs[0].size, 3))

    return mj.Model(init, lambda w, x: x.reshape(x.shape[0], -1) @ w)


MODELS = {
    "linen": lambda: mj.models.from_linen(_Linen()),
    "nnx": lambda: mj.models.from_nnx(lambda rngs: _NNX(rngs)),
    "functions": _functions,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_users_model_trains(name: str) -> None:
    model = MODELS[name]()
    optimizer = optax.adam(1e-2)
    step = mj.maml_step(model, optimizer, inner=optax.sgd(0.1), num_steps=2)
    episodes = jax.vmap(episode)(jax.random.split(KEY, 2))
    params = jax.jit(model.init)(KEY, episodes.support.inputs[0])
    state = mj.init_state(params, optimizer, KEY)

    @jax.jit
    def run(state: mj.TrainState) -> tuple[mj.TrainState, dict]:
        return jax.lax.scan(lambda state, _: step(state, episodes), state, length=20)

    state, metrics = run(state)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params, params)


@pytest.mark.exact
def test_a_users_own_parameters_go_straight_in() -> None:
    module = _Linen()
    images = episode(KEY).query.inputs
    params = module.init(jax.random.key(5), images)["params"]
    outputs = mj.models.from_linen(module).apply(params, images, None)
    expected, _ = module.apply({"params": params}, images, mutable=["batch_stats"])
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.exact
def test_nnx_parameters_and_outputs_are_the_modules() -> None:
    images = episode(KEY).query.inputs
    module = _NNX(nnx.Rngs(KEY))
    model = mj.models.from_nnx(lambda rngs: _NNX(rngs))
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    chex.assert_trees_all_equal(model.init(KEY, images), params)
    np.testing.assert_allclose(model.apply(params, images, None), module(images), rtol=1e-5)


@pytest.mark.exact
def test_weights_reach_a_model_that_takes_them() -> None:
    model = mj.Model(
        lambda key, x: jnp.zeros(()), lambda params, x, weights=None: x * weights[:, None]
    )
    outputs = model.apply(jnp.zeros(()), jnp.ones((2, 1)), jnp.array([0.0, 2.0]))
    np.testing.assert_array_equal(outputs, [[0.0], [2.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mj.models.mlp(()), r"widths=\(\); expected at least one"),
        (lambda: mj.models.mlp((3, 0)), r"widths\[1\]=0; expected an integer of 1"),
        (lambda: mj.models.strided_conv_net(0), r"ways=0; expected an integer of 1 or more"),
        (
            lambda: mj.models.max_pool_conv_net(5, filters=0),
            r"filters=0; expected an integer of 1 or more",
        ),
        (
            lambda: mj.models.strided_conv_net(5).init(KEY, jnp.zeros((1, 28, 28, 1), jnp.uint8)),
            r"ConvNet got uint8 inputs; expected floats",
        ),
    ],
)
def test_numbers_and_dtypes(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
