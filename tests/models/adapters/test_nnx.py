"""Flax NNX modules as models: what they draw, what they keep, and what is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metajax.models.adapters.nnx import from_nnx

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 3))


class _Net(nnx.Module):
    """Dropout and batch normalisation by attributes, or by a flag of the call."""

    def __init__(self, rngs: nnx.Rngs, norms: bool = True) -> None:
        kind = X.dtype if jax.config.jax_enable_x64 else np.float32
        self.first = nnx.Linear(3, 4, param_dtype=kind, rngs=rngs)
        self.norm = nnx.BatchNorm(4, param_dtype=kind, rngs=rngs) if norms else None
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, 2, param_dtype=kind, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x)
        x = x if self.norm is None else self.norm(x)
        return self.last(self.drop(nnx.tanh(x)))


class _Flagged(_Net):
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        assert self.norm is not None
        x = self.norm(self.first(x), use_running_average=not train)
        return self.last(self.drop(nnx.tanh(x), deterministic=not train))


class _Written(nnx.Module):
    """Whatever a test writes down."""

    def __init__(self, call: Callable[..., Any], **parts: Any) -> None:
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = call

    def __call__(self, x: Any) -> Any:
        return self.call(self, x)


def _moved(params: Any, seed: int = 1) -> Any:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x + generator.uniform(0, 1, x.shape)), params)


def _applied(model: Any, *args: Any) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(*args))


@pytest.mark.slow
def test_what_is_drawn_comes_from_the_key() -> None:
    model = from_nnx(lambda rngs: _Net(rngs, norms=False))
    params = model.init(KEY, X)
    apply = jax.jit(model.apply)
    drawn = apply(params, X, None, KEY)
    np.testing.assert_array_equal(drawn, apply(params, X, None, KEY))
    assert not np.allclose(drawn, apply(params, X, None, jax.random.key(1)))
    still = np.tanh(X @ params["first"]["kernel"]) @ params["last"]["kernel"]
    np.testing.assert_allclose(apply(params, X), still, rtol=1e-4, atol=1e-6)
    assert model.sharing(params, X) == "none"
    raw = apply(params, X, None, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(drawn, raw)


def test_two_streams_have_keys_of_their_own() -> None:
    def call(self: Any, x: Any) -> Any:
        return jnp.stack([self.rngs.one.normal((2,)), self.rngs.two.normal((2,))])

    model = from_nnx(lambda rngs: _Written(call, rngs=nnx.Rngs(one=0, two=0)))
    drawn = model.apply({}, X[:2], None, KEY)
    assert not np.allclose(drawn[0], drawn[1])
    with pytest.raises(ValueError, match=r"draws random numbers .*there is no key"):
        model.apply({}, X[:2])


def test_dropout_is_off_without_a_key() -> None:
    for said in (True, False, None):
        drop = nnx.Dropout(0.5, deterministic=said, rngs=nnx.Rngs(0))
        model = from_nnx(drop)
        np.testing.assert_array_equal(model.apply({}, X), X)
        assert (np.asarray(model.apply({}, X, None, KEY)) == 0).any()
    hard = _Written(
        lambda self, x: self.drop(x, deterministic=False), drop=nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    )
    np.testing.assert_array_equal(from_nnx(hard).apply({}, X), X)


def test_streams_of_a_call() -> None:
    class Called(nnx.Module):
        def __init__(self) -> None:
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x: Any, rngs: nnx.Rngs) -> Any:
            return self.drop(x, rngs=rngs)

    model = from_nnx(Called())
    assert (np.asarray(model.apply({}, X, None, KEY)) == 0).any()
    np.testing.assert_array_equal(model.apply({}, X), X)


def test_pytree_inputs_flags_and_weights() -> None:
    class Bag(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.table = nnx.Embed(5, 2, rngs=rngs)

        def __call__(self, inputs: Any, weights: Any, *, training: bool) -> Any:
            tokens = (self.table(inputs["ids"]) * inputs["mask"][..., None]).sum(1)
            tokens = tokens if weights is None else weights[:, None] * tokens
            return 2 * tokens if training else tokens

    inputs = {"ids": np.zeros((3, 4), int), "mask": np.ones((3, 4), np.float32)}
    model = from_nnx(Bag)
    params = model.init(KEY, inputs)
    assert model.sharing(params, inputs) == "weighted"
    plain = model.apply(params, inputs)
    np.testing.assert_allclose(model.apply(params, inputs, None, KEY), 2 * plain)
    np.testing.assert_allclose(
        model.apply(params, inputs, jnp.array([0.0, 1.0, 2.0])), plain * np.array([[0.0], [1], [2]])
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [_Net, _Flagged])
def test_dropout_and_batch_normalisation_are_set_apart(kind: type[_Net]) -> None:
    averages = {"norm": {"mean": np.full(4, 0.3, np.float32), "var": np.full(4, 2.0, np.float32)}}
    model, given = from_nnx(lambda rngs: kind(rngs)), from_nnx(kind, frozen=averages)
    params = _moved(model.init(KEY, X))
    first, norm, last = (params[name] for name in ("first", "norm", "last"))
    hidden = X @ first["kernel"] + first["bias"]

    def dropped(mean: Any, variance: Any) -> np.ndarray:
        scaled = (hidden - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        return np.tanh(scaled)

    def head(features: Any) -> np.ndarray:
        return features @ last["kernel"] + last["bias"]

    running, batch = averages["norm"].values(), (hidden.mean(0), hidden.var(0))
    np.testing.assert_allclose(_applied(model, params, X), head(dropped(*batch)), rtol=1e-6)
    np.testing.assert_allclose(_applied(given, params, X), head(dropped(*running)), rtol=1e-6)
    # The only stream of the module, so that it has the same mask.
    drop = from_nnx(_Written(lambda self, x: self.drop(x), drop=nnx.Dropout(0.5, rngs=nnx.Rngs(0))))
    keep = np.asarray(drop.apply({}, jnp.ones((6, 4)), None, KEY))
    for one, statistics in ((model, batch), (given, running)):
        np.testing.assert_allclose(
            _applied(one, params, X, None, KEY), head(dropped(*statistics) * keep), rtol=1e-6
        )
    assert model.sharing(params, X) == "weighted"
    assert given.sharing(params, X) == "none"


@pytest.mark.usefixtures("float64")
def test_items_of_weight_0_are_left_out() -> None:
    model = from_nnx(lambda rngs: _Net(rngs))
    params = _moved(model.init(KEY, X))
    weights = jnp.array([2.0, 0.0, 1.0, 1.0, 0.0, 3.0, 1.0, 1.0])

    def loss(params: Any, x: Any, weights: Any, rows: Any) -> Any:
        outputs = model.apply(params, x, weights)[rows]
        return jnp.sin(outputs).sum(), outputs

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    whole = slope(params, X, None, np.arange(6))
    for junk in (1e3, -7.0):
        padded = np.insert(X, [1, 3], junk, axis=0)
        without = slope(params, padded, weights, np.flatnonzero(weights))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), without, whole)


def test_a_norm_of_something_else_than_items() -> None:
    module = _Written(
        lambda self, x: self.norm(x.reshape(-1, 1)).reshape(x.shape),
        norm=nnx.BatchNorm(1, rngs=nnx.Rngs(0)),
    )
    model = from_nnx(module)
    params = model.init(KEY, X)
    assert model.apply(params, X).shape == X.shape
    with pytest.raises(ValueError, match=r"BatchNorm got an array of shape \(18, 1\), and 6 items"):
        model.apply(params, X, jnp.ones(6))


def _spectral(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.SpectralNorm(nnx.Linear(3, 2, rngs=rngs), rngs=rngs)


def _constant(rngs: nnx.Rngs) -> nnx.Module:
    return _Written(lambda self, x: x * self.size[...][None], size=nnx.Variable(jnp.full(3, 3.0)))


def _hard_coded(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Sequential(nnx.BatchNorm(3, use_running_average=True, rngs=rngs))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (_hard_coded, "layers/0/mean, layers/0/var"),
        pytest.param(
            _spectral,
            "batch_stats/kernel/u",
            marks=pytest.mark.skipif(not hasattr(nnx, "SpectralNorm"), reason="Flax before 0.12"),
        ),
        (_constant, "size"),
    ],
)
def test_state_that_nobody_gave(build: Callable[..., nnx.Module], names: str) -> None:
    refused = from_nnx(build)
    params = refused.init(KEY, X)
    message = rf"depend on {names},(?s:.*)frozen=nnx.state(?s:.*)estimate_statistics"
    for key in (None, KEY):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(refused.apply, params, X, None, key)
    module = build(nnx.Rngs(1))
    state = nnx.state(module, nnx.Not(nnx.Param))
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    models = [from_nnx(build, frozen=frozen) for frozen in (state, nnx.to_pure_dict(state))]
    expected = module(jnp.asarray(X))  # pyright: ignore (it writes to its state)
    for given in models:
        np.testing.assert_allclose(given.apply(params, X, None, KEY), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="keeps no running averages"):
        models[0].statistics(params, None, X, None)  # pyright: ignore


def test_an_array_is_a_constant() -> None:
    model = from_nnx(lambda rngs: _Written(lambda self, x: x * self.size, size=jnp.full((1, 3), 3)))
    np.testing.assert_allclose(jax.jit(model.apply)({}, X), 3 * X, rtol=1e-6)


def test_a_module_already_built() -> None:
    module = _Net(nnx.Rngs(3))
    module.train()
    for _ in range(3):
        module(jnp.asarray(X))
    with pytest.warns(
        RuntimeWarning, match=r"norm of the module, and 0 more, hold trained .*module.eval\(\)"
    ):
        model = from_nnx(module)
    params = model.init(jax.random.key(5), X)
    np.testing.assert_array_equal(params["first"]["kernel"], module.first.kernel[...])
    assert model.sharing(params, X) == "weighted"
    batch = model.apply(params, X)
    module.eval()
    given = from_nnx(module)
    assert given.sharing(params, X) == "none"
    expected = module(jnp.asarray(X))
    np.testing.assert_allclose(given.apply(params, X), expected, rtol=1e-5)
    assert not np.allclose(batch, expected)
    assert not np.allclose(given.apply(params, X, None, KEY), expected)
    # The module is as it was.
    assert type(module.norm) is nnx.BatchNorm
    assert module.drop.deterministic
    assert module.drop.rate == 0.5


class _GainedNorm(nnx.BatchNorm):
    def __call__(self, x: Any, training: bool = False) -> Any:  # pyright: ignore
        return 2.0 * super().__call__(x, use_running_average=not training)


def test_a_norm_with_a_call_of_its_own() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm = _GainedNorm(3, rngs=rngs)

        def __call__(self, x: Any, train: bool) -> Any:
            return self.norm(x, training=train)

    model = from_nnx(Net)
    params, x = model.init(KEY, X), jnp.asarray(X)
    expected = 2 * (x - x.mean(0)[None]) / jnp.sqrt(x.var(0) + 1e-5)[None]
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-4, atol=1e-4)
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    fewer = model.apply(params, x, weights)[:4]
    np.testing.assert_allclose(fewer, model.apply(params, x[:4]), rtol=1e-5, atol=1e-5)


def test_a_class_that_takes_rngs_alone_builds_itself() -> None:
    made, by_hand = from_nnx(_Net), from_nnx(lambda rngs: _Net(rngs))  # pyright: ignore
    jax.tree.map(np.testing.assert_array_equal, made.init(KEY, X), by_hand.init(KEY, X))


def test_what_the_call_lacks_is_named() -> None:
    class Two(nnx.Module):
        def __call__(self, ids: Any, mask: Any) -> Any:
            return ids * mask

    with pytest.raises(TypeError, match=r"the __call__ of Two .*'mask'. Expected a module of one"):
        from_nnx(Two())


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="modules of linen go to from_linen"):
        from_nnx(nn.Dense(1))  # pyright: ignore
    with pytest.raises(TypeError, match=r"expected an nnx.Module or a function"):
        from_nnx(3)  # pyright: ignore
    with pytest.raises(TypeError, match="the function made 3"):
        from_nnx(lambda rngs: 3)  # pyright: ignore
    with pytest.raises(TypeError, match="expected a state"):
        from_nnx(_Net, frozen=3)  # pyright: ignore
    state = nnx.state(_Net(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="frozen holds first/bias, a parameter"):
        from_nnx(_Net, frozen=state)
    with pytest.raises(ValueError, match="frozen holds other/mean, which the module does not keep"):
        from_nnx(_Net, frozen={"other": {"mean": jnp.zeros(4)}})


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_the_meta_gradient_of_an_inner_loop_that_drops() -> None:
    model = from_nnx(lambda rngs: _Net(rngs))
    params = _moved(model.init(KEY, X))
    targets = np.cos(X[:, :2])

    def by_hand(params: Any, x: Any, weights: None, key: Any) -> Any:
        first, norm, last = (params[name] for name in ("first", "norm", "last"))
        with jax.numpy_rank_promotion("allow"):
            x = x @ first["kernel"] + first["bias"]
            x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
            drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
            drop.rngs.key[...] = jax.random.fold_in(key, 0)
            return drop(jnp.tanh(x)) @ last["kernel"] + last["bias"]

    def meta(apply: Callable[..., Any], params: Any) -> Any:
        def loss(params: Any, key: Any) -> Any:
            return ((apply(params, X, None, key) - targets) ** 2).mean()

        def step(params: Any, key: Any) -> Any:
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params, key)), None

        adapted, _ = jax.lax.scan(step, params, jax.random.split(KEY, 2))
        return loss(adapted, jax.random.key(7))

    got, expected = (
        jax.jit(jax.grad(lambda params, apply=apply: meta(apply, params)))(params)
        for apply in (model.apply, by_hand)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, expected
    )
    assert np.abs(got["first"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_many_models_at_once() -> None:
    model = from_nnx(lambda rngs: _Net(rngs))
    params = jax.vmap(lambda key: model.init(key, X))(jax.random.split(KEY, 2))
    outputs = jax.vmap(model.apply, (0, None))(params, X)
    second = model.apply(jax.tree.map(lambda x: x[1], params), X)
    np.testing.assert_allclose(outputs[1], second, rtol=1e-5)


def test_a_module_that_compiles_itself() -> None:
    class Compiled(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm = nnx.BatchNorm(3, rngs=rngs)

        @nnx.jit
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(x)

    model = from_nnx(Compiled)
    params = model.init(KEY, X)
    for rows in (slice(4), slice(2, 6)):
        weights = jnp.zeros(6).at[rows].set(1)
        weighted = model.apply(params, jnp.asarray(X), weights)[rows]
        np.testing.assert_allclose(weighted, model.apply(params, X[rows]), rtol=1e-4, atol=1e-5)
