"""Meta-SGD: a hand-unrolled oracle, and identities with MAML."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

RATE, STEPS = 0.3, 2
SUPPORT, QUERY, FEATURES, OUTPUTS = 6, 9, 4, 2
MODEL = mj.models.mlp((5, OUTPUTS))
KEY = jax.random.key(0)


def _episode() -> mj.Episode:
    support, query = oracles.normals(0, (SUPPORT, FEATURES), (QUERY, FEATURES))
    targets = oracles.normals(2, (SUPPORT, OUTPUTS), (QUERY, OUTPUTS))
    return mj.Episode(mj.Examples(support, targets[0]), mj.Examples(query, targets[1]))


def _theta() -> Any:
    return oracles.normal_like(1, jax.eval_shape(MODEL.init, KEY, _episode().support.inputs))


def _learner(**options: Any) -> mj.Learner:
    defaults = {"num_steps": STEPS, "rate": RATE, "loss_fn": mj.squared_error}
    return mj.meta_sgd(MODEL, **(defaults | options))


def _params(learner: mj.Learner, scatter: float = 0.1) -> mj.MetaSGDParams:
    shapes = jax.eval_shape(learner.init, KEY, _episode().support.inputs).rates
    noise = oracles.normal_like(3, shapes, scatter)
    return mj.MetaSGDParams(_theta(), jax.tree.map(lambda x: RATE + x, noise))


def _slope(learner: mj.Learner) -> Callable[[Any], Any]:
    def run(params: Any) -> Any:
        (value, _), gradient = jax.value_and_grad(learner.loss, has_aux=True)(params, _episode())
        return value, gradient

    return jax.jit(run)


def _loss(params: Any, examples: mj.Examples) -> jax.Array:
    outputs = oracles.perceptron(params, examples.inputs)
    return oracles.mean_squared_error(outputs, examples.targets)


def _maml(rate: Any = RATE, **options: Any) -> mj.Learner:
    options = {"num_steps": STEPS, "loss_fn": mj.squared_error} | options
    return mj.maml(MODEL, inner=optax.sgd(rate), **options)


@pytest.mark.parametrize("per_step", [False, True], ids=["", "per step"])
@pytest.mark.parametrize("granularity", ["parameter", "leaf"])
def test_meta_gradient_is_the_unrolled_loops(granularity: str, per_step: bool) -> None:
    learner = _learner(granularity=granularity, per_step=per_step)
    support, query = _episode()

    def unrolled(params: mj.MetaSGDParams) -> jax.Array:
        def at(step: int) -> jax.Array:
            rates = jax.tree.map(lambda x: x[step], params.rates) if per_step else params.rates
            whole = jax.tree.map(jnp.broadcast_to, rates, jax.tree.map(jnp.shape, params.model))
            return ravel_pytree(whole)[0]

        return oracles.maml_loss(
            lambda phi, _: _loss(phi, support),
            lambda phi: _loss(phi, query),
            params.model,
            oracles.scheduled_sgd([at(step) for step in range(STEPS)]),
            STEPS,
        )

    params = _params(learner)
    expected = jax.jit(jax.value_and_grad(unrolled))(params)
    oracles.assert_close(_slope(learner)(params), expected)


def test_constant_rates_are_maml() -> None:
    for first_order in (False, True):
        learner = _learner(first_order=first_order)
        value, gradient = _slope(learner)(_params(learner, scatter=0.0))
        expected = _slope(_maml(first_order=first_order))(_theta())
        oracles.assert_close((value, gradient.model), expected)

        def of_rate(rate: jax.Array, first_order: bool = first_order) -> jax.Array:
            return _maml(rate, first_order=first_order).loss(_theta(), _episode())[0]

        total = sum(leaf.sum() for leaf in jax.tree.leaves(gradient.rates))
        np.testing.assert_allclose(total, jax.jit(jax.grad(of_rate))(RATE), rtol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
def test_after_one_step_a_rate_has_the_product_of_the_gradients(first_order: bool) -> None:
    learner = _learner(num_steps=1, first_order=first_order)
    params = _params(learner)
    support, query = _episode()
    before = jax.grad(_loss)(params.model, support)
    phi = jax.tree.map(lambda x, rate, slope: x - rate * slope, *params, before)
    after = jax.grad(_loss)(phi, query)
    _, gradient = _slope(learner)(params)
    oracles.assert_close(gradient.rates, jax.tree.map(lambda a, b: -a * b, before, after))


def test_a_rate_of_zero_leaves_a_parameter_alone() -> None:
    whole, part = _learner(), _learner(adapt="Dense_1")
    params = _params(part)
    assert jax.tree.leaves(params.rates["Dense_0"]) == []
    value, gradient = _slope(part)(params)
    zeros = jax.tree.map(jnp.zeros_like, params.model["Dense_0"])
    stopped = params._replace(rates={**params.rates, "Dense_0": zeros})
    expected_value, expected = _slope(whole)(stopped)
    oracles.assert_close((value, gradient.model), (expected_value, expected.model))
    oracles.assert_close(gradient.rates["Dense_1"], expected.rates["Dense_1"])


@pytest.mark.parametrize("per_step", [False, True], ids=["", "per step"])
@pytest.mark.parametrize("granularity", ["parameter", "leaf"])
def test_rates_start_in_their_range(granularity: str, per_step: bool) -> None:
    options = {"granularity": granularity, "per_step": per_step}

    def start(rate: Any) -> mj.MetaSGDParams:
        return jax.jit(_learner(rate=rate, **options).init)(KEY, _episode().support.inputs)

    params = start((0.005, 0.1))
    steps = (STEPS,) if per_step else ()
    for rate, leaf in zip(
        jax.tree.leaves(params.rates), jax.tree.leaves(params.model), strict=True
    ):
        assert rate.shape == steps + (leaf.shape if granularity == "parameter" else ())
        assert ((rate >= 0.005) & (rate <= 0.1)).all()
    drawn = ravel_pytree(params.rates)[0]
    assert len(jnp.unique(drawn)) == len(drawn)
    constant = start(0.01)
    np.testing.assert_allclose(ravel_pytree(constant.rates)[0], 0.01, rtol=1e-6)
    oracles.assert_close(constant.model, params.model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": "fast"}, TypeError, r"rate='fast'; expected a finite number, or the range"),
        ({"rate": (0.1, 0.2, 0.3)}, TypeError, r"rate=\(0.1, 0.2, 0.3\); expected a finite"),
        ({"rate": float("nan")}, ValueError, r"rate=nan; expected a finite number"),
        ({"rate": (0.2, 0.1)}, ValueError, r"rate=0.1; expected the end of the range from 0.2"),
        ({"granularity": "layer"}, ValueError, r"granularity='layer'; expected \"parameter\" or"),
        ({"per_step": 1}, TypeError, r"per_step=1; expected True or False"),
        ({"adapt": 7}, TypeError, r"adapt=7; expected a path"),
    ],
)
def test_bad_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        _learner(**options)


def test_parameters_without_rates() -> None:
    learner = _learner()
    with pytest.raises(
        ValueError, match=r"the parameters hold Dense_0/bias, which the model has not"
    ):
        learner.loss(_theta(), _episode())
    per_step = _params(_learner(per_step=True))
    with pytest.raises(ValueError, match=r"the parameter rates/.* has shape \(2, .*; the model"):
        learner.loss(per_step, _episode())
