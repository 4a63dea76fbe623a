"""Flax linen modules as models: what they draw, what they keep, and what is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metajax.models.adapters.linen import from_linen

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 3))


class _Net(nn.Module):
    """Dropout and batch normalisation on one flag, as most people write it."""

    norms: bool = True
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(4, param_dtype=x.dtype)(x)
        if self.norms:
            x = nn.BatchNorm(not train, momentum=self.momentum, param_dtype=x.dtype)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(x))
        return nn.Dense(2, param_dtype=x.dtype)(x)


class _Written(nn.Module):
    """Whatever a test writes down."""

    call: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.call(self, x)


def _variables(module: nn.Module, x: Any = X, **flags: bool) -> dict[str, Any]:
    variables = jax.jit(partial(module.init, **flags))(jax.random.key(1), x)
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + generator.uniform(0, 1, leaf.shape), variables)


def _applied(model: Any, *args: Any) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(*args))


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_what_is_drawn_comes_from_the_key() -> None:
    module = _Net(norms=False)
    params = _variables(module, train=True)["params"]
    model = from_linen(module)
    apply = jax.jit(model.apply)
    drawn = apply(params, X, None, KEY)
    np.testing.assert_array_equal(drawn, apply(params, X, None, KEY))
    assert not np.allclose(drawn, apply(params, X, None, jax.random.key(1)))
    np.testing.assert_allclose(
        drawn, module.apply({"params": params}, X, train=True, rngs={"dropout": KEY}), rtol=1e-12
    )
    np.testing.assert_allclose(
        apply(params, X), module.apply({"params": params}, X, train=False), rtol=1e-12
    )
    assert model.sharing(params, X) == "none"
    # Items have masks of their own.
    same = apply(params, np.zeros_like(X), None, KEY)
    assert len(np.unique(np.asarray(same), axis=0)) > 1


@pytest.mark.parametrize("said", [True, False, None])
def test_dropout_is_off_without_a_key_and_stays_off(said: bool | None) -> None:
    model = from_linen(nn.Sequential([nn.Dropout(0.5, deterministic=said), lambda x: 2 * x]))
    params = model.init(KEY, X)
    assert params == {}
    x = jnp.asarray(X)
    np.testing.assert_array_equal(model.apply(params, x), 2 * x)
    dropped = (np.asarray(model.apply(params, x, None, KEY)) == 0).any()
    assert dropped == (said is not True)


@pytest.mark.slow
def test_attention_drops_with_a_key_alone() -> None:
    module = _Written(
        lambda self, x: nn.MultiHeadDotProductAttention(
            1, dropout_rate=0.5, deterministic=False, broadcast_dropout=False
        )(x[:, None].repeat(4, 1))
    )
    model = from_linen(module)
    params = model.init(KEY, X)
    drawn, still = model.apply(params, X, None, KEY), model.apply(params, X)
    assert not np.allclose(drawn, still)
    calm = _Written(lambda self, x: nn.MultiHeadDotProductAttention(1)(x[:, None].repeat(4, 1)))
    np.testing.assert_allclose(still, calm.apply({"params": params}, X), rtol=1e-6)


def test_other_streams_have_a_key_of_their_own() -> None:
    def call(self: nn.Module, x: Any) -> Any:
        rows = [jax.random.normal(self.make_rng(name), (2,)) for name in ("dropout", "noise")]
        return jnp.stack(rows)[: x.shape[0]]

    model = from_linen(_Written(call))
    drawn = np.asarray(model.apply({}, X[:2], None, KEY))
    assert not np.allclose(drawn[0], drawn[1])
    with pytest.raises(ValueError, match=r"draws random numbers \(.*there is no key"):
        model.apply({}, X[:2])


@pytest.mark.parametrize(
    "flag", ["train", "training", "is_training", "deterministic", "use_running_average"]
)
def test_flags_are_passed_by_name(flag: str) -> None:
    class Flagged(nn.Module):
        pass

    source = f"def __call__(self, x, {flag}):\n    return x * ({flag} + 1)"
    scope: dict[str, Any] = {}
    exec(source, scope)
    Flagged.__call__ = scope["__call__"]
    model = from_linen(Flagged())
    on = flag not in ("deterministic", "use_running_average")
    one = jnp.ones((1, 1))
    assert model.apply(model.init(KEY, one), one, None, KEY)[0, 0] == 1 + on
    assert model.apply({}, one)[0, 0] == 2 - on


def test_pytree_inputs_and_weights() -> None:
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, inputs: dict[str, Any], weights: Any) -> Any:
            tokens = nn.Embed(5, 2)(inputs["ids"]) * inputs["mask"][..., None]
            return tokens.sum(1) if weights is None else weights[:, None] * tokens.sum(1)

    inputs = {"ids": np.zeros((3, 4), int), "mask": np.ones((3, 4), np.float32)}
    model = from_linen(Bag())
    params = model.init(KEY, inputs)
    assert model.sharing(params, inputs) == "weighted"
    plain = model.apply(params, inputs)
    assert plain.shape == (3, 2)
    np.testing.assert_allclose(
        model.apply(params, inputs, jnp.array([0.0, 1.0, 2.0])), plain * np.array([[0.0], [1], [2]])
    )


@pytest.mark.usefixtures("float64")
def test_dropout_and_batch_normalisation_are_set_apart() -> None:
    module = _Net()
    variables = _variables(module, train=True)
    variables = jax.tree.map(np.asarray, variables)
    params, averages = variables["params"], {"batch_stats": variables["batch_stats"]}
    first, norm, last = (params[name] for name in ("Dense_0", "BatchNorm_0", "Dense_1"))
    hidden = X @ first["kernel"] + first["bias"]

    def head(mean: Any, variance: Any, keep: Any) -> np.ndarray:
        scaled = (hidden - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        return np.tanh(scaled) * keep @ np.asarray(last["kernel"]) + last["bias"]

    running = averages["batch_stats"]["BatchNorm_0"].values()
    batch = (hidden.mean(0), hidden.var(0))
    model, given = from_linen(module), from_linen(module, frozen=averages)
    np.testing.assert_allclose(_applied(model, params, X), head(*batch, 1), rtol=1e-9)
    np.testing.assert_allclose(_applied(given, params, X), head(*running, 1), rtol=1e-9)
    evaluated = module.apply(variables, X, train=False)
    np.testing.assert_allclose(_applied(given, params, X), evaluated, rtol=1e-12)

    # The same mask in both, the one of the module on its own.
    trained, _ = module.apply(
        {"params": params, **averages}, X, train=True, rngs={"dropout": KEY}, mutable="batch_stats"
    )
    np.testing.assert_allclose(_applied(model, params, X, None, KEY), trained, rtol=1e-12)

    class Kept(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dropout(0.5, deterministic=False, name="Dropout_0")(x)

    keep = np.asarray(Kept().apply({}, jnp.ones((6, 4)), rngs={"dropout": KEY}))
    np.testing.assert_allclose(
        _applied(given, params, X, None, KEY), head(*running, keep), rtol=1e-9
    )
    assert model.sharing(params, X) == "weighted"
    assert given.sharing(params, X) == "none"


@pytest.mark.usefixtures("float64")
def test_items_of_weight_0_are_left_out() -> None:
    module = _Net()
    params = _variables(module, train=True)["params"]
    model = from_linen(module)
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


@pytest.mark.slow
def test_a_query_of_weight_0_is_answered() -> None:
    module = nn.BatchNorm(use_running_average=False)
    model = from_linen(module)
    params = model.init(KEY, X)
    weights = jnp.array([1.0, 1, 1, 1, 1, 0])
    mean, variance = X[:5].mean(0), X[:5].var(0)
    np.testing.assert_allclose(
        model.apply(params, X, weights), (X - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5
    )


def test_a_norm_of_something_else_than_items() -> None:
    def call(self: nn.Module, x: Any) -> Any:
        del self
        return nn.BatchNorm(use_running_average=False)(x.reshape(-1, 1)).reshape(x.shape)

    model = from_linen(_Written(call))
    params = model.init(KEY, X)
    assert model.apply(params, X).shape == X.shape
    with pytest.raises(ValueError, match=r"array of shape \(18, 1\), and 6 items.*first axis"):
        model.apply(params, X, jnp.ones(6))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.InstanceNorm, lambda: nn.GroupNorm(1)])
def test_norms_of_one_item_share_nothing(norm: Callable[[], nn.Module]) -> None:
    model = from_linen(nn.Sequential([lambda x: x[:, None], norm()]))
    assert model.sharing(model.init(KEY, X), X) == "none"


class _Spectral(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.SpectralNorm(nn.Dense(2))(x, update_stats=train)


class _Constant(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.variable("constants", "size", lambda: jnp.full((1, 1), 3.0)).value


class _HardCoded(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.BatchNorm(use_running_average=True)(x)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.BatchNorm(use_running_average=True), "batch_stats/mean, batch_stats/var"),
        (_HardCoded(), "batch_stats/BatchNorm_0/mean"),
        (_Spectral(), r"batch_stats/SpectralNorm_0/Dense_0/kernel/u"),
        (_Constant(), "constants/size"),
    ],
    ids=["norm", "hard-coded", "spectral", "constants"],
)
def test_state_that_nobody_gave(module: nn.Module, names: str) -> None:
    variables = dict(module.init(KEY, X))
    params = variables.pop("params", {})
    refused = from_linen(module)
    message = rf"depend on {names}(?s:.*)frozen=\{{(?s:.*)estimate_statistics"
    for key in (None, KEY):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(refused.apply, params, X, None, key)
    given = from_linen(module, frozen=variables)
    expected = module.apply({"params": params, **variables}, X)
    np.testing.assert_allclose(given.apply(params, X, None, KEY), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="keeps no running averages"):
        given.statistics(params, None, X, None)


def test_state_is_decided_path_by_path() -> None:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            backbone = nn.BatchNorm(not train, name="backbone")(x)
            return backbone, nn.BatchNorm(not train, name="own")(x)

    averages = {"backbone": {"mean": jnp.ones(3), "var": jnp.full(3, 4.0)}}
    model = from_linen(Two(), frozen={"batch_stats": averages})
    params = model.init(KEY, X)
    assert model.sharing(params, X) == "weighted"
    for key in (None, KEY):
        backbone, own = model.apply(params, X, None, key)
        np.testing.assert_allclose(backbone, (X - 1) / np.sqrt(4 + 1e-5), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(own.mean(0), np.zeros(3), atol=1e-6)
    half = from_linen(
        Two(), frozen={"batch_stats": {"backbone": {"mean": averages["backbone"]["mean"]}}}
    )
    with pytest.raises(ValueError, match="depend on batch_stats/backbone/var,"):
        half.apply(params, X)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match=r"not the class: Dense\(\.\.\.\)"):
        from_linen(nn.Dense)  # pyright: ignore
    with pytest.raises(TypeError, match=r"modules of Flax NNX go to metajax.models.from_nnx"):
        from_linen(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))  # pyright: ignore
    with pytest.raises(TypeError, match="expected a dict of collections"):
        from_linen(nn.Dense(1), frozen=[1])  # pyright: ignore
    variables = nn.BatchNorm(use_running_average=False).init(KEY, X)
    with pytest.raises(ValueError, match="holds the collection 'params'"):
        from_linen(nn.BatchNorm(), frozen=variables)
    averages = variables["batch_stats"]
    with pytest.raises(ValueError, match="frozen holds batch_stat/mean, which the module does not"):
        from_linen(nn.BatchNorm(), frozen={"batch_stat": averages}).apply(variables["params"], X)
    wide = jax.tree.map(lambda x: jnp.ones(7), averages)
    with pytest.raises(ValueError, match=r"mean of shape \(7,\); the module expects \(3,\)"):
        from_linen(nn.BatchNorm(), frozen={"batch_stats": wide}).apply(variables["params"], X)


@pytest.mark.usefixtures("float64")
@pytest.mark.slow
def test_the_meta_gradient_of_an_inner_loop_that_drops() -> None:
    module = _Net()
    params = _variables(module, train=True)["params"]
    model = from_linen(module)
    targets = np.cos(X[:, :2])

    def by_model(params: Any, key: Any) -> Any:
        return model.apply(params, X, None, key)

    def by_hand(params: Any, key: Any) -> Any:
        rngs = {"dropout": key}
        variables = {"params": params}
        return module.apply(variables, X, train=True, rngs=rngs, mutable="batch_stats")[0]

    def meta(apply: Callable[..., Any], params: Any) -> Any:
        def loss(params: Any, key: Any) -> Any:
            return ((apply(params, key) - targets) ** 2).mean()

        def step(params: Any, key: Any) -> Any:
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params, key)), None

        adapted, _ = jax.lax.scan(step, params, jax.random.split(KEY, 2))
        return loss(adapted, jax.random.key(7))

    got, expected = (
        jax.jit(jax.grad(lambda params, apply=apply: meta(apply, params)))(params)
        for apply in (by_model, by_hand)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), got, expected
    )
    assert np.abs(got["Dense_0"]["kernel"]).max() > 1e-4


@pytest.mark.slow
def test_the_program_is_the_modules_own() -> None:
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    params = module.init(KEY, X)["params"]
    model = from_linen(module)
    own = jax.make_jaxpr(lambda params, x: module.apply({"params": params}, x))(params, X)
    assert str(jax.make_jaxpr(model.apply)(params, X)) == str(own)


def test_it_is_traced_for_a_check_once_per_shapes() -> None:
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            calls.append(1)
            return nn.BatchNorm(use_running_average=False)(x)

    model = from_linen(Counted())
    params = model.init(KEY, X)
    model.apply(params, X)
    before = len(calls)
    batches = jnp.stack([X, X])
    many = jax.vmap(model.apply, (None, 0))(params, batches)
    assert len(calls) == before + 1
    np.testing.assert_allclose(many[0], model.apply(params, X), rtol=1e-6)


def test_a_module_that_compiles_itself() -> None:
    compiled = nn.jit(nn.BatchNorm)
    model = from_linen(_Written(lambda self, x: compiled(use_running_average=False)(x)))
    params = model.init(KEY, X)
    assert model.sharing(params, X) == "weighted"
    for rows in (slice(4), slice(2, 6)):
        weights = jnp.zeros(6).at[rows].set(1)
        weighted = model.apply(params, X, weights)[rows]
        np.testing.assert_allclose(weighted, model.apply(params, X[rows]), rtol=1e-4, atol=1e-5)


class _ScaledDropout(nn.Dropout):
    @nn.compact
    def __call__(self, x: Any, scale: float, deterministic: bool) -> Any:  # pyright: ignore
        return super().__call__(x * scale, deterministic)


class _GainedNorm(nn.BatchNorm):
    @nn.compact
    def __call__(self, x: Any, gain: float) -> Any:  # pyright: ignore
        return gain * super().__call__(x)


def test_subclasses_with_calls_of_their_own() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            x = _GainedNorm(use_running_average=not train, axis_name="devices")(x, 2.0)
            return _ScaledDropout(0.5)(x, 3.0, not train)

    model = from_linen(Net())
    params = model.init(KEY, X)
    still = model.apply(params, X)
    expected = 6 * (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    np.testing.assert_allclose(still, expected, rtol=1e-4, atol=1e-4)
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    assert model.sharing(params, X) == "weighted"
    fewer = model.apply(params, X, weights)[:4]
    np.testing.assert_allclose(fewer, model.apply(params, X[:4]), rtol=1e-5, atol=1e-5)
    dropped = model.apply(params, X, None, KEY)
    np.testing.assert_allclose(dropped[dropped != 0], 2 * still[dropped != 0], rtol=1e-5)
    assert (np.asarray(dropped) == 0).any()


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
def test_self_attention_takes_its_mask() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            mask = nn.make_attention_mask(x[..., 0] > 0, x[..., 0] > 0)
            return nn.SelfAttention(1, dropout_rate=0.5, deterministic=not train)(x, mask)

    module, x = Net(), X[None]
    model = from_linen(module)
    params = model.init(KEY, x)
    expected = module.apply({"params": params}, x, train=False)
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-6)


def test_what_the_call_lacks_is_named() -> None:
    class Two(nn.Module):
        def __call__(self, ids: Any, mask: Any) -> Any:
            return ids * mask

    with pytest.raises(TypeError, match=r"the __call__ of Two .*'mask'. Expected a module of one"):
        from_linen(Two())
