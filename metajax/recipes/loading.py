"""From a recipe's record to its episodes, of data that the user has."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metajax.checks.numbers import check_optional_integers
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_optional_paths
from metajax.data.device_episodes import ImageEpisodes
from metajax.data.host_episodes import HostEpisodes
from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.emoji import PIXELS, emoji
from metajax.data.readers.omniglot.reading import omniglot
from metajax.data.samplers import Place, image_episodes
from metajax.data.sinusoids import sinusoid_episodes
from metajax.data.stroke_glyphs import glyphs
from metajax.kinds import check_words
from metajax.recipes.folders import NOT_RUN_HERE, image_folder_classes
from metajax.recipes.records import DATA_SETS, DataSet
from metajax.recipes.settings import Drawing, Split
from metajax.types import Episode, Key


def sampler(
    data: DataSet,
    drawing: Drawing,
    folder: str | os.PathLike[str] | None = None,
    *,
    pixels: int | None = None,
    place: Place = "device",
) -> ImageEpisodes | HostEpisodes | Callable[[Key], Episode]:
    """The sampler that a record describes.

    >>> import metajax
    >>> training = metajax.recipes.find("maml", "glyphs").training
    >>> sample = metajax.recipes.sampler(training.data, training.drawing)

    Args:
      data: one of `metajax.recipes.DATA_SETS`.
      drawing: what is drawn of it: `recipe.training.drawing` or `recipe.testing.drawing`.
      folder: the folder of the data sets, of which each has one of its own in it: `omniglot` with
        the official zips, `emoji` with `emoji72.npz`, `mini_imagenet`, `tiered_imagenet`,
        `cifar_fs` and `cub` with a folder of images for each class. None where nothing is read, for
        glyphs and sinusoids.
      pixels: width and height of the images, but of Omniglot and the glyphs; None as the data set
        has them.
      place: of images, see `metajax.data.image_episodes`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: there is no such data set, or no folder and the data set needs one; see the
        reader of the data set.
    """
    check_words(DATA_SETS, data=data)
    check_instance(drawing, Drawing, "drawing", "a metajax.recipes.Drawing")
    check_optional_paths(folder=folder)
    check_optional_integers(1, pixels=pixels)
    check_words(Place.__args__, place=place)
    if data == "sinusoids":
        return sinusoid_episodes(shots=drawing.shots, queries=drawing.queries)
    images = _images(data, drawing.split, folder, pixels)
    return image_episodes(
        images,
        ways=drawing.ways,
        shots=drawing.shots,
        queries=drawing.queries,
        rotations=drawing.rotations,
        across_sources=drawing.across_sources,
        place=place,
    )


def _images(
    data: DataSet, split: Split, folder: str | os.PathLike[str] | None, pixels: int | None
) -> np.ndarray | ImageClasses:
    if data == "glyphs":
        return glyphs(split.part)
    if folder is None:
        raise ValueError(f"folder=None; expected the folder that holds {data!r}")
    root = Path(folder) / data
    if data in NOT_RUN_HERE:
        return image_folder_classes(data, split.part, root, pixels)
    if data == "emoji":
        return emoji(root, split.part, pixels=pixels or PIXELS)
    seed = split.seed if split.protocol == "random" else None
    return omniglot(root, split.part, protocol=split.protocol, seed=seed)
