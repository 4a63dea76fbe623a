"""From records to episodes."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax.recipes import DATA_SETS, RECIPES, Drawing, Split, find, folders, loading, sampler

KEY = jax.random.key(0)
BRIEF = Drawing(Split("test"), 3, 2, 1)


@pytest.fixture
def data_folder(omniglot_folder: Path) -> Path:
    return omniglot_folder.parent


@pytest.fixture
def emoji_folder() -> Path:
    folder = os.environ.get("METAJAX_DATA_DIR")
    if not folder or not (Path(folder) / "emoji" / "emoji72.npz").exists():
        pytest.skip("METAJAX_DATA_DIR has no emoji/emoji72.npz")
    return Path(folder)


@pytest.fixture(scope="module")
def few() -> np.ndarray:
    return mj.data.glyphs("test", drawers=3)


@pytest.fixture
def few_drawers(few, monkeypatch) -> np.ndarray:
    """The test glyphs of the sampler, by 3 drawers."""
    monkeypatch.setattr(loading, "glyphs", {"test": few}.__getitem__)
    return few


def test_glyphs_need_no_folder(few_drawers):
    sample = sampler("glyphs", dataclasses.replace(BRIEF, rotations="classes"))
    episode = sample(KEY)
    assert episode.support.inputs.shape == (6, 28, 28, 1)
    assert episode.query.targets.tolist() == [0, 1, 2]
    by_hand = mj.data.image_episodes(few_drawers, ways=3, shots=2, queries=1, rotations="classes")
    np.testing.assert_array_equal(episode.support.inputs, by_hand(KEY).support.inputs)


def test_sinusoids_need_no_folder():
    recipe = find("maml", "sinusoids", shots=5)
    episode = sampler("sinusoids", recipe.testing.drawing)(KEY)
    assert episode.support.inputs.shape == (5, 1)
    assert episode.query.inputs.shape == (100, 1)
    by_hand = mj.data.sinusoid_episodes(shots=5, queries=100)(KEY)
    np.testing.assert_array_equal(episode.support.targets, by_hand.support.targets)


@pytest.mark.usefixtures("few_drawers")
def test_from_the_host():
    sample = sampler("glyphs", BRIEF, place="host")
    assert isinstance(sample, mj.data.HostEpisodes)
    on_device = sampler("glyphs", BRIEF)
    np.testing.assert_array_equal(sample(KEY).query.inputs, on_device(KEY).query.inputs)


@pytest.mark.parametrize(
    "data", [each for each in DATA_SETS if each not in ("glyphs", "sinusoids")]
)
def test_others_need_a_folder(data, tmp_path):
    with pytest.raises(ValueError, match=f"folder=None; expected the folder that holds '{data}'"):
        sampler(data, BRIEF)
    with pytest.raises(TypeError, match="folder=3; expected a path"):
        sampler(data, BRIEF, 3)  # type: ignore[arg-type]
    drawing = dataclasses.replace(BRIEF, split=Split("test", "vinyals"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / data)):
        sampler(data, drawing, tmp_path)


def test_what_is_no_record():
    with pytest.raises(ValueError, match="data='mnist'; expected \"cifar_fs\""):
        sampler("mnist", BRIEF)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"drawing is Split.*; expected a metajax.recipes.Drawing"):
        sampler("glyphs", BRIEF.split)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels=0; expected an integer of 1 or more, or None"):
        sampler("emoji", BRIEF, "data", pixels=0)
    with pytest.raises(TypeError, match="folder=3; expected a path"):
        sampler("sinusoids", BRIEF, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="place='gpu'; expected"):
        sampler("glyphs", BRIEF, place="gpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='split=\'background\'; expected "train", "validation"'):
        sampler("glyphs", dataclasses.replace(BRIEF, split=Split("background")))


@pytest.mark.slow
def test_images_of_ones_own(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [(f"n0000000{number}", "test") for number in range(3)]
    monkeypatch.setattr(folders, "_listing", lambda data: rows)
    for value, (name, _) in enumerate(rows):
        folder = tmp_path / "mini_imagenet" / name
        folder.mkdir(parents=True)
        for item in range(3):
            pixels = np.full((9, 7, 3), 80 * value + item, np.uint8)
            image.fromarray(pixels).save(folder / f"{item}.png")
    episode = sampler("mini_imagenet", BRIEF, tmp_path, pixels=8)(KEY)
    assert episode.support.inputs.shape == (6, 8, 8, 3)
    of_classes = np.round(255 * np.asarray(episode.query.inputs[:, 0, 0, 0])) // 80
    assert sorted(of_classes.tolist()) == [0, 1, 2]


# Real data


@pytest.mark.slow
def test_the_random_split_of_omniglot(data_folder):
    """1623 characters, regardless of alphabet: MAML's 1100, and 100 more of the others'."""
    parts = {
        part: np.asarray(loading._images("omniglot", Split(part, "random"), data_folder, None))
        for part in ("train", "validation", "train_and_validation", "test")
    }
    sizes = {part: len(images) for part, images in parts.items()}
    assert sizes == {"train": 1100, "validation": 100, "train_and_validation": 1200, "test": 423}
    seen = {part: {images[0].tobytes() for images in of_part} for part, of_part in parts.items()}
    assert not seen["train_and_validation"] & seen["test"]
    assert seen["train"] | seen["validation"] == seen["train_and_validation"]
    other = np.asarray(
        loading._images("omniglot", Split("test", "random", seed=1), data_folder, None)
    )
    assert len(other) == 423
    assert {images[0].tobytes() for images in other} != seen["test"]


@pytest.mark.slow
def test_every_recipe_of_omniglot_has_its_episodes(data_folder):
    drawings = {
        drawing
        for recipe in RECIPES
        if recipe.training.data == "omniglot"
        for drawing in (recipe.training.drawing, recipe.testing.drawing)
    }
    splits = {drawing.split for drawing in drawings}
    assert len(splits) == 5
    for split in splits:
        (drawing, *_) = sorted(
            (each for each in drawings if each.split == split), key=lambda each: -each.ways
        )
        shapes = jax.eval_shape(sampler("omniglot", drawing, data_folder), KEY)
        items = drawing.ways * drawing.shots
        assert shapes.support.inputs.shape == (items, 28, 28, 1)
        assert shapes.support.targets.dtype == jnp.int32


@pytest.mark.slow
def test_emoji_across_designers(emoji_folder):
    recipe = find("maml", "emoji", ways=5, shots=5)
    for drawing in (recipe.training.drawing, recipe.testing.drawing):
        sample = sampler("emoji", drawing, emoji_folder, pixels=recipe.training.pixels)
        episode = sample(KEY)
        assert episode.support.inputs.shape == (25, 36, 36, 3)
        assert episode.query.inputs.shape == (5, 36, 36, 3)
        assert isinstance(sample, mj.data.ImageEpisodes)
        places = sample.draw(KEY)
        assert places.support.items.shape == (25,)
