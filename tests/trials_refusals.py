"""What cannot work, and the sentence that it ends in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from trial_episodes import WAYS, vectors

import metajax as mj
from metajax.models import from_linen, mlp
from metajax.types import Array, Params

KEY = jax.random.key(0)
INPUTS = jnp.ones((1, 3))


class Refusal(NamedTuple):
    """What somebody tried.

    Attributes:
      name: in the table of the documentation.
      call: ends in `error`.
      error: of this type.
      sentence: a part of the message, in the table too.
      needs: a package that may be missing.
      fast: whether it is among the tests that run by default.
    """

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    sentence: str
    needs: str | None = None
    fast: bool = True


def learner(model: mj.Model, **options: Any) -> mj.Learner:
    return mj.maml(model, **{"inner": optax.sgd(0.1), "num_steps": 1, **options})


def loss_of(model: mj.Model, params: Params = None, **options: Any) -> Any:
    """The loss of an episode; the parameters are those of `init` where none are given."""
    made = learner(model, **options)
    params = made.init(KEY, INPUTS) if params is None else params
    return jax.eval_shape(lambda params: made.loss(params, vectors(KEY)), params)


def dense() -> mj.Model:
    return from_linen(nn.Dense(WAYS))


def whole_variables() -> None:
    loss_of(dense(), nn.Dense(WAYS).init(KEY, INPUTS))


def integer_among() -> None:
    loss_of(mj.Model(lambda key: {"w": jnp.ones((3, 3)), "step": 0}, lambda p, x: x @ p["w"]))


def one_item() -> None:
    model = mj.Model(lambda key: jnp.ones((3, WAYS)), lambda params, x: x @ params)
    made = learner(model)
    task = made.adapt(jnp.ones((3, WAYS)), vectors(KEY).support)
    made.predict(jnp.ones((3, WAYS)), task, jnp.ones(3))


def module_as_parameters() -> None:
    import equinox as eqx

    loss_of(
        mj.Model(
            lambda key: eqx.nn.MLP(3, WAYS, 4, 1, key=key), lambda module, x: jax.vmap(module)(x)
        )
    )


def transformed_pair() -> None:
    import haiku as hk

    mj.Model(*hk.transform(lambda x: hk.Linear(WAYS)(x)))


def no_averages() -> None:
    loss_of(from_linen(nn.Sequential([nn.BatchNorm(use_running_average=True), nn.Dense(WAYS)])))


def no_vectors() -> None:
    class Spectral(nn.Module):
        @nn.compact
        def __call__(self, x: Array, train: bool = False) -> Array:
            return nn.SpectralNorm(nn.Dense(WAYS))(x, update_stats=train)

    loss_of(from_linen(Spectral()))


def loss_of_another_length() -> None:
    loss_of(dense(), loss_fn=lambda outputs, targets: outputs[:2, 0])


def another_width() -> None:
    made = learner(from_linen(nn.Dense(WAYS + 1)), ways=WAYS)
    jax.jit(made.loss).lower(made.init(KEY, INPUTS), vectors(KEY))


def required_flag() -> None:
    mj.Model(lambda key: {}, lambda params, x, train: x)


def drawing_always() -> None:
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            return nn.Dense(WAYS)(x + jax.random.normal(self.make_rng("noise"), x.shape))

    model = from_linen(Noisy())
    params = jax.eval_shape(model.init, KEY, INPUTS)
    jax.eval_shape(model.apply, params, INPUTS)


def silent_batch_norm() -> None:
    def centred(params: Params, x: Array) -> Array:
        return (x - x.mean(axis=0, keepdims=True)) @ params

    made = learner(mj.Model(lambda key: jnp.ones((3, WAYS)), centred))
    support, query = vectors(KEY)
    params = jnp.arange(9.0).reshape(3, 3)
    made.predict(params, made.adapt(params, support), query.inputs[:2])


def bytes_of_pixels() -> None:
    model = mlp((WAYS,))
    jax.eval_shape(model.init, KEY, jnp.ones((1, 4, 4, 1), jnp.uint8))


TRIALS = (
    Refusal(
        "whole variables as parameters",
        whole_variables,
        ValueError,
        "the parameters are the whole variables of a module",
    ),
    Refusal(
        "an integer among the parameters",
        integer_among,
        TypeError,
        "expected floats, which a gradient can move",
    ),
    Refusal(
        "one item without its axis",
        one_item,
        ValueError,
        "is it one item without an axis of items, inputs[None]?",
    ),
    Refusal(
        "a module of Equinox in `Model`",
        module_as_parameters,
        TypeError,
        "a module of Equinox becomes a model by metajax.models.from_equinox",
        "equinox",
        fast=False,
    ),
    Refusal(
        "`hk.transform` in `Model`",
        transformed_pair,
        TypeError,
        "modules of Flax, Equinox and Haiku have adapters",
        "haiku",
    ),
    Refusal(
        "batch norm by averages that nobody gave",
        no_averages,
        ValueError,
        "which the module keeps beside its parameters and nobody gave",
    ),
    Refusal(
        "spectral norm without its vectors",
        no_vectors,
        ValueError,
        "which the module keeps beside its parameters and nobody gave",
        fast=False,
    ),
    Refusal(
        "a loss of another length",
        loss_of_another_length,
        ValueError,
        "expected a scalar, or one value an item",
    ),
    Refusal(
        "a model of another width, compiled",
        another_width,
        ValueError,
        "expected [items, 3], one output a way",
    ),
    Refusal(
        "a flag without a default in `Model`",
        required_flag,
        TypeError,
        "Bind what is left, such as a flag, by functools.partial",
    ),
    Refusal(
        "random numbers without a key",
        drawing_always,
        ValueError,
        "expected a module that draws nothing then",
    ),
    Refusal(
        "batch norm by hand that says nothing",
        silent_batch_norm,
        ValueError,
        "an item's outputs depend on what is asked with it",
    ),
    Refusal("bytes into the library's networks", bytes_of_pixels, ValueError, "got uint8 inputs"),
)
