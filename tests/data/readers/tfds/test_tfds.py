"""Data sets of TensorFlow Datasets, really prepared in temporary folders."""

import dataclasses
import functools
import io
import os
import re
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
pytest.importorskip("array_record", reason="array_record is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from data.readers.tfds.prepared import as_tfrecord, builder_class, change, png, prepare, tfds

import metajax
from metajax.data.readers.files.folder import image_folder
from metajax.data.readers.omniglot.archive import area_average
from metajax.data.readers.omniglot.reading import omniglot
from metajax.data.readers.tfds.omniglot import drawings, tfds_omniglot
from metajax.data.readers.tfds.reading import tfds_classes

FEATURES = {
    "image": tfds.features.Image(shape=(8, 6, 3)),
    "label": tfds.features.ClassLabel(names=["ant", "bee", "cat", "nobody"]),
    "size": tfds.features.ClassLabel(num_classes=2),
    "word": tfds.features.Text(),
    "boxes": tfds.features.Sequence(np.int64),
}


def example(seed: int, **changes) -> dict:
    label = (0, 1, 1, 2, 0, 1)[seed % 6]
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)
    plain = {"label": label, "size": label // 2, "word": "aeiou"[label], "boxes": [seed]}
    return {"image": png(pixels)} | plain | changes


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


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a test waits on a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def by_label(root: Path, split: str) -> dict[str, np.ndarray]:
    """What TensorFlow Datasets itself reads, in its order."""
    source = tfds.builder_from_directory(root / "animals" / "1.0.0").as_data_source(split)
    read = list(source)
    return {
        name: np.stack([x["image"] for x in read if x["label"] == label])
        for label, name in enumerate(["ant", "bee", "cat"])
    }


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_classes_are_what_tfds_reads(root, copy, tmp_path, kind):
    if kind == "tfrecord":
        as_tfrecord(copy / "animals" / "1.0.0")
    expected = by_label(root, "train+test")
    for cache in (tmp_path / "cache", False):
        classes = tfds_classes(
            "animals", "train+test", data_dir=copy, group_key="size", cache=cache
        )
        assert classes.names == ("ant", "bee", "cat")
        assert classes.groups == ("0", "0", "1")
        assert classes.counts.tolist() == [104, 156, 52]
        for name, images in expected.items():
            np.testing.assert_array_equal(classes[name], images)
    part = tfds_classes("animals", "train[:10%]+test", data_dir=copy, cache=False)
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


def test_labels_of_other_kinds(root, tmp_path):
    words = tfds_classes("animals", data_dir=root, label_key="word", cache=False)
    assert words.names == ("a", "e", "i")
    numbers = tfds_classes("animals", data_dir=root, label_key="size", cache=False)
    assert numbers.names == ("0", "1")


def test_pictures_of_other_kinds(tmp_path):
    ink = np.random.default_rng(0).random((8, 6)) < 0.5
    pixels = np.where(ink, 255, 0).astype(np.uint8)
    for channels in (1, 3):
        features = FEATURES | {"image": tfds.features.Image(shape=(8, 6, channels))}
        pictures = [png(pixels, mode) for mode in ("1", "L", "P", "RGB", "LA")]
        examples = [(i, example(0, image=p)) for i, p in enumerate(pictures)]
        prepare(tmp_path, f"ink{channels}", features, {"train": examples})
        images = tfds_classes(f"ink{channels}", data_dir=tmp_path, cache=False).images[:]
        expected = np.broadcast_to(pixels[..., None], (5, 8, 6, channels))
        np.testing.assert_array_equal(images, expected)


def test_images_of_several_sizes(tmp_path):
    features = FEATURES | {"image": tfds.features.Image()}
    big = np.full((9, 7, 3), 50, np.uint8)
    examples = [(i, example(i)) for i in range(5)] + [(9, example(1, image=png(big)))]
    prepare(tmp_path, "mixed", features, {"train": examples})
    message = (
        r"'mixed' have 2 sizes, such as 8 x 6 \(5 images\) and 9 x 7 \(1\); pass size= to resize"
    )
    with pytest.raises(ValueError, match=message):
        tfds_classes("mixed", data_dir=tmp_path, cache=False)
    resized = tfds_classes("mixed", data_dir=tmp_path, size=(4, 5), cache=tmp_path / "cache")
    assert resized.images.shape == (6, 4, 5, 3)
    assert (resized["bee"] == 50).all((1, 2, 3)).sum() == 1
    same = tfds_classes("mixed", "train[:1]", data_dir=tmp_path, cache=False)
    assert same.images.shape[1:] in [(8, 6, 3), (9, 7, 3)]


@pytest.mark.parametrize("size", [(4, 0), 84.0, "84", True, (8.5, 8), (4, 4, 3), np.float32(8)])
def test_sizes_that_are_none(root, size):
    said = re.escape(f"size={size!r}; expected pixels, 1 or more, or (height, width), or None")
    with pytest.raises(ValueError, match=said):
        tfds_classes("animals", data_dir=root, size=size)


def test_sizes_of_numpy(root, tmp_path):
    for size in (np.int64(8), 8, (8, np.int32(8))):
        images = tfds_classes("animals", data_dir=root, size=size, cache=tmp_path).images
        assert images.shape == (300, 8, 8, 3)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_image_of_another_size_than_said(tmp_path):
    other = example(0, image=png(np.zeros((6, 8), np.uint8)))
    prepare(tmp_path, "odd", FEATURES, {"train": [(0, other)]})
    with pytest.raises(ValueError, match="record 0 is 6 x 8, expected 8 x 6; pass size="):
        tfds_classes("odd", data_dir=tmp_path, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# The cache


def test_cache_is_used_again_and_made_again(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    first = tfds_classes("animals", data_dir=copy)
    (kept,) = tmp_path.glob("home/metajax/animals-1.0.0-*/images.npy")
    made = kept.stat().st_mtime_ns
    again = tfds_classes("animals", data_dir=copy)
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


def test_pictures_swapped_in_the_middle_of_a_file_are_noticed(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("metajax.data.readers.tfds.reading._ENDS", 100)
    folder = copy / "animals" / "1.0.0"
    as_tfrecord(folder)
    before = tfds_classes("animals", data_dir=copy, cache=tmp_path / "cache")
    (file,) = folder.glob("*train.tfrecord*")
    content = file.read_bytes()
    by_length: dict[int, bytes] = {}
    for seed in range(20, 280):
        picture = example(seed)["image"]
        other = by_length.setdefault(len(picture), picture)
        if other is not picture:
            break
    swapped = content.replace(other, b"?" * len(other)).replace(picture, other)
    swapped = swapped.replace(b"?" * len(other), picture)
    assert (swapped != content, len(swapped)) == (True, len(content))
    assert swapped[:100] + swapped[-100:] == content[:100] + content[-100:]
    file.write_bytes(swapped)
    with pytest.warns(RuntimeWarning, match="is made again: 1 of its files changed: 'animals-tr"):
        after = tfds_classes("animals", data_dir=copy, cache=tmp_path / "cache")
    assert (after.images != before.images).any((1, 2, 3)).sum() == 2


def test_each_set_of_options_has_a_cache_of_its_own(root, tmp_path):
    for size in (None, 4, None):
        tfds_classes("animals", data_dir=root, cache=tmp_path / "cache", size=size)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_no_space_for_the_cache(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"0 MB are free.*; make room for 903 MB, or pass another"):
        tfds_classes("animals", data_dir=root, size=1001, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(tfds_classes("animals", data_dir=root, cache=False).images[:]) == 300


def test_episodes_straight_from_the_files(root):
    data = tfds_classes("animals", data_dir=root, cache=False)
    options = {"ways": 2, "shots": 3, "queries": 4}
    in_memory = dataclasses.replace(data, images=data.images[:])
    key = jax.random.key(3)
    expected = metajax.data.image_episodes(in_memory, **options)(key)
    episode = metajax.data.image_episodes(data, **options, place="host")(key)
    # The same pixels, scaled by two programs.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), episode, expected)


# Where the files are


def test_newest_version_and_configs(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        count = 2 + (version == "1.10.0")
        examples = {"train": [(i, example(i)) for i in range(count)]}
        prepare(tmp_path, "old", FEATURES, examples, version=version)
        prepare(tmp_path, "two", FEATURES, examples, version=version, configs=("x", "y"))
    assert len(tfds_classes("old", data_dir=tmp_path, cache=False).images[:]) == 3
    assert len(tfds_classes("old:1.9.0", data_dir=tmp_path, cache=False).images[:]) == 2
    assert len(tfds_classes("two/y:1.9.0", data_dir=tmp_path, cache=False).images[:]) == 2
    assert len(tfds_classes("two", data_dir=tmp_path, cache=False).images[:]) == 3
    (tmp_path / "two" / ".config" / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"'two' has several configs in .*: 'two/x', 'two/y'"):
        tfds_classes("two", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'old:2.0.0' .* holds only '1.10.0', '1.9.0'"):
        tfds_classes("old:2.0.0", data_dir=tmp_path)


def test_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'omniglot' .* is not prepared") as error:
        tfds_classes("omniglot")
    for part in (
        str(tmp_path / "omniglot"),
        f"tfds build omniglot --file_format=array_record --data_dir='{tmp_path}'",
        "download=True",
    ):
        assert part in str(error.value)


def test_unknown_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"knows no data set 'omniglto', .* near it are 'omniglot'"
    ):
        tfds_classes("omniglto", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"knows no data set 'qqqqqq', .* tfds.list_builders"):
        tfds_classes("qqqqqq", data_dir=tmp_path)
    with pytest.raises(ValueError, match="name='a:b'; expected 'name', 'name/config' or"):
        tfds_classes("a:b", data_dir=tmp_path)


def test_download_prepares_once(tmp_path, monkeypatch):
    made = builder_class("animals", FEATURES, splits())
    asked = []

    def builder(name, *, data_dir, try_gcs, file_format):
        asked.append((name, try_gcs))
        return made(data_dir=data_dir, file_format=file_format)

    monkeypatch.setattr(tfds, "builder", builder)
    for _ in range(2):
        classes = tfds_classes(
            "animals", data_dir=tmp_path, cache=False, download=True, manual_dir=tmp_path
        )
        assert classes.counts.sum() == 300
    assert asked == [("animals", False)]


def test_download_without_what_it_needs(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="manual_dir='nowhere' is no folder; expected the"):
        tfds_classes("mnist", data_dir=tmp_path, download=True, manual_dir="nowhere")

    def builder(*_, **__):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(tfds, "builder", builder)
    message = r"preparing 'mnist' needs .*'tensorflow'\); run: pip install tensorflow"
    with pytest.raises(ImportError, match=message):
        tfds_classes("mnist", data_dir=tmp_path, download=True)


# What a user can get wrong


def test_not_installed(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'cannot be imported .*pip install "metajax\[tfds\]"'):
        tfds_classes("animals", data_dir=root)


def test_pillow_missing(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow, .*pip install "metajax\[images\]"'):
        tfds_classes("animals", data_dir=root, cache=False).images[[0]]


def test_array_record_missing(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    with pytest.raises(
        ImportError, match=r"array_record files need .*pip install array_record, or"
    ):
        tfds_classes("animals", data_dir=root, cache=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_key": "img"}, r"image_key='img'; 'animals' has the features \['boxes', 'image'"),
        ({"label_key": "fine"}, "label_key='fine'; 'animals' has the features"),
        ({"group_key": "coarse"}, "group_key='coarse'; 'animals' has the features"),
        ({"image_key": "label"}, r"image_key='label' is ClassLabel.* the images \['image'\]"),
        ({"label_key": "boxes"}, "the labels 'boxes' are Sequence.* expected one integer or"),
        ({"split": "trian"}, r"split='trian' of 'animals' cannot be read .* \['test', 'train'\]"),
        ({"split": "train[:0]"}, r"split='train\[:0\]' of 'animals' is empty; expected images"),
        (
            {"label_key": "size", "group_key": "label"},
            r"the class '0' has images of two groups, '(ant|bee)' and '(ant|bee)'; .*'label'",
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
    with pytest.raises(ValueError, match=r"of image_key='image' are uint.* expected uint8 \[heig"):
        tfds_classes("deep", data_dir=tmp_path)


def test_images_without_labels(tmp_path):
    examples = [(i, example(i, label=-1 if i < 2 else 1)) for i in range(5)]
    prepare(tmp_path, "unlabelled", FEATURES, {"train": examples})
    with pytest.raises(
        ValueError, match=r"2 of 5 images have the label -1 in 'label', .* use a sp"
    ):
        tfds_classes("unlabelled", data_dir=tmp_path, cache=False)


def test_labels_out_of_range(copy):
    (copy / "animals" / "1.0.0" / "label.labels.txt").unlink()
    features = copy / "animals" / "1.0.0" / "features.json"
    features.write_text(features.read_text().replace('"numClasses": "4"', '"numClasses": "2"'))
    with pytest.raises(ValueError, match=r"'label' reach from 0 to 2; expected labels in \[0, 2\)"):
        tfds_classes("animals", data_dir=copy, cache=False)


def test_another_file_format(copy):
    change(copy / "animals" / "1.0.0", fileFormat="riegeli")
    with pytest.raises(ValueError, match="the format 'riegeli'; expected 'array_record' or 'tfrec"):
        tfds_classes("animals", data_dir=copy, cache=False)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_missing_and_truncated_files(copy, kind):
    folder = copy / "animals" / "1.0.0"
    if kind == "tfrecord":
        as_tfrecord(folder)
    (file,) = folder.glob(f"*train.{kind}*")
    whole = file.read_bytes()
    for length in (len(whole) // 2, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"animals-train\..*copy it again, or prepare the"):
            tfds_classes("animals", data_dir=copy, cache=False)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 files .* missing, such as .*train"):
        tfds_classes("animals", data_dir=copy, cache=False)


def test_pictures_are_decoded_as_in_a_folder(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    clear = np.random.default_rng(0).integers(0, 256, (8, 6, 4), np.uint8)
    turned, exif = io.BytesIO(), image.Exif()
    exif[0x0112] = 6
    image.fromarray(clear[..., 0].T).save(turned, "PNG", exif=exif)
    pictures = [png(clear), turned.getvalue(), png(np.full((8, 6), 0x7F80, np.uint16))]
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


def test_transparency_is_kept_where_there_is_room_for_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 4), np.uint8)
    features = FEATURES | {"image": tfds.features.Image(shape=(8, 6, 4))}
    prepare(tmp_path, "clear", features, {"train": [(0, example(0, image=png(pixels)))]})
    images = tfds_classes("clear", data_dir=tmp_path, cache=False).images
    np.testing.assert_array_equal(images[0], pixels)


def test_pillow_told_to_accept_truncated_files(root, tmp_path, monkeypatch):
    from PIL import ImageFile

    images = tfds_classes("animals", data_dir=root, cache=False).images
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match=r"LOAD_TRUNCATED_IMAGES is set: .*; expected False"):
        images[0]
    with pytest.raises(RuntimeError, match=r"LOAD_TRUNCATED_IMAGES is set: .*; expected False"):
        tfds_classes("animals", data_dir=root, cache=tmp_path)


def test_undecodable_picture(tmp_path):
    cut = example(0)
    cut["image"] = cut["image"][:100]
    for name, bad, cause in (
        ("cut", cut, "[A-Z].*: "),
        ("text", example(0, image=b"404: Not Found"), "it is no readable image of the formats PNG"),
        ("nothing", example(0, image=b""), r"it is empty\); the files may be damaged"),
    ):
        prepare(tmp_path, name, FEATURES, {"train": [(0, bad)]})
        with pytest.raises(ValueError, match=rf"image of record 0 cannot be decoded \({cause}"):
            tfds_classes(name, data_dir=tmp_path, cache=tmp_path / "cache")


# Omniglot


def omniglot_splits(drawn: np.ndarray) -> dict:
    def examples(characters):
        for place in characters:
            for drawer in range(20):
                picture = png(np.where(drawn[place, drawer], 0, 255).astype(np.uint8), "1")
                key = f"Arcadian_{place}_{place + 1:04d}_{drawer + 1:02d}.png"
                yield key, {"image": picture, "label": place}

    return {"train": list(examples([0, 1])), "test": list(examples([2]))}


def test_omniglot_drawers_are_found(tmp_path):
    drawn = np.random.default_rng(0).random((3, 20, 28, 28)) < 0.5
    drawn = drawn.repeat(4, 2).repeat(4, 3)[..., :105, :105]
    features = {
        "image": tfds.features.Image(shape=(105, 105, 3)),
        "label": tfds.features.ClassLabel(names=["Arcadian_0", "Arcadian_1", "Arcadian_2"]),
    }
    ids = {"train": range(1, 3), "test": range(3, 4)}
    made = omniglot_splits(drawn)
    prepare(tmp_path, "omniglot", features, made, version="3.0.0")
    classes = tfds_classes("omniglot", "train+test", data_dir=tmp_path, cache=False)
    expected = area_average(drawn)[..., None]
    np.testing.assert_array_equal(drawings(classes, np.array([0, 1, 2]), ids), expected)
    np.testing.assert_array_equal(drawings(classes, np.array([2]), ids), expected[2:])

    with pytest.raises(ValueError, match="holds 3 characters, drawn 20 to 20 times; expected 1623"):
        tfds_omniglot(data_dir=tmp_path)
    with pytest.raises(ValueError, match="split='val' is unknown"):
        tfds_omniglot("val", data_dir=tmp_path)

    backwards = {split: [(-i, e) for i, (_, e) in enumerate(x)] for split, x in made.items()}
    other = tmp_path / "unsorted"
    prepare(other, "omniglot", features, backwards, shuffle=False)
    classes = tfds_classes("omniglot", "train+test", data_dir=other, cache=False)
    with pytest.warns(RuntimeWarning, match="are in the order of the files, not in that of their"):
        unsorted = drawings(classes, np.array([1]), ids)
    assert sorted(x.tobytes() for x in unsorted[0]) == sorted(x.tobytes() for x in expected[1])

    names = other / "omniglot" / "1.0.0" / "label.labels.txt"
    names.write_text("Arcadian_0\nArcadian_2\nArcadian_1\n")
    classes = tfds_classes("omniglot", "train+test", data_dir=other, cache=False)
    message = "the label of the character 2 is 'Arcadian_2', expected 'Arcadian_1': the classes are"
    with pytest.raises(ValueError, match=message):
        drawings(classes, np.array([1]), ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "split"),
    [
        ("vinyals", "train"),
        ("vinyals", "validation"),
        ("vinyals", "test"),
        ("lake", "background"),
        ("lake", "evaluation"),
    ],
)
def test_real_omniglot_is_the_same_to_the_bit(omniglot_folder, protocol, split):
    prepared = Path(os.environ["METAJAX_DATA_DIR"]) / "tensorflow_datasets"
    if not (prepared / "omniglot").is_dir():
        pytest.skip(f"omniglot is not prepared in {prepared}")
    np.testing.assert_array_equal(
        tfds_omniglot(split, protocol=protocol, data_dir=prepared),
        omniglot(omniglot_folder, split, protocol=protocol),
    )
