"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350:1332 (2015). Three divisions of the characters are in use, and they overlap
across their parts: Lake's background and evaluation alphabets, the split of Vinyals et al. (2016),
and random ones of all characters. A model trained on one must not be scored on another.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from metajax.checks.settings import check_paths
from metajax.data.labelled_images import ImageClasses
from metajax.data.readers.cache import cache_folder, file_state, read_cache, write_cache
from metajax.data.readers.decoding import DECODING
from metajax.data.readers.omniglot.archive import DRAWERS, OFFICIAL, PIXELS, read_archive
from metajax.data.readers.omniglot.splits import (
    CHARACTERS,
    class_alphabets,
    class_names,
    split_rows,
)


def omniglot(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    protocol: str = "vinyals",
    seed: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """The drawings of one split of Omniglot, from files the caller already has.

    Nothing is downloaded; `download_omniglot` does that. `folder` holds the official
    `images_background.zip` and `images_evaluation.zip`, left zipped. They are decoded once, with
    Pillow, the extra `metajax[images]`, and kept in a cache, which is proved when it is opened and
    made again where a zip was written to. Drawings that are not those published are said by a
    `RuntimeWarning`.

    Which split a published number is on matters. Prototypical networks were trained and tested on
    Vinyals', in the end on its training and validation characters together. MAML (1100 / 100 / 423
    characters), Reptile and relation networks (1200 / 423) shuffle all characters, whatever their
    alphabets, each with a generator of its own: `protocol="random"` is such a split, not theirs to
    the character. Vinyals' is the harder one: two of its test characters are of one alphabet with
    a probability of 8.5 %, against 2.2 % of a random split's.

    Args:
      folder: where the zips are.
      split: `"train"`, `"validation"`, `"test"`, or `"train_and_validation"`: 1028, 172, 423 and
        1200 characters of Vinyals' protocol, 1100, 100, 423 and 1200 of the random one;
        `"background"` (964) or `"evaluation"` (659) of Lake's, or one of its subsets
        `"background_small1"` (136) and `"background_small2"` (156), of 5 alphabets each.
      protocol: `"vinyals"`, `"random"` or `"lake"`.
      seed: of the random protocol; None there means 0. Characters are in the order of the SHA-256
        of "seed/class", as decimals, where a class is the official id less 1: the first 1100, the
        next 100, the rest. Another seed trains on what is tested with this one.
      cache: the folder of caches; None for `$XDG_CACHE_HOME/metajax`, or `~/.cache/metajax`.

    Returns:
      `[classes, 20, 28, 28, 1]` uint8, 255 where a pixel is all ink and 0 where it is all paper.
      Classes are in the order of Omniglot's official character ids, drawings in that of the
      official drawer numbers. Pixels are the area averages of the 105 x 105 originals.

    Raises:
      FileNotFoundError: the folder, or the zips it should hold, are missing.
      OSError: a zip is no regular file, or the cache cannot be written.
      TypeError: an argument is of another kind.
      ValueError: unknown `protocol` or `split`, a split of another protocol, a seed where nothing
        is random, or a zip that is damaged or does not hold its characters by 20 drawers.
      ImportError: the zips are to be decoded and Pillow is not installed.

    Sources: the class list of Vinyals' split is the one published with the code of Snell et al.,
    "Prototypical Networks for Few-shot Learning" (2017). Random splits: the code of Finn et al.
    (2017), data_generator.py; Nichol et al. (2018), omniglot.py; Sung et al. (2018),
    task_generator.py.
    """
    rows = split_rows(split, protocol, seed)
    images = np.asarray(_characters(folder, cache).images)
    return images.reshape(CHARACTERS, DRAWERS, PIXELS, PIXELS, 1)[rows]


def omniglot_classes(
    folder: str | os.PathLike[str],
    split: str = "train",
    *,
    protocol: str = "vinyals",
    seed: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """The drawings of one split of Omniglot, with the characters' names and alphabets.

    A class is called as its folder in the official zips, such as `Greek/character01`; its group is
    its alphabet, and the source of a drawing its drawer's number, from 0. Another alphabet's drawer
    of that number is another person. The images are those of `omniglot`, whose arguments and errors
    these are, but memory-mapped.
    """
    rows = split_rows(split, protocol, seed)
    classes = _characters(folder, cache)
    drawers = np.tile(np.arange(DRAWERS), CHARACTERS)
    return dataclasses.replace(classes, sources=drawers).select(class_names()[rows].tolist())


def _characters(
    folder: str | os.PathLike[str], cache: str | os.PathLike[str] | None
) -> ImageClasses:
    """All 1623 of them, from the cache where it holds them."""
    check_paths(folder=folder)
    root = Path(os.path.abspath(folder))
    if missing := [name for name in OFFICIAL if not (root / name).exists()]:
        raise FileNotFoundError(
            f"the folder {str(root)!r} does not hold {' and '.join(missing)}; expected the "
            "official zips, left zipped: get them from https://github.com/brendenlake/omniglot "
            "(folder python), or call download_omniglot"
        )
    zips = {name: file_state(root / name) for name in OFFICIAL}
    made_from = {"decoding": DECODING, "zips": zips}
    place = cache_folder(cache, "omniglot", ["omniglot", str(root)])
    names, groups = class_names().tolist(), class_alphabets().tolist()
    counts = [DRAWERS] * CHARACTERS

    def fill(images: np.ndarray) -> tuple[list[int], str]:
        parts = {name: read_archive(root / name, zipped.ids) for name, zipped in OFFICIAL.items()}
        images[...] = np.concatenate([*parts.values()]).reshape(images.shape)
        strange = [
            repr(str(root / name))
            for name, part in parts.items()
            if hashlib.sha256(part.data).hexdigest() != OFFICIAL[name].pixels
        ]
        remark = (
            f"the drawings in {' and '.join(strange)} are not those published: results will not be "
            "those on Omniglot; call download_omniglot for another folder"
        )
        return counts, remark if strange else ""

    return read_cache(place, made_from) or write_cache(
        place, made_from, fill, names, counts, (PIXELS, PIXELS, 1), groups
    )
