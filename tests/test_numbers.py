"""Integers and other numbers that users pass: one rule, one sentence."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

SAMPLE = mj.data.sinusoid_episodes(shots=1, queries=1)
MODEL = mj.models.mlp((1,))
LEARNER = mj.maml(MODEL, inner=optax.sgd(0.1), num_steps=1, loss_fn=mj.squared_error)
STATE = mj.init_state({}, optax.sgd(0.1), jax.random.key(0))
CLASSES = mj.data.image_classes(np.zeros((3, 4, 2, 2, 1), np.uint8))


def _train(**options: Any) -> Any:
    options = {"iterations": 1, "meta_batch": 1} | options
    return mj.train(LEARNER, optax.sgd(0.1), STATE, SAMPLE, **options)


def _fixed(**options: Any) -> Any:
    return mj.data.image_episodes(CLASSES, **({"ways": 2, "shots": 1, "queries": 1} | options))


def _gradient(**options: Any) -> Any:
    return mj.meta_gradient(LEARNER.loss, {}, SAMPLE(jax.random.key(0)), jnp.zeros(1), **options)


def _folder(**options: Any) -> Any:
    return mj.data.image_folder("nowhere", size=4, **options)


# A function, its argument, the least that it takes, whether it takes None.
INTEGERS: tuple[tuple[Callable, str, int, bool], ...] = (
    *[(_train, name, 1, False) for name in ("iterations", "meta_batch", "dispatch")],
    (_train, "chunk_size", 1, True),
    *[(_fixed, name, 1, False) for name in ("ways", "shots", "queries")],
    *[
        (lambda **options: mj.data.varying_episodes(CLASSES, **options), name, 1, False)
        for name in ("min_ways", "max_ways", "max_queries", "max_support", "max_class_support")
    ],
    (lambda **o: mj.data.sinusoid_episodes(**({"shots": 1} | o)), "queries", 1, False),
    (lambda drawers: mj.data.glyphs("test", drawers=drawers), "drawers", 1, False),
    (lambda size: mj.data.glyphs("test", size=size), "size", 8, False),
    (lambda seed: mj.data.glyphs("test", seed=seed), "seed", 0, False),
    (lambda seed: CLASSES.split({"a": 1.0}, seed=seed), "seed", 0, False),
    (mj.data.augmentation, "shift", 0, False),
    (lambda ahead: mj.data.stream_episodes(SAMPLE, [], ahead=ahead), "ahead", 1, False),
    (_folder, "workers", 1, True),
    (lambda episodes: mj.evaluate(LEARNER, {}, SAMPLE, episodes=episodes), "episodes", 2, True),
    (lambda seed: mj.evaluate(LEARNER, {}, SAMPLE, seed=seed), "seed", 0, False),
    (lambda **o: mj.evaluate(LEARNER, {}, SAMPLE, **o), "chunk_size", 1, True),
    (_gradient, "chunk_size", 1, True),
    (lambda model: mj.parallel.task_mesh(model=model), "model", 1, False),
    (lambda every: mj.Checkpoints("nowhere", options={}, every=every), "every", 1, False),
    (lambda keep: mj.Checkpoints("nowhere", options={}, keep=keep), "keep", 1, False),
    (lambda best: mj.Checkpoints("nowhere", options={}, best=best), "best", 0, False),
    *[
        (lambda make=make, **o: make(MODEL, inner=optax.sgd(0.1), **o), "num_steps", 0, False)
        for make in (mj.maml, mj.fomaml, mj.reptile, mj.proto_maml, mj.fo_proto_maml)
    ],
    (mj.Backward, "last_steps", 0, True),
    (
        lambda **o: mj.reptile(MODEL, inner=optax.sgd(0.1), num_steps=1, **o),
        *("batch_size", 1, True),
    ),
    *[
        (lambda ways, make=make: make(MODEL, ways=ways), "ways", 1, True)
        for make in (
            mj.linear_probe,
            mj.prototypical_network,
            mj.matching_network,
            mj.mahalanobis_head,
            mj.nearest_class_mean,
            mj.ridge_head,
        )
    ],
    (lambda max_steps: mj.linear_probe(MODEL, max_steps=max_steps), "max_steps", 1, False),
    (lambda ways: mj.relation_network(MODEL, MODEL, ways=ways), "ways", 1, True),
    (mj.models.strided_conv_net, "ways", 1, False),
    (mj.models.embedding_net, "filters", 1, False),
    (mj.models.full_context, "features", 1, False),
)


@pytest.mark.parametrize(
    ("call", "name", "least", "optional"),
    INTEGERS,
    ids=[f"{number}-{row[1]}" for number, row in enumerate(INTEGERS)],
)
def test_integers(call: Callable, name: str, least: int, optional: bool) -> None:
    otherwise = ", or None" if optional else ""
    for wrong in (least - 1, 1.5, True, math.nan, "3", np.float32(2)):
        expected = ValueError if wrong == least - 1 and wrong is not True else TypeError
        said = f"{name}={wrong!r}; expected an integer of {least} or more{otherwise}"
        with pytest.raises(expected, match=f"^{re.escape(said)}$"):
            call(**{name: wrong})
    if not optional:
        with pytest.raises(TypeError, match=f"^{name}=None; expected an integer"):
            call(**{name: None})


def test_an_array_is_no_integer_of_the_program() -> None:
    with pytest.raises(TypeError, match=r"shots=Array\(2.*\); expected .*: it is part of the prog"):
        mj.data.sinusoid_episodes(shots=jnp.array(2), queries=1)  # type: ignore[arg-type]


def test_integers_that_overflow_are_none() -> None:
    with pytest.raises(
        TypeError, match=r"^shots=np.uint8\(200\); expected .*: int\(shots\), since"
    ):
        mj.data.sinusoid_episodes(shots=np.uint8(200), queries=100)  # type: ignore[arg-type]


def test_integers_of_numpy_are_integers() -> None:
    episode = mj.data.sinusoid_episodes(shots=np.int64(2), queries=np.uint32(1))(jax.random.key(0))
    assert episode.support.inputs.shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "outside"), [("rotation", 181), ("crop", 0), ("noise", -1.0), ("fill", math.inf)]
)
def test_numbers(name: str, outside: float) -> None:
    for wrong, error in ((outside, ValueError), (math.nan, ValueError), (True, TypeError)):
        with pytest.raises(error, match=f"^{name}={re.escape(repr(wrong))}; expected "):
            mj.data.augmentation(**{name: wrong})
