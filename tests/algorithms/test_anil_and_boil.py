"""ANIL and BOIL: hand-unrolled oracles, and the same by MAML's own options."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import oracles
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

RATE, STEPS = 0.5, 3
SUPPORT, QUERY, FEATURES, HIDDEN, OUTPUTS = 6, 9, 4, 5, 3


def _body() -> mj.Model:
    return mj.Model(
        lambda key, inputs: jax.random.normal(key, (inputs.shape[-1], HIDDEN), inputs.dtype),
        lambda params, inputs: jax.nn.relu(inputs @ params),
    )


MODELS = (_body(), mj.models.mlp((OUTPUTS,), stddev=1.0))
FACTORIES = {"body": mj.boil, "head": mj.anil}
parts = pytest.mark.parametrize("part", FACTORIES)


def _episode() -> mj.Episode:
    inputs = oracles.normals(0, (SUPPORT, FEATURES), (QUERY, FEATURES))
    return mj.Episode(*(mj.Examples(x, jnp.arange(len(x)) % OUTPUTS) for x in inputs))


def _learner(part: str, **options: Any) -> mj.Learner:
    defaults = {"inner": optax.sgd(RATE), "num_steps": STEPS}
    return FACTORIES[part](*MODELS, **(defaults | options))


def _params() -> mj.models.ChainParams:
    shapes = jax.eval_shape(_learner("head").init, jax.random.key(0), _episode().support.inputs)
    return oracles.normal_like(1, shapes)


def _loss(params: mj.models.ChainParams, examples: mj.Examples) -> jax.Array:
    hidden = jnp.maximum(examples.inputs @ params.body, 0)
    head = params.head["Dense_0"]
    return oracles.mean_cross_entropy(
        hidden @ head["kernel"] + head["bias"][None], examples.targets
    )


def _slope(learner: mj.Learner) -> Callable[[Any], Any]:
    def run(params: Any) -> Any:
        (value, _), gradient = jax.value_and_grad(learner.loss, has_aux=True)(params, _episode())
        return value, gradient

    return jax.jit(run)


def _path_arguments(part: str) -> tuple[Any, ...]:
    moving = jax.tree.map(jnp.zeros_like, _params())
    moving = moving._replace(**{part: jax.tree.map(jnp.ones_like, getattr(moving, part))})
    support, query = _episode()
    rule = oracles.frozen(oracles.sgd(RATE), moving)
    return lambda phi, _: _loss(phi, support), lambda phi: _loss(phi, query), rule


@parts
def test_meta_gradient_is_the_unrolled_loops(part: str) -> None:
    on_support, on_query, rule = _path_arguments(part)
    expected = jax.value_and_grad(
        lambda params: oracles.maml_loss(on_support, on_query, params, rule, STEPS)
    )
    exact = _slope(_learner(part))(_params())
    oracles.assert_close(exact, jax.jit(expected)(_params()))

    _, first_order = _slope(_learner(part, first_order=True))(_params())
    at_phi = oracles.fomaml_gradient(on_support, on_query, _params(), rule, STEPS)
    oracles.assert_close(first_order, at_phi)
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), exact[1], first_order)
    assert min(jax.tree.leaves(gap)) > 1e-3  # What a cut gradient would lack.


@parts
def test_equals_maml_with_the_same_selection(part: str) -> None:
    expected = _slope(_learner(part))(_params())
    other = {"body": "head", "head": "body"}[part]
    labels = mj.models.ChainParams("body", "head")
    partition = optax.partition({part: optax.sgd(RATE), other: optax.set_to_zero()}, labels)
    for options in ({"inner": optax.sgd(RATE), "adapt": part}, {"inner": partition}):
        learner = mj.maml(mj.models.chain(*MODELS), num_steps=STEPS, **options)
        oracles.assert_close(_slope(learner)(_params()), expected)


@parts
def test_without_steps_it_is_the_plain_network(part: str) -> None:
    got = _slope(_learner(part, num_steps=0))(_params())
    oracles.assert_close(got, jax.value_and_grad(_loss)(_params(), _episode().query))


@parts
def test_a_task_keeps_the_other_part(part: str) -> None:
    params = _params()
    adapted = _learner(part).adapt(params, _episode().support).params
    for name in FACTORIES:
        moved = any(
            (new != old).any()
            for new, old in zip(
                jax.tree.leaves(getattr(adapted, name)),
                jax.tree.leaves(getattr(params, name)),
                strict=True,
            )
        )
        assert moved == (name == part)


def test_a_head_of_zeros_moves_no_body() -> None:
    params = _params()
    params = params._replace(head=jax.tree.map(jnp.zeros_like, params.head))
    adapted = _learner("body").adapt(params, _episode().support).params
    oracles.assert_close(adapted, params)


@parts
def test_models_are_asked_for(part: str) -> None:
    for models, name in (((MODELS[0], 5), "head"), (("net", MODELS[1]), "body")):
        with pytest.raises(TypeError, match=rf"{name} is .*; expected a metajax.Model"):
            FACTORIES[part](*models, inner=optax.sgd(RATE), num_steps=1)


def test_convolutions_of_many_tasks_at_once() -> None:
    model = mj.models.from_linen(mj.models.ConvNet(OUTPUTS, 2, blocks=1))
    support, query = oracles.normals(0, (2, SUPPORT, 4, 4, 1), (2, QUERY, 4, 4, 1))
    targets = (jnp.tile(jnp.arange(len(x[0])) % OUTPUTS, (2, 1)) for x in (support, query))
    episodes = mj.Episode(*map(mj.Examples, (support, query), targets))
    params = oracles.normal_like(
        1, jax.eval_shape(model.init, jax.random.key(0), episodes.support.inputs[0])
    )
    keys = mj.task_keys(jax.random.key(0), 2)
    labels = {name: "head" if name == "Dense_0" else "body" for name in params}
    rules = {"head": optax.sgd(RATE), "body": optax.set_to_zero()}

    def gradient(chunk_size: int, **options: Any) -> Any:
        loss = mj.maml(model, num_steps=STEPS, **options).loss
        return jax.jit(
            lambda params: mj.meta_gradient(loss, params, episodes, keys, chunk_size=chunk_size)
        )(params)

    expected = gradient(1, inner=optax.partition(rules, labels))
    oracles.assert_close(gradient(2, inner=optax.sgd(RATE), adapt="Dense_0"), expected, 1e-11)
