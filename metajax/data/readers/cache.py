"""A folder that keeps images, or features, grouped by class, read back as a memory-mapped array.

`images.npy` holds the pixels or numbers, `index.json` the classes and sources, what they were made
from, and digests of both. The folder appears whole or not at all, and every byte is proved whenever
it is opened.
"""

import contextlib
import errno
import hashlib
import json
import math
import operator
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metajax.checks.settings import check_optional_paths
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.home_folder import from_home
from metajax.regular_files import open_regular
from metajax.user_warnings import warn_user

FORMAT = 5
_INDEX, _IMAGES = "index.json", "images.npy"
_DTYPES = ("uint8", "float32")
_LARGEST_INDEX = 2**26
_BLOCK = 2**24  # bytes that share a digest
_WORKSHOP = ".metajax-unfinished-"
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_CANNOT_RESERVE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

# Writes the images of the classes, in their order, into `[images, ...]`; returns how many of each
# class there are, fewer than expected where some cannot be decoded, and what is to be said of them
# by a warning whenever they are read, or "".
Fill = Callable[[np.ndarray], tuple[Sequence[int], str]]


class _OtherSourceError(ValueError):
    """The cache is whole, and made from something else."""


def cache_folder(root: str | os.PathLike[str] | None, title: str, asked: Any) -> Path:
    """Where a cache is kept: one folder for each thing that is asked for.

    It is in `root`, a folder of caches, or in `metajax` in `$XDG_CACHE_HOME` or `~/.cache`. `title`
    is a readable name of the data; `asked` says as JSON where they come from, and the options.
    """
    check_optional_paths(cache=root)
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME", "")
        root = Path(home if os.path.isabs(home) else "~/.cache") / "metajax"
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    short = title.replace("/", "-").encode(errors="surrogateescape")[:60].decode(errors="ignore")
    return from_home(root, "cache") / f"{short}-{key}"


def file_state(path: str | os.PathLike[str]) -> str:
    """Changes when the file is written to."""
    found = os.stat(path)
    return f"{found.st_size} bytes, changed {found.st_mtime_ns}"


def read_cache(folder: Path, made_from: Mapping[str, Any]) -> ImageClasses | None:
    """The classes kept in `folder`, or None where they have to be made (again).

    `made_from` is whatever decides the content, as JSON: options, and for each class a digest of
    its files, say. A cache that is there but of no use is said so by a `RuntimeWarning`.
    """
    waits = [0.02, 0.1, 0.5]
    while True:
        try:
            classes, remark = _proved(folder, made_from)
        except Exception as error:  # Reading what is no cache raises nearly everything.
            if not folder.exists():
                return None
            if not waits or isinstance(error, _OtherSourceError):
                plain = type(error) in (ValueError, _OtherSourceError)
                said = error if plain else f"it cannot be read ({type(error).__name__}: {error})"
                warn_user(f"the cache {str(folder)!r} is made again: {said}")
                return None
            time.sleep(waits.pop(0))  # It was read while another process replaced it, perhaps.
        else:
            if remark:
                warn_user(remark)
            return classes


def write_cache(
    folder: Path,
    made_from: Mapping[str, Any],
    fill: Fill,
    names: Sequence[str],
    counts: Sequence[int],
    image_shape: Sequence[int],
    groups: Sequence[str] | None = None,
    *,
    dtype: str = "uint8",
    sources: np.ndarray | None = None,
) -> ImageClasses:
    """Makes the cache `folder`, in place of one that was there, and opens it.

    There is room for `counts` images of each class, `image_shape` is `(height, width, channels)`,
    or `(features,)`; `dtype` is "uint8" or "float32". `sources` are those of the images, `[images]`
    integers or texts, of a `fill` that keeps all of them; it may write them, too. For `made_from`
    see `read_cache`. Errors of `fill` pass through.

    Raises:
      ValueError: the classes are too many for an index.
      OSError: `folder` holds something that is not a cache, no space is left, or the folder cannot
        be written; nothing is left behind.
    """
    shape = (int(sum(counts)), *map(int, image_shape))
    needed = math.prod(shape) * np.dtype(dtype).itemsize + 2**20
    with contextlib.ExitStack() as at_the_end:
        with _writing(folder, needed):
            _refuse_what_is_no_cache(folder)
            made = Path(at_the_end.enter_context(_workshop(folder.parent, needed)), "made")
            made.mkdir()
            images = _allocated(made / _IMAGES, shape, dtype)
        kept, remark = fill(images)
        with _writing(folder, needed):
            images.flush()
            del images
            with open_regular(made / _IMAGES) as file:
                size, blocks = os.fstat(file.fileno()).st_size, _digests(file)
            index = {
                "format": FORMAT,
                "made_from": made_from,
                "names": names,
                "starts": (np.cumsum(counts) - np.asarray(counts)).tolist(),
                "counts": [int(count) for count in kept],
                "groups": groups,
                "sources": None if sources is None else sources.tolist(),
                "shape": shape,
                "dtype": dtype,
                "size": size,
                "blocks": blocks,
                "remark": remark,
            }
            sealed = _sealed(index)
            if len(sealed) > _LARGEST_INDEX:
                raise ValueError(
                    f"the names, counts and sources of {len(names)} classes take {len(sealed)} "
                    f"bytes of a cache; expected at most {_LARGEST_INDEX}: fewer classes, or "
                    "shorter names"
                )
            (made / _INDEX).write_bytes(sealed)
            opened, _ = _proved(made, made_from)
            _refuse_what_is_no_cache(folder)
            # A process killed between the two leaves none, never half.
            with contextlib.suppress(FileNotFoundError):
                folder.rename(made.with_name("old"))
            try:
                made.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # Else another was faster.
                    raise
    if remark:
        warn_user(remark)
    return opened


def _proved(folder: Path, made_from: Mapping[str, Any]) -> tuple[ImageClasses, str]:
    """The classes, proved to the byte, and the remark on them; errors say what is wrong."""
    with open_regular(folder / _INDEX) as file:
        raw = file.read(_LARGEST_INDEX)
    index = json.loads(raw)
    if (version := index["format"]) != FORMAT:
        raise ValueError(f"it has the format {version!r}, this version of metajax reads {FORMAT}")
    if raw != _sealed(index):
        raise ValueError(f"its {_INDEX} is not what was written")
    if changed := _difference(index["made_from"], json.loads(json.dumps(made_from))):
        raise _OtherSourceError(changed)
    with open_regular(folder / _IMAGES) as file:
        size, shape = os.fstat(file.fileno()).st_size, tuple(map(operator.index, index["shape"]))
        if size != index["size"]:
            raise ValueError(f"its {_IMAGES} has {size} bytes, expected {index['size']}")
        if _digests(file) != index["blocks"]:
            raise ValueError(f"its {_IMAGES} is not what was written")
        if (dtype := index["dtype"]) not in _DTYPES:
            raise ValueError(f"its images are {dtype!r}, expected one of {', '.join(_DTYPES)}")
        begin = size - math.prod(shape) * np.dtype(dtype).itemsize
        images = np.memmap(file, dtype, "r", begin, shape)
    of_classes = (index[field] for field in ("starts", "counts", "names", "groups", "sources"))
    return ImageClasses(images, *of_classes), index["remark"]


def _sealed(index: Mapping[str, Any]) -> bytes:
    """The one way to write an index, with its digest."""
    fields = {key: index[key] for key in index if key != "sha256"}
    text = json.dumps(fields, sort_keys=True)
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(fields, sort_keys=True).encode()


def _digests(file: BinaryIO) -> list[int]:
    """Of each block. CRC-32 reads 4 GB a second, SHA-256 half of it or less."""
    return [zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK), b"")]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What keeps a cache that is whole from being used, or ""."""
    parts = []
    for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            changed = sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
            parts.append(f"{len(changed)} of its {key} changed: {in_short(changed, 5)}")
        else:
            parts.append(f"{key} was {was!r} and is {now!r}")
    return "; ".join(parts)


def _refuse_what_is_no_cache(folder: Path) -> None:
    """What is to be replaced must not be somebody's files."""
    with contextlib.suppress(FileNotFoundError):
        if others := sorted({*os.listdir(folder)} - {_INDEX, _IMAGES, ".DS_Store"}):
            raise FileExistsError(f"it is no cache: it holds {in_short(others, 3)}")


@contextlib.contextmanager
def _writing(folder: Path, needed: int) -> Iterator[None]:
    """Says of an `OSError` which cache could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        room = f"make room for {needed / 1e6:,.0f} MB, or " if error.errno in _NO_ROOM else ""
        raise OSError(
            f"the cache {str(folder)!r} could not be written ({error}); {room}pass another cache "
            "folder"
        ) from error


def _workshop(parent: Path, needed: int) -> tempfile.TemporaryDirectory[str]:
    """A new folder to make a cache in; what nobody has written to for a day is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_WORKSHOP}*"):
        with contextlib.suppress(OSError):  # Its maker has just ended.
            last = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if last < time.time() - 24 * 60 * 60:
                shutil.rmtree(left)
    if (free := shutil.disk_usage(parent).free) < needed:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
    return tempfile.TemporaryDirectory(prefix=_WORKSHOP, dir=parent, ignore_cleanup_errors=True)


def _allocated(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
    """A memory-mapped array whose disk space is really there.

    Writing to a mapped page for which the disk has no room would kill the process.
    """
    images = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:  # Not all systems and file systems can.
            if getattr(error, "errno", errno.ENOSYS) not in _CANNOT_RESERVE:
                raise
            file.seek(size - images.nbytes)
            for start in range(0, images.nbytes, _BLOCK):
                file.write(bytes(min(images.nbytes - start, _BLOCK)))
    return images
