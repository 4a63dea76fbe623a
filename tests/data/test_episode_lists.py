"""A fixed list of episodes: each scored once, in order, the same everywhere."""

import dataclasses

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
            r"query places have the shapes .*'items': \(5, 1\).*; expected \[episodes, n\] each",
        ),
        (
            _changed(classes=DRAWN.query.classes + 9),
            r"query classes of episode 0 hold \d+ at place 0; expected numbers in \[0, 4\)",
        ),
        (
            _changed(classes=DRAWN.query.classes.at[2, 3].set(-1)),
            r"query classes of episode 2 hold -1 at place 3; expected",
        ),
        (
            _changed(items=DRAWN.query.items.at[1, 2].set(6)),
            r"query items of episode 1 hold 6 at place 2; expected numbers in \[0, [456]\)",
        ),
        (
            _changed(items=DRAWN.query.items.at[1, 2].set(-1)),
            r"query items of episode 1 hold -1 at place 2; expected numbers in \[0, [456]\)",
        ),
        (
            _changed(targets=DRAWN.query.targets + 7),
            r"query targets of episode 0 hold 7 at place 0; expected numbers in \[0, 2\)",
        ),
        (
            _changed(turns=jnp.full(DRAWN.query.items.shape, 9)),
            r"query turns of episode 0 hold 9 at place 0; expected numbers in \[0, 4\)",
        ),
        (_changed(items=DRAWN.query.items + 0.5), "query items are float32; expected whole"),
        (
            DRAWN._replace(query=jax.tree.map(lambda x: x[:3], DRAWN.query)),
            "5 support sets and 3 query sets; expected one of each",
        ),
        (
            DRAWN._replace(query=DRAWN.support),
            r"episode 0 has item (\d) of class '(\d)' with label 1 and item \1 of class '\2' with "
            "label 1; expected different images in support and query",
        ),
        (
            _changed(targets=1 - DRAWN.query.targets),
            r"episode 0 has item \d of class '(\d)' with label 0 and item \d of class '\1' with "
            "label 1; expected one label a class, the same in both sets",
        ),
        (
            DRAWN._replace(
                support=DRAWN.support._replace(targets=DRAWN.support.targets * 0),
                query=DRAWN.query._replace(targets=DRAWN.query.targets * 0),
            ),
            r"episode 0 has item \d of class '\d' with label 0 and item \d of class '\d' with "
            "label 0; expected one label a class, of no other",
        ),
        (
            _changed(weights=jnp.ones(DRAWN.query.items.shape).at[3, 0].set(-1)),
            "query weights of episode 3 hold -1.0; expected finite numbers of 0 or more",
        ),
        (
            _changed(weights=jnp.ones(DRAWN.query.items.shape).at[4].set(0)),
            "query weights of episode 4 are all 0",
        ),
    ],
)
def test_lists_that_do_not_fit(drawn: mj.data.Drawn, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mj.data.listed_episodes(DATA, drawn)


def test_turns_of_images_that_are_not_square() -> None:
    wide = dataclasses.replace(DATA, images=DATA.images[:, :3])
    mj.data.listed_episodes(wide, DRAWN)
    message = r"query has turns of images of shape \(3, 4, 1\); expected square images"
    with pytest.raises(ValueError, match=message):
        mj.data.listed_episodes(wide, _changed(turns=jnp.zeros(DRAWN.query.items.shape, int)))


def test_a_turned_class_is_another_and_counts_as_its_own() -> None:
    """In turns an image comes several times; within a class each item may have its own turn."""
    support = mj.data.Places([[0, 0]], [[1, 2]], [[0, 0]], [[0, 3]])
    query = mj.data.Places([[0, 1]], [[1, 1]], [[0, 1]], [[3, 0]])
    assert mj.data.listed_episodes(DATA, mj.data.Drawn(support, query)).listed == 1
    apart = query._replace(targets=[[1, 1]], turns=[[2, 2]])
    with pytest.raises(ValueError, match="expected one label a class, of no other"):
        mj.data.listed_episodes(DATA, mj.data.Drawn(support, apart))
    turned = query._replace(classes=[[0, 0]], turns=[[2, 2]], items=[[1, 0]], targets=[[1, 1]])
    assert mj.data.listed_episodes(DATA, mj.data.Drawn(support, turned)).listed == 1


def test_a_list_may_be_plain_numbers_and_padded() -> None:
    places = mj.data.Places([[0, 1, 9]], [[0, 0, -1]], [[0, 1, 7]], weights=[[1.0, 1.0, 0.0]])
    query = mj.data.Places([[0, 1]], [[1, 2]], [[0, 1]])
    episode = mj.data.listed_episodes(DATA, mj.data.Drawn(places, query)).at(jax.random.key(0), 0)
    assert episode.support.inputs[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert episode.support.targets.tolist() == [0, 1, 0]
    with pytest.raises(TypeError, match=r"support classes is \[\[0\], \[0, 1\]\]; expected arrays"):
        mj.data.listed_episodes(DATA, mj.data.Drawn(places._replace(classes=[[0], [0, 1]]), query))
    with pytest.raises(TypeError, match=r"drawn is \(.*expected metajax.data.Drawn\(Places"):
        mj.data.listed_episodes(DATA, (places, query))


@pytest.mark.parametrize("place", ["device", "host"])
def test_what_is_not_listed_has_no_places(place: str) -> None:
    sample = mj.data.image_episodes(DATA, ways=2, shots=1, queries=2, place=place)
    with pytest.raises(TypeError, match="drawn by FixedDraws, without end; expected a list"):
        sample.at(jax.random.key(0), 0)


@pytest.mark.parametrize("place", ["device", "host"])
def test_episodes_that_are_not_on_the_list(place: str) -> None:
    listed, key = mj.data.listed_episodes(DATA, DRAWN, place=place), jax.random.key(0)
    assert listed.at(key, np.uint8(4)).query.targets.shape == (4,)
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"index={wrong}; expected an episode in \[0, 5\)"):
            listed.at(key, wrong)
    with pytest.raises(TypeError, match=r"the index is float\d\d; expected an integer"):
        listed.at(key, 1.0)
