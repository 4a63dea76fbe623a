"""Episodes across sources: no query by a source of the support, all choices as likely."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, numbered

import metajax as mj

# Of seven classes the source of each item: "a" drew some classes twice, "e" one alone.
BY = ["abcd", "abcdb", "abc", "aabcd", "bcde", "abcd", "bcd"]
GROUPS = ("x", "x", "x", "y", "y", "y", "y")


def _data(by=tuple(BY), groups=GROUPS) -> mj.data.ImageClasses:
    data = numbered([len(drawn) for drawn in by], groups)
    return dataclasses.replace(data, sources=np.array([*"".join(by)]))


def _sampler(ways=2, shots=1, queries=2, data=None, **options):
    return mj.data.image_episodes(
        _data() if data is None else data,
        ways=ways,
        shots=shots,
        queries=queries,
        across_sources=True,
        **options,
    )


def _drawn(sample, draws=2000, seed=0) -> mj.data.Drawn:
    keys = jax.random.split(jax.random.key(seed), draws)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample.draw))(keys))


def _sources(places: mj.data.Places, by=tuple(BY)) -> np.ndarray:
    table = np.array([[*drawn.ljust(5)] for drawn in by])
    return table[places.classes, places.items]


@pytest.mark.parametrize("shots", [1, 2])
def test_no_query_is_by_a_source_of_the_support(shots: int) -> None:
    support, query = _drawn(_sampler(shots=shots))
    asked = _sources(support).reshape(-1, 2, shots)
    for one, others in zip(asked, _sources(query), strict=True):
        # One item by each of the same sources, and queries that are there, by others.
        assert len({*one[0]}) == shots
        assert (one == one[:1]).all()
        assert not {*one[0]} & {*others}
    assert not {" "} & {*asked.ravel(), *_sources(query).ravel()}
    for classes, items in zip(query.classes, query.items, strict=True):
        assert classes[0] == classes[1] != classes[2] == classes[3]
        assert items[0] != items[1]
        assert items[2] != items[3]
    np.testing.assert_array_equal(query.targets, np.tile(np.repeat(np.arange(2), 2), (2000, 1)))


def test_every_class_with_every_of_its_sources_is_as_likely() -> None:
    support, query = _drawn(_sampler(), draws=6000)
    pairs = [
        f"{c}{source}"
        for c, source in zip(support.classes[:, 0], _sources(support)[:, 0], strict=True)
    ]
    # "e" drew one class alone, so never a support set; all others leave two queries.
    possible = {f"{c}{source}" for c, by in enumerate(BY) for source in by} - {"4e"}
    assert {*pairs} == possible
    assert_uniform([pairs.count(pair) for pair in sorted(possible)])
    # Of what one source drew twice each item, and of the others each.
    twice = support.items[:, 0][[pair == "3a" for pair in pairs]]
    assert_uniform([(twice == item).sum() for item in (0, 1)])
    others = query.items[:, :2][[pair == "3a" for pair in pairs]]
    assert_uniform([(others == item).sum() for item in (2, 3, 4)])


def test_groups_are_drawn_by_weight_and_sources_within_them() -> None:
    support, _ = _drawn(_sampler(groups={"y": 1, "x": 3}), draws=3000)
    group = np.array(GROUPS)[support.classes]
    assert (group[:, 0] == group[:, 1]).all()
    assert_uniform([(group[:, 0] == name).sum() for name in "xy"], np.array([3.0, 1.0]))
    # Of "x" all three classes have a, b and c, of "y" 2, 4, 4 and 4 have a, b, c and d.
    source = _sources(support)[:, 0]
    of_x, of_y = (source[group[:, 0] == name] for name in "xy")
    assert_uniform([(of_x == name).sum() for name in "abcd"], np.array([3.0, 3, 3, 2]))
    assert_uniform([(of_y == name).sum() for name in "abcd"], np.array([2.0, 4, 4, 4]))


def test_one_choice_alone() -> None:
    data = _data(("aab", "aab"), None)  # Two queries have to be by "a".
    assert (_drawn(_sampler(data=data), draws=20).support.items == 2).all()


def test_turned_classes_are_classes_of_their_own() -> None:
    data = _data(("abc", "abc"), None)
    support, query = _drawn(_sampler(ways=8, data=data, rotations="classes"), draws=200)
    np.testing.assert_array_equal(query.turns, np.repeat(support.turns, 2, axis=1))
    turned = np.sort(support.turns * 2 + support.classes)
    np.testing.assert_array_equal(turned, np.tile(np.arange(8), (200, 1)))


@pytest.mark.exact
def test_the_same_from_the_host_and_however_it_is_run() -> None:
    sample, host = (_sampler(groups=True, place=place) for place in ("device", "host"))
    keys = jax.random.split(jax.random.key(1), 3)
    batched = jax.jit(jax.vmap(sample))(keys)
    for index, key in enumerate(keys):
        for a, b, c in zip(*map(jax.tree.leaves, (batched, sample(key), host(key))), strict=True):
            np.testing.assert_array_equal(a[index], b)
            np.testing.assert_array_equal(a[index], c)
    with jax.enable_x64(True):
        wide = jax.jit(jax.vmap(sample.draw))(keys)
    narrow = jax.jit(jax.vmap(sample.draw))(keys)
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_drawn_can_be_listed() -> None:
    drawn = _drawn(_sampler(), draws=20)
    assert mj.data.listed_episodes(_data(), drawn).listed == 20


# Where sources come from, and stay


def test_sources_follow_their_images() -> None:
    data = _data()
    part = data.select(["3", "1"])
    assert part.sources is not None
    np.testing.assert_array_equal(part.sources[part.starts[0] + np.arange(5)], [*"aabcd"])
    support, query = _drawn(_sampler(data=part, queries=1), draws=200)
    by = (BY[3], BY[1])
    assert all(
        not {*one} & {*others}
        for one, others in zip(_sources(support, by), _sources(query, by), strict=True)
    )
    images = np.zeros((4, 2, 2, 1))
    grouped = mj.data.group_by_label(images, [1, 0, 1, 0], sources=[3, 4, 5, 6])
    np.testing.assert_array_equal(grouped.sources, [4, 6, 3, 5])
    major = mj.data.image_classes(images[None], sources=[[*"abab"]])
    np.testing.assert_array_equal(major.sources, [*"abab"])


def test_joined_sources_say_which_data_set_they_are_of() -> None:
    data = _data()
    parts = {"one": data.select(["0"]), "two": numbered([2])}
    assert mj.data.join_classes(parts).sources is None
    parts["two"] = dataclasses.replace(parts["two"], sources=np.array([0, 1]))
    joined = mj.data.join_classes(parts)
    assert joined.sources is not None
    rows = joined.starts[1] + np.arange(2)
    np.testing.assert_array_equal(joined.sources[:4], ["one/a", "one/b", "one/c", "one/d"])
    np.testing.assert_array_equal(joined.sources[rows], ["two/0", "two/1"])
    # Two parts of the same images.
    halves = {"one": data.select(["0"]), "other": data.select(["1"])}
    sources = mj.data.join_classes(halves).sources
    assert sources is not None
    assert len(sources) == len(data.images)


# What a user can get wrong


def test_data_sets_that_are_not_enough() -> None:
    with pytest.raises(ValueError, match="but the data set does not say who made its images"):
        _sampler(data=numbered([4, 4]))
    said = (
        "ways=6 with shots=3 and queries=1 across sources, but at most 5 classes have items by the "
        "same 3 of the 5 sources and 1 by others; lower ways, shots or queries"
    )
    with pytest.raises(ValueError, match=said):
        _sampler(ways=6, shots=3, queries=1)
    with pytest.raises(ValueError, match="at most 2 classes of the group 'x' have items by "):
        _sampler(ways=3, shots=2, queries=2, groups=True)
    with pytest.raises(
        ValueError, match="at most 0 classes have items by the same 6 of the 5 sources"
    ):
        _sampler(shots=6, queries=1)
    with pytest.raises(ValueError, match="ways=8 but the data set has 7 classes"):
        _sampler(ways=8)


def test_too_many_choices() -> None:
    data = mj.data.image_classes(np.zeros((2, 40, 1, 1, 1)), sources=np.arange(80).reshape(2, 40))
    with pytest.raises(ValueError, match="shots=5 of 80 sources can be chosen in 24040016 ways; "):
        _sampler(shots=5, data=data)


def test_two_ways_to_take_items() -> None:
    with pytest.raises(ValueError, match="same_items=True and across_sources=True both say which"):
        _sampler(same_items=True)


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        (np.arange(3), ValueError, r"sources have shape \(3,\); expected \(4,\), the source of e"),
        (np.zeros(4), TypeError, "sources are float64; expected integers or texts"),
        ([None] * 4, TypeError, r"sources is \[None, None, None, None\]; expected an array"),
        ("abcd", TypeError, "sources is 'abcd'; expected an array"),
    ],
)
def test_sources_that_are_none(sources: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mj.data.group_by_label(jnp.zeros((4, 2, 2, 1)), [0, 0, 1, 1], sources=sources)
