"""Haiku functions as models."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_models import compiled

from metajax.models.adapters.haiku import from_haiku
from metajax.types import Model

hk = pytest.importorskip("haiku", reason="Haiku is optional")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 3))


def dropping(x: jax.Array, training: bool) -> jax.Array:
    scale = hk.get_parameter("scale", (1, 20), init=jnp.ones)
    ones = jnp.ones((len(x), 20))
    return scale * (hk.dropout(hk.next_rng_key(), 0.5, ones) if training else ones)


def normed(x: jax.Array, is_training: bool) -> jax.Array:
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(2)(x)


def always_dropping(x: jax.Array) -> jax.Array:
    return hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(2)(x))


def weighted(x: jax.Array, weights: jax.Array | None, deterministic: bool = False) -> jax.Array:
    del deterministic
    mean = jnp.average(x, axis=0, weights=weights)[None]
    return hk.Linear(2)(x - mean)


def spectral(x: jax.Array) -> jax.Array:
    normal = hk.initializers.RandomNormal()
    return x @ hk.SpectralNorm()(hk.get_parameter("w", (3, 2), init=normal))


def _linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["linear"]["w"] + params["linear"]["b"][None]


def _by_the_batch(params: Any, x: jax.Array) -> jax.Array:
    deviations = x - x.mean(0, keepdims=True)
    return _linear(params, deviations / jnp.sqrt(x.var(0, keepdims=True) + 1e-5))


@pytest.mark.parametrize("wrap", [lambda f: f, hk.transform, hk.transform_with_state])
def test_dropout_follows_the_key(wrap: Callable[..., Any]) -> None:
    model = compiled(from_haiku(wrap(dropping)))
    params = model.init(KEY, X)
    once, other = (model.apply(params, X, key=key) for key in jax.random.split(KEY))
    assert ((once == 0) != (other == 0)).any()
    assert ((once[0] == 0) != (once[1] == 0)).any()
    np.testing.assert_array_equal(once, model.apply(params, X, key=jax.random.split(KEY)[0]))
    np.testing.assert_array_equal(model.apply(params, X), jnp.ones((6, 20)))
    assert model.sharing(params, X) == "none"


@pytest.mark.slow
def test_one_that_draws_always_is_refused_without_a_key() -> None:
    model = from_haiku(always_dropping)
    params = jax.jit(model.init)(KEY, X)
    assert (model.apply(params, X, key=KEY) == 0).any()
    with pytest.raises(ValueError, match=r"has no key: .* parameter is_training"):
        model.apply(params, X)
    keyless = from_haiku(hk.without_apply_rng(hk.transform(always_dropping)))
    with pytest.raises(ValueError, match=r"hk\.without_apply_rng took it away"):
        keyless.apply(params, X, key=KEY)


@pytest.mark.parametrize("transform", [hk.transform, hk.transform_with_state])
@pytest.mark.slow
def test_one_without_a_key_is_called_without(transform: Callable[..., Any]) -> None:
    model = from_haiku(hk.without_apply_rng(transform(lambda x: hk.Linear(2)(x["a"]))))
    inputs = {"a": X, "b": X[:, 0]}
    params = jax.jit(model.init)(KEY, inputs)
    for key in (None, KEY):
        outputs = model.apply(params, inputs, key=key)
        np.testing.assert_allclose(outputs, _linear(params, X), rtol=1e-5)


def test_weights_are_handed_on() -> None:
    model = compiled(from_haiku(weighted))
    params, weights = model.init(KEY, X), jnp.array([1.0, 1, 1, 0, 0, 0])
    assert model.sharing(params, X) == "weighted"
    expected = _linear(params, X - X[:3].mean(0, keepdims=True))
    np.testing.assert_allclose(model.apply(params, X, weights), expected, rtol=1e-4, atol=1e-6)


def test_batch_norm_takes_the_batch_where_no_averages_are_given() -> None:
    model = compiled(from_haiku(normed))
    params = model.init(KEY, X)
    assert model.sharing(params, X) == "batch"
    np.testing.assert_allclose(model.apply(params, X), _by_the_batch(params, X), rtol=1e-4)
    assert not np.allclose(model.apply(params, X, key=KEY), model.apply(params, X))
    with pytest.raises(ValueError, match=r"episodes without padding.*GroupNorm"):
        model.apply(params, X, jnp.ones(6))
    with pytest.raises(ValueError, match="episodes without padding"):
        model.statistics(params, None, X, jnp.ones(6))


@pytest.mark.parametrize("wrap", [lambda f: f, hk.transform_with_state])
@pytest.mark.slow
def test_averages_are_estimated_given_and_used_in_training_too(wrap: Callable[..., Any]) -> None:
    model = compiled(from_haiku(wrap(normed)))
    params = model.init(KEY, X)
    state = model.statistics(params, None, X, None)
    frozen = compiled(from_haiku(wrap(normed), frozen=state))
    outputs = frozen.apply(params, X)
    np.testing.assert_allclose(outputs, _by_the_batch(params, X), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        frozen.apply(params, X[:1], jnp.ones(1)), outputs[:1], rtol=1e-4, atol=1e-6
    )
    assert frozen.sharing(params, X) == "none"
    alone = frozen.apply(params, X.at[1:].set(7.0), key=KEY)[0]
    np.testing.assert_allclose(frozen.apply(params, X, key=KEY)[0], alone, rtol=1e-5)
    again = model.statistics(params, state, 2 + X, None)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    # Two passes of decay 0.9, so that the first counts 0.9 to the second's 1.
    mean = again["batch_norm/~/mean_ema"]["average"]
    expected = X.mean(0, keepdims=True) + 2 / 1.9
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


@pytest.mark.slow
def test_state_that_outputs_depend_on_is_refused_unless_given() -> None:
    model = from_haiku(spectral)
    params = jax.jit(model.init)(KEY, X)
    for key in (None, KEY):
        with pytest.raises(ValueError, match=r"depend on spectral_norm/u0, .*frozen="):
            jax.jit(model.apply)(params, X, key=key)
    _, state = jax.jit(hk.transform_with_state(spectral).init)(KEY, X)
    frozen = compiled(from_haiku(spectral, frozen=state))
    np.testing.assert_array_equal(frozen.apply(params, X), frozen.apply(params, X, key=KEY))


def test_state_that_is_written_in_training_alone_cannot_be_estimated() -> None:
    def counting(x: jax.Array, is_training: bool) -> jax.Array:
        count = hk.get_state("count", (), init=jnp.zeros)
        if is_training:
            hk.set_state("count", count + 1)
        return hk.Linear(2)(x)

    model = from_haiku(counting)
    params = jax.jit(model.init)(KEY, X)
    with pytest.raises(ValueError, match="changed none of its state"):
        jax.jit(model.statistics)(params, None, X, None)


def test_frozen_is_all_of_the_state() -> None:
    state = {"batch_norm/~/mean_ema": {"average": jnp.zeros((1, 3))}}
    model = from_haiku(normed, frozen=state)
    with pytest.raises(ValueError, match=r"differs .* batch_norm/~/mean_ema/counter"):
        jax.jit(model.apply)(jax.jit(model.init)(KEY, X), X)


@pytest.mark.parametrize(
    ("function", "frozen", "message"),
    [
        (3, None, "expected a function that makes Haiku modules"),
        (hk.multi_transform(lambda: (lambda x: x, lambda x: x)), None, "what hk.transform"),
        (lambda x, y: x, None, "missing a required argument: 'y'"),
        (hk.transform(lambda x, y: x), None, "missing a required argument: 'y'"),
        (normed, 3, "frozen is 3"),
    ],
)
def test_slips(function: Any, frozen: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_haiku(function, frozen=frozen)


@pytest.mark.parametrize("transform", [hk.transform, hk.transform_with_state])
def test_what_haiku_transformed_is_no_pair_of_functions(transform: Callable[..., Any]) -> None:
    pure = transform(normed)
    with pytest.raises(TypeError, match=r"called with \(params, inputs\).*Haiku have adapters"):
        Model(pure.init, pure.apply)


def test_one_without_state_has_no_statistics() -> None:
    model = from_haiku(dropping)
    params = jax.jit(model.init)(KEY, X)
    with pytest.raises(ValueError, match="keeps no running averages"):
        model.statistics(params, None, X, None)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "haiku", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[haiku\]"'):
        from_haiku(dropping)


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_the_meta_gradient_is_that_of_the_function_itself() -> None:
    def net(x: jax.Array, is_training: bool) -> jax.Array:
        x = jnp.tanh(hk.Linear(8)(x))
        return (hk.dropout(hk.next_rng_key(), 0.3, x) if is_training else x).sum(1)

    model, pure, x = from_haiku(net), hk.transform(net), X.astype(jnp.float64)
    keys = jax.random.split(jax.random.key(3), 3)

    def unrolled(outputs: Callable[..., jax.Array], params: Any) -> jax.Array:
        def loss(params: Any, key: jax.Array) -> jax.Array:
            return (outputs(params, key) ** 2).mean()

        for key in keys[:2]:
            steps = jax.grad(loss)(params, key)
            params = jax.tree.map(lambda p, step: p - 0.1 * step, params, steps)
        return loss(params, keys[2])

    params = jax.jit(model.init)(KEY, x)
    ours = jax.jit(jax.grad(lambda p: unrolled(lambda p, key: model.apply(p, x, key=key), p)))
    theirs = jax.jit(jax.grad(lambda p: unrolled(lambda p, key: pure.apply(p, key, x, True), p)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
        ours(params),
        theirs(params),
    )


@pytest.mark.slow
def test_it_is_pure() -> None:
    model = from_haiku(normed)
    params = jax.jit(jax.vmap(model.init, (0, None)))(jax.random.split(KEY, 2), X)
    both = jax.jit(jax.vmap(model.apply))(params, jnp.stack([X, 2 * X]))
    first = jax.tree.map(lambda leaf: leaf[0], params)
    np.testing.assert_allclose(both[0], jax.jit(model.apply)(first, X), rtol=1e-4, atol=1e-5)
    assert jax.eval_shape(model.apply, first, X).shape == (6, 2)

    def step(carry: Any, key: jax.Array) -> Any:
        slope = jax.grad(lambda p: model.apply(p, X, key=key).sum())(carry)
        return jax.tree.map(lambda p, s: p - 0.1 * s, carry, slope), None

    after, _ = jax.lax.scan(step, first, jax.random.split(KEY, 2))
    assert jax.tree.structure(after) == jax.tree.structure(first)
