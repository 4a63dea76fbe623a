"""Files of arrays and a record: what is written is read, and what is damaged or hostile is told."""

import builtins
import hashlib
import json
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from irregular_files import irregular

from metajax.pictures import mjx_files
from metajax.pictures.mjx_files import read_mjx, write_mjx
from metajax.regular_files import IrregularFileError

pytest.importorskip("safetensors", reason="the files are written with safetensors")

ARRAYS = {
    "items": np.arange(6, dtype=np.float32).reshape(2, 3),
    "rows": np.array([0, 1]),
    "net/Dense_0.kernel": np.asarray(jnp.ones((2, 1), jnp.bfloat16)),
}
RECORD = {"classes": ["ash", "Übel", 3], "kept": 0.95, "head": None, "look": {"side": 8}}
MADE_UP = "is no .mjx file|is damaged or cut off|made by a newer metajax|is of format"


def _same(read: tuple[dict[str, np.ndarray], dict[str, Any]], arrays: Any, record: Any) -> bool:
    equal = [
        value.dtype == arrays[name].dtype
        and value.shape == arrays[name].shape
        and value.tobytes() == arrays[name].tobytes()
        for name, value in read[0].items()
    ]
    return read[0].keys() == arrays.keys() and all(equal) and read[1] == record


def _bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _crafted(
    whole: Any, *, entries: Any = None, data: bytes = b"", proved: bytes = b"", **metadata: Any
) -> bytes:
    """A file whose digest is right, of a record `whole`, as one who means harm makes it."""
    text = whole if isinstance(whole, str) else json.dumps(whole)
    parts = len(text.encode()).to_bytes(8, "little") + text.encode() + proved
    digest = hashlib.sha256(parts).hexdigest()
    return _bytes(
        {"__metadata__": {"metajax": text, "sha256": digest, **metadata}, **(entries or {})}, data
    )


def _whole(**changed: Any) -> dict[str, Any]:
    return {"format": 1, "version": "0.1.0", "record": {"a": 1}, **changed}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = {
        "booleans": np.array([True, False]),
        **{kind: np.arange(3).astype(kind) for kind in ("b", "B", "h", "H", "i", "I", "l", "L")},
        **{kind: np.array([0.5, np.nan, -np.inf], kind) for kind in ("e", "f", "d")},
        "high.byte.first": np.arange(3, dtype=">i4"),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "sliced": np.arange(10.0)[::3],
        "number": np.array(3.0),
        "empty": np.zeros((0, 4), np.uint64),
        **ARRAYS,
    }
    write_mjx(tmp_path / "a.mjx", arrays, RECORD)
    read, record = read_mjx(str(tmp_path / "a.mjx"))
    assert record == RECORD
    assert read.keys() == arrays.keys()
    for name, value in read.items():
        np.testing.assert_array_equal(value, arrays[name])
        assert value.dtype == arrays[name].dtype.newbyteorder("=")
        assert value.flags.writeable
    write_mjx(tmp_path / "none.mjx", {}, {})
    assert read_mjx(tmp_path / "none.mjx") == ({}, {})


def test_any_tool_of_safetensors_reads_the_arrays(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_mjx(tmp_path / "a.mjx", ARRAYS, RECORD)
    with safe_open(tmp_path / "a.mjx", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("items"), ARRAYS["items"])
        assert json.loads(file.metadata()["metajax"])["record"] == RECORD


@pytest.mark.parametrize("share", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_truncated_and_damaged_files_are_told(tmp_path: Path, share: int) -> None:
    """At every byte, and with every bit turned: an error, or what was written."""
    path = tmp_path / "a.mjx"
    write_mjx(path, ARRAYS, RECORD)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    for bit in range(8 * len(whole)):
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(turned))
    damaged += [whole + b"\0", whole + whole, whole[:8] + whole]
    chosen = random.Random(0).sample(damaged, len(damaged) // share)
    said = []
    for each in chosen:
        path.write_bytes(each)
        try:
            assert _same(read_mjx(path), ARRAYS, RECORD)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 0.95 * len(chosen)  # Blanks alone may be other blanks.
    assert all(str(path) in each and len(each) < 500 for each in said)


def test_files_of_other_versions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mjx"
    path.write_bytes(_crafted(_whole(format=2)))
    with pytest.raises(
        ValueError, match=r"made by a newer metajax: .* run: pip install -U metajax"
    ):
        read_mjx(path)
    path.write_bytes(_bytes({"__metadata__": {"metajax": json.dumps({"format": 9})}}))
    with pytest.raises(ValueError, match="a newer metajax, or is damaged: it is of format 9"):
        read_mjx(path)
    path.write_bytes(_crafted(_whole(format=0)))
    with pytest.raises(ValueError, match="of format 0, and this metajax reads format 1; fit and"):
        read_mjx(path)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DEEP = '{"format": 1, "version": "", "record": ' + '{"a":' * 40 + "1" + "}" * 41
HOSTILE = {
    "empty": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": pickle.dumps({"a": 1}),
    "text": b"a,b,c\n" * 100,
    "another file of safetensors": _bytes({"a": ONE}, bytes(4)),
    "metadata of another kind": _bytes({"__metadata__": ["metajax"]}),
    "a huge header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header beyond the file": (2**20).to_bytes(8, "little") + b'{"a"',
    "a header that is a list": _bytes(b"[]"),
    "a deep header": _bytes(b'{"a":' * 100_000),
    "a deep list": _bytes(b'{"a":' + b"[" * 100_000),
    "a header of a number with a million digits": _bytes(b'{"a":' + b"9" * 10**6 + b"}"),
    "a header that is no UTF-8": _bytes(b'{"\xff": 1}'),
    "a name twice": _bytes(
        b'{"__metadata__": {"metajax": "{}", "metajax": "{}"}}',
    ),
    "a deep record": _crafted(DEEP),
    "a very deep record": _crafted('{"record": ' + "[" * 100_000),
    "a record with a name twice": _crafted(
        '{"format": 1, "version": "", "record": {}, "format": 1}'
    ),
    "a record with NaN": _crafted(_whole(record={"a": math.nan})),
    "a record with 1e999": _crafted('{"format": 1, "version": "", "record": {"a": 1e999}}'),
    "a record with half a pair": _crafted(
        '{"format": 1, "version": "", "record": {"a": "\\ud800"}}'
    ),
    "a record with a huge integer": _crafted(_whole(record={"a": 2**64})),
    "a record that is a list": _crafted(_whole(record=[])),
    "a list": _crafted([]),
    "a number": _crafted("1"),
    "no JSON": _crafted("!"),
    "no version": _crafted({"format": 1, "record": {}}),
    "a version that is none": _crafted(_whole(version=1)),
    "a format that is a text": _crafted(_whole(format="1")),
    "a format that is True": _crafted(_whole(format=True)),
    "a part too much": _crafted(_whole(code="import os")),
    "metadata too much": _crafted(_whole(), other="1"),
    "metadata that is no text": _crafted(_whole(), other=1),
    "a digest that is none": _crafted(_whole(), sha256="é" * 64),
    **{
        f"an array of {dtype}": _crafted(
            _whole(), entries={"a": {**ONE, "dtype": dtype}}, data=bytes(4)
        )
        for dtype in ("F8_E4M3", "F8_E5M2", "F4", "C64", "O", "", "V8", "float32", 1, None, [])
    },
    **{
        f"an array called {name[:9]!r}": _crafted(_whole(), entries={name: ONE}, data=bytes(4))
        for name in ("", " ", "ä", "a\0b", "a\nb", "\u202ea", "a b", "a" * 201, "${a}", "a\\b")
    },
    **{
        f"an array described by {entry!r}": _crafted(_whole(), entries={"a": entry}, data=bytes(4))
        for entry in (
            1,
            None,
            [],
            {},
            {"dtype": "F32", "shape": [1]},
            {**ONE, "code": 1},
            {**ONE, "shape": [2]},
            {**ONE, "shape": [-1]},
            {**ONE, "shape": [1.0]},
            {**ONE, "shape": ["1"]},
            {**ONE, "shape": 1},
            {**ONE, "shape": [1] * 70},
            {**ONE, "shape": [2**62, 2**62]},
            {**ONE, "shape": [2**63, 2]},
            {**ONE, "shape": [0, 2**62, 2**62]},
            {**ONE, "data_offsets": [0, 2**62]},
            {**ONE, "data_offsets": [4, 0]},
            {**ONE, "data_offsets": [-4, 0]},
            {**ONE, "data_offsets": [0]},
            {**ONE, "data_offsets": None},
        )
    },
    "arrays that overlap": _crafted(_whole(), entries={"a": ONE, "b": ONE}, data=bytes(4)),
    "a hole": _crafted(
        _whole(), entries={"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, data=bytes(12)
    ),
    "too many arrays": _crafted(
        _whole(),
        entries={
            f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(10_001)
        },
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mjx"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=MADE_UP) as caught:
        read_mjx(path)
    assert str(caught.value).startswith(repr(str(path)))
    assert "digest" not in str(caught.value) or "a digest" in name  # Not for want of a proof.
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_crafted_file_is_read_where_nothing_is_wrong(tmp_path: Path) -> None:
    """So that each of the hostile ones is refused for what its name says."""
    path, name, value = tmp_path / "a.mjx", b"a float32 [1]", bytes(4)
    sizes = [len(part).to_bytes(8, "little") + part for part in (name, value)]
    path.write_bytes(_crafted(_whole(), entries={"a": ONE}, data=value, proved=b"".join(sizes)))
    arrays, record = read_mjx(path)
    assert record == {"a": 1}
    np.testing.assert_array_equal(arrays["a"], [0])


def test_files_with_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mjx"
    write_mjx(path, ARRAYS, RECORD)
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match="1099511627776 bytes"):
        read_mjx(path)


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    for kind, path in irregular(tmp_path).items():
        for touch in (read_mjx, lambda path: write_mjx(path, ARRAYS, RECORD)):
            with pytest.raises(IrregularFileError, match=f"{kind}; expected a regular file"):
                touch(path)
    with pytest.raises(IrregularFileError, match="is a folder"):
        write_mjx(tmp_path, ARRAYS, RECORD)
    for missing in (tmp_path / "no.mjx", tmp_path / "no" / "a.mjx"):
        with pytest.raises(FileNotFoundError):
            read_mjx(missing)
    with pytest.raises(FileNotFoundError):
        write_mjx(tmp_path / "no" / "a.mjx", ARRAYS, RECORD)


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mjx"
    write_mjx(path, ARRAYS, RECORD)
    (tmp_path / "link.mjx").symlink_to("a.mjx")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_mjx(path, {}, {})
    assert _same(read_mjx(path), ARRAYS, RECORD)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mjx", "link.mjx"]
    write_mjx(tmp_path / "link.mjx", {}, {"new": True})
    assert read_mjx(path) == ({}, {"new": True})


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("arrays", "record", "kind", "message"),
    [
        ({"a b": np.ones(1)}, {}, ValueError, "called 'a b'; expected up to 200 letters"),
        ({"__metadata__": np.ones(1)}, {}, ValueError, "called '__metadata__'"),
        ({1: np.ones(1)}, {}, ValueError, "called 1"),
        ({"a": [1.0]}, {}, TypeError, r"a is \[1.0\]; expected an array of NumPy"),
        ({"a": np.array([None])}, {}, ValueError, "a is of object; expected booleans"),
        ({"a": np.array(["b"])}, {}, ValueError, "a is of <U1"),
        ({"a": np.ones(1, complex)}, {}, ValueError, "a is of complex128"),
        ({"a": np.ones(1, "M8[s]")}, {}, ValueError, "a is of datetime64"),
        ({"a": np.ones(1, [("b", "i4")])}, {}, ValueError, "a is of "),
        ({f"{i}": np.ones(1) for i in range(10_001)}, {}, ValueError, "10001 arrays"),
        ({}, [], TypeError, r"record is \[\]; expected a dictionary"),
        ({}, {1: 2}, TypeError, "a name is 1; expected texts"),
        ({}, {"a": math.nan}, ValueError, "holds nan; expected finite numbers"),
        ({}, {"a": np.float32(1)}, TypeError, r"holds np.float32\(1.0\); expected texts"),
        ({}, {"a": b"b"}, TypeError, "holds b'b'"),
        ({}, {"a": "\udc80"}, ValueError, r"the text '\\udc80' is no Unicode"),
        ({}, {"a": 2**64}, ValueError, "more than 64 bits"),
        ({}, {"a": CYCLE}, ValueError, "deeper than 32"),
    ],
)
def test_what_no_file_holds_is_not_written(
    tmp_path: Path, arrays: Any, record: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        write_mjx(tmp_path / "a.mjx", arrays, record)
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_no_larger_than_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mjx"
    write_mjx(path, ARRAYS, RECORD)
    size = path.stat().st_size
    for limit, what in (("_MOST_HEADER", "header"), ("_MOST_BYTES", "file")):
        with monkeypatch.context() as patched:
            patched.setattr(mjx_files, limit, size if what == "file" else 400)
            with pytest.raises(ValueError, match=f"the {what} would have"):
                write_mjx(tmp_path / "b.mjx", ARRAYS, {"a": "b" * 400})


def test_the_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Callable[..., Any] = builtins.__import__

    def missing(name: str, *args: Any, **given: Any) -> Any:
        if name.startswith("safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return found(name, *args, **given)

    monkeypatch.setattr(builtins, "__import__", missing)
    for use in (read_mjx, lambda path: write_mjx(path, {}, {})):
        with pytest.raises(
            ImportError, match=r'need safetensors.*pip install "metajax\[pictures\]"'
        ):
            use(tmp_path / "a.mjx")
