"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350:1332 (2015). Two divisions of the characters are in use and they overlap
across their halves: Lake's background and evaluation alphabets, and the split of Vinyals et al.
(2016) that most few-shot papers report. A model trained on one must not be scored on the other.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from tokenize import TokenError

import numpy as np

from metajax.data.omniglot_archive import (
    BACKGROUND_IDS,
    DAMAGE,
    DRAWERS,
    EVALUATION_IDS,
    PIXELS,
    read_archive,
)

_CHARACTERS = len(BACKGROUND_IDS) + len(EVALUATION_IDS)
_SOURCE = "https://github.com/brendenlake/omniglot (folder python)"
_NPZ = "omniglot28.npz"
_ARCHIVES = {"images_background.zip": BACKGROUND_IDS, "images_evaluation.zip": EVALUATION_IDS}

# Number of characters by protocol and split. A split's place is its code in the npz file.
_PROTOCOLS = {
    "vinyals": {"train": 1028, "validation": 172, "test": 423},
    "lake": {"background": 964, "evaluation": 659},
}


def omniglot(
    folder: str | os.PathLike[str], split: str = "train", *, protocol: str = "vinyals"
) -> np.ndarray:
    """The drawings of one split of Omniglot, from files the caller already has.

    Nothing is downloaded. `folder` holds either `omniglot28.npz` (`images`, and optionally
    `vinyals_split` and `lake_split`) or the official `images_background.zip` and
    `images_evaluation.zip`, left zipped; both give the same array to the bit, and the npz is read
    where both exist. Reading the zips needs Pillow, the extra `metajax[omniglot]`.

    Args:
      folder: where the files are.
      split: `"train"` (1028 characters), `"validation"` (172) or `"test"` (423) of Vinyals'
        protocol; `"background"` (964) or `"evaluation"` (659) of Lake's.
      protocol: `"vinyals"` or `"lake"`.

    Returns:
      `[classes, 20, 28, 28, 1]` uint8, 255 where a pixel is all ink and 0 where it is all paper.
      Classes are in the order of Omniglot's official character ids, drawings in that of the
      official drawer numbers. Pixels are the area averages of the 105 x 105 originals.

    Raises:
      FileNotFoundError: the folder, or the files it should hold, are missing.
      ValueError: unknown `protocol` or `split`, a split of the other protocol, or a file that is
        damaged or does not hold 1623 characters by 20 drawers.
      ImportError: the zips are to be read and Pillow is not installed.

    Source: the class list of Vinyals' split is the one published with the code of Snell et al.,
    "Prototypical Networks for Few-shot Learning" (2017).
    """
    code = _split_code(split, protocol)
    root = Path(folder)
    _require_files(root)
    if (root / _NPZ).is_file():
        images, codes = _read_npz(root / _NPZ, protocol)
    else:
        parts = [read_archive(root / name, ids) for name, ids in _ARCHIVES.items()]
        images, codes = np.concatenate(parts), _published_codes(protocol)
    return images[codes == code][..., None]


def _split_code(split: str, protocol: str) -> int:
    if protocol not in _PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown; use {_either(_PROTOCOLS)}")
    splits = _PROTOCOLS[protocol]
    if split in splits:
        return list(splits).index(split)
    for other, names in _PROTOCOLS.items():
        if split in names:
            raise ValueError(
                f"split={split!r} belongs to protocol={other!r}, but protocol={protocol!r} was "
                f"asked for; use split={_either(splits)}, or pass protocol={other!r}"
            )
    raise ValueError(
        f"split={split!r} is unknown; protocol={protocol!r} has split={_either(splits)}"
    )


def _require_files(root: Path) -> None:
    wanted = f"either {_NPZ}, or both {' and '.join(_ARCHIVES)} from {_SOURCE}"
    if not root.exists():
        raise FileNotFoundError(
            f"Omniglot folder {str(root)!r} does not exist; make it and put there {wanted}"
        )
    if not root.is_dir():
        raise ValueError(
            f"{str(root)!r} is a file, expected a folder; pass the folder that holds {wanted}"
        )
    missing = [name for name in _ARCHIVES if not (root / name).is_file()]
    if (root / _NPZ).is_file() or not missing:
        return
    if len(missing) == 1:
        (present,) = set(_ARCHIVES) - set(missing)
        raise FileNotFoundError(
            f"Omniglot folder {str(root)!r} holds {present} but not {missing[0]}, and both are "
            f"needed; get {missing[0]} from {_SOURCE} and leave it zipped"
        )
    raise FileNotFoundError(
        f"Omniglot folder {str(root)!r} holds no Omniglot file; put there {wanted}, left zipped"
    )


def _read_npz(path: Path, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[1623, 20, 28, 28]` and split codes `[1623]` of the npz at `path`."""
    key = f"{protocol}_split"
    try:
        # Opened here: np.load leaves a file it opened itself open where the npz is truncated.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a bare array, not an npz file")
            keys = archive.files
            images = archive["images"] if "images" in keys else None
            codes = archive[key] if key in keys else None
    except (*DAMAGE, TokenError) as error:
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) cannot be read ({error}), expected a "
            f"complete npz file with the array 'images'; it may be truncated: copy it again"
        ) from error
    expected = (_CHARACTERS, DRAWERS, PIXELS, PIXELS)
    if images is None:
        raise ValueError(f"{str(path)!r} holds {keys}, expected 'images' of shape {expected}")
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(
            f"'images' in {str(path)!r} is {images.dtype} {images.shape}, expected uint8 "
            f"{expected}: {_CHARACTERS} characters by {DRAWERS} drawers; use the complete file"
        )
    if codes is None:
        return images, _published_codes(protocol)
    expected_counts = list(_PROTOCOLS[protocol].values())
    counts = [int(np.sum(codes == code)) for code in range(len(expected_counts))]
    if codes.shape != (_CHARACTERS,) or counts != expected_counts:
        raise ValueError(
            f"{key!r} in {str(path)!r} has shape {codes.shape} and class counts {counts}, expected "
            f"({_CHARACTERS},) and {_PROTOCOLS[protocol]}; use the complete file"
        )
    return images, codes


def _published_codes(protocol: str) -> np.ndarray:
    """`[1623]` split code of every class, from the published lists."""
    codes = np.zeros(_CHARACTERS, np.uint8)
    if protocol == "lake":
        codes[len(BACKGROUND_IDS) :] = 1
        return codes
    names = list(_PROTOCOLS["vinyals"])
    listing = resources.files("metajax.data").joinpath("omniglot_vinyals_split.txt")
    for line in listing.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            split, _alphabet, _characters, ids = line.split()
            first, last = map(int, ids.split("-"))
            codes[first - 1 : last] = names.index(split)  # ids are 1-based, `last` included
    return codes


def _either(names: dict[str, dict[str, int]] | dict[str, int]) -> str:
    return " or ".join(repr(name) for name in names)
