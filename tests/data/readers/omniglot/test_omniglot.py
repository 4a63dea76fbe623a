"""Omniglot from the user's files; tests on the real drawings need METAJAX_DATA_DIR."""

import hashlib
import io
import os
import re
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from metajax.data.readers.omniglot.archive import area_average, check_pictures, read_archive
from metajax.data.readers.omniglot.official_zips import OFFICIAL
from metajax.data.readers.omniglot.reading import omniglot, omniglot_classes
from metajax.data.readers.omniglot.splits import class_names

ARCHIVES = ("images_background.zip", "images_evaluation.zip")
FOLDERS = class_names().tolist()
FIRST = 964  # The last character of one alphabet, whose name comes after the next one's.
COUNTS = {
    ("vinyals", "train"): 1028,
    ("vinyals", "validation"): 172,
    ("vinyals", "test"): 423,
    ("lake", "background"): 964,
    ("lake", "evaluation"): 659,
    ("lake", "background_small1"): 136,
    ("lake", "background_small2"): 156,
}


@pytest.fixture
def real() -> Path:
    data = os.environ.get("METAJAX_DATA_DIR")
    if not data:
        pytest.skip("METAJAX_DATA_DIR is not set")
    folder = Path(data) / "omniglot"
    if not folder.is_dir():
        pytest.skip(f"METAJAX_DATA_DIR has no folder omniglot: {folder}")
    return folder


def numbered_images() -> np.ndarray:
    """All-paper images `[1623, 20, 28, 28]` whose first two pixels hold the class index."""
    images = np.zeros((1623, 20, 28, 28), np.uint8)
    index = np.arange(1623)[:, None]
    images[:, :, 0, 0], images[:, :, 0, 1] = index // 256, index % 256
    return images


def class_indices(images: np.ndarray) -> np.ndarray:
    first = images[:, 0, 0, :2, 0].astype(int)
    return 256 * first[:, 0] + first[:, 1]


def png(ink: np.ndarray, mode: str = "1") -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    stream = io.BytesIO()
    image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, pictures: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(f"{path.stem}/{name}", content)
    return path


def one_character(character: int, picture: bytes) -> dict[str, bytes]:
    return {f"{FOLDERS[character - 1]}/{character:04d}_{d:02d}.png": picture for d in range(1, 21)}


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# The drawings themselves


@pytest.mark.parametrize(
    ("protocol", "split"),
    [
        pytest.param(*key, marks=[] if key == ("vinyals", "train") else pytest.mark.slow)
        for key in COUNTS
    ],
)
def test_zips_equal_npz_to_the_bit(real, tmp_path, protocol, split):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    for name in ARCHIVES:
        (tmp_path / name).symlink_to(real / name)
    # The zips there may have been packed again: the true pictures, but not the official bytes.
    other = [n for n, official in OFFICIAL.items() if sha256(real / n) != official.sha256]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        zipped = omniglot_classes(tmp_path, split, protocol=protocol)
    complete = r"re-encoded or is damaged; the pictures are complete: (964|659) characters by 20"
    assert len(warned) == len(other)
    for warning, name in zip(warned, other, strict=True):
        assert re.search(rf"{re.escape(name)}.*{complete}", str(warning.message))
        assert Path(warning.filename) == Path(__file__)
    expected = omniglot_classes(real, split, protocol=protocol)
    np.testing.assert_array_equal(zipped.images, expected.images)
    assert (zipped.names, zipped.groups) == (expected.names, expected.groups)


def test_real_classes_and_ink(real):
    for (protocol, split), classes in COUNTS.items():
        images = omniglot(real, split, protocol=protocol)
        assert images.shape == (classes, 20, 28, 28, 1)
        assert images.dtype == np.uint8
        assert images.max() == 255
        assert 0 < images.mean() / 255 < 0.3


@pytest.mark.parametrize("protocol", ["vinyals", "lake"])
def test_npz_splits_are_the_npz_arrays(real, protocol):
    with np.load(real / "omniglot28.npz") as archive:
        images, codes = archive["images"], archive[f"{protocol}_split"]
    splits = [split for owner, split in COUNTS if owner == protocol and "small" not in split]
    for code, split in enumerate(splits):
        np.testing.assert_array_equal(
            omniglot(real, split, protocol=protocol)[..., 0], images[codes == code]
        )


def test_published_splits_are_disjoint_and_complete(tmp_path):
    np.savez_compressed(tmp_path / "omniglot28.npz", images=numbered_images())
    found = {
        key: class_indices(omniglot(tmp_path, key[1], protocol=key[0])).tolist() for key in COUNTS
    }
    assert {key: len(indices) for key, indices in found.items()} == COUNTS
    assert all(indices == sorted(indices) for indices in found.values())
    for protocol in ("vinyals", "lake"):
        parts = [found[key] for key in COUNTS if key[0] == protocol and "small" not in key[1]]
        assert sorted(i for indices in parts for i in indices) == list(range(1623))
    assert found["lake", "background"] == list(range(964))
    assert set(found["lake", "background_small1"]) < set(range(964))
    assert set(found["lake", "background_small2"]) < set(range(964))


def test_classes_are_the_images_with_names(tmp_path):
    np.savez_compressed(tmp_path / "omniglot28.npz", images=numbered_images())
    classes = omniglot_classes(tmp_path, "validation")
    images = omniglot(tmp_path, "validation")
    np.testing.assert_array_equal(classes.images, images.reshape(-1, 28, 28, 1))
    assert classes.counts.tolist() == [20] * 172
    assert len(set(classes.groups)) == 5
    # Hebrew's official ids are 466 to 487.
    assert class_indices(classes["Hebrew/character02"][None])[0] == 466
    assert classes.groups[classes.names.index("Hebrew/character02")] == "Hebrew"


def test_npz_wins_over_zips(tmp_path):
    np.savez_compressed(tmp_path / "omniglot28.npz", images=numbered_images())
    for name in ARCHIVES:
        (tmp_path / name).write_bytes(b"never read")
    assert omniglot(str(tmp_path)).shape == (1028, 20, 28, 28, 1)


def test_area_average_against_quarter_pixels():
    ink = np.random.default_rng(0).random((3, 105, 105)) < 0.3
    quarters = ink.repeat(4, axis=1).repeat(4, axis=2)
    exact = quarters.reshape(3, 28, 15, 28, 15).sum(axis=(2, 4), dtype=int)
    np.testing.assert_array_equal(area_average(ink), (2 * 255 * exact + 225) // 450)


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
    np.testing.assert_array_equal(images, area_average(drawn))
    assert images[0, 0, 0, 0] == 255
    assert images[0, 0, -1, -1] == 0


# What a user can get wrong


def test_missing_folder(tmp_path):
    folder = tmp_path / "données à moi" / "omniglot"
    with pytest.raises(FileNotFoundError) as error:
        omniglot(folder)
    for part in (str(folder), "omniglot28.npz", *ARCHIVES, "github.com/brendenlake/omniglot"):
        assert part in str(error.value)


def test_folder_is_a_file(tmp_path):
    path = tmp_path / "omniglot28.npz"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a file, expected a folder; pass the folder that"):
        omniglot(path)


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Omniglot file; put there") as error:
        omniglot(tmp_path)
    for part in (str(tmp_path), "omniglot28.npz", *ARCHIVES, "github.com/brendenlake/omniglot"):
        assert part in str(error.value)


@pytest.mark.parametrize(("present", "absent"), [ARCHIVES, ARCHIVES[::-1]])
def test_one_zip_only(tmp_path, present, absent):
    (tmp_path / present).write_bytes(b"")
    message = f"holds {present} but not {absent}, and both are needed; get {absent} from https:"
    with pytest.raises(FileNotFoundError, match=message):
        omniglot(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "bare array"])
def test_damaged_npz(tmp_path, damage):
    path = tmp_path / "omniglot28.npz"
    if damage == "bare array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        np.savez(path, images=np.zeros((4, 20, 28, 28), np.uint8))
        whole = path.read_bytes()
        middle = len(whole) // 2
        content = {
            "empty": b"",
            "truncated": whole[:middle],
            "flipped": whole[:middle] + b"\xff" + whole[middle + 1 :],
            "text": b"404: Not Found",
        }
        path.write_bytes(content[damage])
    message = r"omniglot28\.npz' \(\d+ bytes\) cannot be read .*, expected a complete npz file"
    with pytest.raises(ValueError, match=message):
        omniglot(tmp_path)


def test_npz_without_images(tmp_path):
    np.savez(tmp_path / "omniglot28.npz", pictures=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds \['pictures'\], expected 'images' of shape"):
        omniglot(tmp_path)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1622, 20, 28, 28), np.uint8), ((1623, 19, 28, 28), np.uint8), ((3,), np.float32)],
)
def test_npz_of_the_wrong_shape(tmp_path, shape, dtype):
    np.savez_compressed(tmp_path / "omniglot28.npz", images=np.zeros(shape, dtype))
    with pytest.raises(
        ValueError, match=r"expected uint8 .*1623 characters by 20 drawers"
    ) as error:
        omniglot(tmp_path)
    assert f"is {np.dtype(dtype)} {shape}" in str(error.value)


@pytest.mark.parametrize("codes", [np.zeros(1623, np.uint8), np.zeros(10, np.uint8)])
def test_npz_with_a_wrong_split(tmp_path, codes):
    np.savez_compressed(tmp_path / "omniglot28.npz", images=numbered_images(), vinyals_split=codes)
    with pytest.raises(
        ValueError, match=r"'vinyals_split' in .* class counts .*, expected"
    ) as error:
        omniglot(tmp_path)
    assert f"[{len(codes)}, 0, 0]" in str(error.value)
    assert "'train': 1028" in str(error.value)


def test_npz_with_classes_in_another_order(tmp_path):
    codes = np.repeat([1, 0], [659, 964])
    np.savez_compressed(tmp_path / "omniglot28.npz", images=numbered_images(), lake_split=codes)
    message = (
        r"'lake_split' in .* class counts \[964, 659\], expected \(1623,\) and "
        r"{'background': 964, 'evaluation': 659}, classes in the order of their official ids"
    )
    with pytest.raises(ValueError, match=message):
        omniglot_classes(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "truncated"])
def test_damaged_zip(tmp_path, damage):
    folder = tmp_path / "мои данные"
    folder.mkdir()
    for name in ARCHIVES:
        path = write_zip(folder / name, {"Arcadian/character01/0001_01.png": bytes(1000)})
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:500])
    message = r"bytes\) cannot be read .*, expected the complete official images_background\.zip"
    with pytest.raises(ValueError, match=message) as error:
        omniglot(folder)
    assert str(folder / ARCHIVES[0]) in str(error.value)


def test_zips_with_too_few_drawings(tmp_path):
    for name in ARCHIVES:
        write_zip(tmp_path / name, one_character(1, b""))
    with pytest.raises(ValueError, match="20 drawings of 1 characters, expected 19280 of 964, as"):
        omniglot(tmp_path)


@pytest.mark.parametrize("wrong", ["missing drawer", "other id", "one id twice"])
def test_zip_with_wrong_drawings(tmp_path, wrong):
    pictures = one_character(1, b"") | one_character(3 if wrong == "other id" else 2, b"")
    if wrong == "missing drawer":
        del pictures["Arcadian/character02/0002_20.png"]
    if wrong == "one id twice":
        pictures |= {"Latin/character05/0001_01.png": b""}
    path = write_zip(tmp_path / "images_background.zip", pictures)
    message = rf"{len(pictures)} drawings of 2 characters, expected 40 of 2, .* 0001 to 0002"
    with pytest.raises(ValueError, match=message):
        read_archive(path, range(1, 3))


def test_zip_whose_alphabets_are_renamed(tmp_path):
    pictures = one_character(1, b"") | one_character(2, b"")
    wrong = {name.replace("n/character02", "n/character03"): p for name, p in pictures.items()}
    path = write_zip(tmp_path / "images_background.zip", wrong)
    message = (
        r"'images_background/Arcadian/character03/0002_01\.png' in .* is in the folder "
        r"'Arcadian/character03', expected 'Arcadian/character02'; get the official zip again"
    )
    for check in (read_archive, check_pictures):
        with pytest.raises(ValueError, match=message):
            check(path, range(1, 3))


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "flipped header", "jpeg"])
def test_undecodable_picture(tmp_path, damage):
    noise = np.random.default_rng(0).random((105, 105)) < 0.5
    whole = png(noise)
    pictures = one_character(1, whole)
    pictures["Arcadian/character01/0001_13.png"] = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "text": b"404: Not Found",
        "flipped header": whole[:18] + b"\xff" + whole[19:],
        "jpeg": b"\xff\xd8\xff\xe0" + bytes(50),
    }[damage]
    path = write_zip(tmp_path / "images_background.zip", pictures)
    with pytest.raises(ValueError, match=r"cannot be decoded .*, expected a PNG picture") as error:
        read_archive(path, range(1, 2))
    assert "'images_background/Arcadian/character01/0001_13.png'" in str(error.value)
    assert str(path) in str(error.value)


def test_damaged_zip_entry(tmp_path):
    path = write_zip(tmp_path / "images_background.zip", one_character(1, bytes(1000)))
    content = bytearray(path.read_bytes())
    content[500] = 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"0001_01\.png' in .* cannot be decoded \(Bad CRC-32"):
        read_archive(path, range(1, 2))


def test_picture_of_the_wrong_size(tmp_path):
    pictures = one_character(1, png(np.zeros((28, 30), bool)))
    path = write_zip(tmp_path / "images_background.zip", pictures)
    with pytest.raises(ValueError, match=r"it is 30 x 28 pixels.*, expected .* 105 x 105 pixels"):
        read_archive(path, range(1, 2))


def test_pillow_missing(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "images_background.zip", one_character(1, b""))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "metajax\[images\]"'):
        read_archive(path, range(1, 2))


def test_pillow_told_to_accept_truncated_files(tmp_path, monkeypatch):
    image_file = pytest.importorskip("PIL.ImageFile", reason="Pillow is not installed")
    path = write_zip(tmp_path / "images_background.zip", one_character(1, b""))
    monkeypatch.setattr(image_file, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match=r"LOAD_TRUNCATED_IMAGES is set: .*; expected False"):
        read_archive(path, range(1, 2))


@pytest.mark.parametrize(
    ("split", "protocol", "message"),
    [
        ("train", "ravi", "protocol='ravi' is unknown; use 'vinyals' or 'lake'"),
        (
            "val",
            "vinyals",
            "split='val' is unknown; .* has split='train' or 'validation' or 'test'",
        ),
        ("train", "lake", "split='train' belongs to protocol='vinyals', but protocol='lake' was"),
        ("background", "vinyals", "split='background' belongs to protocol='lake', but .*'test'"),
        ("background_small3", "lake", "split='background_small3' is unknown; .*_small1' or"),
    ],
)
def test_unknown_split_or_protocol(tmp_path, split, protocol, message):
    with pytest.raises(ValueError, match=message):
        omniglot(tmp_path, split, protocol=protocol)
