"""Functions of Haiku, as people have them. Haiku may be missing, so each imports it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import trial_episodes
from trial import Brought, Trial
from trial_episodes import WAYS

from metajax.models import from_haiku
from metajax.types import Array, Key, Params


def perceptron() -> Brought:
    import haiku as hk

    pure = hk.transform(lambda x: hk.nets.MLP([4, WAYS], activation=jnp.tanh)(x))
    return Brought(from_haiku(pure), lambda params, x, key: pure.apply(params, None, x))


def dropout() -> Brought:
    import haiku as hk

    def net(x: Array, is_training: bool) -> Array:
        x = jnp.tanh(hk.Linear(4)(x))
        x = hk.dropout(hk.next_rng_key(), 0.2, x) if is_training else x
        return hk.Linear(WAYS)(x)

    pure = hk.transform(net)
    return Brought(
        from_haiku(net), lambda params, x, key: pure.apply(params, key, x, key is not None)
    )


def normed(x: Array, is_training: bool) -> Array:
    import haiku as hk

    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    return hk.Linear(WAYS)(jnp.tanh(x))


def trained_state(pure: Any) -> Any:
    """Averages of a model that was trained elsewhere: any numbers, positive ones."""
    _, shapes = jax.eval_shape(lambda x: pure.init(jax.random.key(0), x, True), jnp.ones((1, 3)))
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda x: generator.uniform(0.5, 1.5, x.shape).astype(x.dtype), shapes)


def batch_norm() -> Brought:
    import haiku as hk

    pure = hk.transform_with_state(normed)
    begun = trained_state(pure)

    def by_hand(params: Params, x: Array, key: Key | None) -> Array:
        return pure.apply(params, begun, None, x, True)[0]

    return Brought(from_haiku(pure), by_hand)


def averages() -> Brought:
    import haiku as hk

    pure = hk.transform_with_state(normed)
    state = trained_state(pure)

    def by_hand(params: Params, x: Array, key: Key | None) -> Array:
        return pure.apply(params, state, None, x, False)[0]

    return Brought(from_haiku(pure, frozen=state), by_hand)


def lstm() -> Brought:
    import haiku as hk

    def net(x: Array) -> Array:
        core = hk.LSTM(4)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(len(x)), time_major=False)
        return hk.Linear(WAYS)(outputs[:, -1])

    pure = hk.transform(net)
    return Brought(from_haiku(net), lambda params, x, key: pure.apply(params, None, x))


def trial(*args: Any, **options: Any) -> Trial:
    return Trial(*args, needs="haiku", **options)


TRIALS = (
    trial("Haiku, `hk.transform`", perceptron, "`from_haiku(hk.transform(net))`", fast=True),
    trial(
        "Haiku, dropout", dropout, "`from_haiku(net)`", "`is_training` without default", draws=True
    ),
    trial(
        "Haiku, batch norm",
        batch_norm,
        "`from_haiku(hk.transform_with_state(net))`",
        "the batch, in both modes",
        shares=True,
    ),
    trial(
        "Haiku, trained batch norm",
        averages,
        "`from_haiku(hk.transform_with_state(net), frozen=state)`",
        "averages stay",
    ),
    trial("Haiku, LSTM", lstm, "`from_haiku(net)`", sample=trial_episodes.sequences),
)
