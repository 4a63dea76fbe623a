"""Omniglot's two official zips, downloaded: verified, resumed, there whole or not at all.

While a zip is on its way, its bytes are in a file beside it whose name ends in `.part`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metajax.data.readers.omniglot.official_zips import OFFICIAL, OfficialZip, warn_of_other_bytes

_BASE_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_BY_HAND = "https://github.com/brendenlake/omniglot/tree/master/python"
# Seconds to wait for a connection, and for the next bytes over it.
_TIMEOUT = (10, 30)
_BLOCK = 2**16


def download_omniglot(
    folder: str | os.PathLike[str], *, base_url: str = _BASE_URL, progress: bool = True
) -> Path:
    """Puts the official Omniglot zips into a folder, about 16 MB, for `omniglot` to read.

    A zip appears under its name only when its sha256 is the official one. A download that was cut
    off continues where it stopped at the next call. A file that is there already is used as it is
    and never overwritten; where its bytes are not the official ones, a `RuntimeWarning` says so,
    and whether its pictures are complete. To be called by one process at a time. Needs the extra
    `metajax[download]`.

    Args:
      folder: where the zips go; made where it is missing.
      base_url: the folder of a mirror, to be followed by `/images_background.zip`.
      progress: show a progress bar on the standard error.

    Returns:
      The folder: `omniglot(download_omniglot("data"))`.

    Raises:
      ConnectionError: the server was not reached, has no such file, or the connection was cut.
      OSError: there is no room on the disk, or the folder cannot be written.
      ValueError: the folder is a file, or what was downloaded is not the official file; it is
        deleted.
      ImportError: pooch is to be used and not installed.

    Source of the checksums: TensorFlow Datasets, `url_checksums/omniglot.txt`.
    """
    return download_zips(Path(folder), OFFICIAL, base_url, progress=progress)


def download_zips(
    folder: Path,
    registry: Mapping[str, OfficialZip],
    base_url: str,
    *,
    progress: bool,
) -> Path:
    """Does what `download_omniglot` does, for any zips.

    Args:
      folder: see `download_omniglot`.
      registry: the zips by name.
      base_url: see `download_omniglot`.
      progress: see `download_omniglot`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file, expected a folder to download into")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in registry if not (folder / name).exists()]
    for name, official in registry.items():
        if name not in missing:
            warn_of_other_bytes(folder / name, official)
    for place, name in enumerate(missing):
        by_hand = (
            f"get {' and '.join(missing[place:])} from {_BY_HAND} and put them, left zipped, into "
            f"{str(folder)!r}"
        )
        url = f"{base_url.rstrip('/')}/{name}"
        _download(url, folder / name, registry[name], progress, by_hand)
    return folder


def _download(url: str, target: Path, official: OfficialZip, progress: bool, by_hand: str) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(
            f"downloading {target.name} needs pooch, which is not installed; "
            f'run: pip install "metajax[download]", or {by_hand}'
        ) from error
    part = target.with_name(f"{target.name}.part")

    def resume(url: str, output: str, _: Any) -> None:
        """Completes the part and hands it over to pooch, which verifies and renames it."""
        _complete(url, part, official.size, progress)
        part.replace(output)

    try:
        # An absolute folder: pooch would take a first `~` for the home folder.
        folder = target.parent.absolute()
        pooch.retrieve(
            url,
            f"sha256:{official.sha256}",
            target.name,
            folder,
            downloader=resume,  # type: ignore[arg-type] (pooch names the parameters wrongly)
        )
    except requests.RequestException as error:
        kept = part.stat().st_size if part.exists() else 0
        raise ConnectionError(
            f"{target.name} could not be downloaded from {url} ({error}); {kept} of "
            f"{official.size} bytes are here; call again to continue, or {by_hand}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"what came from {url} is not the official {target.name} ({error}); it was deleted, "
            f"with the part of it that an earlier call may have left; call again to download it "
            f"anew, or {by_hand}"
        ) from error
    except OSError as error:
        raise OSError(
            f"{target.name} could not be written to {str(target.parent)!r} ({error}); make room "
            f"for {official.size / 1e6:.1f} MB or choose another folder, and call again"
        ) from error


def _complete(url: str, part: Path, size: int, progress: bool) -> None:
    """Downloads what `part` lacks and appends it; verifies nothing but the length."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if free < size - have:
        raise OSError(f"{free / 1e6:.1f} MB are free")
    # The bytes as they are, not compressed on the way: the range counts those.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # There is nothing after the part.
        response.raise_for_status()
        start = have if response.status_code == requests.codes.partial_content else 0
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                total=size,
                initial=start,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            for block in response.iter_content(_BLOCK):
                bar.update(file.write(block))
        got, promised = part.stat().st_size, response.headers.get("Content-Length")
    if promised and got < start + int(promised):
        raise requests.ConnectionError(f"the connection was cut after {got - start} bytes")
