"""Data sets of TensorFlow Datasets, found prepared in their folder or prepared there."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from metajax.data.labelled_images import in_short
from metajax.data.readers.home_folder import from_home
from metajax.regular_files import check_regular

DAMAGED = (
    "files may be damaged or cut short: copy the whole folder again, or delete it and prepare it "
    "again"
)
_NAME = re.compile(r"(?P<base>[a-z0-9_]+)(/[\w+-][\w.+-]*)?(:(\d+|\*)(\.(\d+|\*)){2})?")


@contextlib.contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Makes an ImportError, OSError or else ValueError that says what to do of errors inside."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        kinds = (ImportError, FileNotFoundError, OSError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
        raise kind(f"{what} ({type(error).__name__}: {error}); {remedy}") from error


def import_tfds() -> ModuleType:
    """The package `tensorflow_datasets`."""
    with explained("what reads TensorFlow Datasets is missing", 'pip install "metajax[tfds]"'):
        importlib.import_module("array_record.python.array_record_data_source")
        return importlib.import_module("tensorflow_datasets")


def open_prepared(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    download: bool,
    manual_dir: str | os.PathLike[str] | None,
) -> Any:
    """The `tfds.core.DatasetBuilder` of a data set of array_record files; see `tfds_classes`."""
    if not (match := _NAME.fullmatch(name)):
        raise ValueError(
            f"name={name!r}; expected 'name', 'name/config' or 'name/config:1.2.3' of a data set "
            "of TensorFlow Datasets"
        )
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = from_home(root, "data_dir") / match["base"]
    if (builder := _found(name, folder)) is None and download and folder.name in _known():
        _prepare(name, folder, manual_dir)
        builder = _found(name, folder)
    if builder is None:
        raise FileNotFoundError(_not_prepared(name, folder))
    if "array_record" not in {kind.value for kind in builder.info.available_file_formats()}:
        raise ValueError(
            f"{str(builder.data_path)!r} holds {builder.info.file_format.value} files; expected "
            "array_record files, which are put beside them by: tfds convert_format --num_workers=1 "
            f"--out_file_format=array_record --dataset_version_dir={str(builder.data_path)!r} "
            "(after: pip install tensorflow apache-beam mlcroissant)"
        )
    return builder


def _found(name: str, folder: Path) -> Any | None:
    """The builder of a prepared data set, made without the code that prepared it."""
    tfds = import_tfds()
    if not folder.exists():
        return None
    check_regular(folder)
    # `tfds.builder` calls it where a version is named; of its own it has no public name.
    read_only = importlib.import_module("tensorflow_datasets.core.read_only_builder")
    with explained(f"the data set {name!r} in {str(folder)!r} cannot be read", DAMAGED):
        try:
            return read_only.builder_from_files(name, data_dir=folder.parent)
        except tfds.core.DatasetNotFoundError:
            return None


def _prepare(name: str, folder: Path, manual_dir: str | os.PathLike[str] | None) -> None:
    tfds = import_tfds()
    with explained(
        f"preparing {name!r} in {str(folder)!r} failed",
        "it needs a network and mostly TensorFlow (pip install tensorflow): prepare it where they "
        "are and copy the folder, or pass manual_dir= with the files downloaded by hand",
    ):
        config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
        builder = tfds.builder(name, data_dir=folder.parent)
        builder.download_and_prepare(download_config=config, file_format="array_record")


def _known() -> list[str]:
    return import_tfds().list_builders(with_community_datasets=False)


def _not_prepared(name: str, folder: Path) -> str:
    paths = [path.parent.relative_to(folder).parts for path in folder.glob("**/features.json")]
    there = sorted(f"{'/'.join((folder.name, *path[:-1]))}:{path[-1]}" for path in paths)
    near = in_short(difflib.get_close_matches(folder.name, _known(), 5))
    return (
        f"the data set {name!r} of TensorFlow Datasets is not prepared: {str(folder)!r} holds "
        f"{'only ' + in_short(there) if there else 'none'}; expected data_dir= where it is, or "
        "once download=True, with TensorFlow installed and a network"
        + ("" if folder.name in _known() else f"; its name is unknown, near it is {near or 'none'}")
    )
