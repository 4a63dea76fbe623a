"""The episodes of a run: of the recipe's data set, or of own classes in its place."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from metajax.data.device_episodes import ImageEpisodes
from metajax.data.host_episodes import HostEpisodes
from metajax.data.samplers import Place, image_episodes
from metajax.recipes.loading import sampler
from metajax.recipes.records import Recipe
from metajax.runs.own_classes import OwnClasses, classes_of, read_pictures
from metajax.types import Episode, Key

Part = Literal["train", "validation", "test"]
VARIABLE = "METAJAX_DATA_DIR"
# Those that nothing is read for.
WITHOUT_FILES = ("glyphs", "sinusoids")


def episodes_of(
    recipe: Recipe,
    part: Part,
    *,
    classes: OwnClasses | None,
    data_dir: str | os.PathLike[str] | None,
    place: Place = "device",
) -> ImageEpisodes | HostEpisodes | Callable[[Key], Episode]:
    """The sampler of a part of a run.

    Args:
      recipe: how they are drawn; to validate, as at test.
      part: what they are for.
      classes: see `Run`.
      data_dir: the folder of the data sets; None is that of `METAJAX_DATA_DIR`.
      place: see `metajax.data.image_episodes`.

    Raises:
      FileNotFoundError: the data set is not there.
      OSError, TypeError, ValueError: as its reader has them; there are too few classes or pictures.
    """
    training = recipe.training
    drawing = training.drawing if part == "train" else recipe.testing.drawing
    if classes is not None:
        pictures = classes_of(classes, part, read_pictures(classes.folder, training))
        return image_episodes(
            pictures,
            ways=drawing.ways,
            shots=drawing.shots,
            queries=drawing.queries,
            rotations=drawing.rotations,
            place=place,
        )
    if part == "validation":
        drawing = dataclasses.replace(
            drawing, split=dataclasses.replace(drawing.split, part="validation")
        )
    root = folder_of_data(data_dir)
    if root is None and training.data not in WITHOUT_FILES:
        raise FileNotFoundError(
            f"{recipe.name} is of the data set {training.data!r}, and nothing says where its files "
            f"are; expected the folder that holds {training.data!r} as data_dir, or in the "
            f"environment variable {VARIABLE}"
        )
    try:
        return sampler(training.data, drawing, root, pixels=training.pixels, place=place)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{error}. The files of {recipe.name} are looked for in "
            f"{str(Path(root or '') / training.data)!r}; expected the folder that holds "
            f"{training.data!r} as data_dir, or in the environment variable {VARIABLE}"
        ) from error


def folder_of_data(data_dir: str | os.PathLike[str] | None) -> str | None:
    """The folder of the data sets, absolute, or None where nothing names one."""
    given = os.environ.get(VARIABLE) or None if data_dir is None else os.fspath(data_dir)
    return None if given is None else os.path.abspath(given)
