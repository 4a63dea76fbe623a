"""`adapt` and `predict` as they are deployed: compiled, and every query answered on its own."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax import export
from learners import WAYS, episode

import metajax as mj

KEY = jax.random.key(3)
SGD = {"inner": optax.sgd(0.1), "num_steps": 1}


def conv(outputs: int | None, **options: Any) -> mj.Model:
    return mj.models.from_linen(mj.models.ConvNet(outputs, 4, blocks=1, **options))


def relation(**options: Any) -> mj.Learner:
    module = mj.models.relation_module(filters=4, hidden=4)
    return mj.relation_network(conv(None, features="map"), module, ways=WAYS, **options)


def with_full_context() -> mj.Learner:
    context = mj.models.full_context(4, read_steps=2)
    return mj.matching_network(conv(None), full_context=context, ways=WAYS)


def by_hand(**options: Any) -> mj.Model:
    """A network whose items are centred by their batch, in a way that takes no weights."""

    def init(key: jax.Array, inputs: jax.Array) -> jax.Array:
        return jax.random.normal(key, (inputs[0].size, WAYS))

    def apply(params: jax.Array, inputs: jax.Array) -> jax.Array:
        flat = inputs.reshape(inputs.shape[0], -1)
        return (flat - flat.mean(axis=0, keepdims=True)) @ params

    return mj.Model(init, apply, **options)


LEARNERS: dict[str, Callable[[], mj.Learner]] = {
    "maml, strided": lambda: mj.maml(conv(WAYS), **SGD),
    "maml, pooled": lambda: mj.maml(conv(WAYS, pooling="max", features="flatten"), **SGD),
    "maml, of two": lambda: mj.anil(conv(None), mj.models.mlp((WAYS,)), **SGD),
    "maml, no weights": lambda: mj.maml(by_hand(sharing="batch"), **SGD),
    "reptile": lambda: mj.reptile(conv(WAYS), **SGD),
    "proto_maml": lambda: mj.proto_maml(conv(None), **SGD, ways=WAYS),
    "prototypical": lambda: mj.prototypical_network(conv(None), ways=WAYS),
    "prototypical, no weights": lambda: mj.prototypical_network(
        by_hand(sharing="batch"), ways=WAYS
    ),
    "matching": with_full_context,
    "relation": relation,
}


def some_of(*names: str) -> list:
    """All names of learners; those but these are slow."""
    slow = pytest.mark.slow
    return [name if name in names else pytest.param(name, marks=slow) for name in LEARNERS]


def start(learner: mj.Learner) -> tuple[Any, mj.Episode]:
    task = episode(KEY)
    shapes = jax.eval_shape(learner.init, KEY, task.support.inputs)
    return oracles.normal_like(0, shapes, 0.3), task


@pytest.mark.parametrize("name", some_of("maml, strided", "maml, no weights", "relation"))
def test_predictions_one_at_a_time_are_those_of_the_batch(name: str) -> None:
    learner = LEARNERS[name]()
    params, task = start(learner)
    adapted = learner.adapt(params, task.support)
    images = task.query.inputs[:3]
    together = learner.predict(params, adapted, images)
    alone = [learner.predict(params, adapted, image[None])[0] for image in images]
    oracles.assert_close(jnp.stack(alone), together, 1e-6)


@pytest.mark.parametrize(
    "name", ["maml", pytest.param("relation", marks=pytest.mark.slow), "prototypical"]
)
def test_they_are_those_of_a_loss_that_batches_by_the_support(name: str) -> None:
    learner = {
        "maml": lambda: mj.maml(conv(WAYS), **SGD, query_batching="support"),
        "relation": lambda: relation(query_batching="support"),
        "prototypical": lambda: mj.prototypical_network(
            conv(None), ways=WAYS, query_batching="support"
        ),
    }[name]()
    params, task = start(learner)
    outputs = learner.predict(params, learner.adapt(params, task.support), task.query.inputs)
    expected = jax.jit(learner.loss)(params, task)[1].outputs
    oracles.assert_close(outputs, expected, 1e-6)


def test_where_items_share_nothing_no_support_set_is_kept() -> None:
    gradient = mj.maml(mj.models.mlp((WAYS,)), **SGD)
    metric = mj.prototypical_network(mj.models.mlp((WAYS,)))
    for learner in (gradient, metric):
        params, task = start(learner)
        adapted = learner.adapt(params, task.support)
        assert (adapted.kept if learner is gradient else adapted.support) is None


def test_only_what_could_show_it_is_a_proof() -> None:
    learner = mj.maml(by_hand(), **SGD)
    params, task = start(learner)
    adapted = learner.adapt(params, task.support)
    images = task.query.inputs[:4]
    learner.predict(params, adapted, jnp.zeros_like(images))
    with pytest.raises(ValueError, match="depend on what is asked with it"):
        learner.predict(params, adapted, images)


def test_a_model_whose_items_see_the_earlier_ones() -> None:
    model = mj.Model(by_hand().init, lambda w, x: jnp.cumsum(x.reshape(x.shape[0], -1), 0) @ w)
    learner = mj.maml(model, **SGD)
    params, task = start(learner)
    adapted = learner.adapt(params, task.support)
    with pytest.raises(ValueError, match="depend on what is asked with it"):
        learner.predict(params, adapted, task.query.inputs[:4])


@pytest.mark.parametrize("batching", ["single", "support"])
def test_a_loss_of_single_queries_is_so_of_models_that_say_nothing(batching: Any) -> None:
    learner = mj.maml(by_hand(), **SGD, query_batching=batching)
    params, task = start(learner)
    loss = jax.jit(learner.loss)
    others = task._replace(query=task.query._replace(inputs=task.query.inputs.at[1:].mul(7.0)))
    first, again = (loss(params, given)[1].outputs[0] for given in (task, others))
    oracles.assert_close(first, again, 1e-5)


@pytest.mark.parametrize("queries", [1, 3])
def test_a_model_that_does_not_say_that_its_items_see_each_other(queries: int) -> None:
    learner = mj.maml(by_hand(), **SGD)
    params, task = start(learner)
    adapted = learner.adapt(params, task.support)
    with pytest.raises(ValueError, match=r"depend on what is asked with it.*sharing=\"batch\""):
        learner.predict(params, adapted, task.query.inputs[:queries])


def test_programs_are_compiled_once_for_a_power_of_two() -> None:
    traced = []

    def apply(params: jax.Array, inputs: jax.Array) -> jax.Array:
        traced.append(inputs.shape[0])
        return inputs.reshape(inputs.shape[0], -1) @ params

    model = mj.Model(by_hand().init, apply)
    learner = mj.maml(model, **SGD)
    params, task = start(learner)
    for _ in range(3):
        adapted = learner.adapt(params, task.support)
        for queries in (1, 2, 3, 4, 6):
            outputs = learner.predict(params, adapted, task.query.inputs[:queries])
            assert outputs.shape == (queries, WAYS)
        tracing, traced[:] = traced[:], []
    assert tracing == []
    learner.predict(params, adapted, task.query.inputs[:5])
    assert traced == []
    learner.predict(params, adapted, jnp.concatenate([task.query.inputs] * 2)[:9])
    assert set(traced) == {16}


def test_labels_are_looked_at_however_often_a_program_has_run() -> None:
    learner = mj.maml(mj.models.mlp((WAYS,)), **SGD)
    params, task = start(learner)
    learner.adapt(params, task.support)
    wrong = task.support._replace(targets=task.support.targets + 1)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"the label {WAYS} but the model has {WAYS} outputs"):
            learner.adapt(params, wrong)


def test_inside_programs_of_ones_own() -> None:
    learner = mj.maml(conv(WAYS), **SGD)
    params, task = start(learner)

    @jax.jit
    def answer(params: Any, support: mj.Examples, image: jax.Array) -> jax.Array:
        return learner.predict(params, learner.adapt(params, support), image[None])[0]

    adapted = learner.adapt(params, task.support)
    closed = jax.jit(lambda: learner.predict(params, adapted, task.query.inputs))()
    expected = learner.predict(params, adapted, task.query.inputs)
    oracles.assert_close(closed, expected, 1e-6)
    many = jax.vmap(answer, in_axes=(None, None, 0))(params, task.support, task.query.inputs)
    oracles.assert_close(many, expected, 1e-6)
    np.testing.assert_array_equal(many.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", some_of("maml, of two"))
def test_a_task_is_used_by_an_exported_program(name: str) -> None:
    pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")
    learner = LEARNERS[name]()
    params, task = start(learner)
    adapted = learner.adapt(params, task.support)
    images = task.query.inputs[:3]
    (items,) = export.symbolic_shape("items")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, adapted))
    asked = jax.ShapeDtypeStruct((items, *images.shape[1:]), images.dtype)
    program = export.export(jax.jit(learner.predict))(*shapes, asked)
    read = export.deserialize(bytearray(program.serialize()))
    outputs = read.call(params, adapted, images)
    oracles.assert_close(outputs, learner.predict(params, adapted, images), 1e-6)


def test_training_mode_needs_a_key() -> None:
    learner = mj.maml(mj.models.mlp((WAYS,)), **SGD)
    params, task = start(learner)
    with pytest.raises(ValueError, match="training=True without a key"):
        learner.loss(params, task, training=True)
    with pytest.raises(TypeError, match="training='yes'; expected True or False"):
        learner.adapt(params, task.support, KEY, training="yes")  # type: ignore[arg-type]


def test_dropout_is_on_where_there_is_a_key_and_training() -> None:
    module = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dropout(0.5), nn.Dense(WAYS)])
    learner = mj.maml(mj.models.from_linen(module), **SGD)
    params, task = start(learner)
    loss = jax.jit(learner.loss, static_argnames="training")
    quiet = loss(params, task)[0]
    first, second = (loss(params, task, jax.random.key(seed))[0] for seed in (1, 2))
    assert len({float(quiet), float(first), float(second)}) == 3
    assert loss(params, task, KEY, training=False)[0] == quiet

    sample = mj.data.FixedEpisode(task)
    scores = mj.evaluate(learner, params, sample, episodes=2).scores["query_loss"]
    np.testing.assert_allclose(scores, quiet, rtol=1e-6)
    noisy = mj.evaluate(learner, params, sample, episodes=2, training=True).scores["query_loss"]
    assert noisy[0] != noisy[1] != quiet
    adapted = (learner.adapt(params, task.support, key) for key in (None, KEY))
    oracles.assert_close(next(adapted).params, next(adapted).params)
