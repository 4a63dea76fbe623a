"""PyTorch's files are read without it, and run nothing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from irregular_files import irregular
from models.pretrained.torch_files import (
    DICT,
    HEAD,
    Shown,
    contiguous,
    items,
    saved,
    tail,
    tensor,
    text,
)

from metajax.models.pretrained.torch_weights import read_torch_weights
from metajax.regular_files import IrregularFileError

NUMBERS = np.arange(24, dtype="<f4")


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return path


def _read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    return read_torch_weights(_file(folder, content))


def test_strides_offsets_and_shared_storages(tmp_path: Path) -> None:
    tensors = {
        "whole": Shown("7", 0, (4, 6), (6, 1)),
        "transposed": Shown("7", 0, (6, 4), (1, 6)),
        "part": Shown("7", 8, (2, 3), (6, 1)),
        "number": Shown("7", 23, (), ()),
        "empty": Shown("7", 24, (0, 3), (3, 1)),
        "count": Shown("8", 1, (1,), (1,)),
    }
    read = _read(tmp_path, saved(tensors, {"7": NUMBERS, "8": np.array([3, -5], "<i8")}))
    whole = NUMBERS.reshape(4, 6)
    expected = {
        "whole": whole,
        "transposed": whole.T,
        "part": whole[1:3, 2:5],
        "number": np.array(23, "<f4"),
        "empty": np.zeros((0, 3), "<f4"),
        "count": np.array([-5]),
    }
    assert list(read) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value, err_msg=name)
        assert read[name].dtype == value.dtype


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i8", "|u1"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1, 2], [3, 100]], dtype)
    read = _read(tmp_path, contiguous({"x": values}))["x"]
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype


def test_what_is_noted_of_versions_is_left_out(tmp_path: Path) -> None:
    noted = items({"x": tensor(Shown("7", 0, (24,), (1,)), NUMBERS)})[:-1]
    noted += b"}" + text("_metadata") + DICT + text("") + b"}" + text("version") + b"K\x01ss"
    content = HEAD + noted + b"sb." + tail({"7": NUMBERS})
    np.testing.assert_array_equal(_read(tmp_path, content)["x"], NUMBERS)


# Each makes a file at a path, if what it asks for is called.
HARMS = {
    "REDUCE": lambda path: b"cposix\nsystem\n(" + text(f"touch {path}") + b"tR",
    "REDUCE of eval": lambda path: (
        b"cbuiltins\neval\n(" + text(f"open({path!r}, 'w').close()") + b"tR"
    ),
    "INST": lambda path: b"(" + text(f"touch {path}") + b"iposix\nsystem\n",
    "OBJ": lambda path: b"(cos\nPathLike\n" + text(path) + b"o",
    "NEWOBJ": lambda path: b"cos\nPathLike\n(" + text(path) + b"t\x81",
    "STACK_GLOBAL": lambda path: (
        text("posix") + text("system") + b"\x93(" + text(f"touch {path}") + b"tR"
    ),
    "BUILD": lambda path: (
        b"cposix\nsystem\n(" + text(f"touch {path}") + b"tR}" + text("x") + text("y") + b"sb"
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, harm: str) -> None:
    made = tmp_path / "made"
    malice = HARMS[harm](str(made))
    for content in (
        HEAD + b"\x80\x02" + malice + b".",
        b"\x80\x02" + malice + b".",
        HEAD + items({"x": malice}) + tail({}),
    ):
        with pytest.raises(ValueError, match="is damaged, or no dict of tensors in the legacy"):
            _read(tmp_path, content)
        assert not made.exists()


@pytest.mark.parametrize("harm", ["REDUCE", "REDUCE of eval", "INST", "STACK_GLOBAL"])
def test_the_malice_of_these_tests_would_do_harm(tmp_path: Path, harm: str) -> None:
    made = tmp_path / "made"
    pickle.loads(b"\x80\x02" + HARMS[harm](str(made)) + b".")
    assert made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1], 2), "does not begin with PyTorch's magic number"),
        (HEAD[:-1], "is damaged, or no dict"),
        (HEAD.replace(b"\xe9\x03", b"\xe8\x03"), "its protocol is not 1001"),
        (HEAD.replace(b"\x88", b"\x89"), "was not written on a little-endian machine"),
        (HEAD + items({"x": text("y")}) + tail({}), "something else than a dict of tensors"),
        (HEAD + pickle.dumps([], 2) + tail({}), "something else than a dict of tensors"),
        (HEAD + items({}) + tail({"7": NUMBERS}), "list of storages is not that of its tensors"),
        (HEAD + b"\x80\x02cbuiltins\nprint\n)R." + tail({}), "a call of 'builtins print'"),
        (b"PK\x03\x04...", "is in the zip format of torch.save; expected the legacy one"),
        (b"", "is damaged, or no dict of tensors"),
        (b"\x80\x02r\xff\xff\xff\xff.", "is damaged, or no dict of tensors"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    "shown",
    [
        Shown("7", 0, (5, 6), (6, 1)),
        Shown("7", 1, (4, 6), (6, 1)),
        Shown("7", 0, (4, 6), (7, 1)),
        Shown("7", 0, (1 << 40,), (0,)),
        Shown("7", 1 << 61, (1,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, shown: Shown) -> None:
    with pytest.raises(ValueError, match="reaches beyond its storage of 24 elements"):
        _read(tmp_path, saved({"x": shown}, {"7": NUMBERS}))


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (Shown("7", 0, (2,), (-1,)), "no whole numbers"),
        (Shown("7", -1, (2,), (1,)), "no whole numbers"),
        (Shown("7", 0, (2, 2), (1,)), "no whole numbers"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, shown: Shown, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, saved({"x": shown}, {"7": NUMBERS}))


def test_a_storage_that_is_not_as_long_as_its_tensors_say(tmp_path: Path) -> None:
    named = items({"x": tensor(Shown("7", 0, (24,), (1,)), NUMBERS, count=30)})
    with pytest.raises(ValueError, match="has 24 elements, and its tensors say 30"):
        _read(tmp_path, HEAD + named + tail({"7": NUMBERS}))


def test_a_storage_of_two_dtypes_is_refused(tmp_path: Path) -> None:
    whole = Shown("7", 0, (24,), (1,))
    named = items({"x": tensor(whole, NUMBERS.astype("<f8")), "y": tensor(whole, NUMBERS)})
    with pytest.raises(ValueError, match="reads a storage of float32 as another dtype"):
        _read(tmp_path, HEAD + named + tail({"7": NUMBERS}))


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = contiguous({"x": NUMBERS.reshape(4, 6), "y": NUMBERS[:5]})
    for length in range(0, len(content), 19):
        with pytest.raises(ValueError, match="is damaged, or no dict of tensors"):
            _read(tmp_path, content[:length])
    with pytest.raises(ValueError, match="1 bytes follow the last storage"):
        _read(tmp_path, content + b"\0")


def test_damage_never_ends_in_anything_but_an_error_of_value(tmp_path: Path) -> None:
    content = contiguous({"x": NUMBERS.reshape(4, 6), "y": NUMBERS[:5]})
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content) - 4 * 29, 3):
            damaged[place] = generator.integers(256)
        try:
            _read(tmp_path, bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 60


def test_other_bytes_than_those_expected(tmp_path: Path) -> None:
    path = _file(tmp_path, contiguous({"x": NUMBERS}))
    with pytest.raises(ValueError, match=r"has the sha256 [0-9a-f]{64}; expected 00"):
        read_torch_weights(path, sha256="00")


def test_nothing_that_is_no_file_is_opened(tmp_path: Path) -> None:
    for path in irregular(tmp_path).values():
        with pytest.raises(IrregularFileError):
            read_torch_weights(path)
    with pytest.raises(FileNotFoundError):
        read_torch_weights(tmp_path / "missing")
