"""A folder that keeps decoded images grouped by class, read back as a memory-mapped array.

`images.npy` holds the pixels, `index.json` the classes and what they were made from. The folder
appears whole or not at all. It is used again only by the same version of the format and while what
it was made from is unchanged.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.classes import ImageClasses, in_short

FORMAT = 1
_INDEX, _IMAGES = "index.json", "images.npy"
_BLOCK = 2**24
_TRIES = 100

# Writes the images of the classes, in their order, into `[images, height, width, channels]` and
# returns how many of each class there are: fewer than expected where some could not be decoded.
Fill = Callable[[np.ndarray], Sequence[int]]


def cache_folder(root: str | os.PathLike[str] | None, title: str, asked: Any) -> Path:
    """Where a cache is kept: one folder for each thing that is asked for.

    Args:
      root: a folder of caches; None is `metajax` in `$XDG_CACHE_HOME`, or in `~/.cache`.
      title: a readable name of the data.
      asked: as JSON what is asked for: where the data come from and the options.
    """
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME", "")
        root = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "metajax"
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    short = title.replace("/", "-").encode(errors="surrogateescape")[:60].decode(errors="ignore")
    return Path(root).expanduser().absolute() / f"{short}-{key}"


def read_cache(folder: Path, made_from: Mapping[str, Any]) -> ImageClasses | None:
    """The classes kept in `folder`, or None where they have to be made (again).

    A cache that is there but of no use is said so by a `RuntimeWarning`.

    Args:
      folder: of the cache.
      made_from: whatever decides the content, as JSON: options, and for each class a digest of its
        files, say.
    """
    if not folder.exists():
        return None
    opened = _opened(folder, made_from)
    if isinstance(opened, ImageClasses):
        return opened
    warnings.warn(
        f"the cache {str(folder)!r} is made again: {opened}", RuntimeWarning, stacklevel=3
    )
    return None


def write_cache(
    folder: Path,
    made_from: Mapping[str, Any],
    fill: Fill,
    *,
    names: Sequence[str],
    counts: Sequence[int],
    image_shape: tuple[int, int, int],
    groups: Sequence[str] | None = None,
) -> ImageClasses:
    """Makes the cache `folder`, in place of what was there, and opens it.

    Args:
      folder: of the cache; folders above it are made.
      made_from: see `read_cache`.
      fill: see `Fill`.
      names: of the classes.
      counts: images of each class that there is to be room for.
      image_shape: `(height, width, channels)`.
      groups: of the classes, or None.

    Raises:
      FileExistsError: `folder` is there and holds something that is not a cache.
      OSError: no space is left, or the folder cannot be written; nothing is left behind. Errors of
        `fill` pass through.
    """
    _refuse_what_is_no_cache(folder)
    shape = (int(sum(counts)), *image_shape)
    needed = int(np.prod(shape)) + 2**20
    with _writing(folder, needed):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
        workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        made = workshop / "made"
        with _writing(folder, needed):
            made.mkdir()
            images = _allocated(made / _IMAGES, shape)
        kept = fill(images)
        index = {
            "format": FORMAT,
            "made_from": dict(made_from),
            "names": list(names),
            "starts": (np.cumsum(counts) - np.asarray(counts)).tolist(),
            "counts": [int(count) for count in kept],
            "groups": None if groups is None else list(groups),
        }
        with _writing(folder, needed):
            images.flush()
            del images
            (made / _INDEX).write_text(json.dumps(index), encoding="utf-8")
            _replace(folder, made, workshop / "old")
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    opened = _opened(folder, made_from)
    for _ in range(_TRIES):
        if isinstance(opened, ImageClasses):
            return opened
        time.sleep(0.01)  # Another process that made the same cache is putting its own in place.
        opened = _opened(folder, made_from)
    raise OSError(
        f"the cache {str(folder)!r} was replaced by another process while it was made: {opened}"
    )


def _opened(folder: Path, made_from: Mapping[str, Any]) -> ImageClasses | str:
    """The cache, or what keeps it from being used."""
    try:
        text, images = _one_pair(folder)
        index = json.loads(text)
        if stale := _difference(index, json.loads(json.dumps(made_from))):
            return stale
        if images is None:
            return "another process keeps replacing it"
        groups = index["groups"]
        starts, counts = np.array(index["starts"]), np.array(index["counts"])
        room = index["room"]
        if len(images) != room:
            return f"it holds {len(images)} images, expected {room}"
        return ImageClasses(
            images, starts, counts, tuple(index["names"]), None if groups is None else tuple(groups)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def _difference(index: Mapping[str, Any], made_from: Mapping[str, Any]) -> str:
    """What keeps a cache from being used, or ""."""
    if index["format"] != FORMAT:
        return f"it has the format {index['format']!r}, this version of metajax reads {FORMAT}"
    old = index["made_from"]
    differ = [key for key in old.keys() | made_from.keys() if old.get(key) != made_from.get(key)]
    parts = []
    for key in sorted(differ):
        was, now = old.get(key), made_from.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            changed = sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
            parts.append(f"{len(changed)} of its {key} changed: {in_short(changed, 5)}")
        else:
            parts.append(f"{key} was {was!r} and is {now!r}")
    return "; ".join(parts)


@contextlib.contextmanager
def _writing(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"the cache {str(folder)!r} could not be written ({error}); make room for "
            f"{needed / 1e6:,.0f} MB, or pass another cache folder"
        ) from error


def _refuse_what_is_no_cache(folder: Path) -> None:
    """What is to be replaced must not be somebody's files."""
    try:
        # What file systems leave behind is nobody's.
        names = {n for n in os.listdir(folder) if n != ".DS_Store" and not n.startswith(".nfs")}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if not folder.exists():  # But one above it is a file: making it will say so.
            return
        what = "is a file"
    else:
        what = f"holds {in_short(sorted(names - {_INDEX, _IMAGES}), 3)}"
        if names <= {_INDEX, _IMAGES}:
            return
    raise FileExistsError(
        f"{str(folder)!r} {what}: it is no cache, and is not replaced by one; pass another cache "
        "folder"
    )


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped uint8 array whose disk space is really there.

    Writing to a mapped page for which the disk has no room would kill the process.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        left = int(np.prod(shape))
        if not _reserved(file.fileno(), file.tell(), left):
            while left:
                left -= file.write(bytes(min(left, _BLOCK)))
    return np.lib.format.open_memmap(path, mode="r+")


def _reserved(descriptor: int, start: int, length: int) -> bool:
    """Whether the system could reserve the space; not all systems and file systems can."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(descriptor, start, length)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def _replace(folder: Path, made: Path, old: Path) -> None:
    """Puts `made` where `folder` is; a process killed in between leaves none, never half."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # Else another was faster.
            raise
