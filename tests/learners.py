"""The table of learners that the contract tests drive: one row an algorithm."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import metajax as mj

WAYS, SHOTS, QUERIES, SIDE = 3, 2, 4, 8


class Row(NamedTuple):
    """A way to build a small learner on `[items, 8, 8, 1]` images of three ways."""

    name: str
    make: Callable[[], mj.Learner]
    loss_fn: Callable = mj.cross_entropy


def model() -> mj.Model:
    return mj.models.mlp((16, WAYS), stddev=0.3)


def encoder() -> mj.Model:
    return mj.models.mlp((16, 6), stddev=0.3)


def matching_with_everything() -> mj.Learner:
    return mj.matching_network(
        encoder(),
        support_encoder=encoder(),
        full_context=mj.models.full_context(6, read_steps=2),
        temperature=0.3,
        ways=WAYS,
    )


def reptile_carrying() -> mj.Learner:
    inner = optax.rmsprop(0.01, decay=0.9, initial_scale=1.0)
    return mj.reptile(model(), inner=inner, num_steps=2, carry_state=True)


def relation() -> mj.Learner:
    maps = mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1, features="map"))
    return mj.relation_network(maps, mj.models.relation_module(filters=4, hidden=4), ways=WAYS)


LEARNERS = (
    Row("maml", lambda: mj.maml(model(), inner=optax.sgd(0.1), num_steps=2)),
    Row("fomaml", lambda: mj.fomaml(model(), inner=optax.sgd(0.1), num_steps=2)),
    Row("reptile", lambda: mj.reptile(model(), inner=optax.sgd(0.1), num_steps=2)),
    Row("reptile_carry", reptile_carrying),
    Row("proto_maml", lambda: mj.proto_maml(encoder(), inner=optax.sgd(0.1), num_steps=2)),
    Row("fo_proto_maml", lambda: mj.fo_proto_maml(encoder(), inner=optax.sgd(0.1), num_steps=2)),
    Row("prototypical", lambda: mj.prototypical_network(encoder())),
    Row("matching", lambda: mj.matching_network(encoder())),
    Row("matching_full_context", matching_with_everything),
    Row("relation", relation, mj.match_error),
)


def episode(key: jax.Array, *, ways: int = WAYS) -> mj.Episode:
    """Noisy patterns, one a class, so that there is something to learn."""
    pattern_key, noise_key = jax.random.split(key)
    patterns = jax.random.normal(pattern_key, (ways, 1, SIDE, SIDE, 1))
    noise = jax.random.normal(noise_key, (ways, SHOTS + QUERIES, SIDE, SIDE, 1))
    images = patterns + 0.5 * noise

    def examples(images: jax.Array) -> mj.Examples:
        targets = jnp.repeat(jnp.arange(ways), images.shape[1])
        return mj.Examples(images.reshape(-1, *images.shape[2:]), targets)

    return mj.Episode(examples(images[:, :SHOTS]), examples(images[:, SHOTS:]))
