"""Pictures of any kind: the same arrays whatever they are, once, and a sentence where not."""

import dataclasses
import io
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from irregular_files import irregular

from metajax.data import image_folder
from metajax.pictures.reading import Look, labelled_pictures, read_pictures, thumbnails_of

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
RNG = np.random.default_rng(0)
LOOK = Look(8, 3)
SIZES = [(8, 8), (1, 1), (1, 700), (900, 2), (20, 31)]  # (height, width)
DECODE = "metajax.data.readers.files.decoded_files.decode"


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    """The folder of caches of a user who has none."""
    root = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "metajax"


def colours(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(root: Path, *names: str, mode: str = "RGB") -> list[Path]:
    """Pictures at these places, all different."""
    paths = [root / name for name in names]
    for path, size in zip(paths, SIZES * len(paths), strict=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours(*size)).convert(mode).save(path)
    return paths


# Folders


def test_pictures_and_labels_of_a_folder(tmp_path):
    root = tmp_path / "{naïve} bilder"
    names = ["ox/2.png", "ox/10.PNG", "cat/b.jpg", "cat/a.jpeg"]
    put(root, *names, "cat/.hidden.png", ".git/1.png")
    (root / "cat" / "notes.txt").write_text("no picture")
    paths, labels = labelled_pictures(root)
    assert labels == ["cat", "cat", "ox", "ox"]
    shown = ["cat/a.jpeg", "cat/b.jpg", "ox/10.PNG", "ox/2.png"]
    assert paths == [str(root / name) for name in shown]
    classes = image_folder(root, size=8, aspect="crop")
    np.testing.assert_array_equal(read_pictures(paths, LOOK).images, classes.images)
    assert [name for name in classes.names for _ in classes[name]] == labels


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("ox/1.png ox/2.png", r"holds the one class 'ox'; expected two or more"),
        ("1.png 2.png", r"holds 2 images, such as '1.png', directly; expected a folder a class"),
        ("ox/1.png cat/a.txt", r"no image and no folder in 'cat'; .* remove"),
        ("ox/1.png 1.png", r"holds 1 images, such as '1.png', beside the folders 'ox'"),
        ("x.txt", r"holds no image and no folder"),
        ("train/a/1.png test/a/1.png", r"are splits; pass one of them, such as '.*pictures.test'"),
    ],
)
def test_folders_that_are_refused(tmp_path, files, said):
    root = tmp_path / "pictures"
    for name in files.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"is not opened")
    with pytest.raises(ValueError, match=said):
        labelled_pictures(root)


def test_folders_that_are_not_there_and_links_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; expected one with a folder a class"):
        labelled_pictures(tmp_path / "no")
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "lost.png")
    with pytest.raises(FileNotFoundError, match=r"a/2.png' .* are links that lead nowhere; remove"):
        labelled_pictures(tmp_path)


# What a picture becomes


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_paths_arrays_and_pictures_become_the_same(tmp_path, channels, aspect):
    look = Look(8, channels, aspect)
    paths = put(tmp_path, *(f"{row}.png" for row in range(len(SIZES))))
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in opened]
    expected = read_pictures(paths, look, cache=False)
    assert expected.images.shape == (len(SIZES), 8, 8, channels)
    assert expected.images.dtype == np.uint8
    assert expected.kept.tolist() == [*range(len(SIZES))]
    assert expected.bad == {}
    texts = np.array([*map(str, paths)])
    same = [
        paths,
        texts,
        texts.astype(object),
        iter(paths),
        opened,
        arrays,
        map(jnp.asarray, arrays),
    ]
    same += [[array / 255 for array in arrays], [array.astype(np.int64) for array in arrays]]
    for pictures in same:
        found = read_pictures(pictures, look)
        np.testing.assert_array_equal(found.images, expected.images)
        assert found.bad == {}
    inverted = read_pictures(paths, dataclasses.replace(look, invert=True))
    np.testing.assert_array_equal(inverted.images, 255 - expected.images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode(tmp_path, mode):
    kind = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        Image.fromarray(RNG.integers(0, 2**16, (9, 9), dtype=np.uint16)).save(tmp_path / "0.png")
        paths = [tmp_path / "0.png"]
    else:
        paths = put(tmp_path, *(f"{row}.{kind}" for row in range(len(SIZES))), mode=mode)
    opened = [Image.open(path) for path in paths]
    assert {picture.mode for picture in opened} == {mode}
    for channels in (1, 3):
        look = Look(8, channels)
        found = read_pictures(paths, look).images
        np.testing.assert_array_equal(read_pictures(opened, look).images, found)


def test_pictures_are_turned_upright_and_stay_as_they_were(tmp_path):
    turned = Image.fromarray(colours(8, 8))
    turned.getexif()[274] = 6
    turned.save(tmp_path / "0.png", exif=turned.getexif())
    upright = np.rot90(np.asarray(turned), -1)
    np.testing.assert_array_equal(read_pictures([tmp_path / "0.png"], LOOK).images[0], upright)
    opened = Image.open(tmp_path / "0.png")
    for _ in range(2):
        np.testing.assert_array_equal(read_pictures([opened], LOOK).images[0], upright)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_are_rounded_to_8_bits(dtype):
    grey = np.arange(256).reshape(4, 8, 8)
    for pictures in (grey, jnp.asarray(grey, np.int16), (grey / 255).astype(dtype), [*grey]):
        found = read_pictures(pictures, Look(8, 1)).images
        np.testing.assert_array_equal(found[..., 0], grey)
    assert read_pictures(np.full((1, 8, 8), 0.7 / 255, dtype), Look(8, 1)).images.max() == 1


def test_transparent_arrays_lie_on_white():
    ink = np.zeros((1, 8, 8, 4), np.uint8)
    ink[0, :4, :, 3] = 255
    found = read_pictures(ink, LOOK).images[0]
    assert np.all(found[:4] == 0)
    assert np.all(found[4:] == 255)


def test_arrays_of_the_right_shape_need_no_pillow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    arrays = np.stack([colours(8, 8), colours(8, 8)])
    np.testing.assert_array_equal(read_pictures(arrays, LOOK).images, arrays)
    np.testing.assert_array_equal(read_pictures([*arrays], LOOK).images, arrays)
    with pytest.raises(ImportError, match=r"pip install \"metajax\[images\]\""):
        read_pictures(arrays, Look(7, 3))


# The cache


def test_files_are_decoded_once(tmp_path, user_cache, monkeypatch):
    paths = put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    made = read_pictures(paths, LOOK, corrupt="skip")
    assert made.kept.tolist() == [0, 2]
    assert made.bad == {1: "it is no readable image of the formats PNG, JPEG, BMP, GIF, WEBP, TIFF"}
    monkeypatch.setattr(DECODE, None)  # Would fail.
    again = read_pictures(paths, LOOK, corrupt="skip")
    np.testing.assert_array_equal(again.images, made.images)
    assert (again.kept.tolist(), again.bad) == ([0, 2], made.bad)
    # What was bad is known, whatever is to become of it.
    with pytest.raises(ValueError, match=r"1 of 3 .*b.png' \(it is no readable image .*; replace"):
        read_pictures(paths, LOOK)
    inverted = read_pictures(paths, dataclasses.replace(LOOK, invert=True), corrupt="skip")
    np.testing.assert_array_equal(inverted.images, 255 - made.images)
    assert len(os.listdir(user_cache)) == 1


def test_a_file_that_was_written_to_is_decoded_again(tmp_path):
    paths = put(tmp_path, "a.png", "b.png")
    before = read_pictures(paths, LOOK).images.copy()
    put(tmp_path, "a.png")
    with pytest.warns(RuntimeWarning, match="made again: 1 of its classes changed: 'pictures'"):
        after = read_pictures(paths, LOOK).images
    assert np.any(after[0] != before[0])
    np.testing.assert_array_equal(after[1], before[1])


def test_nothing_is_written_without_a_cache(tmp_path, user_cache, monkeypatch):
    paths = put(tmp_path / "of", "a.png", "b.png")
    there = sorted(tmp_path.rglob("*"))
    read_pictures(paths, LOOK, cache=False)
    assert sorted(tmp_path.rglob("*")) == there
    assert not user_cache.exists()
    read_pictures(paths, LOOK, cache=tmp_path / "mine")
    assert not user_cache.exists()
    assert len([*(tmp_path / "mine").iterdir()]) == 1


# What cannot be read


@pytest.mark.parametrize("cache", [None, False])
def test_bad_files_are_named_or_left_out(tmp_path, cache):
    paths = put(tmp_path, "a.png", "b.png")
    lost = tmp_path / "lost.png"
    lost.symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "half.png").write_bytes(paths[0].read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    Image.new("1", (7000, 7000)).save(tmp_path / "huge.png")
    unopened = [
        tmp_path / "no.png",
        lost,
        tmp_path,
        "zero\0byte.png",
        *irregular(tmp_path).values(),
    ]
    damaged = [tmp_path / name for name in ("half.png", "empty.png", "huge.png")]
    given = [*unopened, paths[0], *damaged, paths[1]]
    found = read_pictures(given, LOOK, cache=cache, corrupt="skip")
    assert found.kept.tolist() == [len(unopened), len(given) - 1]
    np.testing.assert_array_equal(found.images, read_pictures(paths, LOOK).images)
    assert [*found.bad] == [row for row in range(len(given)) if row not in found.kept]
    told = ["No such file", "a link that leads nowhere", "is a folder", "null", "a FIFO"]
    told += [
        "a socket",
        "a device",
        "is truncated",
        "it is empty",
        "7000 x 7000 pixels, more than the",
    ]
    for said, why in zip(told, found.bad.values(), strict=True):
        assert said in why
    with pytest.raises(
        OSError, match=r"7 of 12 pictures cannot be read: '.*no.png' \(No such file"
    ):
        read_pictures(given, LOOK, cache=cache)
    with pytest.raises(ValueError, match=r"1 of 2 pictures .*empty.png' \(it is empty\); replace"):
        read_pictures([paths[0], tmp_path / "empty.png"], LOOK, cache=cache)
    for nothing in (unopened[:2], damaged[:1], [damaged[0], unopened[0]]):
        empty = read_pictures(nothing, LOOK, cache=cache, corrupt="skip")
        assert empty.images.shape == (0, 8, 8, 3)
        assert [*empty.bad] == [*range(len(nothing))]


def test_bad_pictures_of_pillow(tmp_path):
    good, deep = Image.fromarray(colours(5, 5)), Image.new("F", (4, 4))
    found = read_pictures([good, deep], LOOK, corrupt="skip")
    assert found.kept.tolist() == [0]
    assert found.bad == {
        1: "ValueError: it has 32 bits a pixel, of no agreed range; convert it to 8 bits"
    }
    with pytest.raises(ValueError, match=r"1 of 2 pictures cannot be read: 'X\[1\]' \(ValueError"):
        read_pictures([good, deep], LOOK)


SQUARE = np.zeros((2, 4, 4))


@pytest.mark.parametrize(
    ("pictures", "kind", "said"),
    [
        ("a.png", TypeError, r"X is 'a.png'; expected several, \[X\] for one picture"),
        (Path("a.png"), TypeError, r"expected several, \[X\] for one picture"),
        (Image.new("L", (2, 2)), TypeError, r"expected several, \[X\] for one picture"),
        (None, TypeError, r"X is None; expected several, a list of paths, or pictures \[n, height"),
        (5, TypeError, "X is 5; expected several"),
        ([], ValueError, "X holds no picture; expected one or more"),
        ([None], TypeError, r"X\[0\] is None; expected paths alone, arrays alone, or"),
        (["a.png", None], TypeError, r"X\[1\] is None, X\[0\] 'a.png'; expected paths alone"),
        (["a.png", SQUARE[0]], TypeError, r"X\[1\] is array.*, X\[0\] 'a.png'; expected paths"),
        ([b"a.png"], TypeError, r"X\[0\] is b'a.png'"),
        ([[["a"]]], TypeError, r"X\[0\] is \[\['a'\]\]"),
        (np.array([["a.png"]]), ValueError, r"X is <U5\[1, 1\]; expected paths \[n\], or pictures"),
        (np.array(3.0), ValueError, r"X has the shape \(\); expected pictures \[n"),
        (np.zeros((0, 4, 4)), ValueError, r"shape \(0, 4, 4\); expected .*, none empty"),
        (
            np.zeros((5, 10)),
            ValueError,
            r"X has the shape \(5, 10\); expected pictures \[n, height",
        ),
        (
            np.zeros((9, 8, 3)),
            ValueError,
            r"one picture in colour or of many grey .* expected \[X\]",
        ),
        (np.zeros((2, 3, 8, 8)), ValueError, r"shape \(2, 3, 8, 8\); .* of 1, 3 or 4 channels"),
        (
            [np.zeros((2, 4, 4, 3))],
            ValueError,
            r"X\[0\] has the shape \(2, 4, 4, 3\); expected \[h",
        ),
        (SQUARE + 1.5, ValueError, r"X is of float64 and holds 1.5; expected integers in \[0, 255"),
        (SQUARE - 0.1, ValueError, r"X is of float64 and holds -0.1"),
        (np.where(SQUARE == 0, np.nan, 0), ValueError, "X is of float64 and holds nan"),
        (np.full((1, 4, 4), 256), ValueError, "X is of int64 and holds 256; .* divide by the larg"),
        ([SQUARE[0], SQUARE[0] - np.inf], ValueError, r"X\[1\] is of float64 and holds -inf"),
        (SQUARE == 0, TypeError, "X is of bool; expected integers"),
        (SQUARE + 0j, TypeError, "X is of complex128; expected integers"),
    ],
)
def test_what_is_no_picture(pictures, kind, said):
    with pytest.raises(kind, match=said):
        read_pictures(pictures, LOOK, corrupt="skip")


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"side": 0}, ValueError),
        ({"side": 8.0}, TypeError),
        ({"channels": 4}, ValueError),
        ({"channels": None}, TypeError),
        ({"aspect": "CROP"}, ValueError),
        ({"invert": 1}, TypeError),
    ],
)
def test_looks_that_are_refused(setting, kind):
    with pytest.raises(kind, match=f"{next(iter(setting))}=.*; expected"):
        Look(**{"side": 8, "channels": 3, **setting})


def test_a_look_is_json():
    look = Look(np.int64(8), np.int32(1), "pad", np.bool_(True))
    assert Look(**json.loads(json.dumps(dataclasses.asdict(look)))) == look
    with pytest.raises(ValueError, match='corrupt=\'ignore\'; expected "error" or "skip"'):
        read_pictures([SQUARE[0]], look, corrupt="ignore")
    with pytest.raises(TypeError, match="cache=True; expected a path"):
        read_pictures([SQUARE[0]], look, cache=True)


# Small pictures


@pytest.mark.parametrize(("channels", "kind", "mode"), [(1, "PNG", "L"), (3, "JPEG", "RGB")])
def test_thumbnails(channels, kind, mode):
    images = np.full((2, 150, 150, channels), 90, np.uint8)
    for side, shown in ((96, 96), (200, 150)):
        files = thumbnails_of(images, side)
        assert len(files) == 2
        for file in files:
            with Image.open(io.BytesIO(file)) as picture:
                assert (picture.format, picture.mode, picture.size) == (kind, mode, (shown, shown))
                assert np.abs(np.asarray(picture).astype(int) - 90).max() <= 1
