"""The on-device sampler: disjoint, uniform, reproducible, the same everywhere."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.numbered import assert_uniform

import metajax as mj

CLASSES, ITEMS, SIDE = 7, 6, 4


def _numbered() -> np.ndarray:
    """Images that say which class and item they are: class in the corner, item beside it."""
    images = np.zeros((CLASSES, ITEMS, SIDE, SIDE, 1), np.float32)
    images[..., 0, 0, 0] = np.arange(CLASSES)[:, None] + 1
    images[..., 0, 1, 0] = np.arange(ITEMS)[None] + 1
    return images


def _classes(examples: mj.Examples) -> np.ndarray:
    return np.asarray(examples.inputs[:, 0, 0, 0]).astype(int) - 1


def _items(examples: mj.Examples) -> np.ndarray:
    return np.asarray(examples.inputs[:, 0, 1, 0]).astype(int) - 1


def test_shapes_labels_and_disjointness() -> None:
    sample = jax.jit(mj.data.image_episodes(_numbered(), ways=3, shots=2, queries=4))
    for seed in range(20):
        support, query = sample(jax.random.key(seed))
        assert support.inputs.shape == (6, SIDE, SIDE, 1)
        assert query.inputs.shape == (12, SIDE, SIDE, 1)
        np.testing.assert_array_equal(support.targets, np.repeat(np.arange(3), 2))
        np.testing.assert_array_equal(query.targets, np.repeat(np.arange(3), 4))
        # One class a label, the same in both sets, and no item twice.
        of_label = dict(zip(support.targets.tolist(), _classes(support), strict=True))
        assert len(set(of_label.values())) == 3
        assert _classes(query).tolist() == [of_label[label] for label in query.targets.tolist()]
        drawn = [
            *zip(_classes(support), _items(support), strict=True),
            *zip(_classes(query), _items(query), strict=True),
        ]
        assert len(set(drawn)) == len(drawn) == 18


def test_classes_labels_and_items_are_uniform() -> None:
    draws = 4000
    sample = mj.data.image_episodes(_numbered(), ways=2, shots=1, queries=1)
    support, query = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), draws))
    for examples in (support, query):
        flat = mj.Examples(examples.inputs.reshape(-1, SIDE, SIDE, 1), examples.targets.ravel())
        pairs = collections.Counter(zip(_classes(flat), np.asarray(flat.targets), strict=True))
        assert_uniform([pairs[c, label] for c in range(CLASSES) for label in range(2)])
        items = collections.Counter(zip(_classes(flat), _items(flat), strict=True))
        assert_uniform([items[c, i] for c in range(CLASSES) for i in range(ITEMS)])


@pytest.mark.exact
def test_same_key_same_episode_however_it_is_called() -> None:
    sample = mj.data.image_episodes(_numbered(), ways=3, shots=1, queries=2, rotations="tasks")
    keys = jax.random.split(jax.random.key(1), 3)
    batched = jax.vmap(sample)(keys)
    for index, key in enumerate(keys):
        eager, compiled = sample(key), jax.jit(sample)(key)
        for one, two, three in zip(
            jax.tree.leaves(eager), jax.tree.leaves(compiled), jax.tree.leaves(batched), strict=True
        ):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_array_equal(one, three[index])


@pytest.mark.exact
def test_integers_are_scaled_and_floats_are_not() -> None:
    images = np.full((3, 2, SIDE, SIDE, 1), 51, np.uint8)
    sample = mj.data.image_episodes(images, ways=2, shots=1, queries=1)
    np.testing.assert_allclose(sample(jax.random.key(0)).support.inputs, 0.2, rtol=1e-6)
    sample = mj.data.image_episodes(images.astype(np.float32), ways=2, shots=1, queries=1)
    np.testing.assert_array_equal(sample(jax.random.key(0)).support.inputs, 51.0)


def _corner(images: np.ndarray) -> np.ndarray:
    """Which corner is lit: 0 top left, then counter-clockwise as quarter turns go."""
    corners = images[:, [0, -1, -1, 0], [0, 0, -1, -1], 0]
    assert ((corners > 0).sum(axis=1) == 1).all()
    return corners.argmax(axis=1)


def _lit() -> np.ndarray:
    images = np.zeros((CLASSES, ITEMS, SIDE, SIDE, 1), np.float32)
    images[..., 0, 0, 0] = np.arange(CLASSES)[:, None] + 1
    return images


def test_no_rotation_by_default() -> None:
    sample = mj.data.image_episodes(_lit(), ways=3, shots=1, queries=1)
    for seed in range(5):
        assert (_corner(np.asarray(sample(jax.random.key(seed)).query.inputs)) == 0).all()


@pytest.mark.parametrize("rotations", ["tasks", "classes"])
def test_rotations_turn_a_whole_class(rotations: str) -> None:
    sample = jax.jit(
        mj.data.image_episodes(_lit(), ways=5, shots=1, queries=2, rotations=rotations)
    )
    turns = []
    for seed in range(30):
        support, query = sample(jax.random.key(seed))
        corner = _corner(np.asarray(support.inputs))
        np.testing.assert_array_equal(_corner(np.asarray(query.inputs)), np.repeat(corner, 2))
        turns += corner.tolist()
    assert_uniform([turns.count(turn) for turn in range(4)])


def test_rotated_classes_are_classes_of_their_own() -> None:
    # One class only: with its four turns there are four ways.
    sample = mj.data.image_episodes(_lit()[:1], ways=4, shots=1, queries=1, rotations="classes")
    corner = _corner(np.asarray(sample(jax.random.key(0)).support.inputs))
    assert sorted(corner) == [0, 1, 2, 3]


def test_rotation_per_task_never_repeats_a_class() -> None:
    sample = mj.data.image_episodes(_lit(), ways=CLASSES, shots=1, queries=1, rotations="tasks")
    support = np.asarray(sample(jax.random.key(0)).support.inputs)
    assert sorted(support.max(axis=(1, 2, 3)).tolist()) == list(range(1, CLASSES + 1))


def test_rotation_per_episode_turns_all_of_it_alike() -> None:
    sample = mj.data.image_episodes(_lit(), ways=3, shots=1, queries=2, rotations="episode")
    episodes = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 200))
    flat = jnp.concatenate([examples.inputs for examples in episodes], axis=1)
    corner = _corner(np.asarray(flat).reshape(-1, SIDE, SIDE, 1)).reshape(200, 9)
    assert (corner == corner[:, :1]).all()
    assert_uniform([(corner[:, 0] == turn).sum() for turn in range(4)])


def test_turns_change_nothing_else_of_an_episode() -> None:
    drawn = [
        mj.data.image_episodes(_lit(), ways=3, shots=1, queries=2, rotations=rotations).draw(
            jax.random.key(0)
        )
        for rotations in ("none", "tasks", "episode")
    ]
    for other in drawn[1:]:
        for one, two in zip(drawn[0], other, strict=True):
            np.testing.assert_array_equal(one.classes, two.classes)
            np.testing.assert_array_equal(one.items, two.items)


def test_data_is_an_argument_and_not_a_constant_of_the_program() -> None:
    sample = mj.data.image_episodes(_numbered(), ways=2, shots=1, queries=1)
    jaxpr = jax.make_jaxpr(lambda sample, key: sample(key))(sample, jax.random.key(0))
    assert all(np.size(constant) < _numbered().size for constant in jaxpr.consts)
    assert jaxpr.in_avals[0].shape == (CLASSES * ITEMS, SIDE, SIDE, 1)


@pytest.mark.exact
def test_sampler_survives_flattening() -> None:
    sample = mj.data.image_episodes(_numbered(), ways=2, shots=1, queries=1)
    copied = jax.tree.map(jnp.asarray, sample)
    np.testing.assert_array_equal(
        copied(jax.random.key(0)).query.inputs, sample(jax.random.key(0)).query.inputs
    )
