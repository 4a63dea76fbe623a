"""Data sets that TensorFlow Datasets prepared: their folders, found without touching a network."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from metajax.data.labelled_images import in_short
from metajax.data.readers.tfds.preparing import import_tfds, prepare

_NAME = re.compile(r"(?P<base>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class _Name(NamedTuple):
    base: str
    config: str | None
    version: str | None


def open_prepared(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    manual_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """Opens a prepared data set from its own folder; the code that prepared it is not run.

    Args:
      name: `"name"`, `"name/config"` or `"name/config:1.2.3"`; the default config where the folder
        tells it, or the only one, and the newest version unless named.
      data_dir: the folder of all data sets; None is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      download: prepare the data set where it is not there yet: downloads, and mostly needs
        TensorFlow. Otherwise nothing waits on a network.
      manual_dir: a folder of files downloaded by hand, used instead of downloads.

    Returns:
      The `tfds.core.DatasetBuilder`.

    Raises:
      ImportError: `tensorflow_datasets` is missing, or what preparing needs.
      FileNotFoundError: the data set is not prepared, or `manual_dir` does not exist.
      OSError: preparing failed; a `ConnectionError` where there is no network.
      ValueError: the name is unknown or no name, or it has several configs.
    """
    if not (match := _NAME.fullmatch(name)):
        raise ValueError(
            f"name={name!r}; expected 'name', 'name/config' or 'name/config:1.2.3' of a data set "
            "of TensorFlow Datasets"
        )
    parts = _Name(match["base"], match["config"], match["version"])
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    tfds = import_tfds()
    folder = _find(root, parts)
    if folder is None and download:
        prepare(name, root, manual_dir)
        folder = _find(root, parts)
    if folder is None:
        known = tfds.list_builders(with_community_datasets=False)
        if parts.base not in known and not (root / parts.base).exists():
            near = difflib.get_close_matches(parts.base, known, 5)
            raise ValueError(
                f"TensorFlow Datasets {tfds.__version__} knows no data set {parts.base!r}, and "
                f"{str(root)!r} holds none of that name; "
                + (f"near it are {in_short(near)}" if near else "see tfds.list_builders()")
            )
        raise FileNotFoundError(_not_prepared(root, name, parts))
    return tfds.builder_from_directory(folder)


def _find(root: Path, name: _Name) -> Path | None:
    """The folder of one version of one config, or None where there is none."""
    base = root / name.base
    if name.config is not None:
        return _version(base / name.config, name.version)
    if folder := _version(base, name.version):
        return folder
    configs = [path for path in _folders(base) if _version(path, name.version)]
    try:
        common = json.loads((base / ".config" / "metadata.json").read_text(encoding="utf-8"))
        configs = [p for p in configs if p.name == common["default_config_name"]] or configs
    except (OSError, ValueError, KeyError):
        pass  # Only data sets that have configs keep the default's name.
    if len(configs) > 1:
        found = in_short([f"{name.base}/{path.name}" for path in configs])
        raise ValueError(f"{name.base!r} has several configs in {str(root)!r}; name one: {found}")
    return _version(configs[0], name.version) if configs else None


def _version(folder: Path, version: str | None) -> Path | None:
    """The folder of the version, or of the newest one where it is None."""
    whole = [
        path
        for path in _folders(folder)
        if _VERSION.fullmatch(path.name)
        and version in (None, path.name)
        and (path / "dataset_info.json").is_file()
        and (path / "features.json").is_file()
    ]
    return max(whole, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _not_prepared(root: Path, name: str, parts: _Name) -> str:
    base = root / parts.base / (parts.config or "")
    there = [path.name for path in _folders(base) if not path.name.startswith(".")]
    holds = f"holds only {in_short(there)}" if there else "holds none"
    return (
        f"the data set {name!r} of TensorFlow Datasets is not prepared: {str(base)!r} {holds}; "
        "prepare it once, with TensorFlow installed and a network: "
        f"tfds build {name} --file_format=array_record --data_dir={str(root)!r}; or pass "
        "download=True to do so here, or data_dir= where it is elsewhere"
    )
