"""The official Omniglot zips: where they are, and whether a file that is there is one of them."""

import dataclasses
import hashlib
from pathlib import Path

from metajax.data.readers.omniglot.archive import (
    BACKGROUND_IDS,
    DRAWERS,
    EVALUATION_IDS,
    OFFICIAL_PIXELS,
    check_pictures,
)
from metajax.user_warnings import warn_user

SOURCE = "https://github.com/brendenlake/omniglot (folder python)"


@dataclasses.dataclass(frozen=True)
class OfficialZip:
    """One zip as published.

    Attributes:
      sha256: of its bytes, in hexadecimal.
      size: in bytes.
      ids: official ids of the characters in it.
    """

    sha256: str
    size: int
    ids: range


# Checksums and sizes as recorded by TensorFlow Datasets 4.9.10, url_checksums/omniglot.txt.
OFFICIAL = {
    "images_background.zip": OfficialZip(
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        9_464_212,
        BACKGROUND_IDS,
    ),
    "images_evaluation.zip": OfficialZip(
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        6_462_886,
        EVALUATION_IDS,
    ),
}


def warn_of_other_bytes(path: Path, official: OfficialZip) -> None:
    """Says by a `RuntimeWarning` that the file is not the official one, and what is in it.

    Such a file is used all the same: packed again, it holds the same pictures. Their number, names,
    folders and sizes are compared, not what is drawn.

    Args:
      path: an existing file.
      official: what it should be.
    """
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == official.sha256:
        return
    try:
        check_pictures(path, official.ids)
        pictures = (
            f"the pictures are complete: {len(official.ids)} characters by {DRAWERS} drawers, "
            f"{OFFICIAL_PIXELS} x {OFFICIAL_PIXELS}"
        )
    except ValueError as error:
        pictures = f"the pictures are not complete: {error}"
    warn_user(
        f"{str(path)!r} has the sha256 {found}, expected {official.sha256} of the official "
        f"{path.name}: it was re-encoded or is damaged; {pictures}"
    )
