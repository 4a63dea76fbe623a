"""The memory-mapped cache: whole or not there, proved, and made again when it has to be."""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from irregular_files import irregular

from metajax.data.readers import cache
from metajax.data.readers.cache import read_cache, write_cache

MADE_FROM = {"kind": "test", "size": (2, 3), "classes": {"a": "1", "b": "2"}}
PIXELS = np.arange(5 * 2 * 3 * 1, dtype=np.uint8).reshape(5, 2, 3, 1)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def fill(images):
    images[:] = PIXELS
    return [2, 3], ""


def write(folder: Path, made_from=MADE_FROM, fill=fill, **changes):
    arguments = {"names": ["a", "b"], "counts": [2, 3], "image_shape": (2, 3, 1)} | changes
    return write_cache(folder, made_from, fill, **arguments)


def assert_made_again(folder: Path, said: str = "made again", made_from=MADE_FROM) -> None:
    with pytest.warns(RuntimeWarning, match=said) as warned:
        assert read_cache(folder, made_from) is None
    assert warned[0].filename == __file__
    np.testing.assert_array_equal(write(folder, made_from).images, PIXELS)
    assert read_cache(folder, made_from) is not None


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "above it" / "caché"
    assert read_cache(folder, MADE_FROM) is None
    written = write(folder, groups=["x", "y"])
    read = read_cache(folder, MADE_FROM)
    assert read is not None
    for classes in (written, read):
        assert isinstance(classes.images, np.memmap)
        assert not classes.images.flags.writeable
        np.testing.assert_array_equal(classes.images, PIXELS)
        np.testing.assert_array_equal(classes["b"], PIXELS[2:])
        assert (classes.names, classes.groups) == (("a", "b"), ("x", "y"))
    np.testing.assert_array_equal(np.load(folder / "images.npy"), PIXELS)
    assert sorted(os.listdir(folder)) == ["images.npy", "index.json"]
    assert os.listdir(folder.parent) == [folder.name]
    (tmp_path / "another").mkdir()  # Which others may read, too.
    assert folder.stat().st_mode == (tmp_path / "another").stat().st_mode


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4), ()], ids=str)
@pytest.mark.parametrize("sources", [None, np.array([3, 1, 2, 2, 0]), np.array([*"abcab"])])
def test_numbers_of_any_rank_and_the_sources_of_images(tmp_path, shape, sources):
    numbers = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)

    def fill(out):
        out[:] = numbers
        return [2, 3], ""

    changes = {"image_shape": shape, "dtype": "float32", "sources": sources}
    if not shape:  # ImageClasses has no such images: found before the cache is in its place.
        with pytest.raises(ValueError, match=r"images have shape \(5,\); expected an array"):
            write(tmp_path / "cache", fill=fill, **changes)
        assert os.listdir(tmp_path) == []
        return
    for classes in (
        write(tmp_path / "cache", fill=fill, **changes),
        read_cache(tmp_path / "cache", MADE_FROM),
    ):
        assert isinstance(classes.images, np.memmap)
        assert classes.images.dtype == np.float32
        np.testing.assert_array_equal(classes.images, numbers)
        if sources is None:
            assert classes.sources is None
        else:
            np.testing.assert_array_equal(classes.sources, sources)
            assert classes.sources.dtype.kind == sources.dtype.kind


def test_fewer_images_than_there_is_room_for_and_what_is_said_of_them(tmp_path):
    def fill(images):
        images[2:4] = 7
        return [1, 2], "2 are missing"

    for make_or_read in (lambda at: write(at, fill=fill), lambda at: read_cache(at, MADE_FROM)):
        with pytest.warns(RuntimeWarning, match="^2 are missing$") as warned:
            read = make_or_read(tmp_path / "cache")
        assert warned[0].filename == __file__
        assert read.counts.tolist() == [1, 2]
        np.testing.assert_array_equal(read["b"], np.full((2, 2, 3, 1), 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"a": "1", "b": "3", "c": "4"}}, "2 of its classes changed: 'b', 'c'"),
        ({"size": (2, 4)}, r"size was \[2, 3\] and is \[2, 4\]"),
        ({"kind": "x", "more": 1}, "kind was 'test' and is 'x'; more was None and is 1"),
    ],
)
def test_a_cache_made_from_something_else(tmp_path, changes, message):
    before = write(tmp_path / "cache")
    assert_made_again(tmp_path / "cache", f"made again: {message}$", MADE_FROM | changes)
    np.testing.assert_array_equal(before.images, PIXELS)  # Still mapped by who read it.
    assert os.listdir(tmp_path) == ["cache"]


def test_a_cache_of_another_format(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    monkeypatch.setattr(cache, "FORMAT", 9)
    assert_made_again(tmp_path / "cache", "has the format 5, this version of metajax reads 9")


# Damage


@pytest.mark.parametrize("name", ["index.json", "images.npy"])
def test_every_byte_is_proved(tmp_path, name, monkeypatch):
    monkeypatch.setattr(cache, "_BLOCK", 7)
    random, folder = np.random.default_rng(0), tmp_path / "cache"
    write(folder)
    whole = (folder / name).read_bytes()
    for place in random.choice(len(whole), 100, replace=False).tolist():
        flipped = whole[place] ^ random.integers(1, 256)
        (folder / name).write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.warns(RuntimeWarning, match="made again"):
            assert read_cache(folder, MADE_FROM) is None
    assert_made_again(folder)
    assert (folder / name).read_bytes() == whole


@pytest.mark.parametrize(
    "change", [{"names": ["b", "a"]}, {"shape": [5, 3, 2, 1]}, {"counts": [2, 2]}, {"sha256": None}]
)
def test_an_index_that_was_changed(tmp_path, change):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change, sort_keys=True))
    assert_made_again(tmp_path / "cache", "its index.json is not what was written")


@pytest.mark.parametrize(
    "field",
    ["names", "starts", "counts", "groups", "sources", "shape", "dtype", "size", "blocks"],
)
@pytest.mark.parametrize("value", ["left out", 1, {}, [2**70] * 2, [float("inf")] * 4, "aaaa"])
def test_an_index_that_never_was_one(tmp_path, field, value):
    """Sealed as ours are, but by somebody else's program."""
    write(tmp_path / "cache")
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    index[field] = value
    if value == "left out":
        del index[field]
    (tmp_path / "cache" / "index.json").write_bytes(cache._sealed(index))
    assert_made_again(tmp_path / "cache")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", "[" * 10**6, "\xff"])
def test_a_damaged_index(tmp_path, content):
    write(tmp_path / "cache")
    (tmp_path / "cache" / "index.json").write_text(content, "latin-1")
    assert_made_again(tmp_path / "cache", "made again: it cannot be read")


def test_an_index_too_large_to_be_one(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    monkeypatch.setattr(cache, "_LARGEST_INDEX", 1000)
    with (tmp_path / "cache" / "index.json").open("ab") as file:
        file.truncate(10**12)  # Of which the disk holds nothing.
    assert_made_again(tmp_path / "cache")


def test_an_index_that_would_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_LARGEST_INDEX", 600)
    said = r"names, counts and sources of 2 classes take \d+ bytes of a cache; expected at most 600"
    with pytest.raises(ValueError, match=said):
        write(tmp_path / "cache", {"long": "x" * 600})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 50, 140, 10**12])
def test_images_of_another_size(tmp_path, size):
    write(tmp_path / "cache")
    os.truncate(tmp_path / "cache" / "images.npy", size)
    assert_made_again(tmp_path / "cache", f"images.npy has {size} bytes, expected 158")


def test_images_of_another_cache(tmp_path):
    write(tmp_path / "cache")
    write(tmp_path / "other", fill=lambda out: fill(out[::-1]))
    (tmp_path / "other" / "images.npy").replace(tmp_path / "cache" / "images.npy")
    assert_made_again(tmp_path / "cache", "its images.npy is not what was written")
    np.save(tmp_path / "cache" / "images.npy", PIXELS.view(np.int8))
    assert_made_again(tmp_path / "cache", "its images.npy is not what was written")


@pytest.mark.parametrize("name", ["index.json", "images.npy"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, name):
    for kind, path in irregular(tmp_path).items():
        write(tmp_path / "cache")
        (tmp_path / "cache" / name).unlink()
        (tmp_path / "cache" / name).symlink_to(path)
        assert_made_again(tmp_path / "cache", f"IrregularFileError: '.*{name}' is {kind}")
    (tmp_path / "cache" / name).unlink()
    assert_made_again(tmp_path / "cache", f"FileNotFoundError: .*{name}")


# Where it cannot be written


@pytest.mark.parametrize("late", [False, True])
def test_folders_that_are_no_cache_are_left_alone(tmp_path, late):
    def put_there(images=None):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
        return fill(images) if late else None

    late or put_there()
    said = r"photos' could not be written \(it is no cache: it holds 'holiday.jpg'\); pass another"
    with pytest.raises(OSError, match=said):
        write(tmp_path / "photos", fill=put_there)
    for below in ("", "above/cache"):
        with pytest.raises(OSError, match=r"written .*holiday.jpg.*; pass another cache folder$"):
            write(tmp_path / "photos" / "holiday.jpg" / below)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"dear"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert sorted(os.listdir(tmp_path)) == ["empty", "photos"]


@contextlib.contextmanager
def largest_file(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("reserving", [True, False])
@pytest.mark.parametrize("made_from", [MADE_FROM, {"long": "x" * 10**5}])
def test_files_that_find_no_room(tmp_path, monkeypatch, reserving, made_from):
    if not reserving:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    counts = [2, 3] if "long" in made_from else [20_000, 0]  # The index, or the images.
    said = r"could not be written \(\[Errno 27\] .*\); make room for 1 MB, or pass another cache"
    with largest_file(50_000), pytest.raises(OSError, match=said):
        write(tmp_path / "cache", made_from, counts=counts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, None])
def test_space_that_runs_out(tmp_path, monkeypatch, cause):
    def full(descriptor, start, length):
        raise OSError(cause, os.strerror(cause))

    said = os.strerror(cause) if cause else "0 MB are free"
    if cause:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    remedy = "" if cause == errno.EROFS else "make room for 1 MB, or "
    with pytest.raises(OSError, match=rf"written \(.*{said}\); {remedy}pass another cache folder$"):
        write(tmp_path / "cache")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("absent", [True, False])
def test_systems_that_cannot_reserve_space(tmp_path, monkeypatch, absent):
    def unsupported(descriptor, start, length):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    if absent:
        monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(cache, "_BLOCK", 7)
    np.testing.assert_array_equal(write(tmp_path / "cache").images, PIXELS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("corrupt"), OSError("disk gone")])
@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_left_where_filling_stops(tmp_path, error, before):
    def stopped(images):
        images[:2] = 1
        raise error

    if before:
        write(tmp_path / "cache")
    with pytest.raises(error if isinstance(error, type) else type(error)) as raised:
        write(tmp_path / "cache", {"kind": "new"}, stopped)
    assert str(raised.value) == ("" if error is KeyboardInterrupt else str(error))
    assert os.listdir(tmp_path) == ["cache"] * before
    assert (read_cache(tmp_path / "cache", MADE_FROM) is not None) == before


@pytest.mark.parametrize("young", [None, "", "made", "made/images.npy"])
def test_unfinished_caches_are_removed_once_they_are_old(tmp_path, young):
    left = tmp_path / ".metajax-unfinished-1a2b3c4d"
    (left / "made").mkdir(parents=True)
    (left / "made" / "images.npy").write_bytes(b"")
    (tmp_path / ".mine").mkdir()
    for path in (left, *left.rglob("*"), tmp_path / ".mine"):
        os.utime(path, (time.time() - 90_000,) * 2)
    if young is not None:  # Its maker is at work.
        os.utime(left / young)
    write(tmp_path / "cache")
    assert left.exists() == (young is not None)
    assert (tmp_path / ".mine").exists()


# Made by several at once


def test_a_cache_that_another_replaces_while_it_is_read(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    opened = cache.open_regular

    def open_late(path):
        if path.name == "images.npy":
            monkeypatch.setattr(cache, "open_regular", opened)
            write(tmp_path / "cache", names=["x", "y"], fill=lambda out: fill(out[::-1]))
        return opened(path)

    monkeypatch.setattr(cache, "open_regular", open_late)
    read = read_cache(tmp_path / "cache", MADE_FROM)
    assert read is not None
    assert read.names == ("x", "y")
    np.testing.assert_array_equal(read.images, PIXELS[::-1])


def test_a_cache_that_another_puts_in_place_first(tmp_path, monkeypatch):
    rename = Path.rename

    def beaten(self, target):
        if self.name == "made":
            monkeypatch.setattr(Path, "rename", rename)
            write(tmp_path / "cache")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", beaten)
    np.testing.assert_array_equal(write(tmp_path / "cache").images, PIXELS)
    assert os.listdir(tmp_path) == ["cache"]


def test_many_threads_make_one_cache(tmp_path):
    together = threading.Barrier(8, timeout=20)

    def fill_together(images):
        together.wait()
        return fill(images)

    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: write(tmp_path / "cache", fill=fill_together), range(40))]
    for classes in made:
        np.testing.assert_array_equal(classes.images, PIXELS)
    assert os.listdir(tmp_path) == ["cache"]


_KILLING = """
import itertools, os, pathlib, random, signal, sys, time, warnings
sys.path[:0] = sys.argv[2:]
from metajax.data.readers.cache import read_cache, write_cache
folder = pathlib.Path(sys.argv[1])
sides = {"names": ["a", "b"], "counts": [400, 600], "image_shape": (64, 64, 1)}

def fill(value):
    def act(images):
        for start in range(0, 1000, 100):
            images[start : start + 100] = value
            time.sleep(0.01)
        return [400, 600], ""
    return act

def make_without_end():
    warnings.simplefilter("ignore")
    for value in itertools.cycle([1, 2]):  # Each made in place of the other.
        made_from = {"value": value}
        read_cache(folder, made_from) or write_cache(folder, made_from, fill(value), **sides)

def begin():
    child = os.fork()
    if not child:
        try:
            make_without_end()
        finally:
            os._exit(1)
    return child

warnings.simplefilter("ignore", DeprecationWarning)
draw, found = random.Random(0), []
makers = [begin() for _ in range(3)]

def end(maker):
    os.kill(maker, signal.SIGKILL)
    makers.remove(maker)
    assert os.waitpid(maker, 0)[1] == signal.SIGKILL, "it ended before it was killed"

try:
    for killed in range(15):
        time.sleep(0.05 + 0.1 * draw.random())
        end(draw.choice(makers))
        makers += [begin()] if killed < 14 else []
        while killed == 14 and makers:
            end(makers[0])
        for value in (1, 2):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                kept = read_cache(folder, {"value": value})
            said = [str(w.message) for w in warned]
            assert all("value was" in text for text in said), said
            if kept is not None:
                assert (kept.images == value).all() and kept.names == ("a", "b")
                found.append(value)
finally:
    for maker in [*makers]:
        end(maker)
left = list(folder.parent.glob(".metajax*"))
print(len(found), "times read, whole;", len(left), "unfinished ones left")
"""


@pytest.mark.slow
def test_three_processes_that_are_killed_leave_a_whole_cache_or_none(tmp_path):
    command = [sys.executable, "-c", _KILLING, str(tmp_path / "cache"), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert not done.stdout.startswith("0 ")
