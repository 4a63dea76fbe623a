"""A fixed list of episodes: each scored once, in order, the same everywhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, numbered

import metajax as mj

DATA = numbered([4, 6, 5, 4])
SAMPLE = mj.data.image_episodes(DATA, ways=2, shots=1, queries=2)
DRAWN = jax.vmap(SAMPLE.draw)(jax.random.split(jax.random.key(0), 5))
ENCODER = mj.Model(
    lambda key, x: jax.random.normal(key, (16, 3)) / 4,
    lambda params, x: x.reshape(len(x), 16) @ params,
)


@pytest.mark.exact
def test_a_list_holds_the_episodes_it_was_made_of() -> None:
    listed = mj.data.listed_episodes(DATA, DRAWN)
    assert listed.listed == 5
    key = jax.random.key(1)
    for index, made_from in enumerate(jax.random.split(jax.random.key(0), 5)):
        chex.assert_trees_all_equal(listed.at(key, index), SAMPLE(made_from))


def test_a_key_draws_each_as_often() -> None:
    listed = mj.data.listed_episodes(DATA, DRAWN)
    drawn = jax.vmap(listed.draw)(jax.random.split(jax.random.key(2), 1000))
    found = [
        (np.asarray(drawn.query.items) == np.asarray(DRAWN.query.items[i])).all(axis=1)
        & (np.asarray(drawn.query.classes) == np.asarray(DRAWN.query.classes[i])).all(axis=1)
        for i in range(5)
    ]
    assert_uniform([matches.sum() for matches in found])


def test_evaluation_scores_each_once_in_order_whatever_the_seed() -> None:
    listed = mj.data.listed_episodes(DATA, DRAWN)
    learner = mj.prototypical_network(ENCODER)
    params = ENCODER.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    scores = mj.evaluate(learner, params, listed, seed=3)
    assert scores.episodes == 5
    expected = [learner.loss(params, listed.at(jax.random.key(0), index))[0] for index in range(5)]
    np.testing.assert_allclose(scores.scores["query_loss"], expected, rtol=1e-5)
    assert mj.evaluate(learner, params, listed, episodes=3).episodes == 3
    with pytest.raises(ValueError, match="episodes=6 of a list of 5; expected no more"):
        mj.evaluate(learner, params, listed, episodes=6)


def _changed(**changes: object) -> mj.data.Drawn:
    return DRAWN._replace(query=DRAWN.query._replace(**changes))


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (
            _changed(items=DRAWN.query.items[:, :1]),
            r"query places have shapes .* expected \[episodes",
        ),
        (
            _changed(classes=DRAWN.query.classes + 9),
            r"query has classes from \d+ to \d+; expected numbers in \[0, 4\)",
        ),
        (
            _changed(items=DRAWN.query.items + 6),
            r"query of episode 0 has item \d+ of class '\d', which has \d items, counted from 0",
        ),
        (_changed(targets=DRAWN.query.targets + 7), r"query has targets from 7 to 8; expected"),
        (
            _changed(turns=jnp.full(DRAWN.query.items.shape, 9)),
            r"query has turns from 9 to 9; expected numbers in \[0, 4\)",
        ),
        (_changed(items=DRAWN.query.items + 0.5), "query items are float32; expected whole"),
        (
            DRAWN._replace(query=jax.tree.map(lambda x: x[:3], DRAWN.query)),
            "5 support sets and 3 query sets; expected one of each",
        ),
        (
            DRAWN._replace(query=DRAWN.support),
            r"episode 0 has item \d of class '\d' twice; expected different images",
        ),
    ],
)
def test_lists_that_do_not_fit(drawn: mj.data.Drawn, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mj.data.listed_episodes(DATA, drawn)


def test_a_list_may_be_plain_numbers_and_padded() -> None:
    places = mj.data.Places([[0, 1, 3]], [[0, 0, -1]], [[0, 1, 0]], weights=[[1.0, 1.0, 0.0]])
    query = mj.data.Places([[0, 1]], [[1, 2]], [[0, 1]])
    episode = mj.data.listed_episodes(DATA, mj.data.Drawn(places, query)).at(jax.random.key(0), 0)
    assert episode.support.inputs[:, 0, 0, 0].tolist() == [1, 2, 0]
    with pytest.raises(TypeError, match=r"drawn is \(.*expected metajax.data.Drawn\(Places"):
        mj.data.listed_episodes(DATA, (places, query))


@pytest.mark.parametrize("place", ["device", "host"])
def test_what_is_not_listed_has_no_places(place: str) -> None:
    sample = mj.data.image_episodes(DATA, ways=2, shots=1, queries=2, place=place)
    with pytest.raises(TypeError, match="drawn by FixedDraws, without end; expected a list"):
        sample.at(jax.random.key(0), 0)
