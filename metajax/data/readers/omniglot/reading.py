"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350:1332 (2015). Two divisions of the characters are in use and they overlap
across their halves: Lake's background and evaluation alphabets, and the split of Vinyals et al.
(2016) that most few-shot papers report. A model trained on one must not be scored on the other.
"""

from __future__ import annotations

import os
from pathlib import Path
from tokenize import TokenError

import numpy as np

from metajax.data.labelled_images import ImageClasses, image_classes
from metajax.data.readers.omniglot.archive import DAMAGE, DRAWERS, PIXELS, read_archive
from metajax.data.readers.omniglot.official_zips import OFFICIAL, SOURCE, warn_of_other_bytes
from metajax.data.readers.omniglot.splits import (
    CHARACTERS,
    PROTOCOLS,
    class_alphabets,
    class_names,
    split_codes,
    split_rows,
)

_NPZ = "omniglot28.npz"


def omniglot(
    folder: str | os.PathLike[str], split: str = "train", *, protocol: str = "vinyals"
) -> np.ndarray:
    """The drawings of one split of Omniglot, from files the caller already has.

    Nothing is downloaded; `download_omniglot` does that. `folder` holds either `omniglot28.npz`
    (`images`, and optionally `vinyals_split` and `lake_split`) or the official
    `images_background.zip` and `images_evaluation.zip`, left zipped; both give the same array to
    the bit, and the npz is read where both exist. Reading the zips needs Pillow, the extra
    `metajax[images]`. Zips whose bytes are not the official ones are read, with a
    `RuntimeWarning`.

    Args:
      folder: where the files are.
      split: `"train"` (1028 characters), `"validation"` (172) or `"test"` (423) of Vinyals'
        protocol; `"background"` (964) or `"evaluation"` (659) of Lake's, or one of its subsets
        `"background_small1"` (136) and `"background_small2"` (156), of 5 alphabets each.
      protocol: `"vinyals"` or `"lake"`.

    Returns:
      `[classes, 20, 28, 28, 1]` uint8, 255 where a pixel is all ink and 0 where it is all paper.
      Classes are in the order of Omniglot's official character ids, drawings in that of the
      official drawer numbers. Pixels are the area averages of the 105 x 105 originals.

    Raises:
      FileNotFoundError: the folder, or the files it should hold, are missing.
      ValueError: unknown `protocol` or `split`, a split of the other protocol, or a file that is
        damaged or does not hold 1623 characters by 20 drawers, in their published order.
      ImportError: the zips are to be read and Pillow is not installed.

    Source: the class list of Vinyals' split is the one published with the code of Snell et al.,
    "Prototypical Networks for Few-shot Learning" (2017).
    """
    return _read(folder, split_rows(split, protocol))


def omniglot_classes(
    folder: str | os.PathLike[str], split: str = "train", *, protocol: str = "vinyals"
) -> ImageClasses:
    """The drawings of one split of Omniglot, with the characters' names and alphabets.

    A class is called as its folder in the official zips, such as `Greek/character01`; its group is
    its alphabet. The images are those of `omniglot`, whose arguments and errors these are.
    """
    rows = split_rows(split, protocol)
    return image_classes(
        _read(folder, rows),
        names=class_names()[rows].tolist(),
        groups=class_alphabets()[rows].tolist(),
    )


def _read(folder: str | os.PathLike[str], rows: np.ndarray) -> np.ndarray:
    """`[len(rows), 20, 28, 28, 1]` the drawings of these of the 1623 classes."""
    root = Path(folder)
    _require_files(root)
    if (root / _NPZ).is_file():
        images = _read_npz(root / _NPZ)
    else:
        images = np.concatenate(
            [read_archive(root / name, official.ids) for name, official in OFFICIAL.items()]
        )
        for name, official in OFFICIAL.items():
            warn_of_other_bytes(root / name, official)
    return images[rows][..., None]


def _require_files(root: Path) -> None:
    wanted = f"either {_NPZ}, or both {' and '.join(OFFICIAL)} from {SOURCE}"
    if not root.exists():
        raise FileNotFoundError(
            f"Omniglot folder {str(root)!r} does not exist; make it and put there {wanted}"
        )
    if not root.is_dir():
        raise ValueError(
            f"{str(root)!r} is a file, expected a folder; pass the folder that holds {wanted}"
        )
    missing = [name for name in OFFICIAL if not (root / name).is_file()]
    if (root / _NPZ).is_file() or not missing:
        return
    if len(missing) == 1:
        (present,) = set(OFFICIAL) - set(missing)
        raise FileNotFoundError(
            f"Omniglot folder {str(root)!r} holds {present} but not {missing[0]}, and both are "
            f"needed; get {missing[0]} from {SOURCE} and leave it zipped, or call "
            "download_omniglot"
        )
    raise FileNotFoundError(
        f"Omniglot folder {str(root)!r} holds no Omniglot file; put there {wanted}, left zipped, "
        "or call download_omniglot"
    )


def _read_npz(path: Path) -> np.ndarray:
    """Images `[1623, 20, 28, 28]` of the npz at `path`, whose split codes are the published ones.

    A file whose classes are in another order would else be split, and named, wrongly.
    """
    try:
        # Opened here: np.load leaves a file it opened itself open where the npz is truncated.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a bare array, not an npz file")
            wanted = {"images", *(f"{protocol}_split" for protocol in PROTOCOLS)}
            keys = archive.files
            arrays = {key: archive[key] for key in keys if key in wanted}
    except (*DAMAGE, TokenError) as error:
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) cannot be read ({error}), expected a "
            f"complete npz file with the array 'images'; it may be truncated: copy it again"
        ) from error
    expected = (CHARACTERS, DRAWERS, PIXELS, PIXELS)
    if "images" not in arrays:
        raise ValueError(f"{str(path)!r} holds {keys}, expected 'images' of shape {expected}")
    images = arrays["images"]
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(
            f"'images' in {str(path)!r} is {images.dtype} {images.shape}, expected uint8 "
            f"{expected}: {CHARACTERS} characters by {DRAWERS} drawers; use the complete file"
        )
    for protocol in PROTOCOLS:
        if f"{protocol}_split" in arrays:
            _check_codes(path, protocol, arrays[f"{protocol}_split"])
    return images


def _check_codes(path: Path, protocol: str, codes: np.ndarray) -> None:
    published = split_codes(protocol)
    if np.array_equal(codes, published):
        return
    splits = list(PROTOCOLS[protocol].items())[: published.max() + 1]
    counts = [int(np.sum(codes == code)) for code in range(len(splits))]
    raise ValueError(
        f"'{protocol}_split' in {str(path)!r} has shape {codes.shape} and class counts {counts}, "
        f"expected ({CHARACTERS},) and {dict(splits)}, classes in the order of their official ids; "
        "use the complete file"
    )
