"""Modules of Equinox, as people have them. Equinox may be missing, so each makes its own."""

from typing import Any

import jax
import jax.numpy as jnp
import trial_episodes
from trial import Brought, Trial
from trial_episodes import WAYS

from metajax.models import from_equinox
from metajax.types import Array, Key, Model, Params

KEYS = jax.random.split(jax.random.key(5), 4)


def as_built(model: Model, module: Any, *, drops: bool = False) -> Brought:
    """A module on each item, which for one that drops gets a key of its own."""
    import equinox as eqx

    static = eqx.partition(module, eqx.is_inexact_array)[1]

    def by_hand(params: Params, inputs: Any, key: Key | None) -> Any:
        whole = eqx.combine(params, static)
        if not drops or key is None:
            return jax.vmap(eqx.nn.inference_mode(whole))(inputs)
        keys = jax.random.split(key, len(jax.tree.leaves(inputs)[0]))
        return jax.vmap(lambda item, key: whole(item, key=key))(inputs, keys)

    return Brought(model, by_hand)


def perceptron() -> Brought:
    import equinox as eqx

    module = eqx.nn.MLP(3, WAYS, 4, 1, jnp.tanh, key=KEYS[0])
    return as_built(from_equinox(module), module)


def builder() -> Brought:
    import equinox as eqx

    def build(key: Key) -> Any:
        return eqx.nn.MLP(3, WAYS, 4, 1, jnp.tanh, key=key)

    return as_built(from_equinox(lambda key: build(key)), build(KEYS[0]))


def dropout() -> Brought:
    import equinox as eqx

    module = eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 4, key=KEYS[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.Dropout(0.2),
            eqx.nn.Linear(4, WAYS, key=KEYS[1]),
        ]
    )
    return as_built(from_equinox(module), module, drops=True)


def batch_norm() -> Brought:
    import equinox as eqx

    class Normed(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        last: eqx.nn.Linear

        def __init__(self, key: Key) -> None:
            first, last = jax.random.split(key)
            self.first = eqx.nn.Linear(3, 4, key=first)
            self.norm = eqx.nn.BatchNorm(4, axis_name="items", mode="batch")
            self.last = eqx.nn.Linear(4, WAYS, key=last)

        def __call__(self, x: Array, state: Any) -> tuple[Array, Any]:
            x, state = self.norm(self.first(x), state)
            return self.last(jnp.tanh(x)), state

    build = eqx.nn.make_with_state(Normed)
    module, state = build(KEYS[0])
    static = eqx.partition(module, eqx.is_inexact_array)[1]

    def by_hand(params: Params, inputs: Array, key: Key | None) -> Array:
        whole = eqx.combine(params, static)
        by_items = {"axis_name": "items", "in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(whole, **by_items)(inputs, state)[0]

    return Brought(from_equinox(build), by_hand)


def conv_net() -> Brought:
    import equinox as eqx

    module = eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: jnp.moveaxis(x, -1, 0)),
            eqx.nn.Conv2d(2, 4, 3, key=KEYS[0]),
            eqx.nn.GroupNorm(2, 4),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, WAYS, key=KEYS[1]),
        ]
    )
    return as_built(from_equinox(module), module)


def lstm() -> Brought:
    import equinox as eqx

    class Reader(eqx.Module):
        cell: eqx.nn.LSTMCell
        last: eqx.nn.Linear

        def __call__(self, x: Array) -> Array:
            start = (jnp.zeros(4), jnp.zeros(4))
            (hidden, _), _ = jax.lax.scan(lambda at, x: (self.cell(x, at), None), start, x)
            return self.last(hidden)

    module = Reader(eqx.nn.LSTMCell(3, 4, key=KEYS[0]), eqx.nn.Linear(4, WAYS, key=KEYS[1]))
    return as_built(from_equinox(module), module)


def attention() -> Brought:
    import equinox as eqx

    class Attending(eqx.Module):
        norm: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        last: eqx.nn.Linear

        def __call__(self, x: Array) -> Array:
            y = jax.vmap(self.norm)(x)
            return self.last((x + self.attention(y, y, y)).mean(0))

    module = Attending(
        eqx.nn.LayerNorm(3),
        eqx.nn.MultiheadAttention(1, 3, key=KEYS[0]),
        eqx.nn.Linear(3, WAYS, key=KEYS[1]),
    )
    return as_built(from_equinox(module), module)


FROM_EQUINOX = "`from_equinox(module)`"


def trial(*args: Any, **options: Any) -> Trial:
    return Trial(*args, needs="equinox", **options)


TRIALS = (
    trial("Equinox, perceptron", perceptron, FROM_EQUINOX, "begins at its weights", fast=True),
    trial("Equinox, a function that builds", builder, "`from_equinox(build)`", "begins anew"),
    trial("Equinox, dropout", dropout, FROM_EQUINOX, "an item has its own mask", draws=True),
    trial(
        "Equinox, batch norm",
        batch_norm,
        "`from_equinox(eqx.nn.make_with_state(Net))`",
        "the batch, in both modes",
        shares=True,
    ),
    trial("Equinox, convolutions", conv_net, FROM_EQUINOX, sample=trial_episodes.images),
    trial("Equinox, LSTM", lstm, FROM_EQUINOX, "`lax.scan`", sample=trial_episodes.sequences),
    trial("Equinox, attention", attention, FROM_EQUINOX, sample=trial_episodes.sequences),
)
