"""Functions as people write them become models and objectives by the names of their parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import metajax as mj

KEY = jax.random.key(0)
INPUTS = jnp.ones((4, 2))


def start(key: jax.Array, inputs: jax.Array) -> dict:
    return {"w": jax.random.normal(key, (inputs.shape[-1], 3))}


def with_weights(params: dict, x: jax.Array, weights: jax.Array) -> jax.Array:
    return x @ params["w"] * weights.sum()


def with_key(params: dict, x: jax.Array, *, key: jax.Array | None) -> jax.Array:
    scale = 1.0 if key is None else jax.random.uniform(key)
    return x @ params["w"] * scale


def with_options(params: dict, x: jax.Array, **options: Any) -> jax.Array:
    assert not options
    return x @ params["w"]


def with_a_default(params: dict, x: jax.Array, train: bool = False) -> jax.Array:
    assert train is False
    return x @ params["w"]


APPLIES = (
    lambda params, x: x @ params["w"],
    with_weights,
    with_key,
    with_options,
    with_a_default,
    jax.jit(with_key),
    functools.partial(with_weights),
)


@pytest.mark.parametrize("apply", APPLIES)
def test_apply_is_given_what_it_names(apply: Callable) -> None:
    model = mj.Model(start, apply)
    params = model.init(KEY, INPUTS)
    weighs = apply is with_weights or isinstance(apply, functools.partial)
    outputs = model.apply(params, INPUTS, jnp.full(4, 0.5), None)
    assert jnp.allclose(outputs, INPUTS @ params["w"] * (2.0 if weighs else 1.0))
    assert model.sharing(params, INPUTS) == ("weighted" if weighs else "none")


def test_a_key_reaches_who_names_it() -> None:
    model = mj.Model(start, with_key)
    params = model.init(KEY, INPUTS)
    first, second = (model.apply(params, INPUTS, key=jax.random.key(seed)) for seed in (1, 2))
    assert not jnp.allclose(first, second)
    assert jnp.allclose(first, model.apply(params, INPUTS, key=jax.random.key(1)))


def test_init_may_do_without_inputs() -> None:
    model = mj.Model(lambda key: {"w": jnp.ones((2, 3))}, lambda params, x: x @ params["w"])
    assert model.apply(model.init(KEY, INPUTS), INPUTS).shape == (4, 3)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda params, x, train: x, r"missing a required argument: 'train'.*functools.partial"),
        (lambda params, rng, *inputs: inputs, "'rng' stands in the place of params or inputs"),
        (lambda params, key, x: x, "'key' stands in the place of|multiple values for argument"),
        (lambda params: params, "too many positional arguments"),
        (3, "apply is 3; expected a function"),
    ],
)
def test_what_apply_cannot_be(apply: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mj.Model(start, apply)


def test_what_init_cannot_be() -> None:
    with pytest.raises(TypeError, match=r"init has the parameters \(a, b, c\)"):
        mj.Model(lambda a, b, c: {}, lambda params, x: x)
    with pytest.raises(ValueError, match=r"sharing='some'; expected \"none\""):
        mj.Model(start, lambda params, x: x, sharing="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "apply",
    [
        lambda params, x: (x @ params["w"]).sum(),
        lambda params, x: (x @ params["w"])[0],
        lambda params, x: {"a": x, "b": x[:2]},
    ],
)
def test_outputs_are_one_an_item(apply: Callable) -> None:
    model = mj.Model(start, apply)
    with pytest.raises(ValueError, match=r"gave outputs of shape .* expected \[items, ...\] of bo"):
        model.apply(model.init(KEY, INPUTS), INPUTS)


def test_weights_of_a_model_that_cannot_leave_items_out() -> None:
    model = mj.Model(start, lambda params, x: (x - x.mean(0)) @ params["w"], sharing="batch")
    params = model.init(KEY, INPUTS)
    with pytest.raises(ValueError, match="the items have weights, and the model's items see each"):
        model.apply(params, INPUTS, jnp.ones(4))


def test_an_objective_is_told_of_training_where_it_asks() -> None:
    def plain(params: Any, examples: Any, key: Any, context: Any) -> tuple:
        return jnp.zeros(()), mj.ObjectiveAux(None, {})

    def asking(params: Any, examples: Any, key: Any, context: Any, training: bool) -> tuple:
        return jnp.full((), float(training)), mj.ObjectiveAux(None, {})

    given = ({}, mj.Examples(INPUTS, INPUTS), None, None)
    for loss, seen in ((plain, 0.0), (asking, 1.0)):
        objective = mj.Objective(start, loss, lambda params, inputs, kept: inputs)
        assert objective.loss(*given, training=True)[0] == seen
    with pytest.raises(TypeError, match=r"loss has the parameters \(x, y\), and is called with"):
        mj.Objective(start, lambda x, y: 0, lambda params, inputs, kept: inputs)


def test_what_is_bound_by_name_stays_bound() -> None:
    model = mj.Model(start, functools.partial(with_weights, weights=jnp.full(2, 3.0)))
    params = model.init(KEY, INPUTS)
    outputs = model.apply(params, INPUTS, jnp.full(4, 0.5))
    assert jnp.allclose(outputs, INPUTS @ params["w"] * 6.0)
    assert model.sharing(params, INPUTS) == "none"


def test_sharing_by_weights_takes_weights() -> None:
    with pytest.raises(TypeError, match="but apply has no parameter weights; expected one"):
        mj.Model(start, lambda params, x: x @ params["w"], sharing="weighted")
