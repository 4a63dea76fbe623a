"""Data sets of TensorFlow Datasets prepared here: the one part that may need a network."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

# Seconds within which one server must answer before downloads are begun.
_PATIENCE = 5


def import_tfds() -> ModuleType:
    """The package `tensorflow_datasets`.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise ImportError(
            f"reading TensorFlow Datasets needs tensorflow_datasets, which cannot be imported "
            f'({error}); run: pip install "metajax[tfds]"'
        ) from error


def prepare(name: str, root: Path, manual_dir: str | os.PathLike[str] | None) -> None:
    """Prepares a data set in `root`, downloads included.

    TensorFlow Datasets waits minutes for a network that is not there. Therefore a server is asked
    for a sign of life first, unless files downloaded earlier, or by hand, are there.

    Args:
      name: see `open_prepared`.
      root: the folder of all data sets.
      manual_dir: see `open_prepared`.

    Raises:
      ImportError: what preparing needs is missing.
      FileNotFoundError: `manual_dir` does not exist.
      OSError: preparing failed; a `ConnectionError` where there is no network.
    """
    if manual_dir is not None and not Path(manual_dir).is_dir():
        raise FileNotFoundError(
            f"manual_dir={os.fspath(manual_dir)!r} is no folder; expected the folder of the files "
            f"of {name!r} downloaded by hand, or None"
        )
    tfds = import_tfds()
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    base = name.replace(":", "/").split("/")[0]
    elsewhere = (
        f"prepare it on a machine with a network and copy the folder {str(root / base)!r} from "
        "there, or pass manual_dir= with the files downloaded by hand"
    )
    with _explained(name, root, elsewhere):
        builder = tfds.builder(name, data_dir=root, try_gcs=False, file_format="array_record")
        urls = _urls(builder)
        given = manual_dir is not None or _has_downloads(root / "downloads", base, urls)
    if urls and not given:
        _require_answer(urls, name, elsewhere)
    with _explained(name, root, elsewhere):
        builder.download_and_prepare(download_config=config, file_format="array_record")


@contextlib.contextmanager
def _explained(name: str, root: Path, elsewhere: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"preparing {name!r} needs more than reading it ({error}); run: pip install "
            "tensorflow importlib_resources, or prepare it on another machine and copy the folder"
        ) from error
    except OSError as error:
        raise OSError(
            f"preparing {name!r} in {str(root)!r} failed ({type(error).__name__}: {error}); "
            f"{elsewhere}"
        ) from error


def _urls(builder: Any) -> dict[str, str | None]:
    """What a builder may download, as far as it tells, with checksums."""
    return {
        url: info.checksum
        for url, info in (builder.url_infos or {}).items()
        if urlsplit(url).scheme in ("http", "https")
    }


def _has_downloads(folder: Path, base: str, urls: dict[str, str | None]) -> bool:
    """Whether files that TensorFlow Datasets finds there spare it at least some downloads."""
    if any((folder / "manual").glob("*")):
        return True
    resource = importlib.import_module("tensorflow_datasets.core.download.resource")
    complete = [*folder.glob("*.INFO"), *(folder / base).glob("**/*.INFO")]
    there = {path.stem for path in complete}
    return any(resource.get_dl_fname(url, checksum) in there for url, checksum in urls.items())


def _require_answer(urls: dict[str, str | None], name: str, elsewhere: str) -> None:
    """Asks one file of each of up to three servers, until one of them answers, whatever it says."""
    import requests

    one_each = {urlsplit(url).netloc: url for url in urls}
    answered, causes = threading.Event(), []

    def ask() -> None:
        for url in list(one_each.values())[:3]:
            try:
                requests.head(url, timeout=_PATIENCE)
            except (requests.RequestException, OSError) as error:
                causes.append(f"{type(error).__name__}: {error}")
            else:
                answered.set()
                return

    # A thread that is not waited for: looking a name up knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not answered.is_set():
        raise ConnectionError(
            f"preparing {name!r} needs a download, but {' and '.join(list(one_each)[:3])} cannot "
            f"be reached ({causes[0] if causes else f'no answer in {_PATIENCE} s'}); {elsewhere}"
        )
