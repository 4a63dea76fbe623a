"""The official Omniglot zip files, decoded and reduced to 28 x 28 pixels.

Each holds `images_background/Alphabet/characterNN/XXXX_YY.png` (or `images_evaluation/...`), where
`XXXX` is the character's official id, 1 to 1623 over both files, and `YY` the drawer, 1 to 20.
The pictures are 105 x 105, one bit a pixel, with ink black.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from metajax.data.readers.decoding import BadImage, decode, require_pillow
from metajax.data.readers.omniglot.splits import class_names

BACKGROUND_IDS = range(1, 965)
EVALUATION_IDS = range(965, 1624)
DRAWERS = 20
PIXELS = 28
OFFICIAL_PIXELS = 105

# What damaged zip entries, and damaged arrays in them, raise when read. RuntimeError is a flipped
# bit taken for encryption or for an unknown zip version.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)

# A PNG file begins with this and the width and height of the picture, 4 bytes each.
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def read_archive(path: Path, ids: range) -> np.ndarray:
    """All drawings of one official zip, reduced to 28 x 28 by exact area averaging.

    Args:
      path: the zip; the folder inside it has the zip's name without `.zip`.
      ids: official ids of the characters that the zip must hold.

    Returns:
      `[len(ids), 20, 28, 28]` uint8, ink 255, paper 0; characters in the order of `ids`.

    Raises:
      ImportError, RuntimeError: see `metajax.data.readers.decoding.require_pillow`.
      ValueError: the zip or a picture in it cannot be read, a picture is not 105 x 105, or the
        drawings are not exactly 20 of each character in `ids`, in the folder of that character.
    """
    require_pillow()
    images = np.empty((len(ids), DRAWERS, PIXELS, PIXELS), np.uint8)
    with _opened(path) as archive:
        names = _drawing_names(archive, path, ids)
        for row, character in enumerate(ids):
            drawings = [names[character, drawer] for drawer in range(1, DRAWERS + 1)]
            images[row] = area_average(np.stack([_ink(archive, path, name) for name in drawings]))
    return images


def check_pictures(path: Path, ids: range) -> None:
    """Whether one official zip holds all pictures, from its names and the pictures' first bytes.

    Args:
      path: the zip.
      ids: official ids of the characters that the zip must hold.

    Raises:
      ValueError: see `read_archive`; a picture that is damaged after its first bytes is not found.
    """
    size = f"{OFFICIAL_PIXELS} x {OFFICIAL_PIXELS}"
    expected = _PNG_START + 2 * OFFICIAL_PIXELS.to_bytes(4, "big")
    with _opened(path) as archive:
        for name in _drawing_names(archive, path, ids).values():
            try:
                with archive.open(name) as stream:
                    start = stream.read(len(expected))
            except DAMAGE as error:
                raise ValueError(f"{name!r} in {str(path)!r} cannot be read ({error})") from error
            if start != expected:
                raise ValueError(f"{name!r} in {str(path)!r} is no PNG picture of {size} pixels")


def area_average(ink: np.ndarray) -> np.ndarray:
    """Mean ink under every cell of a 28 x 28 grid laid over a 105 x 105 picture.

    A cell is 105 / 28 = 15 / 4 pixels wide, so with `A[i, p]` the quarters of pixel `p` that lie
    in cell `i`, the mean is `A @ ink @ A.T / 15**2`. Those products are integers up to 225, exact
    in float32, and 255 times the mean never lies halfway between two integers: the result is the
    same whatever the platform, its matrix product or its rounding rule.

    Args:
      ink: `[..., 105, 105]` bool, True where there is ink.

    Returns:
      `[..., 28, 28]` uint8: 255 times the mean, rounded to the nearest integer.
    """
    quarters = np.arange(4 * OFFICIAL_PIXELS)
    averaging = np.zeros((PIXELS, OFFICIAL_PIXELS), np.float32)
    np.add.at(averaging, (quarters // 15, quarters // 4), 1)
    covered = averaging @ ink.astype(np.float32) @ averaging.T
    return np.rint(covered * 255 / 15**2).astype(np.uint8)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) cannot be read ({error}), expected the "
            f"complete official {path.name}; it may be truncated: copy it again"
        ) from error


def _drawing_names(archive: zipfile.ZipFile, path: Path, ids: range) -> dict[tuple[int, int], str]:
    """Entry of the zip for every (character id, drawer), both from 1."""
    # The whole name must match: zips made on a Mac also hold `__MACOSX/...png`, not pictures.
    drawing = re.compile(
        rf"{re.escape(path.stem)}/(?P<character>[^/]+/character\d+)/"
        r"(?P<id>\d{4})_(?P<drawer>\d{2})\.png"
    )
    matches = [match for name in archive.namelist() if (match := drawing.fullmatch(name))]
    names = {(int(match["id"]), int(match["drawer"])): match.string for match in matches}
    expected = {(character, drawer) for character in ids for drawer in range(1, DRAWERS + 1)}
    if names.keys() != expected or len(matches) != len(expected):
        characters = {character for character, _ in names}
        raise ValueError(
            f"{str(path)!r} holds {len(matches)} drawings of {len(characters)} characters, "
            f"expected {len(expected)} of {len(ids)}, as "
            f"{path.stem}/Alphabet/characterNN/XXXX_YY.png with XXXX from {ids[0]:04d} to "
            f"{ids[-1]:04d} and YY from 01 to {DRAWERS}; get the official zip again and do not "
            f"rename what is in it"
        )
    published = class_names()
    for match in sorted(matches, key=lambda match: match.string):
        if match["character"] != published[int(match["id"]) - 1]:
            raise ValueError(
                f"{match.string!r} in {str(path)!r} is in the folder {match['character']!r}, "
                f"expected {str(published[int(match['id']) - 1])!r}; get the official zip again "
                "and do not rename what is in it"
            )
    return names


def _ink(archive: zipfile.ZipFile, path: Path, name: str) -> np.ndarray:
    """`[105, 105]` bool, True where the picture `name` has ink."""
    size = (OFFICIAL_PIXELS, OFFICIAL_PIXELS)
    try:
        picture = decode(archive.read(name), 1)[..., 0]
        if picture.shape != size:
            raise BadImage(f"it is {picture.shape[1]} x {picture.shape[0]} pixels")
    except (*DAMAGE, BadImage) as error:
        raise ValueError(
            f"{name!r} in {str(path)!r} cannot be decoded ({error}), expected a PNG picture of "
            f"{size[0]} x {size[1]} pixels; get the official zip again"
        ) from error
    return picture < 128
