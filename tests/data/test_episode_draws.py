"""Which images make an episode: uniform, of one group where asked, the same everywhere."""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, classes_of, items_of, many, numbered

import metajax as mj
from metajax.data.episode_draws import FixedDraws

COUNTS = [3, 9, 5, 4]
GROUPS = ("a", "b", "a", "b", "a", "c", "c")


def test_classes_of_different_sizes_are_drawn_alike_and_so_are_their_items() -> None:
    draws = 4000
    support, query = many(
        mj.data.image_episodes(numbered(COUNTS), ways=2, shots=1, queries=2), draws
    )
    for examples in (support, query):
        drawn = collections.Counter(
            zip(classes_of(examples).ravel(), items_of(examples).ravel(), strict=True)
        )
        assert set(drawn) == {(c, i) for c, count in enumerate(COUNTS) for i in range(count)}
        assert_uniform([sum(drawn[c, i] for i in range(n)) for c, n in enumerate(COUNTS)])
        for c, count in enumerate(COUNTS):
            assert_uniform([drawn[c, i] for i in range(count)])
    pairs = np.stack([classes_of(support), items_of(support)], -1)
    for episode, asked in zip(
        pairs, np.stack([classes_of(query), items_of(query)], -1), strict=True
    ):
        assert len({*map(tuple, episode), *map(tuple, asked)}) == 6


def test_an_episode_of_groups_is_of_one_group_drawn_by_weight() -> None:
    data = numbered([4] * 7, GROUPS)
    weights = {"b": 1.0, "a": 3.0}
    sample = mj.data.image_episodes(data, ways=2, shots=1, queries=1, groups=weights)
    drawn = classes_of(many(sample, 3000).support)
    group = np.array(GROUPS)[drawn]
    assert (group[:, 0] == group[:, 1]).all()
    assert_uniform([(group[:, 0] == name).sum() for name in weights], np.array([1.0, 3.0]))
    of_a = drawn[group[:, 0] == "a"]
    assert_uniform([(of_a == c).sum() for c in (0, 2, 4)])


def test_groups_alone_are_as_likely_each() -> None:
    sample = mj.data.image_episodes(
        numbered([4] * 7, GROUPS), ways=2, shots=1, queries=1, groups=True
    )
    group = np.array(GROUPS)[classes_of(many(sample, 3000).support)]
    assert_uniform([(group[:, 0] == name).sum() for name in "abc"])


def test_turned_classes_stay_in_their_group() -> None:
    data = numbered([3] * 7, GROUPS)
    sample = mj.data.image_episodes(
        data, ways=8, shots=1, queries=1, groups={"b": 1, "c": 1}, rotations="classes"
    )
    support, _ = jax.vmap(sample.draw)(jax.random.split(jax.random.key(0), 20))
    group = np.array(GROUPS)[np.asarray(support.classes)]
    assert all(len(set(names)) == 1 for names in group.tolist())
    of_class = np.stack([support.classes, support.turns], axis=-1)
    assert all(len({*map(tuple, pairs)}) == 8 for pairs in of_class.tolist())


def test_same_items_are_the_same_of_every_class() -> None:
    sample = mj.data.image_episodes(
        numbered([9, 5, 7]), ways=3, shots=2, queries=1, same_items=True
    )
    support, query = many(sample, 200)
    for examples in (support, query):
        items = items_of(examples).reshape(200, 3, -1)
        assert (items == items[:, :1]).all()
        assert_uniform([(items[:, 0] == i).sum() for i in range(5)])


@pytest.mark.exact
def test_draws_do_not_depend_on_how_they_are_run() -> None:
    data = numbered([4] * 7, GROUPS)
    for sample in (
        mj.data.image_episodes(data, ways=2, shots=1, queries=2, groups=True, rotations="tasks"),
        mj.data.image_episodes(data, ways=2, shots=1, queries=2, rotations="episode"),
        mj.data.varying_episodes(data, min_ways=2, max_ways=3, groups={"a": 2, "b": 1}),
    ):
        keys = jax.random.split(jax.random.key(0), 3)
        batched = jax.jit(jax.vmap(sample.draw))(keys)
        with jax.enable_x64(True):
            wide = jax.jit(jax.vmap(sample.draw))(keys)
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(wide), strict=True):
            np.testing.assert_array_equal(a, b)
        if isinstance(sample.draw, FixedDraws):  # The other takes many seconds uncompiled.
            one = jax.tree.leaves(sample.draw(keys[1]))
            for a, b in zip(one, jax.tree.leaves(batched), strict=True):
                np.testing.assert_array_equal(a, b[1])


def test_no_part_of_a_split_is_ever_in_an_episode_of_another() -> None:
    data = numbered([4, 6, 5, 3, 8, 4, 5, 7, 4, 6])
    parts = data.split({"train": 0.5, "validation": 0.2, "test": 0.3}, seed=1)
    seen = {}
    for name, part in parts.items():
        drawn: set[int] = set()
        samplers = [mj.data.image_episodes(part, ways=2, shots=1, queries=2)]
        if name == "train":
            samplers.append(mj.data.varying_episodes(part, min_ways=2, max_ways=4))
        for sample in samplers:
            for examples in many(sample, 200):
                drawn |= set(classes_of(examples).ravel().tolist())
        seen[name] = {str(c) for c in drawn - {-1}}  # -1 is padding.
        assert seen[name] == set(part.names)
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_device_holds_the_images_of_the_selected_classes_alone() -> None:
    data = numbered([4, 6, 5])
    sample = mj.data.image_episodes(data.select(["2", "0"]), ways=2, shots=1, queries=1)
    assert sample.images.shape[0] == 9
    assert set(classes_of(many(sample, 50).query).ravel()) == {0, 2}


# What a user can get wrong


def test_too_few_classes_and_items_are_named() -> None:
    data = numbered(COUNTS)
    with pytest.raises(ValueError, match="ways=5 but the data set has 4 classes; lower ways"):
        mj.data.image_episodes(data, ways=5, shots=1, queries=1)
    with pytest.raises(
        ValueError,
        match=r"takes 5 items of a class, but 2 of 4 classes have fewer: '0' \(3\), '3' \(4\); ",
    ):
        mj.data.image_episodes(data, ways=2, shots=2, queries=3)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"d": 1}, "no group is called 'd'; there are 3: 'a', 'b', 'c'"),
        ({"a": 0}, r"groups\['a'\]=0; expected a finite weight above 0"),
        ({"a": 1, "b": np.nan}, r"groups\['b'\]=nan; expected a finite weight above 0"),
        ({"a": 1.7e308, "b": 1.7e308}, "expected a finite weight above 0, up to 1e100"),
        ({"a": np.inf}, r"groups\['a'\]=inf; expected a finite weight above 0"),
        ({}, r"groups=\{\}; expected at least one, with its weight"),
        (
            True,
            r"takes 3 classes of a group, but 2 have fewer: 'b' \(2\), 'c' \(2\); lower ways, or",
        ),
    ],
)
def test_bad_groups(groups: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mj.data.image_episodes(numbered([4] * 7, GROUPS), ways=3, shots=1, queries=1, groups=groups)


def test_classes_of_groups_that_are_left_out_may_be_small() -> None:
    data = numbered([4, 1, 4, 1, 4, 4, 4], GROUPS)
    mj.data.image_episodes(data, ways=2, shots=1, queries=1, groups={"a": 1, "c": 1})
    with pytest.raises(ValueError, match=r"2 of 7 classes have fewer: '1' \(1\), '3' \(1\)"):
        mj.data.image_episodes(data, ways=2, shots=1, queries=1, groups=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ["a"]}, r"groups=\['a'\]; expected True, False, or a mapping"),
        ({"groups": {"a": "1"}}, r"groups\['a'\]='1'; expected a finite weight above 0"),
        ({"shots": 1.0}, "shots=1.0; expected an integer of 1 or more"),
    ],
)
def test_arguments_of_other_types(changes: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mj.data.image_episodes(
            numbered([4] * 7, GROUPS), **{"ways": 2, "shots": 1, "queries": 1, **changes}
        )


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, bool, complex])
def test_images_that_cannot_be_scaled(dtype: type) -> None:
    images = np.full((3, 4, 2, 2, 1), 300).astype(dtype)
    with pytest.raises(ValueError, match=r"images are .*; expected floats, or integers from 0 to"):
        mj.data.image_episodes(images, ways=2, shots=1, queries=1)


def test_groups_of_a_data_set_without() -> None:
    with pytest.raises(ValueError, match="groups=True but the data set has none"):
        mj.data.image_episodes(numbered(COUNTS), ways=2, shots=1, queries=1, groups=True)


def test_unknown_place_and_augmentation() -> None:
    data = numbered(COUNTS)
    with pytest.raises(ValueError, match='place=\'disk\'; expected "device" or "host"'):
        mj.data.image_episodes(data, ways=2, shots=1, queries=1, place="disk")
    with pytest.raises(TypeError, match=r"augment is 0\.5; expected a function, or None"):
        mj.data.image_episodes(data, ways=2, shots=1, queries=1, augment=0.5)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize(
    "augment", [lambda key, x: x[:1], lambda key, x: jnp.concatenate([x, x]), lambda key, x: x[0]]
)
def test_augmentations_that_lose_images(place: str, augment: Callable) -> None:
    sample = mj.data.image_episodes(
        numbered(COUNTS), ways=2, shots=1, queries=1, augment=augment, place=place
    )
    said = r"augment made .* of images \(4, 4, 4, 1\); expected an array of as many images"
    with pytest.raises(ValueError, match=said):
        sample(jax.random.key(0))
