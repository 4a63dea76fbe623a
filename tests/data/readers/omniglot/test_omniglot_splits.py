"""Omniglot's published lists, against the drawings and against what was published with them."""

import hashlib
import re
import zipfile

import numpy as np
import pytest
from scipy.spatial import cKDTree

from metajax.data.readers.omniglot.splits import (
    PROTOCOLS,
    class_alphabets,
    class_names,
    lake_runs,
    split_rows,
)

ZIPS = ("images_background", "images_evaluation")
SMALL = ("images_background_small1", "images_background_small2")
# Characters of each split, and alphabets of Lake's.
CHARACTERS = {
    "vinyals": (1028, 172, 423, 1200),
    "random": (1100, 100, 423, 1200),
    "lake": (964, 659, 136, 156),
}
LAKE = {"background": 30, "evaluation": 20, "background_small1": 5, "background_small2": 5}


def folders(path) -> dict[int, str]:
    """`Alphabet/characterNN` of every official id in a zip."""
    picture = re.compile(rf"{path.stem}/(?P<name>[^/]+/character\d\d)/(?P<id>\d{{4}})_\d\d\.png")
    with zipfile.ZipFile(path) as archive:
        matches = [m for name in archive.namelist() if (m := picture.fullmatch(name))]
    return {int(match["id"]): match["name"] for match in matches}


def test_names_are_the_folders_of_the_zips(omniglot_folder):
    found = {}
    for name in ZIPS:
        found |= folders(omniglot_folder / f"{name}.zip")
    assert class_names().tolist() == [found[i] for i in range(1, 1624)]


def test_names_and_splits_are_those_of_the_npz(omniglot_folder):
    with np.load(omniglot_folder / "omniglot28.npz") as archive:
        alphabets = archive["alphabet_names"][archive["alphabet"]]
        characters = archive["character"]
        codes = {protocol: archive[f"{protocol}_split"] for protocol in ("vinyals", "lake")}
    pairs = zip(alphabets, characters, strict=True)
    assert class_names().tolist() == [f"{a}/character{c:02d}" for a, c in pairs]
    np.testing.assert_array_equal(class_alphabets(), alphabets)
    for protocol, published in codes.items():
        for code, split in enumerate(PROTOCOLS[protocol]):
            if "small" not in split and "_and_" not in split:
                np.testing.assert_array_equal(
                    split_rows(split, protocol), np.flatnonzero(published == code)
                )


@pytest.mark.parametrize("name", SMALL)
def test_small_background_sets_are_those_of_the_zips(omniglot_folder, name):
    rows = split_rows(name.removeprefix("images_"), "lake")
    found = folders(omniglot_folder / f"{name}.zip")
    assert found == {row + 1: class_names()[row] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_pictures_of_small_background_sets_are_in_the_background_set(omniglot_folder, name):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with (
        zipfile.ZipFile(omniglot_folder / f"{name}.zip") as small,
        zipfile.ZipFile(omniglot_folder / "images_background.zip") as background,
    ):
        pictures = [entry for entry in small.namelist() if entry.endswith(".png")]
        assert len(pictures) == 20 * len(split_rows(name.removeprefix("images_"), "lake"))
        for picture in pictures:
            with (
                small.open(picture) as one,
                background.open(picture.replace(name, "images_background")) as other,
            ):
                np.testing.assert_array_equal(image.open(one), image.open(other))


def test_published_counts():
    alphabets = {split: set(class_alphabets()[split_rows(split, "lake")]) for split in LAKE}
    assert {split: len(names) for split, names in alphabets.items()} == LAKE
    assert not alphabets["background"] & alphabets["evaluation"]
    assert alphabets["background_small1"] & alphabets["background_small2"] == {"Greek", "Latin"}
    assert len(set(class_names())) == 1623
    for protocol, numbers in CHARACTERS.items():
        rows = {split: split_rows(split, protocol) for split in PROTOCOLS[protocol]}
        assert tuple(len(found) for found in rows.values()) == numbers
        parts = [found for split, found in rows.items() if not re.search("small|_and_", split)]
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1623))
        for found in rows.values():
            assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("protocol", ["vinyals", "random"])
def test_train_and_validation_are_both_and_none_of_the_test(protocol):
    parts = [split_rows(split, protocol) for split in ("train", "validation")]
    both = split_rows("train_and_validation", protocol)
    np.testing.assert_array_equal(both, np.sort(np.concatenate(parts)))
    assert not np.isin(both, split_rows("test", protocol)).any()


@pytest.mark.parametrize(
    ("seed", "train", "validation", "test"),
    [
        (None, [0, 1, 2, 4, 6, 7], [41, 54, 69, 70, 76, 79], [3, 5, 8, 15, 17, 19]),
        (0, [0, 1, 2, 4, 6, 7], [41, 54, 69, 70, 76, 79], [3, 5, 8, 15, 17, 19]),
        (np.int64(1), [0, 1, 3, 6, 7, 8], [5, 34, 67, 69, 70, 115], [2, 4, 16, 23, 25, 28]),
        (2**70, [1, 2, 3, 4, 5, 7], [0, 9, 15, 34, 45, 53], [6, 8, 17, 22, 24, 27]),
    ],
)
def test_random_splits_are_the_same_for_ever(seed, train, validation, test):
    for split, first in (("train", train), ("validation", validation), ("test", test)):
        assert split_rows(split, "random", seed)[:6].tolist() == first


def test_random_splits_are_as_documented():
    digest = {c: hashlib.sha256(f"3/{c}".encode()).hexdigest() for c in range(1623)}
    order = sorted(digest, key=digest.__getitem__)
    assert split_rows("train", "random", 3).tolist() == sorted(order[:1100])
    assert split_rows("test", "random", 3).tolist() == sorted(order[1200:])


def _share_an_alphabet(rows):
    """The probability that two characters, drawn without replacement, are of one alphabet."""
    _, sizes = np.unique(class_alphabets()[rows], return_counts=True)
    return (sizes * (sizes - 1)).sum() / (len(rows) * (len(rows) - 1))


def test_alphabets_are_shared_less_in_a_random_split():
    assert round(_share_an_alphabet(split_rows("test", "vinyals")), 3) == 0.085
    # Of a random split it is expected to be that of all characters.
    assert round(_share_an_alphabet(np.arange(1623)), 3) == 0.022
    assert abs(_share_an_alphabet(split_rows("test", "random")) - 0.022) < 0.003


def test_seeds_that_mean_nothing():
    for protocol, split in (("vinyals", "train"), ("lake", "background")):
        with pytest.raises(ValueError, match=f"seed=0 with protocol='{protocol}', whose splits"):
            split_rows(split, protocol, 0)
    with pytest.raises(ValueError, match="seed=-1; expected an integer of 0 or more, or None"):
        split_rows("train", "random", -1)


def test_lake_runs_are_of_one_alphabet_and_of_two_drawers():
    runs = lake_runs()
    evaluation = split_rows("evaluation", "lake")
    assert runs.classes.shape == runs.labels.shape == (20, 20)
    for run in range(20):
        assert set(class_alphabets()[evaluation[runs.classes[run]]]) == {runs.alphabets[run]}
        assert len(set(runs.classes[run])) == 20
        assert sorted(runs.labels[run]) == list(range(20))
    assert runs.alphabets[::2] == runs.alphabets[1::2]
    assert len(set(runs.alphabets)) == 10
    drawers = np.stack([runs.support_drawer, runs.query_drawer])
    assert drawers.min() == 0
    assert drawers.max() == 7
    assert (drawers[0] != drawers[1]).all()


def test_runs_index_the_evaluation_split_as_documented():
    runs = lake_runs()
    images = np.arange(659 * 20).reshape(659, 20)
    support = images[runs.classes, runs.support_drawer[:, None]]
    queries = images[np.take_along_axis(runs.classes, runs.labels, 1), runs.query_drawer[:, None]]
    # Run 1: the first support picture is 1011_05, the first query 1019_08, its eighth character.
    assert (support[0, 0], queries[0, 0]) == ((1011 - 965) * 20 + 4, (1019 - 965) * 20 + 7)
    assert runs.labels[0, 0] == 7
    # Run 20: the last ones are 1596_08 and 1596_05.
    assert (support[19, 19], queries[19, 19]) == ((1596 - 965) * 20 + 7, (1596 - 965) * 20 + 4)


def test_characters_of_the_runs_that_vinyals_trains_on():
    characters = split_rows("evaluation", "lake")[np.unique(lake_runs().classes)]
    assert len(characters) == 200
    assert np.isin(characters, split_rows("train", "vinyals")).sum() == 78


def hausdorff(one: cKDTree, other: cKDTree) -> float:
    """Modified Hausdorff distance (Dubuisson and Jain, 1994) of two sets of points."""
    return max(one.query(other.data)[0].mean(), other.query(one.data)[0].mean())


@pytest.mark.slow
def test_the_published_baseline_comes_out_on_the_runs(omniglot_folder):
    """38.8 % errors, as printed in the program published with the runs."""
    with np.load(omniglot_folder / "omniglot105_bits.npz") as archive:
        bits = np.unpackbits(archive["ink_bits"][split_rows("evaluation", "lake")], axis=-1)
    ink = bits[..., : 105**2].reshape(-1, 20, 105, 105)

    def points(rows, drawer):
        found = [np.argwhere(picture) for picture in ink[rows, drawer]]
        return [cKDTree(place - place.mean(0)) for place in found]

    runs, wrong = lake_runs(), 0
    for run in range(20):
        support = points(runs.classes[run], runs.support_drawer[run])
        queries = points(runs.classes[run, runs.labels[run]], runs.query_drawer[run])
        nearest = [np.argmin([hausdorff(query, one) for one in support]) for query in queries]
        wrong += (np.array(nearest) != runs.labels[run]).sum()
    assert wrong == 155
