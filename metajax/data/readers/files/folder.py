"""Folders of image files, a folder a class."""

import os
from pathlib import Path

from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.decoding import SUFFIXES
from metajax.data.readers.files.decoded_files import Decoding, decoded_classes
from metajax.data.readers.files.files_by_class import (
    list_classes,
    normal,
    refuse_useless_link,
    require_folder,
)

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_LAYOUT = "a folder a class with image files in it"


def image_folder(
    folder: str | os.PathLike[str],
    split: str | None = None,
    *,
    size: int | tuple[int, int] | None,
    channels: int | None = 3,
    cache: str | os.PathLike[str] | None = None,
    corrupt: str = "error",
    workers: int | None = None,
) -> ImageClasses:
    """Classes from the image files in `folder/split/class/`, or in `folder/class/`.

    A class is a folder that directly holds images. Where all classes lie deeper, as in Omniglot's
    `alphabet/character/image`, a class is called `alphabet/character` and its group is
    `alphabet`. Classes are sorted by name and images by file name, by code point, in Unicode
    form NFC: the same on every system. Hidden files, `__MACOSX` and files with other suffixes than
    .png, .jpg, .jpeg, .bmp, .gif, .webp, .tif and .tiff, in any case, are ignored.

    The images are decoded once, with Pillow, the extra `metajax[images]`, and kept in a cache that
    is memory-mapped: afterwards neither Pillow nor any image file is opened. The cache is made
    again where a file was added, removed or written to (by its size and time of change), with a
    warning that names the classes. Images are turned upright as EXIF says; transparent ones are
    laid on white; grey is the ITU-R 601 luma; of 16 bits the upper 8 count, of an animation the
    first frame.

    Args:
      folder: that holds the splits, or the classes.
      split: the folder in it to read; None where there are no splits.
      size: height and width in pixels, or `(height, width)`, that every image is resized to with
        Pillow's Lanczos filter, whatever its aspect; None leaves images as they are, and they must
        be alike.
      channels: 3 for RGB, 1 for grey, or None for images as they are, which must be alike.
      cache: the folder of caches, one in it for each folder, split and set of options; None for
        `$XDG_CACHE_HOME/metajax`, or `~/.cache/metajax`. What is in it can be deleted at any time.
      corrupt: `"error"`, or `"skip"` to leave out what is not a whole image, with a
        `RuntimeWarning` each time the classes are read; the first names the files.
      workers: decoding threads; None for one a processor.

    Returns:
      `ImageClasses` of memory-mapped uint8 images.

    Raises:
      FileNotFoundError, NotADirectoryError: `folder` is missing, or is a file, or a link
        leads nowhere.
      ImportError: images have to be decoded and Pillow is not installed.
      OSError: a file cannot be read, or there is no space for the cache; none is left behind.
      ValueError: an option or the split is unknown, a class has no image, images lie beside
        folders, a link leads back to a folder that it is in, file names differ only in case or
        Unicode form, images are corrupt, or they are to be left as they are and differ in size or
        channels.
    """
    options = Decoding(size, channels, cache, corrupt, workers)
    root = Path(os.path.abspath(folder))
    require_folder(root, _LAYOUT if split is None else f"a folder {split!r} with {_LAYOUT}")
    title = root.name or "images"
    if split is not None:
        there = sorted(_look(root, root)[1], key=normal)
        if split not in there:
            raise ValueError(
                f"there is no split {split!r} in {str(root)!r}, which holds the folders "
                f"{in_short(there) or 'none'}; pass one of them, or split=None where they are "
                "classes"
            )
        root, title = root / split, f"{title}-{split}"
    found = _classes(root)
    if split is None:
        _refuse_splits(root, list(found))
    classes = list_classes(
        {name: (root / path, images) for name, (path, images) in found.items()}, repr(str(root))
    )
    parents = tuple(name.rpartition("/")[0] for name in classes)
    return decoded_classes(
        classes,
        parents if all(parents) else None,
        options,
        kind="image_folder",
        origin=[str(root)],
        title=title,
    )


def _look(folder: Path, root: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            refuse_useless_link(entry.path, str(root))
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.name)
    return images, folders


def _classes(root: Path) -> dict[str, tuple[str, list[str]]]:
    """By class, its path under `root` and the names of its images."""
    classes: dict[str, tuple[str, list[str]]] = {}
    empty: list[str] = []
    waiting = [""]
    while waiting:
        path = waiting.pop()
        images, folders = _look(root / path, root)
        if images and (folders or not path):
            beside = f"beside the folders {in_short(sorted(folders), 3)}" if folders else "directly"
            raise ValueError(
                f"{str(root / path)!r} holds {len(images)} images, such as {min(images)!r}, "
                f"{beside}; expected {_LAYOUT}, and none elsewhere"
            )
        if images:
            name = normal(path)
            if name in classes:
                raise ValueError(
                    f"two class folders in {str(root)!r} are called {name!r}, in different "
                    "Unicode forms; rename one of them"
                )
            classes[name] = path, images
        elif path and not folders:
            empty.append(path)
        waiting += [f"{path}/{name}" if path else name for name in folders]
    if empty:
        raise ValueError(
            f"{len(empty)} class folders in {str(root)!r} hold no image: "
            f"{in_short(sorted(empty))}; expected files ending in {', '.join(SUFFIXES)}; remove "
            "the folders, or fill them"
        )
    if not classes:
        raise ValueError(f"{str(root)!r} holds no folder; expected {_LAYOUT}")
    return classes


def _refuse_splits(root: Path, names: list[str]) -> None:
    """Test classes must not be trained on because `split` was forgotten."""
    tops = {name.partition("/")[0] for name in names}
    holding = {name.partition("/")[0] for name in names if "/" in name}
    splits = sorted(top for top in holding if top.casefold() in _SPLITS)
    if len(splits) > 1 or (splits and {top.casefold() for top in tops} <= _SPLITS):
        raise ValueError(
            f"the folders {in_short(splits)} in {str(root)!r} are splits; pass one of them, such "
            f"as split={splits[0]!r}; were they classes, they would hold images"
        )
