"""Episodes with strangers: the rest of the classes is asked for, and no longer shown."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, numbered

import metajax as mj

COUNTS = [6, 9, 7, 8, 12, 6]
KEYS = jax.random.split(jax.random.key(0), 4)


def _whole(place: str = "device") -> mj.data.ImageEpisodes:
    return mj.data.image_episodes(numbered(COUNTS), ways=4, shots=2, queries=3, place=place)


def _both(opened: mj.data.ImageEpisodes, draws: int) -> tuple[mj.data.Drawn, mj.data.Drawn]:
    """Episodes by places, before and after, by one program."""
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = jax.jit(jax.vmap(lambda key: (opened.draw.draw(key), opened.draw(key))))(keys)
    return jax.tree.map(np.asarray, drawn)


def test_the_support_set_has_the_known_classes_and_the_query_set_all() -> None:
    whole, (support, query) = _both(mj.data.with_strangers(_whole(), 3), 3000)
    for ours, theirs in zip(support[:3], whole.support[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs[:, :6])
    np.testing.assert_array_equal(support.targets[7], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(query.classes, whole.query.classes)
    np.testing.assert_array_equal(query.items, whole.query.items)
    np.testing.assert_array_equal(query.targets[7], [0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, -1])
    for known, asked in zip(support.classes[:20], query.classes[:20], strict=True):
        assert set(known) | set(asked[9:]) == set(asked)
        assert not set(known) & set(asked[9:])
    # Every class is as often a stranger.
    assert_uniform(np.bincount(query.classes[:, -1]))


def test_the_host_draws_the_same_and_data_are_arguments() -> None:
    device, host = (mj.data.with_strangers(_whole(place), 2) for place in ("device", "host"))
    assert isinstance(device, mj.data.ImageEpisodes)
    assert isinstance(host, mj.data.HostEpisodes)
    assert sum(leaf.size for leaf in jax.tree.leaves(device)) >= 48 * 16
    drawn = jax.jit(lambda sample, key: sample(key))(device, KEYS[0])
    jax.tree.map(np.testing.assert_array_equal, drawn, host(KEYS[0]))


@functools.cache
def _drawn() -> mj.data.Drawn:
    """Four whole episodes, by places."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(_whole().draw))(KEYS))


@pytest.mark.parametrize("place", ["device", "host"])
def test_lists(place: str) -> None:
    backwards = jax.tree.map(lambda x: x[:, ::-1], _drawn())
    listed = mj.data.listed_episodes(numbered(COUNTS), backwards, place=place)
    opened = mj.data.with_strangers(listed, 3)
    assert opened.listed == 4
    support, query = opened.draw.drawn
    np.testing.assert_array_equal(support.targets, [[2, 2, 1, 1, 0, 0]] * 4)
    np.testing.assert_array_equal(support.classes, backwards.support.classes[:, 2:])
    np.testing.assert_array_equal(support.items, backwards.support.items[:, 2:])
    np.testing.assert_array_equal(query.targets, [[-1] * 3 + [2] * 3 + [1] * 3 + [0] * 3] * 4)
    np.testing.assert_array_equal(query.items, backwards.query.items)


@pytest.mark.slow
def test_where_ways_vary_strangers_become_padding() -> None:
    whole = mj.data.varying_episodes(numbered(COUNTS), min_ways=2, max_ways=5, max_queries=3)
    before, (support, query) = _both(mj.data.with_strangers(whole, 3), 40)
    kept = (before.support.targets < 3) & (before.support.weights > 0)
    np.testing.assert_array_equal(support.weights > 0, kept)
    assert (support.targets < 3).all()
    assert not support.classes[~kept].any()
    strange = before.query.targets >= 3
    np.testing.assert_array_equal(query.targets == -1, strange)
    np.testing.assert_array_equal(query.weights, before.query.weights)
    by_episode = (strange & (query.weights > 0)).any(1)
    assert by_episode.any()
    assert not by_episode.all()


@pytest.mark.slow
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

    drawn = _drawn()
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
