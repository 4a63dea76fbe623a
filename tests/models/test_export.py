"""Programs for any number of items, written to bytes and read again."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj

pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")

FIXED = 5
NETWORKS = {
    "mlp": (mj.models.mlp((4, 3)), (6,)),
    "strided": (mj.models.strided_conv_net(3, filters=2), (4, 4, 1)),
    "max-pooled": (mj.models.max_pool_conv_net(3, filters=8), (16, 16, 1)),
    "max-pooled first, rounding up": (
        mj.models.max_pool_conv_net(3, filters=2, pool_padding="SAME", pool_first=True),
        (5, 6, 1),
    ),
    "embedding": (mj.models.embedding_net(filters=2), (16, 16, 5)),
    "relation encoder": (mj.models.relation_encoder(filters=2), (10, 10, 1)),
    "relation module": (mj.models.relation_module(filters=2), (4, 4, 4)),
    "bfloat16": (
        mj.models.computing_in(mj.models.strided_conv_net(3, filters=2), jnp.bfloat16),
        (4, 4, 1),
    ),
}
# Tuples that no program takes or returns: they hold functions, or what a run ended with.
NO_ARRAYS = {"Evaluation", "FullContext", "Learner", "TrainResult"}


def _draw(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _params(init: Callable[..., Any], *args: Any) -> Any:
    shapes = jax.eval_shape(init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: _draw(leaf.shape), shapes)


def _read_again(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    blob = jax.export.export(jax.jit(function))(*args).serialize()
    return jax.export.deserialize(blob).call


def _items(*shape: int) -> jax.ShapeDtypeStruct:
    """Any number of items of this shape."""
    return jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *shape), jnp.float32)


def _agree(program: Callable[..., Any], function: Callable[..., Any], *args: Any) -> None:
    pairs = zip(*map(jax.tree.leaves, (program(*args), jax.jit(function)(*args))), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [name if name == "mlp" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_networks_take_any_number_of_items(name: str) -> None:
    model, shape = NETWORKS[name]
    support = _draw((FIXED, *shape))

    def outputs(params: Any, support: jax.Array, queries: jax.Array) -> tuple[jax.Array, ...]:
        """Of queries alone, and of those in a batch with a support set that alone counts."""
        both = jnp.concatenate([support, queries])
        weights = jnp.concatenate([jnp.ones(FIXED), jnp.zeros(queries.shape[0])])
        return model.apply(params, queries), model.apply(params, both, weights)[FIXED:]

    params = _params(model.init, support)
    program = _read_again(outputs, params, support, _items(*shape))
    for count in (1, 3):
        _agree(program, outputs, params, support, _draw((count, *shape)))


@pytest.mark.slow
def test_full_context_takes_any_number_of_items_and_queries() -> None:
    context = mj.models.full_context(4, read_steps=2)
    params = _params(context.init)

    def outputs(params: Any, support: jax.Array, queries: jax.Array) -> tuple[jax.Array, ...]:
        weights = jnp.ones(FIXED).at[0].set(0)
        read = context.support(params, support, weights)
        return context.support(params, queries, None), context.query(params, queries, read, weights)

    support = _draw((FIXED, 4))
    program = _read_again(outputs, params, support, _items(4))
    for count in (1, 3):
        _agree(program, outputs, params, support, _draw((count, 4)))


def test_distances_and_attention_take_any_number_of_queries() -> None:
    targets, weights = jnp.arange(FIXED) % 2, jnp.ones(FIXED).at[0].set(0)

    def outputs(support: jax.Array, queries: jax.Array) -> list[jax.Array]:
        cosines = mj.metric.cosine_similarities(queries, support)
        products = mj.metric.dot_products(queries, support)
        return [
            mj.metric.squared_distances(queries, mj.metric.prototypes(support, targets, 2)),
            mj.metric.cosine_distances(queries, support),
            mj.metric.class_log_probabilities(mj.metric.log_attention(cosines), targets, 2),
            mj.metric.class_log_probabilities(
                mj.metric.log_attention(products, weights), targets, 2, weights
            ),
        ]

    support = _draw((FIXED, 4))
    program = _read_again(outputs, support, _items(4))
    for count in (1, 3):
        _agree(program, outputs, support, _draw((count, 4)))


def _public_tuples() -> list[type]:
    public = [
        getattr(room, name)
        for room in (mj, mj.models)
        for name in room.__all__
        if name not in NO_ARRAYS
    ]
    return [kind for kind in public if isinstance(kind, type) and issubclass(kind, tuple)]


@pytest.mark.parametrize("kind", _public_tuples(), ids=lambda kind: kind.__name__)
def test_programs_take_and_return_the_library_s_tuples(kind: type) -> None:
    given: Any = kind(*(jnp.full(2, place) for place in range(len(kind._fields))))
    program = _read_again(lambda given: jax.tree.map(lambda x: x + 1, given), given)
    returned = program(given)
    assert type(returned) is kind
    np.testing.assert_array_equal(returned, [[place + 1] * 2 for place in range(len(given))])


def test_loading_again_registers_nothing_twice() -> None:
    assert importlib.reload(mj).Examples is mj.Examples
