"""Functions of somebody's own, without a framework."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import trial_episodes
from trial import Brought, Trial
from trial_episodes import WAYS

import metajax as mj
from metajax.types import Array, Key, Params


def start(key: Key, inputs: Array) -> Params:
    first, last = jax.random.split(key)
    return {
        "first": jax.random.normal(first, (inputs.shape[-1], 4)),
        "last": jax.random.normal(last, (4, WAYS)),
    }


def net(params: Params, x: Array) -> Array:
    return jnp.tanh(x @ params["first"]) @ params["last"]


def two_arguments() -> Brought:
    model = mj.Model(start, lambda params, x: net(params, x))
    return Brought(model, lambda params, x, key: net(params, x))


def compiled() -> Brought:
    return Brought(mj.Model(start, jax.jit(net)), lambda params, x, key: net(params, x))


def init_of_a_key() -> Brought:
    model = mj.Model(lambda key: start(key, jnp.ones((1, 3))), net)
    return Brought(model, lambda params, x, key: net(params, x))


def weights_by_name() -> Brought:
    def centred(params: Params, x: Array, weights: Array | None = None) -> Array:
        return net(params, x - jnp.average(x, axis=0, weights=weights)[None])

    return Brought(mj.Model(start, centred), lambda params, x, key: centred(params, x))


def said_so() -> Brought:
    def centred(params: Params, x: Array) -> Array:
        return net(params, x - x.mean(axis=0, keepdims=True))

    model = mj.Model(start, centred, sharing="batch")
    return Brought(model, lambda params, x, key: centred(params, x))


def key_by_name() -> Brought:
    def noisy(params: Params, x: Array, *, key: Key | None = None) -> Array:
        return net(params, x if key is None else x + 0.1 * jax.random.normal(key, x.shape))

    return Brought(mj.Model(start, noisy), lambda params, x, key: noisy(params, x, key=key))


def odd_parameters() -> Brought:
    class Head(NamedTuple):
        kernel: Array
        temperature: Array

    def begin(key: Key, inputs: Array) -> Any:
        kernels = start(key, inputs)
        return [Head(kernels["last"], jnp.ones(())), (kernels["first"], {"unused": None})]

    def apply(params: Any, x: Array) -> Array:
        head, (first, _) = params
        return jnp.tanh(x @ first) @ head.kernel * head.temperature

    return Brought(mj.Model(begin, apply), lambda params, x, key: apply(params, x))


MODEL = "`Model(init, apply)`"
TRIALS = (
    Trial("a function of two arguments", two_arguments, MODEL, "`(params, inputs)`"),
    Trial("a compiled function", compiled, MODEL, "`jax.jit(apply)`"),
    Trial("an `init` of a key alone", init_of_a_key, MODEL, "`init(key)`"),
    Trial(
        "a function that names `weights`",
        weights_by_name,
        MODEL,
        "leaves out padding itself",
        sample=trial_episodes.padded_vectors,
        shares=True,
    ),
    Trial(
        "a function of the whole batch",
        said_so,
        '`Model(init, apply, sharing="batch")`',
        "queries are answered with the support set each",
        shares=True,
    ),
    Trial(
        "a function that names `key`",
        key_by_name,
        MODEL,
        "draws in training",
        draws=True,
        fast=True,
    ),
    Trial("lists, tuples, scalars as parameters", odd_parameters, MODEL),
)
