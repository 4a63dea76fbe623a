"""A user's own folder of pictures in the place of a recipe's data set."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.files.folder import image_folder
from metajax.recipes.records import Recipe, Training
from metajax.recipes.settings import Drawing

SHARES = {"train": 0.64, "validation": 0.16, "test": 0.2}
# Of grey images of 28 px; other data sets are in colour.
_GREY = ("glyphs", "omniglot")
_GREY_PIXELS = 28
ASPECT = "crop"
_PERIOD = 25  # With so many more classes, every part has at least four more.


class OwnClasses(NamedTuple):
    """Own classes, in parts that share none.

    Attributes:
      folder: a folder of pictures for each class, absolute.
      train: the names of the classes that are trained on.
      validation: of those that choose the checkpoint.
      test: of those that it is tested on.
    """

    folder: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def on_own_pictures(recipe: Recipe) -> Recipe:
    """The recipe as it is of own pictures in the place of its data set.

    What is to be told apart is what the folders are named for: a picture that is turned is of no
    other class, so that nothing is turned at test, whatever is turned in training to have more
    classes. What others published is of another data set.
    """
    upright = dataclasses.replace(recipe.testing.drawing, rotations="none")
    return dataclasses.replace(
        recipe,
        testing=dataclasses.replace(recipe.testing, drawing=upright),
        published=None,
        transductive=None,
        reproductions=(),
    )


def read_pictures(folder: str | os.PathLike[str], training: Training) -> ImageClasses:
    """All classes of a folder in the shape that the recipe's network takes.

    Raises:
      OSError, TypeError, ValueError, ImportError: see `metajax.data.image_folder`.
      ValueError: the recipe is of no images.
    """
    if training.data == "sinusoids":
        raise ValueError(
            f"pictures={os.fspath(folder)!r} and a recipe of sinusoids, which are no pictures; "
            "expected a recipe of images, such as maml-glyphs-5w1s"
        )
    grey = training.data in _GREY
    side = _GREY_PIXELS if grey else training.pixels
    aspect = "stretch" if side is None else ASPECT
    return image_folder(folder, size=side, channels=1 if grey else 3, aspect=aspect)


def split_classes(
    pictures: ImageClasses,
    folder: str | os.PathLike[str],
    recipe: Recipe,
    seed: int,
    *,
    validated: bool,
) -> OwnClasses:
    """The parts of the classes, drawn by the seed and found to be enough for the recipe.

    Raises:
      ValueError: a part has fewer classes than its episodes have ways, or a class fewer pictures
        than its episodes take.
    """
    where, count = os.path.abspath(folder), len(pictures.names)
    needed = _classes_needed(recipe, validated)
    if part := _too_small(count, needed):
        raise ValueError(
            f"{where!r} holds {count} classes, of which {_sizes(count)[part]} are the {part} part, "
            f"and an episode there takes {needed[part]}; expected {_enough(needed)} classes or "
            "more, or fewer ways"
        )
    parts = pictures.split(SHARES, seed=seed)
    for part, drawing in _drawn(recipe, validated).items():
        _check_pictures(parts[part], where, part, drawing)
    return OwnClasses(where, *(parts[part].names for part in SHARES))


def classes_of(own: OwnClasses, part: str, pictures: ImageClasses) -> ImageClasses:
    """The classes of a part.

    Raises:
      ValueError: the folder lacks one.
    """
    names = getattr(own, part)
    if missing := sorted({*names} - {*pictures.names}):
        raise ValueError(
            f"{own.folder!r} lacks {len(missing)} of the {len(names)} classes of the {part} part: "
            f"{in_short(missing)}; expected the pictures that the run began with"
        )
    return pictures.select(names)


def _drawn(recipe: Recipe, validated: bool) -> dict[str, Drawing]:
    """How the episodes of the parts are drawn that are asked for any."""
    drawn = {"train": recipe.training.drawing, "test": recipe.testing.drawing}
    return drawn | ({"validation": recipe.testing.drawing} if validated else {})


def _check_pictures(classes: ImageClasses, where: str, part: str, drawing: Drawing) -> None:
    """Raises before a training whose test would have too few pictures."""
    takes = drawing.shots + drawing.queries
    counts = zip(classes.names, classes.counts.tolist(), strict=True)
    if few := {name: count for name, count in counts if count < takes}:
        raise ValueError(
            f"an episode of the {part} part takes {takes} pictures of a class, {drawing.shots} to "
            f"learn from and {drawing.queries} to answer, and in {where!r} these have fewer: "
            f"{in_short(few)}; expected more pictures, or fewer shots or queries"
        )


def _classes_needed(recipe: Recipe, validated: bool) -> dict[str, int]:
    """The least number of classes a part; turned by quarters in training, one counts as four."""
    needed = dict.fromkeys(SHARES, 1)
    for part, drawing in _drawn(recipe, validated).items():
        needed[part] = math.ceil(drawing.ways / (4 if drawing.rotations == "classes" else 1))
    return needed


def _too_small(count: int, needed: Mapping[str, int]) -> str | None:
    """The first part that has not the classes that it needs."""
    sizes = _sizes(count)
    return next((part for part in needed if sizes[part] < needed[part]), None)


def _enough(needed: Mapping[str, int]) -> int:
    """From how many classes on each part has those that it needs."""
    too_few = 0
    for count in range(_PERIOD * (1 + max(needed.values()))):  # Rounding is not monotonous.
        if _too_small(count, needed):
            too_few = count
    return too_few + 1


def _sizes(count: int) -> dict[str, int]:
    """How many of `count` classes each part has, as `ImageClasses.split` cuts them."""
    ends = np.rint(np.cumsum([0.0, *SHARES.values()]) * count).astype(int)
    return dict(zip(SHARES, np.diff(ends).tolist(), strict=True))
