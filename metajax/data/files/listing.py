"""Image files grouped by class, listed before any of them is opened."""

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metajax.data.classes import in_short


class ListedClass(NamedTuple):
    """The image files of one class.

    Attributes:
      folder: that the names are relative to.
      names: of the files, sorted.
      digest: changes when a file is added, removed or written to.
    """

    folder: str
    names: tuple[str, ...]
    digest: str

    @property
    def paths(self) -> list[str]:
        """Of the files, in the order of their names."""
        return [os.path.join(self.folder, name) for name in self.names]


def list_classes(
    files: Mapping[str, tuple[Path, Sequence[str]]], origin: str
) -> dict[str, ListedClass]:
    """Sorts classes and files by name, and looks at each file's size and time.

    Args:
      files: by class, the folder and the names of its files relative to it.
      origin: where the names come from, for messages.

    Raises:
      FileNotFoundError: files do not exist.
      ValueError: file names of one class are the same but for case or Unicode normalisation, which
        some systems take for one file.
    """
    classes, missing = {}, []
    for title in sorted(files):
        folder, given = files[title]
        names = sorted(given, key=normal)
        _refuse_lookalikes(title, names, origin)
        digest = hashlib.sha256()
        for name in names:
            try:
                stat = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                missing.append(os.path.join(folder, name))
            else:
                entry = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
                digest.update(entry.encode(errors="surrogateescape"))
        classes[title] = ListedClass(str(folder), tuple(names), digest.hexdigest()[:16])
    if missing:
        total = sum(len(listed.names) for listed in classes.values())
        raise FileNotFoundError(
            f"{len(missing)} of the {total} images that {origin} names do not exist: "
            f"{in_short(missing)}"
        )
    return classes


def require_folder(folder: Path, holding: str) -> None:
    """Raises where a folder is missing or is a file.

    Args:
      folder: that has to be there.
      holding: what it should hold, for messages.

    Raises:
      FileNotFoundError: there is nothing.
      NotADirectoryError: it is a file.
    """
    if not folder.exists():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist; expected {holding}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file; expected a folder with {holding}")


def normal(name: str) -> str:
    """The name in one Unicode form: file systems keep accents composed or decomposed."""
    return unicodedata.normalize("NFC", name)


def _refuse_lookalikes(title: str, names: Sequence[str], origin: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(normal(normal(name).casefold()), name)
        if other is not name:
            raise ValueError(
                f"duplicate file names in the class {title!r} of {origin}: {other!a} and "
                f"{name!a} differ at most in case or Unicode form; rename one of them"
            )
