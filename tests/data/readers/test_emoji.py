"""The emoji file: read by split, reduced, and refused where it is not what it should be."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from irregular_files import irregular

import metajax as mj
from metajax.data.readers.area_average import area_average
from metajax.data.readers.emoji import SPLITS, emoji
from metajax.regular_files import IrregularFileError

GROUPS = [group for groups in SPLITS.values() for group in groups]
DESIGNS = ["noto", "twemoji", "noto-v1"]


def contents() -> dict[str, Any]:
    """Two classes a group, drawn by three designs but for the last, in no order."""
    classes = 2 * len(GROUPS)
    class_index = np.tile(np.arange(classes), 3)[:-1].astype(np.int16)
    images = np.random.default_rng(0).integers(0, 256, (len(class_index), 72, 72, 3), np.uint8)
    return {
        "images": images,
        "class_index": class_index,
        "design_index": np.repeat(np.arange(3), classes)[:-1].astype(np.uint8),
        "code_points": np.array([f"{0x1F600 + i:x}" for i in range(classes)]),
        "names": np.array([f"thing-{i}" for i in range(classes)]),
        "categories": np.repeat(GROUPS, 2),
        "designs": np.array(DESIGNS),
    }


@pytest.fixture(scope="module")
def held() -> dict[str, Any]:
    return contents()


@pytest.fixture
def write(tmp_path: Path, held: dict[str, Any]) -> Callable[..., Path]:
    def written(**changes: Any) -> Path:
        path = tmp_path / "emoji72.npz"
        np.savez(path, **{**held, **changes})
        return path

    return written


def test_a_split_has_its_groups_and_all_of_their_images(write, held) -> None:
    path = write()
    found = []
    for split, groups in SPLITS.items():
        classes = emoji(path, split)
        found += classes.names
        assert {*classes.groups} == {*groups}
        for name, group in zip(classes.names, classes.groups, strict=True):
            index = int(name.split("-")[1])
            assert name == f"{0x1F600 + index:x} thing-{index}"
            assert group == held["categories"][index]
            rows = np.flatnonzero(held["class_index"] == index)
            np.testing.assert_array_equal(classes[name], held["images"][rows])
    assert len(set(found)) == len(found) == 2 * len(GROUPS)
    every = emoji(path.parent, "all")
    assert {*every.names} == {*found}
    assert every.counts.tolist() == [3] * 17 + [2]


def test_sources_are_designers(write) -> None:
    classes = emoji(write(), "all")
    assert classes.sources is not None
    assert classes.sources[:3].tolist() == ["noto", "twemoji", "noto"]
    assert classes.sources[-2:].tolist() == ["noto", "twemoji"]


@pytest.mark.parametrize("pixels", [28, np.int64(36)])
def test_smaller_images_are_area_averages(write, held, pixels) -> None:
    classes = emoji(write(), "test", pixels=pixels)
    assert classes.images.shape[1:] == (pixels, pixels, 3)
    index = int(classes.names[0].split("-")[1])
    rows = held["class_index"] == index
    np.testing.assert_array_equal(
        classes[classes.names[0]], area_average(held["images"][rows], int(pixels))
    )


@pytest.mark.slow
def test_the_real_file() -> None:
    folder = Path(os.environ.get("METAJAX_DATA_DIR", "")) / "emoji"
    if not (folder / "emoji72.npz").exists():
        pytest.skip(f"{folder / 'emoji72.npz'} does not exist")
    test, every = (emoji(folder, split, pixels=12) for split in ("test", "all"))
    assert (len(test.names), len(every.names), len(every.images)) == (288, 1579, 9412)
    validation = np.isin(every.groups, SPLITS["validation"]).sum()
    assert (validation, 1579 - 288 - validation) == (303, 988)
    assert "1f98a fox" in test.names
    assert np.bincount(every.counts).tolist() == [0, 0, 0, 0, 401, 112, 438, 404, 224]
    assert len(set(every.sources.tolist())) == 7
    sample = mj.data.image_episodes(test, ways=5, shots=5, queries=1, across_sources=True)
    draws = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(sample.draw))(jax.random.split(jax.random.key(0), 50))
    )
    of = [test.sources[test.starts[p.classes] + p.items] for p in draws]
    assert all(not {*one} & {*other} for one, other in zip(*of, strict=True))
    assert all(len({*one}) == 5 for one in of[0])


# What a user can get wrong


def test_arguments_that_are_none(write) -> None:
    path = write()
    with pytest.raises(ValueError, match='split=\'val\'; expected "train", "validation", "test" o'):
        emoji(path, "val")
    for pixels in (73, 0):
        with pytest.raises(ValueError, match=f"pixels={pixels}; expected"):
            emoji(path, pixels=pixels)


def test_no_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the path '.*emoji72.npz' is not there; expected"):
        emoji(tmp_path)
    for kind, path in irregular(tmp_path).items():
        if not path.is_dir():
            with pytest.raises(IrregularFileError, match=f"is {kind}; expected a regular file"):
                emoji(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((53, 28, 28, 3), np.uint8)}, r"images is uint8 of shape \(53, 28, 28"),
        ({"images": np.zeros((53, 72, 72, 3), np.uint16)}, "images would have|images are uint16"),
        ({"images": np.zeros((52, 72, 72, 3), np.uint8)}, r"class_index is int16 of shape \(53,\)"),
        ({"class_index": np.full(53, 18)}, r"class_index has numbers outside of \[0, 18\)"),
        ({"class_index": np.zeros(53, int)}, "18 classes of 53 images, some without any"),
        ({"class_index": np.zeros(53)}, "class_index is float64"),
        ({"design_index": np.full(53, -1)}, r"design_index has numbers outside of \[0, 3\)"),
        ({"names": np.arange(18)}, "names is int64 of shape"),
        ({"names": np.array(["a"] * 18, object)}, "names is object"),
        ({"code_points": np.array(["a"] * 18)}, "code_points has some twice"),
        ({"categories": np.array(["Food"] * 18)}, "categories has 'Food', which are in no split"),
        ({"categories": np.array(["Flags"] * 18)}, "categories has none of 'Activities'"),
        ({"designs": np.array(0)}, "len"),
    ],
)
def test_arrays_that_do_not_fit(write, changes, said) -> None:
    with pytest.raises(
        ValueError, match=rf"bytes\) cannot be read: .*({said}).*; expected emoji72"
    ):
        emoji(write(**changes))


def test_members_that_are_missing_too_large_or_packed_otherwise(write, tmp_path) -> None:
    path = tmp_path / "emoji72.npz"
    for content, said in ((b"", "not a zip"), (b"404: Not Found", "not a zip")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            emoji(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("names.npy", b"")
    with pytest.raises(ValueError, match=r"no item named 'images\.npy'"):
        emoji(path)
    write()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                large = bytes(2**26) if name == "designs.npy" else content
                if method != zipfile.ZIP_DEFLATED:
                    archive.writestr(name, content, method)
                else:
                    archive.writestr(name, large)
        said = "packed by the method 14" if method == zipfile.ZIP_LZMA else "designs would have 671"
        with pytest.raises(ValueError, match=said):
            emoji(path)


def test_headers_that_promise_what_is_not_there(write, held) -> None:
    path = write()
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 72, 72, 3)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["images.npy"] = stream.getvalue() + bytes(100)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="cannot be read: cannot reshape"):
        emoji(path)


def test_flipped_bytes(write, held) -> None:
    """Whatever is damaged is a `ValueError` that names the file, or makes no difference."""
    path = write(images=np.zeros_like(held["images"]))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    expected, said = emoji(path, "test", pixels=1), []
    start = len(whole) - 12_000  # Behind the images, where all the rest is.
    for place in [*random.choice(start, 10), *(start + random.choice(12_000, 90, replace=False))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            got = emoji(path, "test", pixels=1)
            assert got.names == expected.names
            np.testing.assert_array_equal(got.images, expected.images)
            np.testing.assert_array_equal(got.sources, expected.sources)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(str(path) in message for message in said)
