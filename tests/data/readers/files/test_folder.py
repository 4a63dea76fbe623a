"""Folders of images: what becomes of them, what is kept, and what is refused."""

import os
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from irregular_files import irregular

from metajax.data.readers.files.folder import image_folder
from metajax.regular_files import IrregularFileError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def picture(seed: int, height: int = 6, width: int = 5, mode: str = "RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def put(root: Path, *names: str, **options) -> None:
    """Pictures at these places under `root`, all different."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, **options).save(root / name)


def pixels(path: Path, size: tuple[int, int] = (5, 6), mode: str = "RGB") -> np.ndarray:
    with Image.open(path) as opened:
        resized = opened.convert(mode).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(size[1], size[0], -1)


# What becomes of them


def test_classes_and_images_are_sorted_by_name(tmp_path):
    names = ["ox/2.png", "ox/10.PNG", "cat/b.jpg", "cat/a.jpeg", "cat/a.bmp"]
    put(tmp_path, *names)
    classes = image_folder(tmp_path, size=(6, 5))
    assert classes.names == ("cat", "ox")
    assert classes.groups is None
    assert classes.counts.tolist() == [3, 2]
    assert classes.images.shape == (5, 6, 5, 3)
    assert classes.images.dtype == np.uint8
    assert isinstance(classes.images, np.memmap)
    for row, name in enumerate(["cat/a.bmp", "cat/a.jpeg", "cat/b.jpg", "ox/10.PNG", "ox/2.png"]):
        np.testing.assert_array_equal(classes.images[row], pixels(tmp_path / name))


@pytest.mark.parametrize(
    ("files", "split", "counts", "groups"),
    [
        ("train/a/1.png train/b/1.png test/c/1.png", "train", {"a": 1, "b": 1}, None),
        ("X/c2/1.png X/c1/1.png A/c/1.png", None, {"A/c": 1, "X/c1": 1, "X/c2": 1}, "AXX"),
        ("X/c2/1.png X/c1/1.png A/c/1.png", "X", {"c1": 1, "c2": 1}, None),
        ("a/1.png g/b/1.png", None, {"a": 1, "g/b": 1}, None),
        ("a/1.png a/.2.png .b/1.png __MACOSX/a/1.png a/._1 a/x.txt x.md", None, {"a": 1}, None),
        ("train/1.png test/1.png", None, {"test": 1, "train": 1}, None),
        ("val/a/1.png x/a/1.png", None, {"val/a": 1, "x/a": 1}, ["val", "x"]),
        ("caf\u00e9/1.png cafe\u0301/2.png", None, {"caf\u00e9": 2}, None),
    ],
)
def test_classes_and_groups_are_folders(tmp_path, files, split, counts, groups):
    put(tmp_path, *(name for name in files.split() if name.endswith(".png")))
    for name in files.split():
        (tmp_path / name).open("a").close()
    classes = image_folder(str(tmp_path), split, size=4)
    assert dict(zip(classes.names, classes.counts.tolist(), strict=True)) == counts
    assert list(classes.names) == sorted(classes.names)
    assert classes.groups == (None if groups is None else tuple(groups))


def test_spaces_and_letters_of_any_language(tmp_path):
    root = tmp_path / "naïve bilder 画像"
    decomposed = unicodedata.normalize("NFD", "é")
    put(root, "Ärger mich/ein bild ö.png", f"{decomposed}/ひらがな.png", "z/1.png")
    classes = image_folder(root, size=(6, 5), cache=tmp_path / "der cäche")
    assert classes.names == ("z", "Ärger mich", "é")
    np.testing.assert_array_equal(classes["é"][0], pixels(root / decomposed / "ひらがな.png"))
    assert image_folder(root, size=(6, 5), cache=tmp_path / "der cäche").names == classes.names


def test_sizes_and_channels(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    numbers = {"size": np.int64(8), "channels": np.int64(1), "max_pixels": np.int32(100)}
    grey = image_folder(tmp_path, **numbers)
    assert grey.images.shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(grey["b"][0], pixels(tmp_path / "b/1.png", (8, 8), "L"))
    assert image_folder(tmp_path, size=(3, 4)).images.shape == (2, 3, 4, 3)
    assert image_folder(tmp_path, size=None).images.shape == (2, 6, 5, 3)


def test_aspects_have_their_own_caches(tmp_path, user_cache):
    put(tmp_path, "a/1.png", "b/1.png", width=10)
    made = {each: image_folder(tmp_path, size=6, aspect=each) for each in ("crop", "pad")}
    assert len(os.listdir(user_cache)) == 2
    np.testing.assert_array_equal(
        made["crop"]["b"][0], pixels(tmp_path / "b/1.png", (10, 6))[:, 2:8]
    )
    assert np.all(made["pad"].images[:, [0, 5]] == 255)
    np.testing.assert_array_equal(
        image_folder(tmp_path, size=6).images,
        image_folder(tmp_path, size=6, aspect="stretch").images,
    )
    assert len(os.listdir(user_cache)) == 3
    with pytest.raises(ValueError, match="aspect='crop' with size=None; expected a size, such as"):
        image_folder(tmp_path, size=None, aspect="crop")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGBA", 3)])
def test_channels_as_they_are(tmp_path, mode, channels):
    put(tmp_path, "a/1.png", "a/2.png", mode=mode)
    assert image_folder(tmp_path, size=4, channels=None).images.shape == (2, 4, 4, channels)


def test_images_of_mixed_shape(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    put(tmp_path, "b/1.png", height=9)
    put(tmp_path, "b/2.png", mode="L")
    said = r"b.1.png' has the shape .* \(9, 5, 3\), others \(6, 5, 3\); make all .* such as size=84"
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, size=None)
    said = r"b.2.png' .* \(4, 4, 1\), others \(4, 4, 3\); .* such as channels=3 or channels=1"
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, size=4, channels=None)
    assert image_folder(tmp_path, size=4).images.shape == (4, 4, 4, 3)


# The cache


def test_the_cache_is_opened_without_pillow_and_images(tmp_path, user_cache, monkeypatch):
    put(tmp_path / "animals", "a/1.png", "b/1.png")
    made = image_folder(tmp_path / "animals", size=4)
    assert [path.name[:8] for path in user_cache.iterdir()] == ["animals-"]
    path = tmp_path / "animals" / "a" / "1.png"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)  # Would be found corrupt.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    monkeypatch.setitem(sys.modules, "PIL", None)
    read = image_folder(tmp_path / "animals", size=4)
    assert isinstance(read.images, np.memmap)
    np.testing.assert_array_equal(read.images, made.images)
    assert read.names == made.names
    with pytest.raises(ImportError, match=r'run: pip install "metajax\[images\]"'):
        image_folder(tmp_path / "animals", size=5)


def test_the_cache_is_where_it_is_asked_to_be(tmp_path, user_cache, monkeypatch):
    put(tmp_path / "data", "a/1.png")
    monkeypatch.chdir(tmp_path)
    image_folder("data", size=4, cache="mine")
    assert len(os.listdir(tmp_path / "mine")) == 1
    assert not user_cache.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    image_folder("data", size=4)
    assert len(os.listdir(tmp_path / "home" / ".cache" / "metajax")) == 1


def test_each_split_and_option_has_a_cache(tmp_path, user_cache):
    put(tmp_path, "train/a/1.png", "test/b/1.png")
    for _ in range(2):
        for split in ("train", "test"):
            for size, channels in ((4, 3), (5, 3), (4, 1)):
                classes = image_folder(tmp_path, split, size=size, channels=channels)
                assert classes.images.shape == (1, size, size, channels)
    assert len(os.listdir(user_cache)) == 6


def test_an_equal_cache_is_made_again(tmp_path):
    put(tmp_path, *(f"c{i % 3}/{i}.jpg" for i in range(40)))
    first = image_folder(tmp_path, size=4, cache=tmp_path / ".one", workers=1)
    second = image_folder(tmp_path, size=4, cache=tmp_path / ".two", workers=3)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.counts.tolist() == second.counts.tolist() == [14, 13, 13]


@pytest.mark.parametrize("change", ["added", "removed", "written", "touched"])
def test_a_changed_folder_is_decoded_again(tmp_path, change):
    put(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    image_folder(tmp_path, size=(6, 5))
    path = tmp_path / "b" / "2.png"
    if change == "added":
        put(tmp_path, "b/3.png")
    elif change == "removed":
        path.unlink()
    elif change == "written":
        picture(77).save(path)
    else:
        os.utime(path, ns=(1, 1))
    said = "is made again: 1 of its classes changed: 'b'$"
    with pytest.warns(RuntimeWarning, match=said) as warned:
        classes = image_folder(tmp_path, size=(6, 5))
    assert warned[0].filename == __file__
    names = sorted(os.listdir(tmp_path / "b"))
    for row, name in enumerate(names):
        np.testing.assert_array_equal(classes["b"][row], pixels(tmp_path / "b" / name))
    assert image_folder(tmp_path, size=(6, 5)).counts.tolist() == [1, len(names)]


# Corrupt images


def test_corrupt_images_are_named_and_counted(tmp_path, user_cache):
    put(tmp_path, *(f"a/{i:02d}.png" for i in range(14)))
    (tmp_path / "a" / "00.png").write_bytes(b"")
    (tmp_path / "a" / "01.png").write_bytes(b"<html>")
    whole = (tmp_path / "a" / "02.png").read_bytes()
    for i in range(2, 12):
        (tmp_path / "a" / f"{i:02d}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError,
        match=r"^12 of 14 images cannot be decoded: '.*00.png' \(it is empty\), '.*01.png' \(it is "
        r"no readable image of .*02.png' \(OSError: .*truncated.*09.png' .* and 2 more; replace "
        r"or remove them, or pass corrupt='skip'",
    ) as raised:
        image_folder(tmp_path, size=4)
    assert "10.png" not in str(raised.value)
    assert os.listdir(user_cache) == []


def test_corrupt_images_are_left_out_and_never_silently(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png", "c/1.png")
    (tmp_path / "a" / "2.png").write_bytes(b"")
    (tmp_path / "b" / "1.png").write_bytes(b"no image")
    kept = {"a": ["a/1.png"], "b": ["b/2.png", "b/3.png"], "c": ["c/1.png"]}
    expected = {name: [pixels(tmp_path / one) for one in files] for name, files in kept.items()}
    said = r"2 of 6 images cannot be decoded: '.*a.2.png' \(it is empty\), .*; they are left out"
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=said) as warned:
            classes = image_folder(tmp_path, size=(6, 5), corrupt="skip")
        assert warned[0].filename == __file__
        assert classes.counts.tolist() == [1, 2, 1]
        for name, images in expected.items():
            np.testing.assert_array_equal(classes[name], images)
        monkeypatch.setitem(sys.modules, "PIL", None)  # All is in the cache.


@pytest.mark.parametrize(("size", "classes"), [(4, "ab"), (4, "b"), (None, "b")])
def test_classes_of_corrupt_images_only(tmp_path, user_cache, size, classes):
    put(tmp_path, *(f"{name}/1.png" for name in classes))
    (tmp_path / "b" / "1.png").write_bytes(b"")
    said = rf"1 of {len(classes)} images cannot be decoded: '.*b.1.png' \(it is empty\); "
    with pytest.raises(ValueError, match=f"{said}replace or remove"):
        image_folder(tmp_path, size=size)
    with pytest.raises(ValueError, match=f"{said}none is left of 1 classes: 'b'; replace the im"):
        image_folder(tmp_path, size=size, corrupt="skip")
    assert os.listdir(user_cache) == []


def test_corrupt_images_have_no_size(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="1 of 2 images"):
        classes = image_folder(tmp_path, size=None, channels=None, corrupt="skip")
    assert classes.images[: classes.counts[0]].shape == (1, 6, 5, 3)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"size=0; expected pixels, 1 or more, or \(height, width\), or None"),
        ({"size": (4, -1)}, r"size=\(4, -1\); expected"),
        ({"size": (4, 4, 3)}, "size="),
        ({"size": 84.0}, "size=84.0"),
        ({"size": "84"}, "size='84'"),
        ({"size": True}, "size=True"),
        ({"size": 4, "channels": 4}, "channels=4; expected 1 for grey, 3 for RGB, or None"),
        ({"size": 4, "corrupt": "ignore"}, 'corrupt=\'ignore\'; expected "error" or "skip"'),
        ({"size": 4, "max_pixels": 0}, "max_pixels=0; expected an integer of 1 or more"),
        ({"size": 4, "workers": 0}, "workers=0; expected an integer of 1 or more, or None"),
    ],
)
def test_options_that_do_not_exist(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path / "not looked at", **options)


def test_a_folder_that_is_not_there(tmp_path):
    for there in (False, True):
        kind = NotADirectoryError if there else FileNotFoundError
        with pytest.raises(kind, match="data' is no folder; expected one with a folder 'train'"):
            image_folder(tmp_path / "data", "train", size=4)
        (tmp_path / "data").write_text("")


LAYOUT = "expected a folder a class with image files in it"


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        (
            "train/a/1.png test/a/1.png .x/a/1.png",
            "val",
            "expected one of its splits, 'test', 'train', or",
        ),
        ("train/a/1.png", "../x", r"no split '\.\./x'"),
        ("train/a/1.png test/a/1.png x/a/1.png", None, "'test', 'train' in '.*' are splits; pass"),
        ("Train/a/1.png Test/a/1.png", None, "are splits; pass one of them, such as split='Test'"),
        ("TRAIN/a/1.png", None, "the folders 'TRAIN' in '.*' are splits; pass one of them"),
        ("", None, rf"holds no image and no folder; {LAYOUT}"),
        ("a/1.png b/x.txt c/.2", None, rf"no image and no folder in 'b', 'c'; {LAYOUT}"),
        ("2.png 1.png", None, rf"holds 2 images, such as '1.png', directly; {LAYOUT}"),
        ("a/1.png a/x/1.png", None, "a' holds 1 images, such as '1.png', beside the folders 'x'; "),
    ],
)
def test_folders_that_are_laid_out_otherwise(tmp_path, names, split, said):
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, split, size=4)


def test_links(tmp_path):
    put(tmp_path, "data/a/1.png", "data/b/1.png", "elsewhere/1.png")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    classes = image_folder(tmp_path / "data", size=4)
    assert (classes.names, classes.counts.tolist()) == (("a", "b", "c"), [2, 1, 1])


@pytest.mark.parametrize("place", ["c", "a/2.png", "a/2"])
@pytest.mark.parametrize("itself", [True, False])
def test_links_that_lead_nowhere(tmp_path, place, itself):
    put(tmp_path, "a/1.png")
    (tmp_path / place).symlink_to(tmp_path / (place if itself else "gone"))
    said = f"'.*{place}' in the folders of classes are links that lead nowhere; remove them"
    with pytest.raises(FileNotFoundError, match=said):
        image_folder(tmp_path, size=4)


@pytest.mark.parametrize(
    "links",
    [{"x/y": target} for target in ("", "..", "x")]
    + [{"z": target} for target in ("", "..", "a")]
    + [{"x/y": "z", "z/y": "x"}],
)
def test_links_by_which_folders_are_found_twice(tmp_path, links):
    root = tmp_path / "data"
    put(root, "a/1.png", "x/b/1.png")
    for place, target in links.items():
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(os.path.abspath(root / target))
    said = "is or holds a link, by which '.*' is found again: its images would be in several"
    with pytest.raises(ValueError, match=said):
        image_folder(root, size=4)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    put(tmp_path / "data", "a/1.png")
    for kind, path in irregular(tmp_path).items():
        (tmp_path / "data" / "a" / "2.png").symlink_to(path)
        for size in (4, None):
            said = rf"a.2.png' is {kind}; expected a regular"
            with pytest.raises(IrregularFileError, match=said):
                image_folder(tmp_path / "data", size=size)
        (tmp_path / "data" / "a" / "2.png").unlink()


def test_pictures_too_large_to_be_decoded(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    put(tmp_path, "a/3.png", height=60)
    said = r"1 of 3 images .*a.3.png' \(it has 5 x 60 pixels, more than the max_pixels=100 that are"
    with pytest.warns(RuntimeWarning, match=said):
        classes = image_folder(tmp_path, size=None, max_pixels=100, corrupt="skip")
    assert classes.counts.tolist() == [2]


def test_files_too_large_to_be_read(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    os.truncate(tmp_path / "a" / "1.png", 2**40)  # Of which the disk holds nothing.
    said = r"1.png' \(.*1.png' has 1099511627776 bytes; expected at most 16778816\)"
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, size=None, max_pixels=100)
    with pytest.warns(RuntimeWarning, match=f"{said}; they are left out"):
        assert image_folder(tmp_path, size=4, max_pixels=100, corrupt="skip").counts == [1]


def test_decoding_that_was_stopped(tmp_path, monkeypatch, user_cache):
    put(tmp_path, *(f"a/{index}.png" for index in range(200)))
    begun = []

    def interrupted(content, *_, **options):
        begun.append(content)
        if len(begun) == 40:
            raise KeyboardInterrupt
        return np.zeros((6, 5, 3), np.uint8)

    monkeypatch.setattr("metajax.data.readers.files.decoded_files.decode", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        image_folder(tmp_path, size=(6, 5), workers=2)
    assert threading.active_count() == before
    assert len(begun) < 200
    assert os.listdir(user_cache) == []
