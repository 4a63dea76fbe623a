"""The memory-mapped cache: whole or not there, and made again when it has to be."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from metajax.data.readers import cache, cache_files
from metajax.data.readers.cache import read_cache, write_cache

MADE_FROM = {"kind": "test", "size": (2, 3), "classes": {"a": "1", "b": "2"}}
PIXELS = np.arange(5 * 2 * 3 * 1, dtype=np.uint8).reshape(5, 2, 3, 1)


def fill(images):
    images[:] = PIXELS
    return [2, 3]


def write(folder: Path, made_from=MADE_FROM, fill=fill, **changes):
    arguments = {"names": ["a", "b"], "counts": [2, 3], "image_shape": (2, 3, 1)} | changes
    return write_cache(folder, made_from, fill, **arguments)


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "above it" / "caché"
    written = write(folder, groups=["x", "y"])
    read = read_cache(folder, MADE_FROM)
    assert read is not None
    for classes in (written, read):
        assert isinstance(classes.images, np.memmap)
        assert not classes.images.flags.writeable
        np.testing.assert_array_equal(classes.images, PIXELS)
        np.testing.assert_array_equal(classes["b"], PIXELS[2:])
        assert (classes.names, classes.groups) == (("a", "b"), ("x", "y"))
    assert sorted(os.listdir(folder)) == ["images.npy", "index.json"]
    assert os.listdir(folder.parent) == [folder.name]


def test_a_cache_that_is_not_there(tmp_path):
    assert read_cache(tmp_path / "none", MADE_FROM) is None


def test_others_may_read_the_folder(tmp_path):
    write(tmp_path / "cache")
    (tmp_path / "folder").mkdir()
    assert (tmp_path / "cache").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_fewer_images_than_there_is_room_for(tmp_path):
    def fill(images):
        images[2:4] = 7
        return [1, 2]

    write(tmp_path / "cache", fill=fill)
    read = read_cache(tmp_path / "cache", MADE_FROM)
    assert read is not None
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
    write(tmp_path / "cache")
    with pytest.warns(RuntimeWarning, match=message):
        assert read_cache(tmp_path / "cache", MADE_FROM | changes) is None


def test_a_cache_of_another_format(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    monkeypatch.setattr(cache, "FORMAT", 9)
    with pytest.warns(RuntimeWarning, match="has the format 2, this version of metajax reads 9"):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None


def test_the_warning_names_the_users_line(tmp_path):
    write(tmp_path / "cache")
    with pytest.warns(RuntimeWarning, match="made again") as warned:
        read_cache(tmp_path / "cache", {})
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 2, "made_from": 3}']
)
def test_a_damaged_index(tmp_path, content):
    write(tmp_path / "cache")
    (tmp_path / "cache" / "index.json").write_text(content)
    with pytest.warns(RuntimeWarning, match="is made again: it cannot be read"):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None


def test_an_index_that_lacks_a_part(tmp_path):
    write(tmp_path / "cache")
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    for key in ("names", "starts", "counts", "groups", "shape"):
        less = {name: value for name, value in index.items() if name != key}
        (tmp_path / "cache" / "index.json").write_text(json.dumps(less))
        with pytest.warns(RuntimeWarning, match=f"cannot be read .KeyError: '{key}'"):
            assert read_cache(tmp_path / "cache", MADE_FROM) is None


@pytest.mark.parametrize("size", [0, 50, 140])
def test_images_cut_off(tmp_path, size):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / "images.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.warns(RuntimeWarning, match="it cannot be read"):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None


def test_images_that_are_gone(tmp_path):
    write(tmp_path / "cache")
    (tmp_path / "cache" / "images.npy").unlink()
    with pytest.warns(RuntimeWarning, match="FileNotFoundError"):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None
    assert write(tmp_path / "cache").counts.tolist() == [2, 3]


def test_a_cache_replaces_the_one_before(tmp_path):
    before = write(tmp_path / "cache")
    made_from = {"kind": "new"}

    def fill(images):
        images[:] = 9
        return [2, 3]

    write(tmp_path / "cache", made_from, fill)
    read = read_cache(tmp_path / "cache", made_from)
    assert read is not None
    assert np.all(read["a"] == 9)
    np.testing.assert_array_equal(before.images, PIXELS)  # still mapped by who read it
    assert os.listdir(tmp_path) == ["cache"]


# Where it cannot be written


def test_folders_that_are_no_cache_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(FileExistsError, match=r"holds .holiday\.jpg.: it is no cache"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"dear"
    with pytest.raises(FileExistsError, match="is a file: it is no cache"):
        write(tmp_path / "photos" / "holiday.jpg")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


def test_too_little_space(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"\(\[Errno 28\] 3 MB are free\); make room for 61 MB, or"):
        write(tmp_path / "cache", image_shape=(2000, 3000, 2))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        (errno.ENOSPC, "make room for 1 MB, or pass another cache folder"),
        (errno.EDQUOT, "make room for 1 MB, or pass another cache folder"),
        (errno.EROFS, "pass another cache folder"),
    ],
)
def test_space_that_runs_out(tmp_path, monkeypatch, cause, remedy):
    def full(descriptor, start, length):
        raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    said = rf"could not be written \(.*{os.strerror(cause)}\); {remedy}$"
    with pytest.raises(OSError, match=said):
        write(tmp_path / "cache")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("how", ["absent", "unsupported"])
def test_systems_that_cannot_reserve_space(tmp_path, monkeypatch, how):
    def unsupported(descriptor, start, length):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    if how == "absent":
        monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(cache_files, "_BLOCK", 7)
    np.testing.assert_array_equal(write(tmp_path / "cache").images, PIXELS)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not be written .*; pass another cache folder$"):
        write(tmp_path / "file" / "above" / "cache")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("corrupt"), OSError("disk gone")])
def test_nothing_is_left_where_filling_stops(tmp_path, error):
    def fill(images):
        images[:2] = 1
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)) as raised:
        write(tmp_path / "cache", fill=fill)
    assert str(raised.value) == ("" if error is KeyboardInterrupt else str(error))
    assert os.listdir(tmp_path) == []


def test_the_cache_before_stays_where_filling_stops(tmp_path):
    write(tmp_path / "cache")

    def fill(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", {"kind": "new"}, fill)
    assert read_cache(tmp_path / "cache", MADE_FROM) is not None
    assert os.listdir(tmp_path) == ["cache"]


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    code = (
        "import sys, os, signal, pathlib; sys.path.insert(0, sys.argv[2]); import test_cache\n"
        "def fill(images): os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_cache.write(pathlib.Path(sys.argv[1]), fill=fill)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(Path(__file__).parent)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    age(left)
    write(tmp_path / "cache")
    assert os.listdir(tmp_path) == ["cache"]


@pytest.mark.parametrize("young", [None, "", "made", "made/images.npy"])
def test_unfinished_caches_are_removed_once_they_are_old(tmp_path, young):
    left = tmp_path / ".metajax-unfinished-1a2b3c4d"
    (left / "made").mkdir(parents=True)
    (left / "made" / "images.npy").write_bytes(b"")
    (tmp_path / ".mine").mkdir()
    for path in (left, tmp_path / ".mine"):
        age(path)
    if young is not None:  # Its maker is at work.
        os.utime(left / young)
    write(tmp_path / "cache")
    assert left.exists() == (young is not None)
    assert (tmp_path / ".mine").exists()


def age(folder: Path) -> None:
    """Sets the times in a folder back by more than a day."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - 90_000,) * 2)


# Made by several at once


def test_a_cache_that_another_replaces_while_it_is_read(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    opened, tries = np.lib.format.open_memmap, []

    def open_late(path, mode):
        tries.append(path)
        if len(tries) == 1:
            monkeypatch.setattr(np.lib.format, "open_memmap", opened)
            write(tmp_path / "cache", names=["x", "y"], fill=lambda out: fill(out[::-1]))
            monkeypatch.setattr(np.lib.format, "open_memmap", open_late)
        return opened(path, mode=mode)

    monkeypatch.setattr(np.lib.format, "open_memmap", open_late)
    read = read_cache(tmp_path / "cache", MADE_FROM)
    assert len(tries) == 2
    assert read is not None
    assert read.names == ("x", "y")
    np.testing.assert_array_equal(read.images, PIXELS[::-1])


def test_a_cache_that_others_keep_replacing(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    opened, index = np.lib.format.open_memmap, tmp_path / "cache" / "index.json"

    def replaced(path, mode):
        index.write_text(index.read_text() + " ")
        return opened(path, mode=mode)

    monkeypatch.setattr(np.lib.format, "open_memmap", replaced)
    with pytest.warns(RuntimeWarning, match="made again: other processes keep replacing it"):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None


def test_images_of_another_cache(tmp_path):
    write(tmp_path / "cache")
    write(tmp_path / "other", counts=[4, 3], fill=lambda out: [4, 3])
    (tmp_path / "other" / "images.npy").replace(tmp_path / "cache" / "images.npy")
    said = r"ValueError: its images are \[7, 2, 3, 1\], expected \[5, 2, 3, 1\]"
    with pytest.warns(RuntimeWarning, match=said):
        assert read_cache(tmp_path / "cache", MADE_FROM) is None


def test_a_cache_that_another_makes_meanwhile(tmp_path):
    def slow_fill(images):
        write(tmp_path / "cache")
        return fill(images)

    np.testing.assert_array_equal(write(tmp_path / "cache", fill=slow_fill).images, PIXELS)
    assert os.listdir(tmp_path) == ["cache"]


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


def test_a_cache_that_another_makes_from_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_TRIES", 2)
    replace = cache.put_in_place

    def replaced(folder, made, old):
        replace(folder, made, old)
        monkeypatch.setattr(cache, "put_in_place", replace)
        write(tmp_path / "cache", {"kind": "other"})

    monkeypatch.setattr(cache, "put_in_place", replaced)
    with pytest.raises(OSError, match=r"replaced by another process while it was made: .*'other'"):
        write(tmp_path / "cache")


def test_many_threads_make_one_cache(tmp_path):
    together = threading.Barrier(8, timeout=20)
    made = []

    def fill_together(images):
        together.wait()
        return fill(images)

    def work():
        for _ in range(5):
            made.append(write(tmp_path / "cache", fill=fill_together))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 40
    for classes in made:
        np.testing.assert_array_equal(classes.images, PIXELS)
    assert os.listdir(tmp_path) == ["cache"]


@pytest.mark.slow
def test_two_processes_make_one_cache(tmp_path):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import test_cache\n"
        "for _ in range(50): test_cache.write(pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["cache"]
