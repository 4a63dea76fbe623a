"""Omniglot from the official zips; tests on the real drawings need METAJAX_DATA_DIR."""

import hashlib
import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from irregular_files import irregular

from metajax.data.readers.area_average import area_average
from metajax.data.readers.omniglot import reading
from metajax.data.readers.omniglot.archive import OFFICIAL, read_archive
from metajax.data.readers.omniglot.reading import omniglot, omniglot_classes
from metajax.data.readers.omniglot.splits import PROTOCOLS, class_names, split_rows
from metajax.regular_files import IrregularFileError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

FOLDERS = class_names().tolist()
FIRST = 964  # The last character of one alphabet, whose name comes after the next one's.
ALL = [(protocol, split) for protocol, splits in PROTOCOLS.items() for split in splits]
UNREADABLE = r"'.*images_background.zip' \(\d+ bytes\) cannot be read: "


def png(ink: np.ndarray, mode: str = "1") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, pictures: dict[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in pictures.items():
            archive.writestr(f"{path.stem}/{name}", content)
    return path


def one_character(character: int, picture: bytes) -> dict[str, bytes]:
    return {f"{FOLDERS[character - 1]}/{character:04d}_{d:02d}.png": picture for d in range(1, 21)}


@pytest.fixture
def numbered(tmp_path, monkeypatch) -> Path:
    """A folder of zips whose every drawing holds the index of its class, decoded without them."""

    def decoded(path, ids):
        images = np.zeros((len(ids), 20, 28, 28), np.uint8)
        index = np.array(ids)[:, None] - 1
        images[:, :, 0, 0], images[:, :, 0, 1] = index // 256, index % 256
        return images

    for name, official in OFFICIAL.items():
        (tmp_path / name).write_bytes(b"never opened")
        pixels = hashlib.sha256(decoded(name, official.ids)).hexdigest()
        monkeypatch.setitem(OFFICIAL, name, official._replace(pixels=pixels))
    monkeypatch.setattr(reading, "read_archive", decoded)
    return tmp_path


def class_indices(images: np.ndarray) -> np.ndarray:
    first = images[:, 0, 0, :2, 0].astype(int)
    return 256 * first[:, 0] + first[:, 1]


# The drawings themselves


@pytest.mark.slow
def test_zips_give_the_published_pixels_to_the_bit(omniglot_folder, monkeypatch):
    with np.load(omniglot_folder / "omniglot28.npz") as archive:
        published = archive["images"]
    for protocol, split in ALL:
        rows = split_rows(split, protocol)
        images = omniglot(omniglot_folder, split, protocol=protocol)
        assert images.dtype == np.uint8
        assert type(images) is np.ndarray
        np.testing.assert_array_equal(images[..., 0], published[rows])
        monkeypatch.setitem(sys.modules, "PIL", None)  # From here on, all is in the cache.
        classes = omniglot_classes(omniglot_folder, split, protocol=protocol)
        assert isinstance(classes.images, np.memmap)
        np.testing.assert_array_equal(classes[classes.names[-1]][..., 0], published[rows[-1]])


def test_other_drawings_are_said_each_time(numbered, monkeypatch):
    monkeypatch.setattr(reading, "read_archive", lambda path, ids: np.zeros((len(ids), 20, 28, 28)))
    said = "images_background.zip' and '.*images_evaluation.zip' are not those published"
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=said) as warned:
            omniglot(numbered)
        assert [w.filename for w in warned] == [__file__]


def test_classes_are_the_images_with_names(numbered):
    classes = omniglot_classes(str(numbered), "validation", cache=numbered / "mine")
    assert len(os.listdir(numbered / "mine")) == 1
    images = omniglot(numbered, "validation")
    for name, drawings in zip(classes.names, images, strict=True):
        np.testing.assert_array_equal(classes[name], drawings)
    assert len(set(classes.groups)) == 5
    # Hebrew's official ids are 466 to 487.
    assert class_indices(classes["Hebrew/character02"][None])[0] == 466
    assert classes.groups[classes.names.index("Hebrew/character02")] == "Hebrew"


def test_random_splits_are_read_by_their_seed(numbered):
    for seed in (None, 5):
        rows = split_rows("validation", "random", seed)
        images = omniglot(numbered, "validation", protocol="random", seed=seed)
        np.testing.assert_array_equal(class_indices(images), rows)
        classes = omniglot_classes(numbered, "validation", protocol="random", seed=seed)
        assert classes.names == tuple(class_names()[rows])
    with pytest.raises(ValueError, match="seed=5 with protocol='vinyals', whose splits are publi"):
        omniglot(numbered, seed=5)


def test_a_zip_that_was_written_to_is_decoded_again(numbered):
    omniglot(numbered)
    (numbered / "images_evaluation.zip").write_bytes(b"another one")
    with pytest.warns(RuntimeWarning, match="1 of its zips changed: 'images_evaluation.zip'"):
        omniglot(numbered)
    omniglot(numbered)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_archive_order_and_polarity(tmp_path, mode):
    drawn = np.zeros((2, 20, 105, 105), bool)
    pictures = {f"../__MACOSX/._{FIRST:04d}_01.png": b"not a picture"}
    assert [FOLDERS[FIRST - 1], FOLDERS[FIRST]] == ["Tifinagh/character55", "Angelic/character01"]
    # Written backwards and over two alphabets: only the file names give the order.
    for row, drawer in reversed([(r, d) for r in range(2) for d in range(20)]):
        drawn[row, drawer, 15 * row : 15 * row + 15, 4 * drawer : 4 * drawer + 9] = True
        name = f"{FOLDERS[FIRST - 1 + row]}/{FIRST + row:04d}_{drawer + 1:02d}.png"
        pictures[name] = png(drawn[row, drawer], mode)
    images = read_archive(
        write_zip(tmp_path / "images_background.zip", pictures), range(FIRST, FIRST + 2)
    )
    inked = np.where(drawn, 255, 0).astype(np.uint8).reshape(40, 105, 105, 1)
    np.testing.assert_array_equal(images.reshape(40, 28, 28, 1), area_average(inked, 28))
    assert images[0, 0, 0, 0] == 255
    assert images[0, 0, -1, -1] == 0


# What a user can get wrong


def test_folders_that_lack_the_zips(tmp_path):
    folder, (one, other) = tmp_path / "données à moi", OFFICIAL
    for present, lacking in ((None, f"{one} and {other}"), (one, other)):
        if present:
            folder.mkdir()
            (folder / present).write_bytes(b"")
        said = f"{folder}' does not hold {lacking}; expected the official zips, .* https://github.com/brendenlake"
        with pytest.raises(FileNotFoundError, match=f"{said}.*, or call download_omniglot"):
            omniglot(folder)


def test_zips_that_are_no_regular_files(tmp_path):
    (tmp_path / "images_evaluation.zip").write_bytes(b"")
    for kind, path in irregular(tmp_path).items():
        link = tmp_path / "images_background.zip"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        with pytest.raises(IrregularFileError, match=rf"background.zip' is {kind}; expected a reg"):
            omniglot(tmp_path, cache=tmp_path / "caches")
    assert os.listdir(tmp_path / "caches") == []


@pytest.mark.parametrize("content", [b"", b"PK" * 200, b"404: Not Found"])
def test_files_that_are_no_zips(tmp_path, content):
    (tmp_path / "images_background.zip").write_bytes(content)
    said = r"its directory \(File is not .*\); expected the official images_background.zip, com"
    with pytest.raises(ValueError, match=UNREADABLE + said):
        read_archive(tmp_path / "images_background.zip", range(1, 2))


NOISE = png(np.random.default_rng(0).random((105, 105)) < 0.5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no item named 'images_background/Arcadian/character01/0001_13.png'"),
        (b"", "it is empty"),
        (NOISE[: len(NOISE) // 2], "OSError|SyntaxError"),
        (b"404: Not Found", "it is no readable image"),
        (NOISE[:18] + b"\xff" + NOISE[19:], "max_pixels|no readable|Error"),
        (png(np.zeros((28, 30), bool)), "it is 30 x 28 pixels"),
        (png(np.zeros((105, 106), bool)), "106 x 105 pixels, more than the max_pixels=11025"),
        (bytes(2**20 + 1), "its directory promises 1048577 bytes"),
    ],
)
def test_drawings_that_are_damaged_or_missing(tmp_path, content, said):
    pictures, name = one_character(1, NOISE), "Arcadian/character01/0001_13.png"
    del pictures[name]
    pictures |= {} if content is None else {name: content}
    path = write_zip(tmp_path / "images_background.zip", pictures, zipfile.ZIP_DEFLATED)
    message = rf"{UNREADABLE}{name} \(.*({said}).*\); expected .* of pictures of 105 x 105 pixels"
    with pytest.raises(ValueError, match=message):
        read_archive(path, range(1, 2))


def test_a_directory_that_promises_less_than_there_is(tmp_path):
    pictures = one_character(1, NOISE) | {"Arcadian/character01/0001_01.png": bytes(10**7)}
    path = write_zip(tmp_path / "images_background.zip", pictures, zipfile.ZIP_DEFLATED)
    small = (1000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace((10**7).to_bytes(4, "little"), small))
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{UNREADABLE}.*0001_01\.png \(Bad CRC-32"):
        read_archive(path, range(1, 2))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6  # Of what would inflate to 10 MB.


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_pictures_packed_otherwise(tmp_path, method):
    path = write_zip(tmp_path / "images_background.zip", one_character(1, NOISE), method)
    with pytest.raises(ValueError, match=f"it is packed by the method {method}, not deflated"):
        read_archive(path, range(1, 2))


def test_zips_with_flipped_bytes(tmp_path):
    """Whatever is damaged is a `ValueError` that names the file, or makes no difference."""
    path = write_zip(
        tmp_path / "images_background.zip", one_character(1, NOISE), zipfile.ZIP_DEFLATED
    )
    whole, random = path.read_bytes(), np.random.default_rng(0)
    expected, said = read_archive(path, range(1, 2)), []
    for place in random.choice(len(whole), 100, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(read_archive(path, range(1, 2)), expected)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(str(path) in message for message in said)


def test_pillow_missing(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "images_background.zip", one_character(1, b""))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[images\]"'):
        read_archive(path, range(1, 2))


@pytest.mark.parametrize(
    ("split", "protocol"),
    [
        ("val", "vinyals"),
        ("train", "lake"),
        ("background", "vinyals"),
        ("background_small3", "lake"),
    ],
)
def test_unknown_split_or_protocol(tmp_path, split, protocol):
    said = (
        f"split='{split}' with protocol='{protocol}'; expected protocol='vinyals' with split="
        "'train' or 'validation' or 'test' or 'train_and_validation', or protocol='random' with "
        "split='train' or 'validation' or 'test' or 'train_and_validation', or protocol='lake' "
        "with split='background' or 'evalu"
    )
    with pytest.raises(ValueError, match=said):
        omniglot(tmp_path, split, protocol=protocol)
    with pytest.raises(
        ValueError, match='protocol=\'ravi\'; expected "vinyals", "random" or "lake"'
    ):
        omniglot(tmp_path, split, protocol="ravi")
