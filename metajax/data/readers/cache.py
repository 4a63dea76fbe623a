"""A folder that keeps decoded images grouped by class, read back as a memory-mapped array.

`images.npy` holds the pixels, `index.json` the classes and what they were made from. The folder
appears whole or not at all. It is used again only by the same version of the format and while what
it was made from is unchanged.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.cache_files import IMAGES, allocated, put_in_place, workshop, writing
from metajax.user_warnings import warn_user

FORMAT = 2
_INDEX = "index.json"
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
    warn_user(f"the cache {str(folder)!r} is made again: {opened}")
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
    with workshop(folder, needed) as room:
        made = room / "made"
        with writing(folder, needed):
            made.mkdir()
            images = allocated(made / IMAGES, shape)
        kept = fill(images)
        index = {
            "format": FORMAT,
            "made_from": dict(made_from),
            "names": list(names),
            "starts": (np.cumsum(counts) - np.asarray(counts)).tolist(),
            "counts": [int(count) for count in kept],
            "groups": None if groups is None else list(groups),
            "shape": list(shape),
        }
        with writing(folder, needed):
            images.flush()
            del images
            (made / _INDEX).write_text(json.dumps(index), encoding="utf-8")
            put_in_place(folder, made, room / "old")
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
    wanted = json.loads(json.dumps(made_from))
    try:
        for _ in range(_TRIES):
            text = (folder / _INDEX).read_text(encoding="utf-8")
            index = json.loads(text)
            if stale := _difference(index, wanted):
                return stale
            images = np.lib.format.open_memmap(folder / IMAGES, mode="r")
            # Else another process replaced the cache in between: these are not its images.
            if (folder / _INDEX).read_text(encoding="utf-8") == text:
                return _classes(index, images)
        return "other processes keep replacing it"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"


def _classes(index: Mapping[str, Any], images: np.ndarray) -> ImageClasses:
    if list(images.shape) != index["shape"]:
        raise ValueError(f"its images are {list(images.shape)}, expected {index['shape']}")
    groups = index["groups"]
    return ImageClasses(
        images,
        np.array(index["starts"]),
        np.array(index["counts"]),
        tuple(index["names"]),
        None if groups is None else tuple(groups),
    )


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
        what = f"holds {in_short(sorted(names - {_INDEX, IMAGES}), 3)}"
        if names <= {_INDEX, IMAGES}:
            return
    raise FileExistsError(
        f"{str(folder)!r} {what}: it is no cache, and is not replaced by one; pass another cache "
        "folder"
    )
