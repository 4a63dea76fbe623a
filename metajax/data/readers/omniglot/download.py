"""Omniglot's two official zips, downloaded and verified by pooch."""

import os
from pathlib import Path

from metajax.checks.settings import check_flags, check_paths, check_texts
from metajax.data.readers.omniglot.archive import OFFICIAL

_BASE_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_BY_HAND = "https://github.com/brendenlake/omniglot/tree/master/python"


def download_omniglot(
    folder: str | os.PathLike[str], *, base_url: str = _BASE_URL, progress: bool = True
) -> Path:
    """Puts the official Omniglot zips into a folder, about 16 MB, for `omniglot` to read.

    A zip appears under its name only when its sha256 is the official one. A file that is there
    already is used as it is and never overwritten. Needs the extra `metajax[download]`.

    Args:
      folder: where the zips go; made where it is missing.
      base_url: the folder of a mirror, to be followed by `/images_background.zip`.
      progress: show a progress bar on the standard error.

    Returns:
      The folder: `omniglot(download_omniglot("data"))`.

    Raises:
      ConnectionError: the server was not reached, has no such file, or the connection was cut.
      OSError: the folder is a file or cannot be written, or there is no room on the disk.
      TypeError: an argument is of another kind.
      ValueError: what was downloaded is not the official file; it is deleted.
      ImportError: pooch is to be used and not installed.

    Source of the checksums: TensorFlow Datasets, `url_checksums/omniglot.txt`.
    """
    check_paths(folder=folder)
    check_texts(base_url=base_url)
    check_flags(progress=progress)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    missing = [name for name in OFFICIAL if not (root / name).exists()]
    for name in missing:
        by_hand = f"get {' and '.join(missing)} from {_BY_HAND} and put them into {str(root)!r}"
        try:
            import pooch
            import requests
        except ImportError as error:
            raise ImportError(
                f"downloading {name} needs pooch, which is not installed; "
                f'run: pip install "metajax[download]", or {by_hand}'
            ) from error
        url = f"{base_url.rstrip('/')}/{name}"
        try:
            # An absolute folder: pooch would take a first `~` for the home folder.
            known, place = f"sha256:{OFFICIAL[name].sha256}", root.absolute()
            pooch.retrieve(url, known, name, place, progressbar=progress)
        except (requests.RequestException, ValueError) as error:
            kind = ConnectionError if isinstance(error, requests.RequestException) else ValueError
            raise kind(
                f"the official {name} did not come from {url} ({error}); call again, or {by_hand}"
            ) from error
    return root
