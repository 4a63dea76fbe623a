"""Modules of Flax NNX, as people have them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import trial_episodes
from flax import nnx
from trial import Brought, Trial
from trial_episodes import WAYS

from metajax.models import from_nnx
from metajax.types import Array, Key, Model, Params

Build = Callable[[nnx.Rngs], Any]


def as_built(model: Model, module: nnx.Module, *, drops: bool = False) -> Brought:
    """A module in its own mode; one that drops does so where there is a key."""
    graph, start, rest = nnx.split(module, nnx.Param, ...)

    def by_hand(params: Params, inputs: Any, key: Key | None) -> Any:
        own, beside = jax.tree.map(lambda x: x, (start, rest))
        nnx.replace_by_pure_dict(own, params)
        whole = nnx.merge(graph, own, beside)
        if drops:
            whole.set_attributes(deterministic=key is None)
        if key is not None:
            whole.drop.rngs.key[...] = jax.random.fold_in(key, 0)
        return whole(inputs)

    return Brought(model, by_hand)


def plain(build: Build) -> Brought:
    return as_built(from_nnx(build), build(nnx.Rngs(0)))


class Perceptron(nnx.Module):
    """With dropout and batch normalisation, each where asked for."""

    def __init__(self, rngs: nnx.Rngs, rate: float = 0.0, norms: bool = False) -> None:
        wide: Any = jnp.result_type(float)
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, param_dtype=wide, rngs=rngs) if norms else None
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(4, WAYS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.first(x)
        x = x if self.norm is None else self.norm(x)
        return self.last(self.drop(nnx.tanh(x)))


def perceptron() -> Brought:
    return plain(
        lambda rngs: nnx.Sequential(
            nnx.Linear(3, 4, rngs=rngs), nnx.tanh, nnx.Linear(4, WAYS, rngs=rngs)
        )
    )


def dropping(rngs: nnx.Rngs) -> Perceptron:
    return Perceptron(rngs, rate=0.2)


def dropout() -> Brought:
    return as_built(from_nnx(dropping), dropping(nnx.Rngs(0)), drops=True)


def normed(rngs: nnx.Rngs) -> Perceptron:
    return Perceptron(rngs, norms=True)


def trained() -> Perceptron:
    """One with averages of its own, in evaluation."""
    module = normed(nnx.Rngs(0))
    assert module.norm is not None
    module.norm.mean = nnx.BatchStat(jnp.linspace(-0.5, 0.5, 4))
    module.norm.var = nnx.BatchStat(jnp.linspace(0.5, 1.5, 4))
    module.eval()
    return module


def batch_norm() -> Brought:
    module = trained()
    module.train()
    return as_built(from_nnx(normed), module)


def averages() -> Brought:
    module = trained()
    return as_built(from_nnx(normed, frozen=nnx.state(module, nnx.BatchStat)), module)


def built() -> Brought:
    module = trained()
    return as_built(from_nnx(module), module)


def gru() -> Brought:
    class Reader(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            cell = nnx.GRUCell(3, 4, param_dtype=jnp.result_type(float), rngs=rngs)
            self.read = nnx.RNN(cell, rngs=rngs)
            self.last = nnx.Linear(4, WAYS, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            return self.last(self.read(x)[:, -1])

    return plain(Reader)


FROM_NNX = "`from_nnx(build)`"
TRIALS = (
    Trial("NNX, perceptron", perceptron, FROM_NNX, fast=True),
    Trial("NNX, dropout", dropout, FROM_NNX, "a mask a task and step", draws=True),
    Trial("NNX, batch norm", batch_norm, FROM_NNX, "the batch, in both modes", shares=True),
    Trial(
        "NNX, trained batch norm",
        averages,
        "`from_nnx(build, frozen=nnx.state(module, nnx.BatchStat))`",
        "averages stay",
    ),
    Trial(
        "NNX, a module already built",
        built,
        "`from_nnx(module)` after `module.eval()`",
        "begins at its weights, averages stay",
    ),
    Trial("NNX, GRU", gru, FROM_NNX, sample=trial_episodes.sequences),
)
