"""Models whose parameters are constants, and learners over them."""

from collections.abc import Callable
from pathlib import Path
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
from metajax.models import chain, from_equinox, from_haiku, from_linen, from_nnx, frozen, mlp

KEY = jax.random.key(0)
truth = pytest.mark.usefixtures("float64")
X = np.random.default_rng(1).normal(size=(6, 4))
WAYS = 3


class Net(nn.Module):
    """A body that normalises, and a head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Dense(5, name="body")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(WAYS, name="head")(nn.tanh(x))


def linen() -> tuple[mj.Model, Any]:
    averages = {"mean": jnp.full(5, 0.3), "var": jnp.full(5, 2.0)}
    model = from_linen(Net(), frozen={"batch_stats": {"norm": averages}})
    return model, oracles.normal_like(0, model.init(KEY, jnp.asarray(X)))


class NNXNet(nnx.Module):
    """The same without a norm."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.body = nnx.Linear(4, 5, rngs=rngs)
        self.head = nnx.Linear(5, WAYS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.tanh(self.body(x)))


def of_nnx() -> tuple[mj.Model, Any]:
    model = from_nnx(NNXNet(nnx.Rngs(0)))
    return model, oracles.normal_like(0, model.init(KEY, jnp.asarray(X)))


def equinox() -> tuple[mj.Model, Any]:
    eqx = pytest.importorskip("equinox", reason="Equinox is optional")

    class Whole(eqx.Module):
        body: Any
        head: Any

        def __init__(self, key: jax.Array) -> None:
            self.body = eqx.nn.Linear(4, 5, key=key)
            self.head = eqx.nn.Linear(5, WAYS, key=key)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(jnp.tanh(self.body(x)))

    model = from_equinox(Whole)
    return model, oracles.normal_like(0, model.init(KEY, jnp.asarray(X)))


def of_functions() -> tuple[mj.Model, Any]:
    def init(key: jax.Array, x: jax.Array) -> dict:
        return {"body": jnp.ones((x.shape[1], 5)), "head": jnp.ones((5, WAYS))}

    model = mj.Model(init, lambda params, x: jnp.tanh(x @ params["body"]) @ params["head"])
    return model, oracles.normal_like(0, model.init(KEY, jnp.asarray(X)))


MODELS = (linen, of_nnx, equinox, of_functions)
# Modules' parameters are other pytrees, and the rest the same.
some_models = pytest.mark.parametrize(
    "make",
    [
        make if make is of_functions else pytest.param(make, marks=pytest.mark.slow)
        for make in MODELS
    ],
    ids=lambda make: make.__name__,
)
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def episode() -> mj.Episode:
    targets = jnp.arange(6) % WAYS
    x = jnp.asarray(X)
    return mj.Episode(mj.Examples(x, targets), mj.Examples(x[::-1] + 0.1, targets))


def head_of(params: Any) -> list[jax.Array]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return [x for path, x in named if "head" in jax.tree_util.keystr(path)]


def learners(model: mj.Model, params: Any) -> tuple[mj.Learner, mj.Learner]:
    """MAML of the head alone: of the whole model, and of one whose other part is frozen."""
    options: dict = {"inner": optax.sgd(0.3), "num_steps": 2}
    whole = mj.maml(model, adapt=lambda path, leaf: path.startswith("head"), **options)
    return whole, mj.maml(frozen(model, params, learn="head"), **options)


@truth
@some_models
def test_maml_of_what_is_learned_is_maml_that_adapts_it(make: Callable) -> None:
    model, params = make()
    whole, part = learners(model, params)
    own = part.init(KEY, jnp.asarray(X))
    oracles.assert_close(jax.tree.leaves(own), head_of(params), 0.0)
    (value, aux), gradient = jax.value_and_grad(part.loss, has_aux=True)(own, episode())
    (expected, outputs), whole_gradient = jax.value_and_grad(whole.loss, has_aux=True)(
        params, episode()
    )
    assert abs(value - expected) < 1e-12
    oracles.assert_close(aux.outputs, outputs.outputs, 1e-12)
    assert len(jax.tree.leaves(gradient)) == len(head_of(params)) > 0
    oracles.assert_close(jax.tree.leaves(gradient), head_of(whole_gradient), 1e-12)
    task = part.adapt(own, episode().support)
    assert isinstance(task, mj.AdaptedTask)
    assert jax.tree.structure(task.params) == jax.tree.structure(own)


@truth
@every_model
def test_outputs_are_the_models_and_nothing_is_differentiated(make: Callable) -> None:
    model, params = make()
    constant = frozen(model, params)
    x = jnp.asarray(X)
    assert constant.init(KEY, x) == {}
    oracles.assert_close(constant.apply({}, x), model.apply(params, x), 0.0)
    gradient = jax.grad(lambda x: constant.apply({}, x).sum())(x)
    oracles.assert_close(gradient, jax.grad(lambda x: model.apply(params, x).sum())(x), 1e-12)
    assert constant.sharing({}, x) == model.sharing(params, x)


def test_init_gives_copies_whatever_the_key() -> None:
    model, params = of_functions()
    part = frozen(model, params, learn="head")
    for seed in (0, 1):
        own = part.init(jax.random.key(seed), jnp.asarray(X))
        assert own["body"] is None
        own["head"].delete()  # As a step does that donates its state.
    assert part.apply({"body": None, "head": params["head"]}, jnp.asarray(X)).shape == (6, WAYS)


def test_dropout_and_batch_statistics_stay_the_models() -> None:
    module = nn.Sequential([nn.Dense(4), nn.BatchNorm(momentum=0.5), nn.Dropout(0.5)])
    model = from_linen(module)
    x = jnp.asarray(X, jnp.float32)
    params = model.init(KEY, x)
    constant = frozen(model, params)
    weights = jnp.array([1.0, 1, 1, 1, 0, 0])
    for arguments in ((x, weights), (x, None, KEY)):
        np.testing.assert_array_equal(
            constant.apply({}, *arguments), model.apply(params, *arguments)
        )
    assert constant.sharing({}, x) == "weighted"
    assert constant.statistics is not None
    assert model.statistics is not None
    for got, expected in zip(
        *map(
            jax.tree.leaves,
            (
                constant.statistics({}, None, x, weights),
                model.statistics(params, None, x, weights),
            ),
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_of_haiku_with_state_it_was_given() -> None:
    hk = pytest.importorskip("haiku", reason="Haiku is optional")

    def net(x: jax.Array, is_training: bool) -> jax.Array:
        return hk.Linear(WAYS, name="head")(hk.BatchNorm(True, True, 0.9)(x, is_training))

    x = jnp.asarray(X, jnp.float32)
    params, state = hk.transform_with_state(net).init(KEY, x, True)
    model = from_haiku(net, frozen=state)
    constant, part = frozen(model, params), frozen(model, params, learn="head")
    np.testing.assert_array_equal(constant.apply({}, x), model.apply(params, x))
    assert {*jax.tree.map(jnp.shape, part.init(KEY, x))["head"]} == {"w", "b"}
    assert frozen(from_haiku(net), params).statistics is not None


@pytest.mark.slow
def test_a_head_is_trained_saved_and_restored_over_a_frozen_body(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    sample = mj.data.image_episodes(features, ways=WAYS, shots=1, queries=2)
    x = sample(KEY).support.inputs
    net = mlp((4, WAYS))
    body = frozen(net, net.init(KEY, x))
    options: dict = {"inner": optax.sgd(0.1), "num_steps": 1}
    optimizer = optax.adam(1e-2)
    part = frozen(net, net.init(KEY, x), learn="Dense_1")
    for name, model in {"chain": chain(body, mlp((WAYS,))), "part": part}.items():
        learner = mj.maml(model, **options)
        state = mj.init_state(learner.init(KEY, x), optimizer, KEY)
        keeping = mj.Checkpoints(tmp_path / name, options={}, every=2)
        run: dict = {"meta_batch": 2, "dispatch": 2, "progress": False}
        whole = mj.train(learner, optimizer, state, sample, iterations=4, **run).state
        mj.train(learner, optimizer, state, sample, iterations=2, checkpoints=keeping, **run)
        restored = mj.restore_state(tmp_path / name, state)
        again = mj.train(learner, optimizer, restored, sample, iterations=4, **run).state
        for got, expected in zip(*map(jax.tree.leaves, (again[:2], whole[:2])), strict=True):
            np.testing.assert_array_equal(got, expected)
        assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_without_parameters_learners_are_evaluated_and_not_trained() -> None:
    features = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    sample = mj.data.image_episodes(features, ways=WAYS, shots=1, queries=2)
    x = sample(KEY).support.inputs
    net = mlp((4,))
    params = net.init(KEY, x)
    learner = mj.prototypical_network(frozen(net, params))
    trained = mj.prototypical_network(net)
    got, expected = (
        mj.evaluate(each, own, sample, episodes=4).scores["accuracy"].tolist()
        for each, own in ((learner, {}), (trained, params))
    )
    assert got == expected
    optimizer = optax.adam(1e-2)
    state = mj.init_state({}, optimizer, KEY)
    with pytest.raises(ValueError, match="no parameters, so that there is nothing to train"):
        mj.train(learner, optimizer, state, sample, iterations=1, meta_batch=1, progress=False)
    stack = jax.vmap(lambda key: mj.init_state({}, optimizer, key))(jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="stack of 2 runs of a learner without parameters"):
        mj.evaluate(learner, stack, sample, episodes=2)
    adapted = mj.maml(frozen(net, params), inner=optax.sgd(0.1), num_steps=1)
    with pytest.raises(ValueError, match="no parameters, which num_steps=1 could adapt"):
        adapted.loss({}, sample(KEY))


@pytest.mark.slow
def test_a_stack_of_runs_and_chunks_of_tasks() -> None:
    model, params = of_functions()
    learner = learners(model, params)[1]
    episodes = jax.tree.map(lambda x: jnp.stack([x, x + x.dtype.type(0)]), episode())
    own = learner.init(KEY, jnp.asarray(X))
    keys = jax.random.split(KEY, 2)
    at_once, (loss, _) = mj.meta_gradient(learner.loss, own, episodes, keys)
    in_chunks, _ = mj.meta_gradient(learner.loss, own, episodes, keys, chunk_size=1)
    assert jax.tree.structure(at_once) == jax.tree.structure(own)
    oracles.assert_close(at_once, in_chunks, 1e-6)
    optimizer = optax.sgd(0.1)
    states = jax.vmap(lambda key: mj.init_state(learner.init(key, X), optimizer, key))(keys)
    stepped, metrics = jax.vmap(mj.train_step(learner, optimizer), in_axes=(0, None))(
        states, episodes
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert stepped.params["head"].shape == (2, 5, WAYS)


@pytest.mark.parametrize(
    ("learn", "error", "message"),
    [
        ("tail", ValueError, "learn='tail' fits no parameter; there are body, head"),
        ("*", ValueError, r"learn='\*' selects every parameter; .* or None to freeze all"),
        ("", ValueError, "learn='' names nothing; expected a path, or None to freeze all"),
        (3, TypeError, "learn=3; expected a path"),
        (lambda path, leaf: "yes", TypeError, "learn's function returned 'yes' for body"),
    ],
)
def test_what_learns_no_part(learn: Any, error: type[Exception], message: str) -> None:
    model, params = of_functions()
    with pytest.raises(error, match=message):
        frozen(model, params, learn=learn)


def test_parameters_of_another_model_or_for_other_inputs() -> None:
    model, params = of_functions()
    with pytest.raises(ValueError, match=r"body has shape \(4, 5\); the model expects \(7, 5\)"):
        frozen(model, params).init(KEY, jnp.ones((1, 7)))
    with pytest.raises(ValueError, match="lack body, which the model has"):
        frozen(model, {"head": params["head"]}).init(KEY, jnp.asarray(X))
    with pytest.raises(ValueError, match="hold body, which the model has not"):
        frozen(model, params, learn="head").apply(params, jnp.asarray(X))
    with pytest.raises(ValueError, match="hold body, which the model has not"):
        frozen(model, params).apply(params, jnp.asarray(X))
    with pytest.raises(TypeError, match="body is of int32; expected floats"):
        frozen(model, {**params, "body": jnp.ones((4, 5), jnp.int32)})


def test_encoders_of_features() -> None:
    features = jnp.asarray(X, jnp.float32)
    mean = features.mean(axis=0)
    unit = mj.metric.centred_features(features, mean)
    net = mlp((4,))
    encoder = chain(frozen(net, net.init(KEY, features)), mj.models.identity())
    params = encoder.init(KEY, features)
    assert not jax.tree.leaves(params)
    outputs = encoder.apply(params, features)
    np.testing.assert_array_equal(outputs, net.apply(net.init(KEY, features), features))
    for flag, expected in ((True, unit), (False, features - mean[None])):
        model = mj.models.centred(mean, unit=flag)
        assert model.init(KEY, features) == {}
        np.testing.assert_array_equal(model.apply({}, features), expected)
    np.testing.assert_array_equal(mj.models.identity().apply({}, features), features)
    with pytest.raises(ValueError, match=r"the mean has shape \(4,\) and features \(6, 3\)"):
        mj.models.centred(mean).apply({}, features[:, :3])
    with pytest.raises(ValueError, match="the mean is inf at feature 1; expected finite"):
        mj.models.centred(mean.at[1].set(jnp.inf))
    with pytest.raises(ValueError, match=r"the mean has shape \(6, 4\); expected \[features\]"):
        mj.models.centred(features)
