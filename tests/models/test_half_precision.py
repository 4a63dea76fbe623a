"""Half-precision computation: what is in which precision, and how far the gradients are off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)


def test_what_is_in_which_precision() -> None:
    seen = []

    def apply(params: jax.Array, inputs: jax.Array) -> jax.Array:
        seen.append((params.dtype, inputs.dtype))
        return inputs @ params

    plain = mj.Model(lambda key, inputs: jnp.ones((inputs.shape[-1], 3)), apply)
    model = mj.models.computing_in(plain, jnp.bfloat16)
    params = model.init(KEY, jnp.ones((2, 4)))
    assert params.dtype == jnp.float32
    assert model.apply(params, jnp.ones((2, 4)), None).dtype == jnp.float32
    assert seen == [(jnp.bfloat16, jnp.bfloat16)]
    slope = jax.grad(lambda params: model.apply(params, jnp.ones((2, 4)), None).sum())(params)
    assert slope.dtype == jnp.float32


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradients_point_the_same_way(first_order: bool) -> None:
    images = jax.random.uniform(KEY, (6, 4, 16, 16, 1))
    episode = mj.data.image_episodes(images, ways=3, shots=2, queries=2)(jax.random.key(1))
    plain = mj.models.from_linen(mj.models.ConvNet(3, 8, blocks=2))
    params = jax.jit(plain.init)(KEY, episode.support.inputs)
    slopes = []
    for model in (plain, mj.models.computing_in(plain, jnp.bfloat16)):
        learner = mj.maml(model, inner=optax.sgd(0.1), num_steps=2, first_order=first_order)
        slope = jax.jit(jax.grad(lambda params, learner=learner: learner.loss(params, episode)[0]))
        leaves = jax.tree.leaves(slope(params))
        assert all(leaf.dtype == jnp.float32 for leaf in leaves)
        slopes.append(np.concatenate([leaf.ravel() for leaf in leaves]))
    full, half = slopes
    cosine = full @ half / np.linalg.norm(full) / np.linalg.norm(half)
    assert 0.98 < cosine < 0.9999999


def test_a_model_without_parameters() -> None:
    plain = mj.Model(lambda key, inputs: {}, lambda params, inputs: 2 * inputs)
    outputs = mj.models.computing_in(plain, jnp.bfloat16).apply({}, jnp.ones((2, 3)), None)
    assert outputs.dtype == jnp.float32


def test_padding_still_leaves_no_trace() -> None:
    plain = mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=2, pooling="max"))
    model = mj.models.computing_in(plain, jnp.bfloat16)
    images = jax.random.uniform(KEY, (5, 16, 16, 1))
    params = jax.jit(model.init)(KEY, images)
    weights = jnp.array([1.0, 1, 1, 0, 0])
    apply = jax.jit(model.apply)
    kept = apply(params, images, weights)[:3]
    np.testing.assert_allclose(kept, apply(params, images[:3], None), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((mj.models.MLP((3,)), jnp.bfloat16), r"(?s)model is .*; expected a metajax.Model"),
        ((mj.models.mlp((3,)), jnp.int8), "expected a floating type, such as jnp.bfloat16"),
        ((mj.models.mlp((3,)), None), "dtype is None; expected a floating type"),
    ],
)
def test_slips_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mj.models.computing_in(*arguments)
