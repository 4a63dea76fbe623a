"""Varying ways, shots and imbalance: Meta-Dataset's distribution, padded to one size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform, classes_of, items_of, many, numbered

import metajax as mj
from metajax.data.episode_draws import ClassTable
from metajax.data.meta_dataset_draws import VaryingDraws

COUNTS = [2, 40, 7, 160, 12, 20, 90, 33, 5, 60, 11, 25]
LIMITS = {
    "min_ways": 3,
    "max_ways": 8,
    "max_queries": 4,
    "max_support": 60,
    "max_class_support": 20,
}


def _published(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Classes, shots of each, and queries a class: the authors' procedure in floating point."""
    counts = np.array(COUNTS)
    ways = random.integers(3, 8 + 1)
    classes = random.choice(len(counts), ways, replace=False)
    own = counts[classes]
    queries = min(4, (own // 2).min())
    left = own - queries
    wanted = np.floor(random.uniform() * np.minimum(20, left) + 1).sum()
    size = min(wanted, 60)
    shares = own * np.exp(random.uniform(np.log(0.5), np.log(2), ways))
    shots = np.floor(shares / shares.sum() * (size - ways)).astype(int) + 1
    return classes, np.minimum(shots, left), queries


def _table(episodes: list[tuple[np.ndarray, np.ndarray, int]]) -> np.ndarray:
    """Of each episode its ways, queries and size; whether each class is in it; its shots."""
    rows = np.zeros((len(episodes), 3 + 3 * len(COUNTS)))
    for row, (classes, shots, queries) in zip(rows, episodes, strict=True):
        row[:3] = len(classes), queries, shots.sum()
        present, of = row[3 : 3 + len(COUNTS)], row[3 + len(COUNTS) :]
        present[classes] = 1
        of[classes] = shots
        of[len(COUNTS) + classes] = np.log(shots)
    return rows


@pytest.fixture(scope="module")
def drawn() -> tuple[mj.Episode, list[tuple[np.ndarray, np.ndarray, int]]]:
    episodes = many(mj.data.varying_episodes(numbered(COUNTS), **LIMITS), 3000)
    rows = []
    for index in range(3000):
        one = jax.tree.map(lambda x, i=index: np.asarray(x[i]), episodes)
        real = one.support.weights > 0
        ways = one.support.targets[real].max() + 1
        firsts = [np.argmax(real & (one.support.targets == way)) for way in range(ways)]
        shots = np.bincount(one.support.targets[real])
        queries = np.bincount(one.query.targets[one.query.weights > 0])
        assert len(queries) == ways
        assert (queries == queries[0]).all()
        rows.append((classes_of(one.support)[firsts], shots, int(queries[0])))
    return episodes, rows


def test_the_distribution_is_the_published_one(drawn) -> None:
    random = np.random.default_rng(0)
    ours, theirs = _table(drawn[1]), _table([_published(random) for _ in range(3000)])
    spread = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 3000) + 1e-9
    assert (abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * spread).all()
    # The squares tell two distributions of one mean apart.
    ours, theirs = ours**2, theirs**2
    spread = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / 3000) + 1e-9
    assert (abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4.5 * spread).all()
    assert_uniform(np.bincount([len(classes) for classes, _, _ in drawn[1]])[3:])


def test_limits_hold_and_no_image_is_twice(drawn) -> None:
    support, query = drawn[0]
    assert support.inputs.shape[1:] == (60, 4, 4, 1)
    assert query.inputs.shape[1:] == (32, 4, 4, 1)
    of_item = {item: [] for item in range(7)}
    for index in range(1000):
        images = []
        for examples in (support, query):
            real = np.asarray(examples.weights[index]) > 0
            one = jax.tree.map(lambda x, i=index: np.asarray(x[i]), examples)
            assert not one.inputs[~real].any()
            assert not one.targets[~real].any()
            labels = dict(
                zip(one.targets[real].tolist(), classes_of(one)[real].tolist(), strict=True)
            )
            assert [labels[t] for t in one.targets[real].tolist()] == classes_of(one)[real].tolist()
            pairs = list(zip(classes_of(one)[real], items_of(one)[real], strict=True))
            assert all(item < COUNTS[c] for c, item in pairs)
            images += pairs
            for c, item in pairs:
                if c == 2:
                    of_item[item].append(index)
        assert len(set(images)) == len(images)
    assert_uniform([len(found) for found in of_item.values()])


def test_a_padded_episode_is_the_same_task(float64) -> None:
    data = numbered(COUNTS)
    noise = np.random.default_rng(0).normal(size=(sum(COUNTS), 4, 4, 1))
    data = mj.data.ImageClasses(noise, data.starts, data.counts, data.names)
    encoder = mj.Model(
        lambda key, x: jax.random.normal(key, (16, 3)),
        lambda params, x: x.reshape(len(x), 16) @ params,
    )
    learner = mj.prototypical_network(encoder, ways=8)
    params = encoder.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    sample = jax.jit(mj.data.varying_episodes(data, **LIMITS))
    for seed in range(2):
        episode = sample(jax.random.key(seed))
        trimmed = mj.Episode(
            *(mj.Examples(x.inputs[x.weights > 0], x.targets[x.weights > 0]) for x in episode)
        )
        padded, whole = (jax.jit(learner.loss)(params, x)[0] for x in (episode, trimmed))
        np.testing.assert_allclose(padded, whole, rtol=1e-12)


@pytest.mark.parametrize("size", [20, 30_000, 2**20])
def test_shots_are_shared_out_as_in_floating_point(size: int) -> None:
    """In a data set with a class of 2^20 images, from which these classes do not come."""
    table = ClassTable(jnp.array([5, 2**20]), None, None, 2**20)
    draws = VaryingDraws(table, 5, 50, 10, 500, 100)
    counts = np.random.default_rng(size).integers(size // 2, size + 1, 50)
    size_key, weight_key = jax.random.split(jax.random.key(size))
    present, left = np.arange(50) < 40, counts - 10
    shots = draws._shots(
        *(size_key, weight_key, jnp.array(40), jnp.array(present)),
        *(jnp.array(counts, jnp.int32), jnp.array(left, jnp.int32)),
    )
    beta = float(jax.random.randint(size_key, (), 1, 2**16 + 1, jnp.int32)) / 2**16
    total = min(np.ceil(beta * np.minimum(left, 100))[present].sum(), 500)
    weights = 2 ** (2 * (np.asarray(jax.random.randint(weight_key, (50,), 0, 1024)) + 0.5) / 1024)
    shares = counts * weights * present
    expected = np.minimum(np.floor(shares / shares.sum() * (total - 40)) + 1, left) * present
    # Weights have eleven bits: a share close to a whole number may fall to either side.
    assert (abs(shots - expected) <= 1).all()
    assert (np.asarray(shots) == expected).mean() > 0.9


def test_a_large_data_set_with_the_published_numbers() -> None:
    counts = np.random.default_rng(0).integers(2, 1300, 70).tolist()
    draw = mj.data.varying_episodes(numbered(counts)).draw
    support, query = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 50))
    sizes = np.asarray(support.weights).sum(axis=1)
    assert support.weights.shape == query.weights.shape == (50, 500)
    assert sizes.max() <= 500
    assert sizes.min() >= 5


def test_there_are_no_slots_that_no_episode_could_fill() -> None:
    sample = mj.data.varying_episodes(numbered(COUNTS), **(LIMITS | {"max_queries": 2**40}))
    assert sample(jax.random.key(0)).query.targets.shape == (8 * 80,)
    sample = mj.data.varying_episodes(numbered([2, 3, 3]), min_ways=2, max_ways=2)
    for key in jax.random.split(jax.random.key(0), 3):
        assert sample(key).query.weights.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_ways": 13, "max_ways": 20}, "ways=13 but the data set has 12 classes"),
        ({"min_ways": 9}, "min_ways=9, max_ways=8, .* expected min_ways <= max_ways"),
        ({"max_support": 7}, "max_support=7; expected min_ways <= max_ways <= max_support"),
        ({"max_queries": 0}, "max_queries=0; expected an integer of 1 or more"),
        ({"max_class_support": 2**15}, "max_class_support=32768, .* expected less than 32768"),
    ],
)
def test_numbers_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mj.data.varying_episodes(numbered(COUNTS), **(LIMITS | options))


def test_a_class_of_one_image_is_named() -> None:
    message = r"takes 2 items of a class, but 1 of 4 classes have fewer: '1' \(1\); lower"
    with pytest.raises(ValueError, match=message):
        mj.data.varying_episodes(numbered([5, 1, 4, 4]), min_ways=2, max_ways=3)
