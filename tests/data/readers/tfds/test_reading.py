"""Data sets of TensorFlow Datasets, really prepared in temporary folders."""

import dataclasses
import functools
import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from data.readers.tfds.prepared import FEATURES, example, image, png, prepare, tfds

import metajax
from metajax.data.readers.files.folder import image_folder
from metajax.data.readers.tfds.reading import tfds_classes


def splits(start: int = 0) -> dict:
    numbers = {"train": range(start, start + 300), "test": range(start + 300, start + 312)}
    return {split: [(i, example(i)) for i in seeds] for split, seeds in numbers.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Holds the data set `animals`, prepared as array_record; not to be changed."""
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "animals", FEATURES, splits())
    return folder


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """A copy of `root` to be changed."""
    return Path(shutil.copytree(root, tmp_path / "data"))


def by_label(root: Path, split: str) -> dict[str, np.ndarray]:
    """What TensorFlow Datasets itself reads, in its order."""
    source = tfds.builder_from_directory(root / "animals" / "1.0.0").as_data_source(split)
    read = list(source)
    return {
        name: np.stack([x["image"] for x in read if x["label"] == label])
        for label, name in enumerate(["ant", "bee", "cat"])
    }


def test_classes_are_what_tfds_reads(root, tmp_path):
    expected = by_label(root, "train+test")
    for cache in (tmp_path / "cache", False):
        options = {"data_dir": root, "group_key": "size", "cache": cache}
        classes = tfds_classes("animals", "train+test", **options)
        assert classes.names == ("ant", "bee", "cat")
        assert classes.groups == ("0", "0", "1")
        assert classes.counts.tolist() == [104, 156, 52]
        for name, images in expected.items():
            np.testing.assert_array_equal(classes[name], images)
    part = tfds_classes("animals", "train[:10%]+test", data_dir=root, cache=False)
    np.testing.assert_array_equal(part["bee"], by_label(root, "train[:10%]+test")["bee"])


def test_images_straight_from_the_files(root, tmp_path):
    cached = tfds_classes("animals", data_dir=root, cache=tmp_path / "cache").images
    direct = tfds_classes("animals", data_dir=root, cache=False).images
    assert direct.shape == cached.shape == (300, 8, 6, 3)
    assert direct.dtype == cached.dtype == np.uint8
    for rows in (7, -1, slice(2, 9), [5, 5, 299], np.array([[1, 2], [3, 4]]), []):
        index = np.asarray(rows, int) if isinstance(rows, list) else rows
        np.testing.assert_array_equal(direct[index], cached[index])
    rows = [np.random.default_rng(seed).integers(0, 300, 30) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for index, images in zip(rows, pool.map(direct.__getitem__, rows), strict=True):
            np.testing.assert_array_equal(images, cached[index])


@pytest.mark.parametrize(("key", "names"), [("word", ("a", "e", "i")), ("size", ("0", "1"))])
def test_labels_of_other_kinds(root, key, names):
    assert tfds_classes("animals", data_dir=root, label_key=key, cache=False).names == names


def test_images_of_several_sizes(tmp_path):
    examples = [(i, example(i)) for i in range(5)]
    examples += [(5, example(1, image=png(np.full((9, 7, 3), 50, np.uint8))))]
    for name, shape in (("mixed", (None, None, 3)), ("odd", (8, 6, 3))):
        features = FEATURES | {"image": tfds.features.Image(shape=shape)}
        prepare(tmp_path, name, features, {"train": examples}, shuffle=False)
        for cache in (tmp_path / "cache", False):
            said = r"the image of record 5 .* \(9, 7, 3\), others \(8, 6, 3\); .* such as size=84"
            with pytest.raises(ValueError, match=said):
                tfds_classes(name, data_dir=tmp_path, cache=cache).images[:]
        assert not list((tmp_path / "cache").iterdir())
        resized = tfds_classes(name, data_dir=tmp_path, size=(4, 5), cache=False)
        assert resized.images.shape == (6, 4, 5, 3)
        assert (resized["bee"] == 50).all((1, 2, 3)).sum() == 1
        same = tfds_classes(name, "train[5:]", data_dir=tmp_path, cache=False)
        assert same.images.shape == (1, 9, 7, 3)


def test_each_set_of_options_has_a_cache_of_its_own(root, tmp_path):
    for size in (np.int64(8), 8, (8, np.int32(8)), None):
        images = tfds_classes("animals", data_dir=root, size=size, cache=tmp_path).images
        assert images.shape == (300, 8, 8 if size is not None else 6, 3)
    assert len(list(tmp_path.iterdir())) == 2


# The cache


def test_cache_is_used_again_and_made_again(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    first = tfds_classes("animals", data_dir=copy)
    (kept,) = tmp_path.glob("home/metajax/animals-1.0.0-*/images.npy")
    made = kept.stat().st_mtime_ns
    monkeypatch.chdir(copy)
    again = tfds_classes("animals", data_dir=".")
    assert kept.stat().st_mtime_ns == made
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, first.images)
    assert again.names == first.names

    shutil.rmtree(copy / "animals")
    prepare(copy, "animals", FEATURES, splits(start=600))
    with pytest.warns(RuntimeWarning, match=r"is made again: \d of its files changed: ") as warned:
        new = tfds_classes("animals", data_dir=copy)
    assert "'animals-train.array_record-00000-of-00001'" in str(warned[0].message)
    assert warned[0].filename == __file__
    np.testing.assert_array_equal(new["bee"], by_label(copy, "train")["bee"])


def test_episodes_straight_from_the_files(root):
    data = tfds_classes("animals", data_dir=root, cache=False)
    options = {"ways": 2, "shots": 3, "queries": 4}
    in_memory = dataclasses.replace(data, images=data.images[:])
    key = jax.random.key(3)
    expected = metajax.data.image_episodes(in_memory, **options)(key)
    episode = metajax.data.image_episodes(data, **options, place="host")(key)
    # The same pixels, scaled by two programs.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), episode, expected)


# What a user can get wrong


def test_pillow_missing(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow, .*pip install "metajax\[images\]"'):
        tfds_classes("animals", data_dir=root, cache=False).images[[0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_key": "img"}, r"image_key='img' is no feature; .* has the features \['boxes', "),
        ({"size": (4, 0)}, r"size=\(4, 0\); expected pixels, 1 or more, or \(height, width"),
        ({"max_pixels": 0}, "max_pixels=0; expected an integer of 1 or more"),
        ({"label_key": "fine"}, "label_key='fine' is no feature; expected one integer or"),
        ({"group_key": "coarse"}, "group_key='coarse' is no feature; expected one integer"),
        ({"image_key": "label"}, "image_key='label' is ClassLabel.* expected uint8 images "),
        ({"label_key": "boxes"}, "label_key='boxes' is Sequence.* expected one integer or"),
        ({"split": "trian"}, r"split='trian' of 'animals' cannot be read .* \['test', 'train'\]"),
        ({"split": "train[:0]"}, r"split='train\[:0\]' of 'animals' is empty; expected images"),
        (
            {"label_key": "size", "group_key": "label"},
            "the class '0' .* two groups, '.*'; .*'label'",
        ),
    ],
)
def test_wrong_arguments(root, wrong, message):
    with pytest.raises(ValueError, match=message):
        tfds_classes("animals", data_dir=root, cache=False, **wrong)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 6, 1), np.uint16), ((8, 6, 2), np.uint8), ((None, 8, 6, 3), np.uint8)]
)
def test_images_that_are_not_8_bit_pictures(tmp_path, shape, dtype):
    features = FEATURES | {"image": tfds.features.Image(shape=shape, dtype=dtype)}
    prepare(tmp_path, "deep", features, {"train": [(0, example(0))]})
    with pytest.raises(ValueError, match=r"image_key='image' is Image.* expected uint8 images \[h"):
        tfds_classes("deep", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("labels", "classes", "names", "said"),
    [
        ([-1, 1, -1, 1, 1], 2, "ant bee", "2 of 5 images have the label -1 in 'label', .* use a"),
        ([0, 2], 2, "ant bee", r"'label' .* reach from 0 to 2, expected \[0, 2\)"),
        ([0, 2], 3, "ant", r"labels 'label' cannot be used \(IndexError: .*; files may be damaged"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, labels, classes, names, said):
    examples = [(i, example(i, label=label)) for i, label in enumerate(labels)]
    folder = prepare(tmp_path, "odd", FEATURES, {"train": examples})
    (folder / "label.labels.txt").write_text(names.replace(" ", "\n"))
    features = (folder / "features.json").read_text()
    (folder / "features.json").write_text(features.replace('": "4"', f'": "{classes}"'))
    with pytest.raises(ValueError, match=said):
        tfds_classes("odd", data_dir=tmp_path, cache=False)


def test_pictures_are_decoded_as_in_a_folder(tmp_path):
    clear = np.random.default_rng(0).integers(0, 256, (8, 6, 4), np.uint8)
    turned, exif = io.BytesIO(), image.Exif()
    exif[0x0112] = 6
    image.fromarray(clear[..., 0].T).save(turned, "PNG", exif=exif)
    pictures = [png(clear), turned.getvalue(), png(np.full((8, 6), 0x7F80, np.uint16))]
    pictures += [png(clear[..., 0] // 128 * 255, mode) for mode in ("1", "L", "P", "LA")]
    examples = [(i, example(0, image=picture)) for i, picture in enumerate(pictures)]
    prepare(tmp_path, "odd", FEATURES, {"train": examples}, shuffle=False)
    (tmp_path / "folder" / "ant").mkdir(parents=True)
    for place, picture in enumerate(pictures):
        (tmp_path / "folder" / "ant" / f"{place}.png").write_bytes(picture)
    one = tfds_classes("odd", data_dir=tmp_path, cache=False).images[:]
    other = image_folder(tmp_path / "folder", size=None, cache=tmp_path / "cache").images
    np.testing.assert_array_equal(one, other)
    # Orientation 6 is shown turned by a quarter clockwise.
    np.testing.assert_array_equal(one[1, ..., 0], np.rot90(clear[..., 0].T, -1))
    assert (one[2] == 0x7F).all()

    # Transparency is kept where there is room for it.
    features = FEATURES | {"image": tfds.features.Image(shape=(8, 6, 4))}
    prepare(tmp_path, "clear", features, {"train": examples[:1]})
    images = tfds_classes("clear", data_dir=tmp_path, cache=False).images
    np.testing.assert_array_equal(images[0], clear)


def test_undecodable_picture(tmp_path):
    cut = example(0)
    cut["image"] = cut["image"][:100]
    for name, bad, cause in (
        ("cut", cut, "[A-Z].*: "),
        ("text", example(0, image=b"404: Not Found"), "BadImage: it is no readable image of the "),
        ("nothing", example(0, image=b""), r"BadImage: it is empty\); files may be damaged"),
    ):
        prepare(tmp_path, name, FEATURES, {"train": [(0, bad)]})
        with pytest.raises(ValueError, match=rf"image of record 0 cannot be decoded \({cause}"):
            tfds_classes(name, data_dir=tmp_path, cache=tmp_path / "cache")


def test_pictures_of_more_pixels_than_allowed(root, tmp_path):
    for cache in (tmp_path / "cache", False):
        with pytest.raises(ValueError, match=r"record \d+ .* pixels, more than the max_pixels=47"):
            tfds_classes("animals", data_dir=root, max_pixels=47, cache=cache).images[:]
    assert len(tfds_classes("animals", data_dir=root, max_pixels=48, cache=False).images[:]) == 300
