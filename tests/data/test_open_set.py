"""Episodes with strangers: the rest of the classes is asked for, and no longer shown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, classes_of, items_of, many, numbered

import metajax as mj

COUNTS = [6, 9, 7, 8, 12, 6]
KEYS = jax.random.split(jax.random.key(0), 4)


def _whole(place: str = "device") -> mj.data.ImageEpisodes:
    return mj.data.image_episodes(numbered(COUNTS), ways=4, shots=2, queries=3, place=place)


def test_the_support_set_has_the_known_classes_and_the_query_set_all() -> None:
    sample = _whole()
    opened = mj.data.with_strangers(sample, 3)
    whole, (support, query) = many(sample, 50), many(opened, 50)
    assert support.inputs.shape[:2] == (50, 6)
    np.testing.assert_array_equal(support.inputs, whole.support.inputs[:, :6])
    np.testing.assert_array_equal(support.targets[7], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(query.inputs, whole.query.inputs)
    np.testing.assert_array_equal(query.targets[7], [0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, -1])
    for known, asked in zip(classes_of(support), classes_of(query), strict=True):
        assert set(known) | set(asked[9:]) == set(asked)
        assert not set(known) & set(asked[9:])


def test_every_class_is_as_often_a_stranger() -> None:
    query = many(mj.data.with_strangers(_whole(), 3), 3000).query
    assert_uniform(np.bincount(classes_of(query)[:, -1]))


def test_the_host_draws_the_same_and_data_are_arguments() -> None:
    device, host = (mj.data.with_strangers(_whole(place), 2) for place in ("device", "host"))
    assert isinstance(device, mj.data.ImageEpisodes)
    assert isinstance(host, mj.data.HostEpisodes)
    for key in KEYS:
        jax.tree.map(np.testing.assert_array_equal, device(key), host(key))
    assert sum(leaf.size for leaf in jax.tree.leaves(device)) >= 48 * 16
    drawn = jax.jit(lambda sample, key: sample(key))(device, KEYS[0])
    jax.tree.map(np.testing.assert_array_equal, drawn, device(KEYS[0]))


@pytest.mark.parametrize("place", ["device", "host"])
def test_lists(place: str) -> None:
    drawn = jax.vmap(_whole().draw)(KEYS)
    # Not class by class.
    order = jax.tree.map(lambda x: x[:, ::-1], drawn)
    listed = mj.data.listed_episodes(numbered(COUNTS), order, place=place)
    opened = mj.data.with_strangers(listed, 3)
    assert opened.listed == 4
    for index in (0, 3):
        support, query = opened.at(KEYS[0], index)
        whole = listed.at(KEYS[0], index)
        np.testing.assert_array_equal(support.targets, [2, 2, 1, 1, 0, 0])
        np.testing.assert_array_equal(support.inputs, whole.support.inputs[2:])
        np.testing.assert_array_equal(query.targets, [-1] * 3 + [2] * 3 + [1] * 3 + [0] * 3)
        np.testing.assert_array_equal(query.inputs, whole.query.inputs)


def test_where_ways_vary_strangers_become_padding() -> None:
    whole = mj.data.varying_episodes(numbered(COUNTS), min_ways=2, max_ways=5, max_queries=3)
    before, (support, query) = many(whole, 40), many(mj.data.with_strangers(whole, 3), 40)
    assert support.weights is not None
    kept = (np.asarray(before.support.targets) < 3) & (np.asarray(before.support.weights) > 0)
    np.testing.assert_array_equal(np.asarray(support.weights) > 0, kept)
    assert (np.asarray(support.targets) < 3).all()
    assert not items_of(support)[~kept].clip(0).any()
    strange = np.asarray(before.query.targets) >= 3
    np.testing.assert_array_equal(np.asarray(query.targets) == -1, strange)
    np.testing.assert_array_equal(query.weights, before.query.weights)
    by_episode = (strange & (np.asarray(query.weights) > 0)).any(1)
    assert by_episode.any()
    assert not by_episode.all()


def test_strangers_of_strangers_stay_strangers() -> None:
    twice = mj.data.with_strangers(mj.data.with_strangers(_whole(), 3), 2)
    once = mj.data.with_strangers(_whole(), 2)
    drawn = [jax.jit(sample.draw)(KEYS[0]) for sample in (twice, once)]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


def test_what_cannot_be_opened() -> None:
    for known in (4, 5):
        with pytest.raises(ValueError, match=f"known={known} of episodes of 4 classes; expected f"):
            mj.data.with_strangers(_whole(), known)
    with pytest.raises(ValueError, match="known=0; expected an integer of 1"):
        mj.data.with_strangers(_whole(), 0)
    with pytest.raises(TypeError, match="expected a sampler that image_episodes"):
        mj.data.with_strangers(lambda key: _whole()(key), 3)

    drawn = jax.tree.map(np.asarray, jax.vmap(_whole().draw)(KEYS))
    uneven = drawn.support.targets.copy()
    uneven[0, :2] = 3
    support = drawn.support._replace(targets=uneven)
    listed = mj.data.listed_episodes(numbered(COUNTS), drawn)
    uneven_list = dataclasses.replace(
        listed, draw=dataclasses.replace(listed.draw, drawn=drawn._replace(support=support))
    )
    with pytest.raises(ValueError, match="from 4 to 6 support items of labels below 3"):
        mj.data.with_strangers(uneven_list, 3)


def test_losses_refuse_strangers() -> None:
    encoder = mj.Model(lambda key, x: jnp.ones(1), lambda params, x: params * x.mean((1, 2)))
    learner = mj.prototypical_network(encoder)
    with pytest.raises(ValueError, match=r"query has the labels \[-1\] but no support item has"):
        mj.evaluate(learner, jnp.ones(1), mj.data.with_strangers(_whole(), 3), episodes=2)
