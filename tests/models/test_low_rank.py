"""Low-rank adapters against matrices put in by hand, and what tasks adapt of a frozen network."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx

import metajax as mj
from metajax.models import LoRAParams

KEY = jax.random.key(0)
RANK, SCALE = 2, 3.0
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


def perceptron() -> mj.Model:
    return mj.models.mlp((7, 3))


def lora(model: mj.Model, where: Any = "*/kernel") -> mj.Model:
    return mj.models.with_lora(model, rank=RANK, where=where, scale=SCALE)


def moved(model: mj.Model, inputs: jax.Array) -> Any:
    """Parameters none of which is 0, the factors B neither."""
    return oracles.normal_like(1, jax.eval_shape(model.init, KEY, inputs), 0.5)


def by_hand(params: Any) -> Any:
    """The perceptron's parameters with `scale / rank A B` added."""
    out = jax.tree.map(np.asarray, params.model)
    for name in out:
        pair = params.factors[name]["kernel"]
        total = sum(np.outer(pair.a[:, r], pair.b[r]) for r in range(RANK))
        out[name]["kernel"] = out[name]["kernel"] + SCALE / RANK * total
    return out


def test_it_starts_as_the_model() -> None:
    (inputs,) = oracles.normals(0, (4, 5))
    model = perceptron()
    params = jax.jit(lora(model).init)(KEY, inputs)
    outputs = lora(model).apply(params, inputs)
    np.testing.assert_array_equal(outputs, model.apply(params.model, inputs))
    pairs = {name: params.factors[name]["kernel"] for name in params.factors}
    assert all(np.abs(pair.a).max() > 0 and not np.any(pair.b) for pair in pairs.values())
    assert [pairs["Dense_0"].a.shape, pairs["Dense_0"].b.shape] == [(5, 2), (2, 7)]
    assert params.factors["Dense_0"]["bias"] is None


def test_factors_are_drawn_each_by_itself_with_columns_of_length_1() -> None:
    zeros = {"v": jnp.zeros((900, 3)), "w": jnp.zeros((900, 3))}
    model = lora(mj.Model(lambda key: zeros, lambda params, inputs: inputs), ("v", "w"))
    of_v, of_w = (pair.a for pair in model.init(KEY, jnp.ones((2, 3))).factors.values())
    for a in (of_v, of_w):
        np.testing.assert_allclose(np.linalg.norm(a, axis=0), 1, atol=0.1)
    assert np.abs(np.corrcoef(of_v.T, of_w.T) - np.eye(4)).max() < 0.2


def test_keys_and_weights_reach_the_model() -> None:
    def drawn(params: Any, inputs: jax.Array, weights: Any, key: Any) -> jax.Array:
        return inputs @ params["w"] * weights[:, None] + jax.random.normal(key, (2, 3))

    model = mj.Model(lambda key: {"w": jnp.eye(3)}, drawn)
    (inputs,) = oracles.normals(0, (2, 3))
    given = (inputs, jnp.array([1.0, 0.5]), jax.random.key(3))
    params = lora(model, "w").init(KEY, inputs)
    np.testing.assert_array_equal(
        lora(model, "w").apply(params, *given), model.apply(params.model, *given)
    )


def test_a_scale_of_numpys_leaves_the_dtype() -> None:
    """Where JAX has 64 bits, too."""
    model = mj.models.with_lora(perceptron(), rank=1, where="*/kernel", scale=np.float64(2))
    params = moved(model, jnp.ones((2, 5)))
    halved, inputs = jax.tree.map(lambda x: x.astype(jnp.float32), (params, jnp.ones((2, 5))))
    assert jax.eval_shape(model.apply, halved, inputs).dtype == jnp.float32


def test_outputs_and_gradients_are_those_by_hand() -> None:
    """With respect to A it is `scale / rank G B^T`, to B `scale / rank A^T G`."""
    (inputs,) = oracles.normals(0, (4, 5))
    model = lora(perceptron())
    params = moved(model, inputs)
    whole = by_hand(params)
    np.testing.assert_allclose(
        model.apply(params, inputs), oracles.perceptron(whole, inputs), rtol=1e-12
    )
    slopes = jax.jit(jax.grad(lambda p: (model.apply(p, inputs) ** 2).sum()))(params)
    expected = jax.jit(jax.grad(lambda p: (oracles.perceptron(p, inputs) ** 2).sum()))(whole)
    oracles.assert_close(slopes.model, expected)
    for name, leaves in expected.items():
        pair, slope = params.factors[name]["kernel"], slopes.factors[name]["kernel"]
        oracles.assert_close(slope.a, SCALE / RANK * leaves["kernel"] @ pair.b.T)
        oracles.assert_close(slope.b, SCALE / RANK * pair.a.T @ leaves["kernel"])


def test_tasks_that_adapt_the_factors() -> None:
    """MAML of two steps is the loop by hand; the meta-gradient reaches all the parameters."""
    inputs, queries = oracles.normals(0, (4, 5), (6, 5))
    support = mj.Examples(inputs, jnp.array([0, 1, 2, 1]))
    query = mj.Examples(queries, jnp.array([0, 1, 2, 0, 1, 2]))
    model = lora(perceptron())
    learner = mj.maml(model, inner=optax.sgd(0.1), num_steps=2, adapt="factors")
    params = moved(model, inputs)

    def whole(params: Any) -> Any:
        pairs = params.factors
        return {
            name: {
                "kernel": leaves["kernel"]
                + SCALE / RANK * pairs[name]["kernel"].a @ pairs[name]["kernel"].b,
                "bias": leaves["bias"],
            }
            for name, leaves in params.model.items()
        }

    def loss(examples: mj.Examples) -> Callable:
        return lambda params, step=0: oracles.mean_cross_entropy(
            oracles.perceptron(whole(params), examples.inputs), examples.targets
        )

    ones = jax.tree.map(jnp.ones_like, params)
    rule = oracles.frozen(
        oracles.sgd(0.1), ones._replace(model=jax.tree.map(jnp.zeros_like, params.model))
    )
    claimed = jax.jit(jax.value_and_grad(lambda p: learner.loss(p, mj.Episode(support, query))[0]))
    expected = jax.jit(
        jax.value_and_grad(lambda p: oracles.maml_loss(loss(support), loss(query), p, rule, 2))
    )
    (value, gradient), (hand, slope) = claimed(params), expected(params)
    np.testing.assert_allclose(value, hand, rtol=1e-12)
    oracles.assert_close(gradient, slope)
    adapted = learner.adapt(params, support).params
    oracles.assert_close(adapted.model, params.model, 0)
    after, before = (pairs.factors["Dense_1"]["kernel"].b for pairs in (adapted, params))
    assert np.abs(after - before).max() > 0


def test_over_a_frozen_network_the_factors_alone_are_learned() -> None:
    (inputs,) = oracles.normals(0, (4, 5))
    model = lora(perceptron())
    params = moved(model, inputs)
    frozen = mj.models.frozen(model, params, learn="factors")
    start = frozen.init(KEY, inputs)
    assert len(jax.tree.leaves(start)) == 4
    np.testing.assert_allclose(frozen.apply(start, inputs), model.apply(params, inputs), rtol=1e-12)


class Convolutions(nn.Module):
    """Kernels of one channel in and many, an image's features and a head."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        maps = nn.relu(nn.Conv(6, (3, 3))(inputs))
        return nn.Dense(3)(nn.Conv(8, (3, 3))(maps).mean((1, 2)))


def equinox_convolutions() -> mj.Model:
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

    def build(key: jax.Array) -> Any:
        first, second = jax.random.split(key)
        flat = eqx.nn.Lambda(lambda maps: maps.reshape(-1))
        return eqx.nn.Sequential(
            [eqx.nn.Conv2d(1, 8, 3, key=first), flat, eqx.nn.Linear(128, 3, key=second)]
        )

    model = mj.models.from_equinox(build)
    return mj.Model(
        lambda key, inputs: model.init(key, inputs.transpose(0, 3, 1, 2)),
        lambda params, inputs: model.apply(params, inputs.transpose(0, 3, 1, 2)),
    )


def nnx_convolutions() -> mj.Model:
    rngs = nnx.Rngs(0)
    return mj.models.from_nnx(
        nnx.Sequential(
            nnx.Conv(1, 8, (3, 3), rngs=rngs),
            lambda maps: maps.mean((1, 2)),
            nnx.Linear(8, 3, rngs=rngs),
        )
    )


class Stacked(nn.Module):
    """Two layers by a scan, whose kernels have a leading axis."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        inputs = nn.Dense(6)(inputs.reshape(len(inputs), -1))
        layer = nn.scan(
            lambda dense, carry, _: (nn.tanh(dense(carry)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        return layer(nn.Dense(6, name="layers"), inputs, None)[0]


def stacked() -> mj.Model:
    return mj.models.from_linen(Stacked())


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (
            lambda: mj.models.from_linen(Convolutions()),
            {(9, 2), (2, 6), (2, 48), (8, 2), (2, 3)},
        ),
        pytest.param(nnx_convolutions, {(9, 2), (2, 8), (8, 2), (2, 3)}, marks=SLOW),
        pytest.param(equinox_convolutions, {(8, 2), (2, 9), (3, 2), (2, 128)}, marks=SLOW),
        pytest.param(stacked, {(36, 2), (2, 6), (12, 2)}, marks=SLOW),
    ],
    ids=["linen", "nnx", "equinox", "stacked"],
)
def test_kernels_of_any_library_and_of_many_axes(make: Callable, shapes: set) -> None:
    (inputs,) = oracles.normals(0, (2, 6, 6, 1))
    plain = make()
    model = lora(plain, lambda path, leaf: len(leaf.shape) > 1 and "bias" not in path)
    params = jax.jit(model.init)(KEY, inputs)
    assert {leaf.shape for leaf in jax.tree.leaves(params.factors)} == shapes

    def loss(factors: Any) -> jax.Array:
        return (model.apply(LoRAParams(params.model, factors), inputs) ** 2).sum()

    value, slopes = jax.jit(jax.value_and_grad(loss))(params.factors)
    expected = (jax.jit(plain.apply)(params.model, inputs) ** 2).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    ahead = jax.tree.map(lambda x, slope: x - 1e-3 * slope, params.factors, slopes)
    assert jax.jit(loss)(ahead) < value


@SLOW
def test_statistics_weights_and_keys_are_the_models() -> None:
    model = mj.models.from_linen(nn.Sequential([nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.5)]))
    adapted = lora(model, "*/kernel")
    (inputs,) = oracles.normals(0, (6, 5))
    params = adapted.init(KEY, inputs)
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    assert adapted.sharing(params, inputs) == model.sharing(params.model, inputs) == "weighted"
    for key in (None, jax.random.key(3)):
        np.testing.assert_array_equal(
            adapted.apply(params, inputs, weights, key),
            model.apply(params.model, inputs, weights, key),
        )
    assert model.statistics is not None
    assert adapted.statistics is not None
    state = adapted.statistics(params, None, inputs, None)
    oracles.assert_close(state, model.statistics(params.model, None, inputs, None))
    plain = mj.Model(lambda key: {}, lambda params, inputs: inputs)
    assert lora(plain).statistics is None


class Normalised(nn.Module):
    """Two stages with batch normalisation, of which the averages are given."""

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        for stage in (1, 2):
            inputs = nn.Dense(6, name=f"stage{stage}")(inputs)
            norm = nn.BatchNorm(use_running_average=not train, name=f"norm{stage}")
            inputs = nn.tanh(norm(inputs))
        return inputs


@pytest.mark.parametrize(
    ("adapt", "moving"),
    [
        (
            ("*/scale", "*/bias"),
            {"norm1/scale", "norm1/bias", "norm2/scale", "norm2/bias"}
            | {"stage1/bias", "stage2/bias"},
        ),
        (("stage2", "norm2"), {"stage2/kernel", "stage2/bias", "norm2/scale", "norm2/bias"}),
    ],
    ids=["scales and offsets", "the last block"],
)
@pytest.mark.parametrize("factory", [mj.maml, pytest.param(mj.proto_maml, marks=SLOW)])
def test_other_parts_of_a_pre_trained_network_need_no_adapter(
    factory: Callable, adapt: tuple, moving: set
) -> None:
    inputs, *state = oracles.normals(0, (6, 5), (6,), (6,), (6,), (6,))
    averages = {
        f"norm{stage}": {"mean": state[2 * stage - 2], "var": state[2 * stage - 1] ** 2}
        for stage in (1, 2)
    }
    model = mj.models.from_linen(Normalised(), frozen={"batch_stats": averages})
    inside = "body/" if factory is mj.proto_maml else ""
    learner = factory(
        model,
        inner=optax.sgd(0.1),
        num_steps=1,
        adapt=[pattern if pattern[0] == "*" else inside + pattern for pattern in adapt],
    )
    support = mj.Examples(inputs, jnp.array([0, 1, 2, 0, 1, 2]))
    params = moved(model, inputs)
    task = learner.adapt(params, support).params
    after = task.body if inside else task
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, new), old in zip(
            jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(params), strict=True
        )
        if np.abs(new - old).max() > 0
    }
    assert changed == moving


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rank": 4},
            r"rank=4, but Dense_1/kernel of shape \(7, 3\) is a matrix of 7 by 3; expected 3 at",
        ),
        ({"where": "head"}, "where='head' fits no parameter; there are Dense_0/bias"),
        (
            {"where": lambda path, leaf: False},
            "where=<function .* selects no parameter; expected some of Dense_0/bias, Dense_0/ker",
        ),
        (
            {"where": "Dense_0"},
            r"where selects Dense_0/bias of shape \(7,\); expected parameters of two axes or more",
        ),
    ],
)
def test_slips_are_named(options: dict, message: str) -> None:
    model = mj.models.with_lora(perceptron(), **{"rank": 1, "where": "*/kernel", **options})
    with pytest.raises(ValueError, match=message):
        model.init(KEY, jnp.ones((2, 5)))


def test_parameters_that_are_no_floats() -> None:
    whole = mj.Model(lambda key: {"w": jnp.ones((3, 3), int)}, lambda params, inputs: inputs)
    with pytest.raises(ValueError, match=r"where selects w, which holds int64; expected floats"):
        mj.models.with_lora(whole, rank=1, where="w").init(KEY, jnp.ones((2, 3)))


def test_what_is_frozen_already_has_no_parameters() -> None:
    constant = mj.models.frozen(perceptron(), perceptron().init(KEY, jnp.ones((2, 5))))
    with pytest.raises(ValueError, match="where='\\*/kernel' fits no parameter; there are none"):
        lora(constant).init(KEY, jnp.ones((2, 5)))
