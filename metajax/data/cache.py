"""A folder that keeps decoded images grouped by class, read back as a memory-mapped array.

`images.npy` holds the pixels, `index.json` the classes and what they were made from. The folder
appears whole or not at all. It is used again only by the same version of the format and while what
it was made from is unchanged.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.classes import ImageClasses, in_short

FORMAT = 1
_INDEX, _IMAGES = "index.json", "images.npy"
_BLOCK = 2**24

# Writes the images of the classes, in their order, into `[images, height, width, channels]` and
# returns how many of each class there are: fewer than expected where some could not be decoded.
Fill = Callable[[np.ndarray], Sequence[int]]


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
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        stale = _difference(index, json.loads(json.dumps(made_from)))
        if not stale:
            images = np.lib.format.open_memmap(folder / _IMAGES, mode="r")
            counts = np.array(index["counts"])
            groups = index["groups"]
            return ImageClasses(
                images,
                np.array(index["starts"]),
                counts,
                tuple(index["names"]),
                None if groups is None else tuple(groups),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        stale = f"it cannot be read ({type(error).__name__}: {error})"
    warnings.warn(f"the cache {str(folder)!r} is made again: {stale}", RuntimeWarning, stacklevel=3)
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
      OSError: no space is left, or the folder cannot be written; nothing is left behind.
    """
    shape = (int(sum(counts)), *image_shape)
    needed = int(np.prod(shape)) + 2**20
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(
            f"the cache {str(folder)!r} needs {needed / 1e6:,.0f} MB but {free / 1e6:,.0f} MB are "
            "free; make room, or pass another cache folder"
        )
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        images = _allocated(made / _IMAGES, shape)
        kept = fill(images)
        images.flush()
        del images
        index = {
            "format": FORMAT,
            "made_from": dict(made_from),
            "names": list(names),
            "starts": (np.cumsum(counts) - np.asarray(counts)).tolist(),
            "counts": [int(count) for count in kept],
            "groups": None if groups is None else list(groups),
        }
        (made / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        _replace(folder, made)
    except OSError as error:
        raise OSError(
            f"the cache {str(folder)!r} could not be written ({error}); make room for "
            f"{needed / 1e6:,.0f} MB, or pass another cache folder"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    opened = read_cache(folder, made_from)
    if opened is None:
        raise OSError(
            f"the cache {str(folder)!r} was replaced by another process while it was made"
        )
    return opened


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


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped uint8 array whose disk space is really there.

    Writing to a mapped page for which the disk has no room would kill the process.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        left = int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), file.tell(), left)
        else:
            while left:
                left -= file.write(bytes(min(left, _BLOCK)))
    return np.lib.format.open_memmap(path, mode="r+")


def _replace(folder: Path, made: Path) -> None:
    """Puts `made` where `folder` is; a process killed in between leaves none, never half."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        folder.rename(old / "old")
        shutil.rmtree(old, ignore_errors=True)
    made.chmod(0o777 & ~_umask())
    try:
        made.rename(folder)
    except OSError:
        if not (folder / _INDEX).exists():  # Else another process was faster.
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
