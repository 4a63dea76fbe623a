"""Equinox modules as models."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_models import compiled

from metajax.models.adapters.equinox import from_equinox

eqx = pytest.importorskip("equinox", reason="Equinox is optional")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 3))


class Drop(eqx.Module):
    """Dropout alone: what is zero was dropped."""

    scale: jax.Array
    dropout: eqx.nn.Dropout
    act: Callable = eqx.field(static=True)

    def __init__(self, key: jax.Array, inference: bool = False) -> None:
        self.scale = 1 + jax.random.uniform(key, (20,))
        self.dropout = eqx.nn.Dropout(0.5, inference=inference)
        self.act = lambda x: x

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.act(self.dropout(jnp.ones(20), key=key)) * self.scale * x.sum()


class Normed(eqx.Module):
    """Batch norm and dropout, which one flag tells."""

    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key: jax.Array, mode: str = "batch") -> None:
        self.norm = eqx.nn.BatchNorm(3, "items", momentum=0.9, mode=mode)
        self.dropout = eqx.nn.Dropout(0.5)
        self.out = eqx.nn.Linear(3, 2, key=key)

    def __call__(self, x: jax.Array, state: Any, *, key: Any, inference: bool) -> Any:
        x, state = self.norm(x, state, inference=inference)
        return self.out(self.dropout(x, key=key, inference=inference)), state


def _by_the_batch(params: Normed, x: jax.Array) -> jax.Array:
    normed = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
    return jax.vmap(params.out)(normed)


@pytest.mark.parametrize("inference", [True, False])
def test_dropout_follows_the_key_whatever_the_module_says(inference: bool) -> None:
    model = compiled(from_equinox(Drop(KEY, inference)))
    params = model.init(KEY, X)
    once, other = (model.apply(params, X, key=key) for key in jax.random.split(KEY))
    assert (once[0] == 0).any()
    assert ((once == 0) != (other == 0)).any()
    assert ((once[0] == 0) != (once[1] == 0)).any()
    np.testing.assert_array_equal(once, model.apply(params, X, key=jax.random.split(KEY)[0]))
    assert (model.apply(params, X) != 0).all()
    assert model.sharing(params, X) == "none"


@pytest.mark.slow
def test_one_that_is_built_begins_where_it_is_and_a_builder_begins_anew() -> None:
    linear = eqx.nn.Linear(3, 2, key=KEY)
    built, anew = from_equinox(linear), from_equinox(functools.partial(eqx.nn.Linear, 3, 2))
    np.testing.assert_array_equal(built.init(jax.random.key(5), X).weight, linear.weight)
    np.testing.assert_array_equal(anew.init(KEY, X).weight, linear.weight)
    assert (anew.init(jax.random.key(5), X).weight != linear.weight).all()
    np.testing.assert_allclose(built.apply(built.init(KEY, X), X), jax.vmap(linear)(X), rtol=1e-6)
    learned = eqx.combine(built.init(KEY, X), linear)
    np.testing.assert_array_equal(learned(X[0]), linear(X[0]))


@pytest.mark.slow
def test_a_builder_that_makes_lambdas_has_parameters_of_one_structure() -> None:
    model, same = (compiled(from_equinox(Drop)) for _ in range(2))
    params = model.init(KEY, X)
    assert jax.tree.structure(params) == jax.tree.structure(model.init(KEY, X))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(same.apply(params, X), model.apply(params, X))
    with pytest.raises(ValueError, match=r"params differ .*\.scale"):
        model.apply({"w": X}, X)


@pytest.mark.slow
def test_switches_are_set_where_they_are_static_and_inside_each_other() -> None:
    class Outer(eqx.Module):
        drop: Drop
        inference: bool = eqx.field(static=True, default=False)

        def __call__(self, x: jax.Array, *, key: Any = None, training: bool) -> jax.Array:
            assert training is not self.inference
            return self.drop(x, key)

    model = from_equinox(Outer(Drop(KEY)))
    params = model.init(KEY, X)
    for key in (None, KEY):
        assert (model.apply(params, X, key=key) != 0).all() == (key is None)


@pytest.mark.slow
def test_an_adapter_may_be_made_inside_a_program() -> None:
    @jax.jit
    def inside(key: jax.Array) -> jax.Array:
        model = from_equinox(Normed)
        return model.apply(model.init(key, X), X)

    outer = from_equinox(Normed)
    expected = jax.jit(lambda key: outer.apply(outer.init(key, X), X))(KEY)
    np.testing.assert_allclose(inside(KEY), expected, rtol=1e-5)


@pytest.mark.slow
def test_items_are_pytrees_and_integers_are_no_parameters() -> None:
    class Lookup(eqx.Module):
        table: eqx.nn.Embedding
        order: jax.Array
        scale: float

        def __init__(self, key: jax.Array) -> None:
            self.table = eqx.nn.Embedding(4, 2, key=key)
            self.order, self.scale = jnp.arange(4)[::-1], 2.0

        def __call__(self, item: dict[str, jax.Array]) -> dict[str, jax.Array]:
            rows = jax.vmap(self.table)(self.order[item["tokens"]])
            return {"sum": self.scale * (rows * item["mask"][:, None]).sum(0)}

    model = compiled(from_equinox(Lookup))
    inputs = {"tokens": jnp.array([[0, 1], [3, 3]]), "mask": jnp.array([[1.0, 0], [1, 1]])}
    params = model.init(KEY, inputs)
    assert len(jax.tree.leaves(params)) == 1
    table = params.table.weight
    expected = 2 * jnp.stack([table[3], 2 * table[0]])
    np.testing.assert_allclose(model.apply(params, inputs)["sum"], expected, rtol=1e-6)


def test_batch_norm_takes_the_batch_where_no_averages_are_given() -> None:
    model = compiled(from_equinox(Normed))
    params = model.init(KEY, X)
    assert model.sharing(params, X) == "batch"
    np.testing.assert_allclose(model.apply(params, X), _by_the_batch(params, X), rtol=1e-4)
    assert not np.allclose(model.apply(params, X, key=KEY), model.apply(params, X))
    with pytest.raises(ValueError, match=r"episodes without padding.*GroupNorm"):
        model.apply(params, X, jnp.ones(6))
    with pytest.raises(ValueError, match="episodes without padding"):
        model.statistics(params, None, X, jnp.ones(6))


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.slow
def test_averages_are_estimated_given_and_used_in_training_too(mode: str) -> None:
    build = functools.partial(Normed, mode=mode)
    model = compiled(from_equinox(build))
    params = model.init(KEY, X)
    state = model.statistics(params, None, X, None)
    frozen = compiled(from_equinox(build, frozen=state))
    variance = 0.1 * X.var(0) + 0.9 if mode == "batch" else X.var(0)  # It begins at 1.
    if mode == "batch":
        variance = variance / 0.1
    normed = (X - X.mean(0, keepdims=True)) / jnp.sqrt(variance[None] + 1e-5)
    outputs = frozen.apply(params, X)
    np.testing.assert_allclose(outputs, jax.vmap(params.out)(normed), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(frozen.apply(params, X[:1], jnp.ones(1)), outputs[:1], rtol=1e-4)
    assert frozen.sharing(params, X) == "none"
    alone = frozen.apply(params, X.at[1:].set(7.0), key=KEY)[0]
    np.testing.assert_allclose(frozen.apply(params, X, key=KEY)[0], alone, rtol=1e-5)
    again = model.statistics(params, state, X, None)
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_averages_that_every_call_depends_on_are_refused_unless_given() -> None:
    model = from_equinox(functools.partial(Normed, mode="ema"))
    params = model.init(KEY, X)
    for key in (None, KEY):
        with pytest.raises(ValueError, match=r'ema_state_index/0.*frozen=.*mode="batch"'):
            jax.jit(model.apply)(params, X, key=key)


@pytest.mark.slow
def test_one_that_is_built_needs_its_state() -> None:
    module, state = eqx.nn.make_with_state(Normed)(KEY)
    frozen = compiled(from_equinox(module, frozen=state))
    assert frozen.apply(frozen.init(KEY, X), X).shape == (6, 2)
    with pytest.raises(ValueError, match="cannot be called without; expected frozen=state"):
        from_equinox(module)
    with pytest.raises(ValueError, match="expected the two apart"):
        from_equinox(Normed(KEY))
    other = eqx.nn.make_with_state(lambda key: [Normed(key)])(KEY)[1]
    with pytest.raises(ValueError, match=r"frozen lacks .*norm.*same call"):
        from_equinox(module, frozen=other)
    pair = from_equinox(lambda key: eqx.nn.make_with_state(Normed)(key))
    np.testing.assert_allclose(
        pair.apply(pair.init(KEY, X), X), _by_the_batch(module, X), rtol=1e-4
    )


@pytest.mark.slow
def test_spectral_norm_is_refused_unless_its_vectors_are_given() -> None:
    @eqx.filter_jit
    def build(key: jax.Array) -> Any:
        layer = eqx.nn.SpectralNorm(eqx.nn.Linear(3, 2, key=key), "weight", key=key)
        return eqx.nn.make_with_state(lambda: eqx.nn.Sequential([layer]))()

    model, (module, state) = from_equinox(lambda key: build(key)), build(KEY)
    params = eqx.filter(module, eqx.is_inexact_array)
    with pytest.raises(ValueError, match=r"depend on .*uv_index"):
        model.apply(params, X, key=KEY)
    frozen = compiled(from_equinox(module, frozen=state))
    np.testing.assert_array_equal(frozen.apply(params, X, key=KEY), frozen.apply(params, X))


@pytest.mark.slow
def test_a_key_that_has_to_be_given_draws_nothing_without_one() -> None:
    class Split(eqx.Module):
        drop: Drop
        noisy: bool

        def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
            first, second = jax.random.split(key)
            noise = jax.random.normal(second, (20,)) if self.noisy else jnp.zeros(20)
            return self.drop(x, first) + noise

    model = compiled(from_equinox(Split(Drop(KEY), noisy=False)))
    assert (model.apply(model.init(KEY, X), X) != 0).all()
    noisy = compiled(from_equinox(Split(Drop(KEY), noisy=True)))
    assert noisy.apply(noisy.init(KEY, X), X, key=KEY).shape == (6, 20)
    with pytest.raises(ValueError, match="draws without a key"):
        noisy.apply(noisy.init(KEY, X), X)


@pytest.mark.parametrize(
    ("module", "frozen", "error", "message"),
    [
        (3, None, TypeError, "expected an eqx.Module"),
        (lambda key: 3, None, TypeError, "module built 3"),
        (eqx.nn.MultiheadAttention(1, 3, key=KEY), None, TypeError, "missing a required argument"),
        (eqx.nn.Linear(3, 2, key=KEY), {}, TypeError, "expected an eqx.nn.State"),
        (Drop, eqx.nn.make_with_state(Normed)(KEY)[1], ValueError, "keeps no state"),
        (lambda key: eqx.nn.make_with_state(Normed)(key)[0], None, ValueError, "without its state"),
    ],
)
def test_slips(module: Any, frozen: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_equinox(module, frozen=frozen)


def test_one_without_state_has_no_statistics() -> None:
    model = from_equinox(Drop)
    with pytest.raises(ValueError, match="keeps no running averages"):
        model.statistics(model.init(KEY, X), None, X, None)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[equinox\]"'):
        from_equinox(Drop)


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_the_meta_gradient_is_that_of_the_module_itself() -> None:
    class Net(eqx.Module):
        layer: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x: jax.Array, *, key: jax.Array) -> jax.Array:
            return self.dropout(jnp.tanh(self.layer(x)), key=key).sum()

    net = Net(eqx.nn.Linear(3, 8, key=KEY), eqx.nn.Dropout(0.3))
    model, x = from_equinox(net), X.astype(jnp.float64)
    keys = jax.random.split(jax.random.key(3), 3)

    def unrolled(outputs: Callable[..., jax.Array], params: Any) -> jax.Array:
        def loss(params: Any, key: jax.Array) -> jax.Array:
            return (outputs(params, key) ** 2).mean()

        for key in keys[:2]:
            steps = jax.grad(loss)(params, key)
            params = jax.tree.map(lambda p, step: p - 0.1 * step, params, steps)
        return loss(params, keys[2])

    def direct(params: Any, key: jax.Array) -> jax.Array:
        module = eqx.combine(params, net)
        return jax.vmap(lambda item, key: module(item, key=key))(x, jax.random.split(key, len(x)))

    params = model.init(KEY, x)
    ours = jax.jit(jax.grad(lambda p: unrolled(lambda p, key: model.apply(p, x, key=key), p)))
    theirs = jax.jit(jax.grad(lambda p: unrolled(direct, p)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
        ours(params),
        theirs(params),
    )


@pytest.mark.slow
def test_it_is_pure() -> None:
    model = from_equinox(Normed)
    params = jax.vmap(model.init, (0, None))(jax.random.split(KEY, 2), X)
    inputs = jnp.stack([X, 2 * X])
    both = jax.jit(jax.vmap(model.apply))(params, inputs)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    np.testing.assert_allclose(both[0], model.apply(first, X), rtol=1e-4, atol=1e-5)
    assert jax.eval_shape(model.apply, first, X).shape == (6, 2)

    def step(carry: Any, key: jax.Array) -> Any:
        slope = jax.grad(lambda p: model.apply(p, X, key=key).sum())(carry)
        return jax.tree.map(lambda p, s: p - 0.1 * s, carry, slope), None

    after, _ = jax.lax.scan(step, first, jax.random.split(KEY, 2))
    assert jax.tree.structure(after) == jax.tree.structure(first)
