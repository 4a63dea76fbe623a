"""Recipes for a user's own folder of images: the published splits, the records, and the reading."""

import hashlib
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from metajax.recipes import folders
from metajax.recipes.folders import NOT_RUN_HERE, PARTS, class_names, image_folder_classes
from metajax.recipes.tables import cifar_fs, cub, mini_imagenet, tiered_imagenet

TABLES = {
    "cifar_fs": cifar_fs,
    "cub": cub,
    "mini_imagenet": mini_imagenet,
    "tiered_imagenet": tiered_imagenet,
}
# Classes of a part, and the first half of the SHA-256 of their names, a line each.
LISTS = {
    ("cifar_fs", "train"): (64, "e40c037757741c61e50829c14d921fd1"),
    ("cifar_fs", "validation"): (16, "e02b317c48c94270f9d5385a65f92a74"),
    ("cifar_fs", "test"): (20, "2a35675fcdddfebb30b999bbeda04676"),
    ("cub", "train"): (100, "2d722db6b72d1c60f6da593c3ce16bf1"),
    ("cub", "validation"): (50, "a3c78978123bb85b79d8a32e06f74fdc"),
    ("cub", "test"): (50, "4d217f7926cdc28b33904f70404a5487"),
    ("mini_imagenet", "train"): (64, "0f107a65ea80bf1e1d1e5e18d368f0d0"),
    ("mini_imagenet", "validation"): (16, "489f8af43b2560094c8766f36213842d"),
    ("mini_imagenet", "test"): (20, "0db5287e659efd3391c100c88f40df0f"),
    ("tiered_imagenet", "train"): (351, "6b77fbbe949fb270016e703b1b29eebd"),
    ("tiered_imagenet", "validation"): (97, "56f567762e71cbd3c21d02f046470a98"),
    ("tiered_imagenet", "test"): (160, "82c4042717f46a171faa3622e0049a12"),
}
RECIPES = [recipe for table in TABLES.values() for recipe in table.RECIPES]
SMALL = ("n01532829 train", "n01558993 train", "n01855672 validation", "n01930112 test")


def digest(names: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]


# The lists


def test_lists_are_those_published():
    assert set(TABLES) == {data for data, _ in LISTS} == set(NOT_RUN_HERE)
    found = {
        (data, part): (len(class_names(data, part)), digest(class_names(data, part)))
        for data in NOT_RUN_HERE
        for part in PARTS[:3]
    }
    assert found == LISTS


@pytest.mark.parametrize("data", NOT_RUN_HERE)
def test_parts_share_no_class(data):
    parts = [class_names(data, part) for part in PARTS[:3]]
    every = [name for part in parts for name in part]
    assert len(set(every)) == len(every)
    both = class_names(data, "train_and_validation")
    assert len(both) == len(set(both))
    assert set(both) == {*parts[0], *parts[1]}


def test_wordnet_ids():
    for data in ("mini_imagenet", "tiered_imagenet"):
        for part in PARTS[:3]:
            assert all(re.fullmatch(r"n\d{8}", name) for name in class_names(data, part))


def test_categories_of_tiered_imagenet_are_whole():
    listing = resources.files("metajax.recipes") / "class_lists" / "tiered_imagenet.txt"
    lines = listing.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    part_of = {category: part for _, category, part in rows}
    assert all(part_of[category] == part for _, category, part in rows)
    assert Counter(part_of.values()) == {"train": 20, "validation": 6, "test": 8}


def test_classes_of_cub_are_dealt_out_in_turn():
    every = sorted(name for part in PARTS[:3] for name in class_names("cub", part))
    assert [int(name[:3]) for name in every] == [*range(1, 201)]
    assert class_names("cub", "train") == tuple(every[::2])
    assert class_names("cub", "validation") == tuple(every[1::4])
    assert class_names("cub", "test") == tuple(every[3::4])


# The records


def test_names_are_unique():
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)


def test_each_table_has_its_data_in_its_pixels():
    for data, table in TABLES.items():
        for recipe in table.RECIPES:
            training, testing = recipe.training, recipe.testing
            assert training.data == data
            assert training.pixels == (32 if data == "cifar_fs" else 84)
            assert training.drawing.split.part == "train"
            assert testing.drawing.split.part == "test"
            assert testing.drawing.ways == 5
            assert testing.drawing.shots in (1, 5)


def test_every_number_says_where_it_is_from():
    for recipe in RECIPES:
        assert recipe.source
        numbers = [recipe.published, recipe.transductive, *recipe.reproductions]
        assert all(number.source for number in numbers if number is not None)
    unpublished = {r.training.algorithm for r in RECIPES if r.published is None}
    assert unpublished == {"proto_maml", "fo_proto_maml"}


def test_inner_rates_of_mini_imagenet_are_for_a_mean():
    """5 ways at 0.01 for losses that are added up over the ways."""
    for recipe in mini_imagenet.RECIPES:
        if recipe.training.algorithm in ("maml", "fomaml"):
            assert recipe.training.inner is not None
            assert recipe.training.inner.rate == 5 * 0.01


# The reading


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A folder of four classes, which are all that the list has; two images each."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [tuple(row.split()) for row in SMALL]
    monkeypatch.setattr(folders, "_listing", lambda data: rows)
    root = tmp_path / "images"
    for value, (name, _) in enumerate(rows):
        (root / name).mkdir(parents=True)
        for item in range(2):
            pixels = np.full((4, 3, 3), 10 * value + item, np.uint8)
            image.fromarray(pixels).save(root / name / f"{item}.png")
    return root


def test_a_part_of_a_folder(small):
    parts = {part: image_folder_classes("mini_imagenet", part, small, pixels=2) for part in PARTS}
    assert {part: classes.names for part, classes in parts.items()} == {
        "train": ("n01532829", "n01558993"),
        "validation": ("n01855672",),
        "test": ("n01930112",),
        "train_and_validation": ("n01532829", "n01558993", "n01855672"),
    }
    test = parts["test"]["n01930112"]
    assert test.shape == (2, 2, 2, 3)
    assert test.dtype == np.uint8
    assert test[:, 0, 0, 0].tolist() == [30, 31]
    assert len(list((small.parent / "cache" / "metajax").iterdir())) == 1


def test_images_as_they_are(small):
    assert image_folder_classes("cub", "test", small)["n01930112"].shape == (2, 4, 3, 3)


def test_missing_classes_are_named_before_anything_is_decoded(small):
    for path in sorted((small / "n01558993").iterdir()):
        path.unlink()
    (small / "n01558993").rmdir()
    said = "lacks 1 of the 2 classes of 'train' of 'cub': 'n01558993'; expected a folder of images"
    with pytest.raises(FileNotFoundError, match=said):
        image_folder_classes("cub", "train", small)
    assert not (small.parent / "cache").exists()
    assert image_folder_classes("cub", "test", small).names == ("n01930112",)


def test_folders_and_words_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; expected one with a folder of"):
        image_folder_classes("cub", "train", tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"lacks 100 of the 100 .*'001.Black_.* and 90 more"
    ):
        image_folder_classes("cub", "train", tmp_path)
    with pytest.raises(ValueError, match='data=\'omniglot\'; expected "cifar_fs", "cub"'):
        image_folder_classes("omniglot", "train", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='part=\'val\'; expected "train", "validation"'):
        image_folder_classes("cub", "val", tmp_path)
    with pytest.raises(TypeError, match="root=None; expected a path"):
        image_folder_classes("cub", "train", None)  # type: ignore[arg-type]
