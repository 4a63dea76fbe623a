"""The embedded glyphs: what is shipped, how it was made, how it is drawn."""

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from data import hershey_conversion

from metajax.data import stroke_glyphs
from metajax.data.stroke_glyphs import DATA_FILE, glyphs, read_glyphs

PACKAGE = resources.files("metajax.data")
# Two glyphs: a blank one, and two strokes whose pairs wrap onto a second line.
TWO_GLYPHS = "12345  1JZ\n12345  7H\\RFRT R\nRYQZRY\n"


@pytest.fixture(scope="module")
def test_images() -> np.ndarray:
    return glyphs("test", drawers=5)


def test_shipped_files_are_small_and_carry_the_licence():
    data = PACKAGE.joinpath(DATA_FILE).read_bytes()
    licence = PACKAGE.joinpath("HERSHEY_LICENSE").read_text()
    assert len(data) + len(licence) <= 60_000
    for words in ("Dr. A. V. Hershey", "U. S. National Bureau of Standards", "James Hurt"):
        assert words in licence
    with PACKAGE.joinpath(DATA_FILE).open("rb") as file, np.load(file) as arrays:
        assert str(arrays["license"]) == licence


def test_splits_are_disjoint_and_have_their_shares():
    drawn, splits = read_glyphs()
    assert np.bincount(splits).tolist() == [625, 117, 234]
    assert len({glyph.name for glyph in drawn}) == len(drawn) == 976


def test_no_test_glyph_has_a_look_alike_in_another_split():
    drawn, splits = read_glyphs()
    apart = hershey_conversion.distances(drawn)
    assert np.diag(apart).max() == 0
    assert apart[splits[:, None] != splits].min() >= hershey_conversion.LOOK_ALIKE
    assert (apart + np.eye(len(drawn))).min() >= hershey_conversion.DUPLICATE


def test_one_latin_letter_in_two_styles_shares_a_split():
    of: dict[str, set[int]] = {}
    for glyph, split in zip(*read_glyphs(), strict=True):
        face, index = glyph.name.split(":")
        if face in hershey_conversion.LATIN:
            of.setdefault(index, set()).add(int(split))
    assert len(of) > 80
    assert all(len(splits) == 1 for splits in of.values())


def test_images_have_ink_inside_the_frame(test_images: np.ndarray):
    assert test_images.shape == (234, 5, 28, 28, 1)
    assert test_images.dtype == np.uint8
    assert test_images.max() == 255
    assert np.median(test_images.max((2, 3, 4))) == 255
    assert (test_images > 128).sum((2, 3, 4)).min() >= 8
    border = test_images[:, :, [0, -1]], test_images[:, :, :, [0, -1]]
    assert max(side.max() for side in border) < 128
    fraction = (test_images > 64).mean()  # Omniglot has 0.10 at this size
    assert 0.08 < fraction < 0.2


def test_images_depend_on_seed_and_drawer_only(test_images: np.ndarray):
    np.testing.assert_array_equal(glyphs("test", drawers=5), test_images)
    np.testing.assert_array_equal(glyphs("test", drawers=2), test_images[:, :2])
    many = glyphs("validation", drawers=40)
    np.testing.assert_array_equal(glyphs("validation", drawers=33), many[:, :33])
    assert (glyphs("test", drawers=5, seed=1) != test_images).any((1, 2, 3, 4)).all()
    flat = many.reshape(117, 40, -1)
    assert (flat[:, 1:] != flat[:, :1]).any(2).all()


def test_larger_images_are_the_same_drawings():
    small = glyphs("validation", drawers=2, size=16)[..., 0].astype(float)
    large = glyphs("validation", drawers=2, size=64)[..., 0].astype(float)
    averaged = large.reshape(117, 2, 16, 4, 16, 4).mean((3, 5))
    pairs = zip(small.reshape(234, -1), averaged.reshape(234, -1), strict=True)
    assert min(np.corrcoef(a, b)[0, 1] for a, b in pairs) > 0.9


def test_pixels_alone_are_not_enough_but_say_something(test_images: np.ndarray):
    flat = test_images.reshape(234, 5, -1).astype(np.float32)
    random = np.random.default_rng(0)
    right = []
    for _ in range(500):
        ways = random.choice(234, 5, replace=False)
        apart = ((flat[ways, 1:, None] - flat[ways, 0]) ** 2).sum(-1)
        right.append((apart.argmin(-1) == np.arange(5)[:, None]).mean())
    assert 0.45 < np.mean(right) < 0.58


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("dev", {}, 'split=\'dev\'; expected "train", "validation" or "test"'),
        ("test", {"drawers": 0}, "drawers=0; expected an integer of 1 or more"),
        ("test", {"size": 7}, "size=7; expected an integer of 8 or more"),
        ("test", {"seed": -1}, "seed=-1; expected an integer of 0 or more"),
    ],
)
def test_wrong_arguments_are_named(split: str, options: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        glyphs(split, **options)


@pytest.mark.parametrize("share", [None, 0, 0.5, 0.99])
def test_damaged_file_is_named(share: float | None, tmp_path: Path, monkeypatch):
    if share is not None:
        whole = PACKAGE.joinpath(DATA_FILE).read_bytes()
        (tmp_path / DATA_FILE).write_bytes(whole[: int(share * len(whole))])
    monkeypatch.setattr(stroke_glyphs.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=rf"{DATA_FILE} cannot be read .*; reinstall metajax"):
        glyphs("test")


def test_file_of_wrong_counts_is_named(tmp_path: Path, monkeypatch):
    with PACKAGE.joinpath(DATA_FILE).open("rb") as file, np.load(file) as shipped:
        arrays = dict(shipped)
    arrays["points"] = arrays["points"][:-1]
    np.savez(tmp_path / DATA_FILE, allow_pickle=False, **arrays)
    monkeypatch.setattr(stroke_glyphs.resources, "files", lambda package: tmp_path)
    with pytest.raises(
        ValueError, match="976 glyphs, 5160 strokes and 27933 points, expected 5161"
    ):
        glyphs("test")


def test_parser_wraps_lifts_the_pen_and_drops_bearings():
    blank, mark = hershey_conversion.parse_jhf(TWO_GLYPHS, "face")
    assert (blank.name, blank.strokes) == ("face:0", ())
    assert mark.name == "face:1"
    assert [stroke.tolist() for stroke in mark.strokes] == [
        [[0, -12], [0, 2]],
        [[0, 7], [-1, 8], [0, 7]],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12345  xJZ\n", "glyph 0 of face 'f': columns 6-8 are '  x', expected a count"),
        (TWO_GLYPHS[:-3], "glyph 1 of face 'f': got 12 characters, expected 14"),
        ("12345  2JZRRRR\n", "glyph 0 of face 'f': got 6 characters, expected 4"),
    ],
)
def test_parser_names_the_bad_glyph(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        hershey_conversion.parse_jhf(text, "f")


@pytest.mark.slow
def test_conversion_reproduces_the_shipped_file(tmp_path: Path):
    data = os.environ.get("METAJAX_DATA_DIR")
    if not data:
        pytest.skip("METAJAX_DATA_DIR is not set: no fonts to convert")
    folder = Path(data) / "hershey"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    hershey_conversion.convert(folder, tmp_path / DATA_FILE)
    with (
        PACKAGE.joinpath(DATA_FILE).open("rb") as file,
        np.load(file) as shipped,
        np.load(tmp_path / DATA_FILE) as made,
    ):
        assert set(made) == set(shipped)
        for name in shipped:
            assert made[name].dtype == shipped[name].dtype
            np.testing.assert_array_equal(made[name], shipped[name])


def test_conversion_needs_faces_and_their_licence(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no \.jhf face"):
        hershey_conversion.convert(tmp_path, tmp_path / DATA_FILE)
    (tmp_path / "face.jhf").write_text(TWO_GLYPHS)
    with pytest.raises(ValueError, match="has no LICENSE"):
        hershey_conversion.convert(tmp_path, tmp_path / DATA_FILE)
    (tmp_path / "LICENSE").write_text("terms")
    (tmp_path / "face.jhf").write_text("12345  1JZ\n")
    with pytest.raises(ValueError, match="no glyph with a drawing"):
        hershey_conversion.convert(tmp_path, tmp_path / DATA_FILE)
