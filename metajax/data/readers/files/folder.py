"""Folders of image files, a folder a class."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from metajax.checks.settings import check_optional_texts, check_paths
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.decoding import MAX_PIXELS, SUFFIXES
from metajax.data.readers.files.decoded_files import (
    Decoding,
    decoded_classes,
    normal,
    require_folder,
    require_split,
)

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_LAYOUT = "a folder a class with image files in it"


def image_folder(
    folder: str | os.PathLike[str],
    split: str | None = None,
    *,
    size: int | tuple[int, int] | None,
    channels: int | None = 3,
    aspect: str = "stretch",
    cache: str | os.PathLike[str] | None = None,
    corrupt: str = "error",
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> ImageClasses:
    """Classes from the image files in `folder/split/class/`, or in `folder/class/`.

    A class is a folder that directly holds images. Where all classes lie deeper, as in Omniglot's
    `alphabet/character/image`, a class is called `alphabet/character` and its group is
    `alphabet`. Classes and images are sorted by name, in Unicode form NFC. Hidden files,
    `__MACOSX` and files that do not end in .png, .jpg, .jpeg, .bmp, .gif, .webp, .tif or .tiff, in
    any case, are ignored.

    The images are decoded once, with Pillow, the extra `metajax[images]`, and kept in a cache that
    is memory-mapped: afterwards neither Pillow nor any image file is opened. Every byte of it is
    proved when it is opened, 4 GB a second; where it is damaged, or a file was added, removed or
    written to (by its size and time of change), it is made again, with a warning that says why.
    Images are turned upright as EXIF says; transparent ones are laid on white; grey is the ITU-R
    601 luma; of 16 bits the upper 8 count, of an animation the first frame.

    Args:
      folder: that holds the splits, or the classes.
      split: the folder in it to read; None where there are no splits.
      size: height and width in pixels, or `(height, width)`, that every image is resized to with
        Pillow's Lanczos filter; None leaves images as they are, and they must be alike.
      channels: 3 for RGB, 1 for grey, or None for images as they are, which must be alike.
      aspect: what becomes of an image of another aspect than `size`: `"stretch"` resizes it
        nevertheless, `"crop"` keeps the largest part around its centre that fits, of a square size
        the largest square, and `"pad"` all of it, centred between white borders.
      cache: the folder of caches, one in it for each folder, split and set of options; None for
        `$XDG_CACHE_HOME/metajax`, or `~/.cache/metajax`. What is in it can be deleted at any time.
      corrupt: `"error"`, or `"skip"` to leave out what is not a whole image, with a
        `RuntimeWarning` that names the files each time the classes are read.
      max_pixels: a file whose header promises more pixels, or that has more than 16 MiB and 16
        bytes for each of them, is taken for corrupt and not unpacked; each thread takes up to 16
        bytes a pixel. Above 178 million, Pillow has a limit of its own.
      workers: decoding threads; None for one a processor.

    Returns:
      `ImageClasses` of memory-mapped uint8 images.

    Raises:
      ImportError: images have to be decoded and Pillow is not installed.
      OSError: a folder or a file is missing, cannot be read or is no regular one, a link leads
        nowhere, or there is no space for the cache; none is left behind.
      TypeError, ValueError: an option or the split is unknown, a class has no image, images lie
        beside folders, links lead to one folder twice, images are corrupt, or they are to be left
        as they are and differ in size or channels.
    """
    check_paths(folder=folder)
    check_optional_texts(split=split)
    options = Decoding(size, channels, cache, corrupt, max_pixels, workers, aspect)
    root = Path(os.path.abspath(folder))
    require_folder(root, _LAYOUT if split is None else f"a folder {split!r} with {_LAYOUT}")
    title = root.name or "images"
    if split is not None:
        there = {one.name for one in root.iterdir() if one.is_dir() and not _hidden(one.name)}
        require_split(split, there, root)
        root, title = root / split, f"{title}-{split}"
    files = files_of_classes(root)
    parents = [name.rpartition("/")[0] for name in files]
    if split is None:
        refuse_splits(root, files, lambda name: f"split={name!r}")
    groups = parents if all(parents) else None
    return decoded_classes(files, groups, options, ["image_folder", str(root)], title)


def files_of_classes(root: Path) -> dict[str, list[str]]:
    """The paths of the images by class, both sorted."""
    files: dict[str, list[str]] = {}
    empty, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=_fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        if (real := os.path.realpath(folder)) in seen:
            raise ValueError(
                f"{folder!r} is or holds a link, by which {real!r} is found again: its images "
                "would be in several classes; remove the link"
            )
        seen.add(real)
        paths = [os.path.join(folder, name) for name in names if not _hidden(name)]
        if lost := [path for path in paths if not os.path.exists(path)]:
            raise FileNotFoundError(
                f"{in_short(lost)} in the folders of classes are links that lead nowhere; remove "
                "them, or put back what they lead to"
            )
        images = sorted(path for path in paths if path.lower().endswith(SUFFIXES))
        if images and (folders or folder == str(root)):
            beside = f"beside the folders {in_short(folders, 3)}" if folders else "directly"
            raise ValueError(
                f"{folder!r} holds {len(images)} images, such as {Path(images[0]).name!r}, "
                f"{beside}; expected {_LAYOUT}, and none elsewhere: move them into folders that "
                "are named as their classes"
            )
        name = normal(Path(folder).relative_to(root).as_posix())
        if images:
            files[name] = sorted(files.get(name, []) + images, key=normal)
        elif not folders:
            empty.append(name)
    if empty == ["."]:
        raise ValueError(
            f"{str(root)!r} holds no image and no folder; expected {_LAYOUT}, ending in "
            f"{', '.join(SUFFIXES)}"
        )
    if empty:
        raise ValueError(
            f"in {str(root)!r} there is no image and no folder in {in_short(sorted(empty))}; "
            f"expected {_LAYOUT}, ending in {', '.join(SUFFIXES)}: remove what is empty, or fill it"
        )
    return dict(sorted(files.items()))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _fail(error: OSError) -> None:
    raise error


def refuse_splits(root: Path, names: Iterable[str], one: Callable[[str], str]) -> None:
    """Raises where classes are those of several splits: test classes must not be trained on."""
    tops = {name.partition("/")[0] for name in names if "/" in name}
    splits = {top for top in tops if top.casefold() in _SPLITS}
    if len(splits) > 1 or (splits and splits == tops):
        raise ValueError(
            f"the folders {in_short(sorted(splits))} in {str(root)!r} are splits; pass one of "
            f"them, such as {one(min(splits))}; were they classes, they would hold images"
        )
