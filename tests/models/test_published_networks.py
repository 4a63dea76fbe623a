"""The networks of the papers' own code, written as values: what they hold, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.nn import initializers

import metajax as mj
from metajax.inner.selection import select

KEY = jax.random.key(0)
GLOROT = initializers.glorot_uniform()
# What the MAML authors' inner loop adapts: all but the batch statistics' offsets.
ADAPTED = ["Conv_*", "Dense_0"]
# Kernels of four convolutions of 3x3, without a bias, which batch statistics would cancel.
OMNIGLOT_KERNELS = 9 * 64 + 3 * 9 * 64 * 64
MINI_KERNELS = 9 * 3 * 32 + 3 * 9 * 32 * 32


def maml_omniglot(**options: Any) -> mj.Model:
    return mj.models.strided_conv_net(
        5,
        use_scale=False,
        epsilon=1e-3,
        kernel_init=GLOROT,
        head_kernel_init=initializers.normal(1.0),
        **options,
    )


def maml_mini_imagenet() -> mj.Model:
    return mj.models.max_pool_conv_net(
        5, use_scale=False, epsilon=1e-3, kernel_init=GLOROT, head_kernel_init=GLOROT
    )


def reptile_omniglot() -> mj.Model:
    return mj.models.strided_conv_net(
        5, features="flatten", epsilon=1e-3, kernel_init=GLOROT, head_kernel_init=GLOROT
    )


def reptile_mini_imagenet() -> mj.Model:
    return mj.models.max_pool_conv_net(
        5,
        pool_padding="SAME",
        pool_first=True,
        epsilon=1e-3,
        kernel_init=GLOROT,
        head_kernel_init=GLOROT,
    )


CONVOLUTIONS = initializers.variance_scaling(2.0, "fan_out", "normal")


def relation_encoder() -> mj.Model:
    return mj.models.relation_encoder(kernel_init=CONVOLUTIONS)


def relation_module() -> mj.Model:
    return mj.models.relation_module(
        kernel_init=CONVOLUTIONS,
        head_kernel_init=initializers.normal(0.01),
        head_bias_init=initializers.ones,
    )


@pytest.mark.parametrize(
    ("network", "shape", "count"),
    [
        (maml_omniglot, (28, 28, 1), OMNIGLOT_KERNELS + 4 * 64 + (64 + 1) * 5),
        (reptile_omniglot, (28, 28, 1), OMNIGLOT_KERNELS + 4 * 128 + (2 * 2 * 64 + 1) * 5),
        (maml_mini_imagenet, (84, 84, 3), MINI_KERNELS + 4 * 32 + (5 * 5 * 32 + 1) * 5),
        (reptile_mini_imagenet, (84, 84, 3), MINI_KERNELS + 4 * 64 + (6 * 6 * 32 + 1) * 5),
        (relation_encoder, (28, 28, 1), OMNIGLOT_KERNELS + 4 * 128),
        (
            relation_module,
            (5, 5, 128),
            9 * 128 * 64 + 9 * 64 * 64 + 2 * 128 + (64 + 1) * 8 + (8 + 1),
        ),
    ],
)
def test_count_of_parameters(network: Any, shape: tuple[int, ...], count: int) -> None:
    params = jax.eval_shape(network().init, KEY, jnp.zeros((1, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def _deviation(leaf: jax.Array, centre: float = 0.0) -> float:
    return float(np.sqrt(np.mean((np.asarray(leaf) - centre) ** 2)))


def test_maml_begins_as_its_authors_code() -> None:
    params = jax.jit(maml_omniglot().init)(KEY, jnp.zeros((1, 28, 28, 1)))
    for layer, (inputs, outputs) in enumerate([(1, 64), (64, 64), (64, 64), (64, 64)]):
        kernel = params[f"Conv_{layer}"]["kernel"]
        limit = np.sqrt(6 / (9 * inputs + 9 * outputs))  # Xavier-uniform.
        assert limit * 0.98 < jnp.abs(kernel).max() <= limit
        np.testing.assert_allclose(_deviation(kernel), limit / np.sqrt(3), rtol=0.05)
        assert set(params[f"BatchStatistics_{layer}"]) == {"bias"}
        assert not params[f"BatchStatistics_{layer}"]["bias"].any()
    np.testing.assert_allclose(_deviation(params["Dense_0"]["kernel"]), 1, rtol=0.1)
    assert not params["Dense_0"]["bias"].any()


def test_prototypical_networks_begin_as_pytorch_s_layers() -> None:
    uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    net = mj.models.embedding_net(kernel_init=uniform)
    params = jax.jit(net.init)(KEY, jnp.zeros((1, 28, 28, 1)))
    for layer, channels in enumerate([1, 64, 64, 64]):
        largest = jnp.abs(params[f"Conv_{layer}"]["kernel"]).max()
        assert 0.98 < largest * np.sqrt(9 * channels) <= 1 + 1e-6


def test_relation_begins_as_its_authors_code() -> None:
    encoder = jax.jit(relation_encoder().init)(KEY, jnp.zeros((1, 28, 28, 1)))
    relation = jax.jit(relation_module().init)(KEY, jnp.zeros((1, 5, 5, 128)))
    kernels = [params["kernel"] for name, params in encoder.items() if name.startswith("Conv")]
    kernels += [params["kernel"] for name, params in relation.items() if name.startswith("Conv")]
    assert len(kernels) == 6
    for kernel in kernels:
        np.testing.assert_allclose(_deviation(kernel), np.sqrt(2 / (9 * 64)), rtol=0.1)
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_array_equal(relation[layer]["bias"], 1)
        assert 0.005 < _deviation(relation[layer]["kernel"]) < 0.015
    np.testing.assert_array_equal(relation["BatchStatistics_1"]["scale"], 1)


@pytest.mark.parametrize(
    ("network", "shape"), [(maml_omniglot, (28, 28, 1)), (maml_mini_imagenet, (84, 84, 3))]
)
def test_maml_adapts_all_but_the_batch_statistics(network: Any, shape: tuple[int, ...]) -> None:
    params = jax.eval_shape(network().init, KEY, jnp.zeros((1, *shape)))
    chosen = {
        layer for layer, values in select(params, ADAPTED)[0].items() if jax.tree.leaves(values)
    }
    assert {layer for layer in params if not layer.startswith("BatchStatistics")} == chosen


def test_reptile_flattens_what_maml_averages() -> None:
    flat, mean = (mj.models.strided_conv_net(5, filters=2, features=f) for f in ("flatten", "mean"))
    images = jax.random.normal(KEY, (3, 28, 28, 1))
    params = jax.jit(mean.init)(KEY, images)
    head = params["Dense_0"]
    spread = {**params, "Dense_0": {**head, "kernel": jnp.tile(head["kernel"] / 4, (4, 1))}}
    np.testing.assert_allclose(
        jax.jit(flat.apply)(spread, images), jax.jit(mean.apply)(params, images), atol=1e-5
    )


def _first_block(filters: int) -> mj.Model:
    """The same modules, of which there are fewer."""
    net = mj.models.ConvNet(5, filters, blocks=1, use_scale=False, epsilon=1e-3)
    return mj.models.from_linen(net)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "network", [_first_block, pytest.param(maml_omniglot, marks=pytest.mark.slow)]
)
def test_offsets_of_batch_statistics_are_learned_and_not_adapted(network: Any) -> None:
    """The update rule of the authors' code, written out."""
    rate = 0.4
    model = network(filters=2)
    learner = mj.maml(model, inner=optax.sgd(rate), num_steps=1, adapt=ADAPTED)
    inputs = jax.random.normal(KEY, (2, 5, 8, 8, 1))
    episode = mj.Episode(*(mj.Examples(each, jnp.arange(5)) for each in inputs))
    shapes = jax.eval_shape(learner.init, KEY, inputs[0])
    params = oracles.normal_like(1, shapes, 1.0)

    def loss(params: Any, examples: mj.Examples) -> jax.Array:
        return mj.cross_entropy(model.apply(params, examples.inputs), examples.targets)

    def adapted(params: Any) -> Any:
        gradient = jax.grad(loss)(params, episode.support)
        return {
            layer: theta
            if layer.startswith("BatchStatistics")
            else jax.tree.map(lambda x, g: x - rate * g, theta, gradient[layer])
            for layer, theta in params.items()
        }

    @jax.jit
    def both(params: Any) -> Any:
        return (
            (learner.adapt(params, episode.support), adapted(params)),
            (
                jax.grad(lambda p: learner.loss(p, episode)[0])(params),
                jax.grad(lambda p: loss(adapted(p), episode.query))(params),
            ),
        )

    (task, expected_task), (gradient, expected) = both(params)
    oracles.assert_close(task.params, expected_task, 1e-12)
    oracles.assert_close(gradient, expected, 1e-9)
    for name in [layer for layer in params if layer.startswith("BatchStatistics")]:
        np.testing.assert_array_equal(task.params[name]["bias"], params[name]["bias"])
        assert jnp.abs(gradient[name]["bias"]).max() > 1e-6
