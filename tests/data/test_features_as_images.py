"""Vectors in the place of images: data sets and samplers of what a network has computed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import data

COUNTS = (4, 9, 6, 5)
WIDTH = 3
PLACES = ("device", "host")
# They draw alike, and read in two ways, which the shorter tests see.
SOME_PLACES = ("device", pytest.param("host", marks=pytest.mark.slow))


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def classes() -> data.ImageClasses:
    total = sum(COUNTS)
    starts = np.cumsum(COUNTS) - np.array(COUNTS)
    return data.ImageClasses(
        vectors(total), starts, np.array(COUNTS), ("a", "b", "c", "d"), None, np.arange(total) % 3
    )


def blown_up(given: data.ImageClasses) -> data.ImageClasses:
    """The same as images of one row each."""
    return data.ImageClasses(
        np.asarray(given.images)[:, None, :, None],
        given.starts,
        given.counts,
        given.names,
        given.groups,
        given.sources,
    )


def flat(inputs: Any) -> np.ndarray:
    return np.asarray(inputs).reshape(len(inputs), -1)


def test_classes_of_features() -> None:
    features = vectors(6).reshape(2, 3, WIDTH)
    made = data.image_classes(features, names=("p", "q"), sources=[[0, 1, 2], [2, 1, 0]])
    np.testing.assert_array_equal(made["q"], features[1])
    assert made.sources is not None
    assert made.sources.tolist() == [0, 1, 2, 2, 1, 0]
    np.testing.assert_array_equal(data.image_classes(jnp.asarray(features))["1"], features[1])
    labels = np.array([1, 0, 1, 1, 0, 1])
    grouped = data.group_by_label(features.reshape(6, WIDTH), labels)
    np.testing.assert_array_equal(grouped["0"], features.reshape(6, WIDTH)[labels == 0])
    part = classes().select(["c", "b"])
    assert part["b"].shape == (9, WIDTH)
    assert {*classes().split({"x": 0.5, "y": 0.5})} == {"x", "y"}


def test_joined_features() -> None:
    joined = data.join_classes({"one": classes(), "two": classes().select(["a"])})
    np.testing.assert_array_equal(joined["one/d"], classes()["d"])
    np.testing.assert_array_equal(joined["two/a"], classes()["a"])
    with pytest.raises(ValueError, match=r"different kinds: 'one' float32 \(3,\), 'two' .*3, 1\)"):
        data.join_classes({"one": classes(), "two": blown_up(classes())})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kept", [{}, {"across_sources": True}], ids=["any", "across_sources"])
def test_episodes_of_features_are_those_of_images(place: Any, kept: dict) -> None:
    fixed: dict = {"ways": 2, "shots": 1, "queries": 1, "place": place, **kept}
    draw = data.image_episodes(classes(), **fixed)
    of_images = data.image_episodes(blown_up(classes()), **fixed)
    for seed in range(3):
        key = jax.random.key(seed)
        for mine, theirs in zip(draw(key), of_images(key), strict=True):
            assert mine.inputs.shape == (2, WIDTH)
            np.testing.assert_array_equal(mine.inputs, flat(theirs.inputs))
            np.testing.assert_array_equal(mine.targets, theirs.targets)


@pytest.mark.parametrize("place", SOME_PLACES)
def test_varying_episodes_of_features_are_padded_by_zeros(place: Any) -> None:
    fixed: dict = {"min_ways": 2, "max_ways": 4, "max_queries": 2, "max_support": 12}
    draw = data.varying_episodes(classes(), place=place, **fixed)
    of_images = data.varying_episodes(blown_up(classes()), place=place, **fixed)
    padded = 0
    for seed in range(4):
        key = jax.random.key(seed)
        for mine, theirs in zip(draw(key), of_images(key), strict=True):
            np.testing.assert_array_equal(mine.inputs, flat(theirs.inputs))
            assert mine.weights is not None
            junk = np.asarray(mine.inputs)[np.asarray(mine.weights) == 0]
            assert not junk.any()
            padded += len(junk)
    assert padded > 0


def test_a_list_of_places_in_features() -> None:
    every = np.array([[0, 1]])
    places = data.Places(every, np.array([[0, 2]]), every)
    draw = data.listed_episodes(classes(), data.Drawn(places, places._replace(items=3 + every)))
    got = draw(jax.random.key(0)).support.inputs
    np.testing.assert_array_equal(got, [classes()["a"][0], classes()["b"][2]])
    turned = places._replace(turns=np.ones((1, 2), int))
    with pytest.raises(ValueError, match=r"turns of images of shape \(3,\); expected square"):
        data.listed_episodes(classes(), data.Drawn(turned, turned))


@pytest.mark.parametrize("place", SOME_PLACES)
def test_features_are_augmented_as_images_are(place: Any) -> None:
    def augment(key: jax.Array, features: jax.Array) -> jax.Array:
        return features + 10

    fixed: dict = {"ways": 2, "shots": 1, "queries": 2, "place": place}
    key = jax.random.key(0)
    plain = data.image_episodes(classes(), **fixed)(key)
    moved = data.image_episodes(classes(), augment=augment, **fixed)(key)
    for mine, theirs in zip(moved, plain, strict=True):
        np.testing.assert_allclose(mine.inputs, theirs.inputs + 10, rtol=1e-6)
    wrong = data.image_episodes(classes(), augment=lambda key, x: x[:, :, None], **fixed)
    with pytest.raises(
        ValueError, match=r"augment made .* of shape \(6, 3, 1\) of images \(6, 3\)"
    ):
        wrong(key)


@pytest.mark.parametrize("rotations", ["classes", "tasks", "episode"])
def test_features_cannot_be_turned(rotations: Any) -> None:
    with pytest.raises(ValueError, match=r"of images of shape \(3,\); expected square images"):
        data.image_episodes(classes(), ways=2, shots=1, queries=1, rotations=rotations)


def test_memory_mapped_features(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", classes().images)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    given = classes()
    on_disk = data.ImageClasses(mapped, given.starts, given.counts, given.names)
    fixed: dict = {"ways": 3, "shots": 2, "queries": 1}
    sample = data.image_episodes(on_disk, place="host", **fixed)
    expected = data.image_episodes(given, **fixed)(jax.random.key(1))
    got = sample(jax.random.key(1))
    np.testing.assert_array_equal(got.query.inputs, expected.query.inputs)


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 0), (4,), (2, 2, 2, 2, 1)], ids=str)
def test_what_is_neither_images_nor_features(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"or \[images, features\], none of them 0"):
        data.ImageClasses(np.zeros(shape), np.zeros(1, int), np.ones(1, int), ("a",))
