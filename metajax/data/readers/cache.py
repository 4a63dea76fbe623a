"""A folder that keeps decoded images grouped by class, read back as a memory-mapped array.

`images.npy` holds the pixels, `index.json` the classes, what they were made from, and digests of
both. The folder appears whole or not at all, and every byte is proved whenever it is opened.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.home_folder import from_home
from metajax.regular_files import open_regular
from metajax.user_warnings import warn_user

FORMAT = 3
_INDEX, _IMAGES = "index.json", "images.npy"
_LARGEST_INDEX = 2**26
_BLOCK = 2**24  # bytes of pixels that share a digest
_WORKSHOP = ".metajax-unfinished-"
_DAY = 24 * 60 * 60
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_CANNOT_RESERVE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
# What the lists of an index hold.
_LISTS = {"names": str, "starts": int, "counts": int, "groups": str, "shape": int, "blocks": int}

# Writes the images of the classes, in their order, into `[images, height, width, channels]`;
# returns how many of each class there are: fewer than expected where some cannot be decoded.
Fill = Callable[[np.ndarray], Sequence[int]]


def cache_folder(root: str | os.PathLike[str] | None, title: str, asked: Any) -> Path:
    """Where a cache is kept: one folder for each thing that is asked for.

    It is in `root`, a folder of caches, or in `metajax` in `$XDG_CACHE_HOME` or `~/.cache`. `title`
    is a readable name of the data; `asked` says as JSON where they come from, and the options.
    """
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME", "")
        root = Path(home if os.path.isabs(home) else "~/.cache") / "metajax"
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    short = title.replace("/", "-").encode(errors="surrogateescape")[:60].decode(errors="ignore")
    return from_home(root, "cache") / f"{short}-{key}"


def read_cache(folder: Path, made_from: Mapping[str, Any]) -> ImageClasses | None:
    """The classes kept in `folder`, or None where they have to be made (again).

    `made_from` is whatever decides the content, as JSON: options, and for each class a digest of
    its files, say. A cache that is there but of no use is said so by a `RuntimeWarning`.
    """
    said = None
    for wait in (0.02, 0):  # Another process may be about to replace it.
        try:
            return _proved(folder, made_from)
        except Exception as error:  # Reading what is no cache raises nearly everything.
            if not folder.exists():
                return None
            plain = type(error) is ValueError
            said = error if plain else f"it cannot be read ({type(error).__name__}: {error})"
        time.sleep(wait)
    warn_user(f"the cache {str(folder)!r} is made again: {said}")
    return None


def write_cache(
    folder: Path,
    made_from: Mapping[str, Any],
    fill: Fill,
    names: Sequence[str],
    counts: Sequence[int],
    image_shape: Sequence[int],
    groups: Sequence[str] | None = None,
) -> ImageClasses:
    """Makes the cache `folder`, in place of one that was there, and opens it.

    There is room for `counts` images of each class, `image_shape` is `(height, width, channels)`;
    for `made_from` see `read_cache`. Errors of `fill` pass through.

    Raises:
      ValueError: the classes are too many for an index.
      OSError: `folder` holds something that is not a cache, no space is left, or the folder cannot
        be written; nothing is left behind.
    """
    shape = (int(sum(counts)), *map(int, image_shape))
    needed = math.prod(shape) + 2**20
    with contextlib.ExitStack() as at_the_end:
        with _writing(folder, needed):
            _refuse_what_is_no_cache(folder)
            room = _workshop(folder.parent, needed)
            at_the_end.callback(shutil.rmtree, room, ignore_errors=True)
            made = room / "made"
            made.mkdir()
            images = _allocated(made / _IMAGES, shape)
        kept = [int(count) for count in fill(images)]
        with _writing(folder, needed):
            images.flush()
            del images
            with open_regular(made / _IMAGES) as file:
                blocks = _digests(file, len(_header(shape)))
            index = {
                "format": FORMAT,
                "made_from": json.loads(json.dumps(made_from)),
                "names": list(names),
                "starts": (np.cumsum(counts) - np.asarray(counts)).tolist(),
                "counts": kept,
                "groups": None if groups is None else list(groups),
                "shape": shape,
                "blocks": blocks,
            }
            sealed = _sealed(index)
            if len(sealed) > _LARGEST_INDEX:
                raise ValueError(
                    f"the names and counts of {len(names)} classes take {len(sealed)} bytes of a "
                    f"cache; expected at most {_LARGEST_INDEX}: fewer classes, or shorter names"
                )
            (made / _INDEX).write_bytes(sealed)
            opened = _proved(made, made_from)
            _refuse_what_is_no_cache(folder)
            # A process killed between the two leaves none, never half.
            with contextlib.suppress(FileNotFoundError):
                folder.rename(room / "old")
            try:
                made.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # Else another was faster.
                    raise
    return opened


def _proved(folder: Path, made_from: Mapping[str, Any]) -> ImageClasses:
    """The cache, every byte of which is what was written; errors say what is wrong with it."""
    with open_regular(folder / _INDEX) as file:
        raw = file.read(_LARGEST_INDEX)
    index = json.loads(raw)
    if (version := index["format"]) != FORMAT:
        raise ValueError(f"it has the format {version!r}, this version of metajax reads {FORMAT}")
    lists = [(index[field] or (), kind) for field, kind in _LISTS.items()]
    if raw != _sealed(index) or any(type(x) is not kind for found, kind in lists for x in found):
        raise ValueError(f"its {_INDEX} is not what was written")
    if changed := _difference(index["made_from"], json.loads(json.dumps(made_from))):
        raise ValueError(changed)
    header, shape = _header(index["shape"]), tuple(index["shape"])
    with open_regular(folder / _IMAGES) as file:
        size, expected = os.fstat(file.fileno()).st_size, len(header) + math.prod(shape)
        if size != expected:
            raise ValueError(f"its {_IMAGES} has {size} bytes, expected {expected}")
        if file.read(len(header)) != header or _digests(file, len(header)) != index["blocks"]:
            raise ValueError(f"its {_IMAGES} is not what was written")
        images = np.memmap(file, np.uint8, "r", len(header), shape)
    groups = None if index["groups"] is None else tuple(index["groups"])
    return ImageClasses(images, index["starts"], index["counts"], tuple(index["names"]), groups)


def _sealed(index: Mapping[str, Any]) -> bytes:
    """The one way to write an index, with its digest."""
    fields = {key: index[key] for key in index if key != "sha256"}
    text = json.dumps(fields, sort_keys=True)
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(fields, sort_keys=True).encode()


def _digests(file: BinaryIO, start: int) -> list[int]:
    """Of each block from `start` on. CRC-32 reads 4 GB a second, SHA-256 half of it or less."""
    file.seek(start)
    return [zlib.crc32(block) for block in iter(lambda: file.read(_BLOCK), b"")]


def _header(shape: Sequence[int]) -> bytes:
    """What `images.npy` begins with."""
    stream = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


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


def _workshop(parent: Path, needed: int) -> Path:
    """A new folder to make a cache in; what nobody has written to for a day is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_WORKSHOP}*"):
        with contextlib.suppress(OSError):  # Its maker has just ended.
            last = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if last < time.time() - _DAY:
                shutil.rmtree(left)
    if (free := shutil.disk_usage(parent).free) < needed:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
    return Path(tempfile.mkdtemp(prefix=_WORKSHOP, dir=parent))


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped uint8 array whose disk space is really there.

    Writing to a mapped page for which the disk has no room would kill the process.
    """
    header, length = _header(shape), math.prod(shape)
    with path.open("xb") as file:
        file.write(header)
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), len(header), length)
        except (AttributeError, OSError) as error:  # Not all systems and file systems can.
            if getattr(error, "errno", errno.ENOSYS) not in _CANNOT_RESERVE:
                raise
            for start in range(0, length, _BLOCK):
                file.write(bytes(min(length - start, _BLOCK)))
    return np.memmap(path, np.uint8, "r+", len(header), shape)
