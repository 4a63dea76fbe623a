"""Folders of images: what becomes of them, what is kept, and what is refused."""

import errno
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


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    root = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "metajax"


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


def no_decoding(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)


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


def test_a_split_is_a_folder(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png")
    assert image_folder(tmp_path, "train", size=4).names == ("a", "b")
    assert image_folder(str(tmp_path), "test", size=4).names == ("c",)


def test_classes_in_groups(tmp_path):
    put(tmp_path, "Latin/c2/1.png", "Latin/c1/1.png", "Greek/c1/1.png")
    classes = image_folder(tmp_path, size=4)
    assert classes.names == ("Greek/c1", "Latin/c1", "Latin/c2")
    assert classes.groups == ("Greek", "Latin", "Latin")
    chosen = image_folder(tmp_path, "Latin", size=4)
    assert (chosen.names, chosen.groups) == (("c1", "c2"), None)


def test_classes_of_uneven_depth_have_no_groups(tmp_path):
    put(tmp_path, "a/1.png", "g/b/1.png")
    classes = image_folder(tmp_path, size=4)
    assert (classes.names, classes.groups) == (("a", "g/b"), None)


def test_other_files_are_ignored(tmp_path):
    put(tmp_path, "a/1.png", "a/.2.png", ".hidden/1.png", "__MACOSX/a/1.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"not an image")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    (tmp_path / "README.md").write_text("hello")
    classes = image_folder(tmp_path, size=4)
    assert (classes.names, classes.counts.tolist()) == (("a",), [1])


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


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGBA", 3)])
def test_channels_as_they_are(tmp_path, mode, channels):
    put(tmp_path, "a/1.png", "a/2.png", mode=mode)
    assert image_folder(tmp_path, size=4, channels=None).images.shape == (2, 4, 4, channels)


def test_images_of_mixed_shape(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    put(tmp_path, "b/1.png", height=9)
    put(tmp_path, "b/2.png", mode="L")
    said = (
        r"different shapes \(height, width, channels\): '.*b.1.png' \(9, 5, 3\), others \(6, 5, 3\)"
        r"; pass a size to resize them to, such as size=84, and channels=3 or channels=1"
    )
    with pytest.raises(ValueError, match=said):
        image_folder(tmp_path, size=None)
    with pytest.raises(ValueError, match=r"'.*b.2.png' \(4, 4, 1\), others \(4, 4, 3\)"):
        image_folder(tmp_path, size=4, channels=None)
    assert image_folder(tmp_path, size=4).images.shape == (4, 4, 4, 3)


# The cache


def test_the_cache_is_opened_without_pillow(tmp_path, user_cache, monkeypatch):
    put(tmp_path / "animals", "a/1.png", "b/1.png")
    made = image_folder(tmp_path / "animals", size=4)
    assert [path.name[:8] for path in user_cache.iterdir()] == ["animals-"]
    no_decoding(monkeypatch)
    read = image_folder(tmp_path / "animals", size=4)
    assert isinstance(read.images, np.memmap)
    np.testing.assert_array_equal(read.images, made.images)
    assert read.names == made.names
    with pytest.raises(ImportError, match=r'run: pip install "metajax\[images\]"'):
        image_folder(tmp_path / "animals", size=5)


def test_no_image_is_opened_where_there_is_a_cache(tmp_path):
    put(tmp_path, "a/1.png")
    made = image_folder(tmp_path, size=4)
    path = tmp_path / "a" / "1.png"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)  # would be found corrupt
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    np.testing.assert_array_equal(image_folder(tmp_path, size=4).images, made.images)


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
    with pytest.warns(
        RuntimeWarning, match="is made again: 1 of its classes changed: 'b'$"
    ) as warned:
        classes = image_folder(tmp_path, size=(6, 5))
    assert warned[0].filename == __file__
    names = sorted(os.listdir(tmp_path / "b"))
    for row, name in enumerate(names):
        np.testing.assert_array_equal(classes["b"][row], pixels(tmp_path / "b" / name))
    assert image_folder(tmp_path, size=(6, 5)).counts.tolist() == [1, len(names)]


def test_no_space_for_the_cache(tmp_path, user_cache, monkeypatch):
    put(tmp_path, "a/1.png")

    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    said = r"No space left on device\); make room for 4 MB, or pass another cache"
    with pytest.raises(OSError, match=said):
        image_folder(tmp_path, size=1000)
    assert os.listdir(user_cache) == []


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
    with pytest.warns(
        RuntimeWarning, match=r"2 of 6 images cannot be decoded: '.*a.2.png' .*; they are left out"
    ) as warned:
        classes = image_folder(tmp_path, size=(6, 5), corrupt="skip")
    assert warned[0].filename == __file__
    assert classes.counts.tolist() == [1, 2, 1]
    np.testing.assert_array_equal(classes["a"][0], pixels(tmp_path / "a/1.png"))
    np.testing.assert_array_equal(classes["b"][0], pixels(tmp_path / "b/2.png"))
    np.testing.assert_array_equal(classes["b"][1], pixels(tmp_path / "b/3.png"))
    np.testing.assert_array_equal(classes["c"][0], pixels(tmp_path / "c/1.png"))
    no_decoding(monkeypatch)
    with pytest.warns(
        RuntimeWarning,
        match=r"2 images that cannot be decoded are left out of the cache .*, of the classes "
        r"'a \(1\)', 'b \(1\)'; corrupt='error' names them",
    ) as warned:
        again = image_folder(tmp_path, size=(6, 5), corrupt="skip")
    assert warned[0].filename == __file__
    assert again.counts.tolist() == [1, 2, 1]
    np.testing.assert_array_equal(again["b"], classes["b"])


def test_a_class_of_corrupt_images_only(tmp_path, user_cache):
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "1.png").write_bytes(b"")
    with (
        pytest.warns(RuntimeWarning, match="1 of 2 images"),
        pytest.raises(ValueError, match="no image of 1 classes can be decoded: 'b'; replace"),
    ):
        image_folder(tmp_path, size=4, corrupt="skip")
    assert os.listdir(user_cache) == []


@pytest.mark.parametrize("size", [4, None])
def test_nothing_but_corrupt_images(tmp_path, size):
    put(tmp_path, "a/1.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 images cannot be decoded"):
        image_folder(tmp_path, size=size)


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
        ({"size": 4, "corrupt": "ignore"}, "corrupt='ignore'; expected 'error' or 'skip'"),
        ({"size": 4, "max_pixels": 0}, "max_pixels=0; expected an integer of 1 or more"),
        ({"size": 4, "workers": 0}, "workers=0; expected an integer of 1 or more, or None"),
    ],
)
def test_options_that_do_not_exist(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path / "not looked at", **options)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none' does not exist; expected a folder a class"):
        image_folder(tmp_path / "none", size=4)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file' is a file; expected a folder with"):
        image_folder(tmp_path / "file", "train", size=4)


def test_a_split_that_is_not_there(tmp_path):
    put(tmp_path, "train/a/1.png", "test/a/1.png", ".git/a/1.png")
    with pytest.raises(
        ValueError, match=r"no split 'val' in '.*', which holds the folders 'test', 'train'; pass"
    ):
        image_folder(tmp_path, "val", size=4)
    with pytest.raises(ValueError, match=r"no split .\.\./x."):
        image_folder(tmp_path, "../x", size=4)


@pytest.mark.parametrize(
    ("tops", "said"),
    [
        (("train", "test", "val"), "'test', 'train', 'val'"),
        (("train", "val", "test", "extra"), "'test', 'train', 'val'"),
        (("Train", "Test"), "'Test', 'Train'"),
        (("TRAIN",), "'TRAIN'"),
    ],
)
def test_a_split_that_was_forgotten(tmp_path, tops, said):
    put(tmp_path, *(f"{top}/a/1.png" for top in tops))
    with pytest.raises(
        ValueError, match=rf"the folders {said} in '.*' are splits; pass one of them, such as spl"
    ):
        image_folder(tmp_path, size=4)


@pytest.mark.parametrize("names", [("train/1.png", "test/1.png"), ("val/a/1.png", "x/a/1.png")])
def test_classes_that_are_called_as_splits(tmp_path, names):
    put(tmp_path, *names)
    assert len(image_folder(tmp_path, size=4).names) == 2


def test_folders_without_classes(tmp_path):
    with pytest.raises(ValueError, match=r"1 folders in .* hold no image and no folder: '\.'; exp"):
        image_folder(tmp_path, size=4)
    put(tmp_path, "2.png", "1.png")
    with pytest.raises(ValueError, match=r"holds 2 images, such as '1.png', directly; expected"):
        image_folder(tmp_path, size=4)


def test_a_class_without_images(tmp_path):
    put(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"2 folders in '.*' hold no image and no folder: 'b', 'c'; exp"
    ):
        image_folder(tmp_path, size=4)


def test_images_beside_folders(tmp_path):
    put(tmp_path, "a/1.png", "a/thumbnails/1.png", "b/1.png")
    with pytest.raises(
        ValueError, match=r"a' holds 1 images, such as '1.png', beside the folders 'thumbnails'; "
    ):
        image_folder(tmp_path, size=4)


def test_one_class_in_two_unicode_forms(tmp_path):
    put(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png")
    classes = image_folder(tmp_path, size=4)
    assert (classes.names, classes.counts.tolist()) == (("café",), [2])


def test_one_file_name_in_many_classes(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "B/1.png")
    if len(os.listdir(tmp_path)) == 3:
        assert image_folder(tmp_path, size=4).names == ("B", "a", "b")


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
    ("place", "target"),
    [("x/y", "."), ("x/y", ".."), ("x/y", "x"), ("z", "."), ("z", ".."), ("z", "a")],
)
def test_links_by_which_folders_are_found_twice(tmp_path, place, target):
    root = tmp_path / "data"
    put(root, "a/1.png", "x/b/1.png")
    (root / place).symlink_to(os.path.abspath(root / target))
    with pytest.raises(ValueError, match="found again: its images would be in several classes; re"):
        image_folder(root, size=4)


def test_links_that_lead_to_each_other(tmp_path):
    put(tmp_path, "x/a/1.png", "y/a/1.png")
    (tmp_path / "x" / "b").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "b").symlink_to(tmp_path / "x")
    with pytest.raises(ValueError, match=r"is or holds a link, by which '.*' is found again"):
        image_folder(tmp_path, size=4)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    put(tmp_path / "data", "a/1.png")
    for kind, path in irregular(tmp_path).items():
        (tmp_path / "data" / "a" / "2.png").symlink_to(path)
        for size in (4, None):
            with pytest.raises(
                IrregularFileError, match=rf"a.2.png' is {kind}; expected a regular"
            ):
                image_folder(tmp_path / "data", size=size)
        (tmp_path / "data" / "a" / "2.png").unlink()


def test_pictures_too_large_to_be_decoded(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    put(tmp_path, "a/3.png", height=60)
    said = r"1 of 3 images .*a.3.png' \(it has 5 x 60 pixels, more than the max_pixels=100 that are"
    for size in (4, None):
        with pytest.raises(ValueError, match=said):
            image_folder(tmp_path, size=size, max_pixels=100)
        with pytest.warns(RuntimeWarning, match=said):
            classes = image_folder(tmp_path, size=size, max_pixels=100, corrupt="skip")
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
