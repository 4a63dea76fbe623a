"""The data sets that a user has as a folder of images: their published splits, by class names."""

import os
from importlib import resources
from pathlib import Path

from metajax.checks.settings import check_paths
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.files.decoded_files import require_folder
from metajax.data.readers.files.folder import image_folder
from metajax.data.readers.tfds.cifar import cifar100_listing
from metajax.kinds import check_words
from metajax.recipes.records import DataSet

# Their recipes are what others published: nobody ran them here, for want of the images.
NOT_RUN_HERE: tuple[DataSet, ...] = ("cifar_fs", "cub", "mini_imagenet", "tiered_imagenet")
PARTS = ("train", "validation", "test", "train_and_validation")


def image_folder_classes(
    data: DataSet, part: str, root: str | os.PathLike[str], pixels: int | None = None
) -> ImageClasses:
    """The classes of a published split, from a folder that has a folder of images for each.

    Folders are named as the data set names its classes: by WordNet ids such as `n01532829` (mini-
    ImageNet, tieredImageNet), `001.Black_footed_Albatross` (CUB) or `apple` (CIFAR-FS). All that
    is in `root` is decoded at first, so that one cache serves every part, see
    `metajax.data.image_folder`: it had better hold the data set's classes alone, and of each the
    published images, which for mini-ImageNet are 600 of ImageNet's.

    Args:
      data: one of `NOT_RUN_HERE`.
      part: `"train"`, `"validation"`, `"test"` or `"train_and_validation"`.
      root: the folder.
      pixels: width and height that images are resized to, whatever their aspect; None leaves them
        as they are, and they must be alike.

    Returns:
      RGB images; the classes are in the order of the published list.

    Raises:
      FileNotFoundError: there is no `root`, or it lacks a class of the part.
      TypeError, ValueError: `data` or `part` is unknown; others as `image_folder` has them.
    """
    names = class_names(data, part)
    check_paths(root=root)
    folder = Path(root)
    require_folder(folder, f"a folder of images for each class of {data!r}")
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {len(missing)} of the {len(names)} classes of {part!r} of "
            f"{data!r}: {in_short(missing)}; expected a folder of images for each, called so, and "
            "directly in it"
        )
    return image_folder(folder, size=pixels).select(names)


def class_names(data: DataSet, part: str) -> tuple[str, ...]:
    """The classes of a part of the published split, in the order of the list.

    Args:
      data: see `image_folder_classes`.
      part: see there.

    Raises:
      ValueError: there is no such data set or part.
    """
    check_words(NOT_RUN_HERE, data=data)
    check_words(PARTS, part=part)
    return tuple(name for name, its_part in _listing(data) if its_part in part.split("_and_"))


def _listing(data: DataSet) -> list[tuple[str, str]]:
    """Class and part."""
    if data == "cifar_fs":
        return [(row["class"], row["cifar_fs"]) for row in cifar100_listing()]
    listing = resources.files("metajax.recipes") / "class_lists" / f"{data}.txt"
    lines = listing.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [(row[0], row[-1]) for row in rows]
