"""The official Omniglot zip files, decoded and reduced to 28 x 28 pixels.

Each holds `images_background/Alphabet/characterNN/XXXX_YY.png` (or `images_evaluation/...`), where
`XXXX` is the character's official id, 1 to 1623 over both files, and `YY` the drawer, 1 to 20.
The pictures are 105 x 105, one bit a pixel, with ink black.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metajax.data.readers.area_average import area_average
from metajax.data.readers.decoding import BadImage, decode, require_pillow
from metajax.data.readers.omniglot.splits import class_names
from metajax.regular_files import open_regular

DRAWERS = 20
PIXELS = 28
OFFICIAL_PIXELS = 105

# A picture of 105 x 105 pixels has a few hundred bytes.
_LARGEST_MEMBER = 2**20
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class OfficialZip(NamedTuple):
    """The sha256 of its bytes, that of the pixels `read_archive` makes of it, its characters."""

    sha256: str
    pixels: str
    ids: range


# Checksums of the bytes as recorded by TensorFlow Datasets 4.9.10, url_checksums/omniglot.txt.
OFFICIAL = {
    "images_background.zip": OfficialZip(
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "b90c08f235503b656b2de3823223a299215728e01e3bb05a42f99484be9e541c",
        range(1, 965),
    ),
    "images_evaluation.zip": OfficialZip(
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        "62e72255479a8b28a07c73039c1007e0c100508b8fe75d6545626b62052db576",
        range(965, 1624),
    ),
}


def read_archive(path: Path, ids: range) -> np.ndarray:
    """All drawings of one official zip, reduced to 28 x 28 by exact area averaging.

    The folder inside it has the zip's name without `.zip`; `ids` are the official ids of the
    characters that it must hold, in the folder of each. Returns `[len(ids), 20, 28, 28]` uint8, ink
    255, paper 0; a `ValueError` says that it is damaged, or that drawings are missing.
    """
    require_pillow()
    images = np.empty((len(ids), DRAWERS, PIXELS, PIXELS), np.uint8)
    published, name = class_names(), "its directory"
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
            for row, character in enumerate(ids):
                ink = []
                for drawer in range(1, DRAWERS + 1):
                    name = f"{published[character - 1]}/{character:04d}_{drawer:02d}.png"
                    ink.append(_ink(archive, f"{path.stem}/{name}"))
                images[row] = area_average(np.stack(ink), PIXELS)[..., 0]
        except MemoryError:
            raise
        except Exception as error:  # Damaged zips and pictures raise nearly everything.
            raise ValueError(
                f"{str(path)!r} ({path.stat().st_size} bytes) cannot be read: {name} ({error}); "
                f"expected the official {path.name}, complete and unchanged, of pictures of "
                f"{OFFICIAL_PIXELS} x {OFFICIAL_PIXELS} pixels: copy it or get it again"
            ) from error
    return images


def _ink(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """`[105, 105, 1]` uint8, 255 where the picture has ink and 0 elsewhere."""
    member, shape = archive.getinfo(name), (OFFICIAL_PIXELS, OFFICIAL_PIXELS, 1)
    if member.file_size > _LARGEST_MEMBER:
        raise BadImage(f"its directory promises {member.file_size} bytes")
    if member.compress_type not in _PACKED:
        raise BadImage(f"it is packed by the method {member.compress_type}, not deflated")
    with archive.open(member) as stream:  # Which may hold more than the directory says.
        content = stream.read(_LARGEST_MEMBER)
    picture = decode(content, None, 1, max_pixels=OFFICIAL_PIXELS**2)
    if picture.shape != shape:
        raise BadImage(f"it is {picture.shape[1]} x {picture.shape[0]} pixels")
    return np.where(picture < 128, 255, 0).astype(np.uint8)
