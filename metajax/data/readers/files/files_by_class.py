"""Image files grouped by class, listed before any of them is opened."""

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metajax.data.labelled_images import in_short
from metajax.data.readers.decoding import SUFFIXES


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
      IsADirectoryError: names are those of folders.
      ValueError: file names of one class are the same but for case or Unicode normalisation, which
        some systems take for one file.
    """
    classes, missing, folders, disk = {}, [], [], _Disk()
    for title in sorted(files):
        folder, given = files[title]
        names = sorted(given, key=normal)
        _refuse_lookalikes(title, names, origin)
        digest, found = hashlib.sha256(), []
        for name in names:
            try:
                there, status = disk.find(str(folder), name)
            except (FileNotFoundError, NotADirectoryError):
                missing.append(os.path.join(folder, name))
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(os.path.join(folder, name))
            found.append(there)
            entry = f"{there}\0{status.st_size}\0{status.st_mtime_ns}\0"
            digest.update(entry.encode(errors="surrogateescape"))
        classes[title] = ListedClass(str(folder), tuple(found), digest.hexdigest()[:16])
    if missing:
        total = sum(len(given) for _, given in files.values())
        raise FileNotFoundError(
            f"{len(missing)} of the {total} images that {origin} names do not exist: "
            f"{in_short(missing)}{_hint(missing)}"
        )
    if folders:
        raise IsADirectoryError(
            f"{len(folders)} of the images that {origin} names are folders: {in_short(folders)}; "
            "expected image files"
        )
    return classes


def refuse_useless_link(link: str, root: str) -> None:
    """Raises where a link in a folder of classes leads nowhere, or back to where it was found.

    Args:
      link: its path, below `root`; other files pass.
      root: the folder of classes.

    Raises:
      FileNotFoundError: there is nothing where it leads.
      ValueError: it leads to itself, or to a folder that holds it.
    """
    if not os.path.islink(link):
        return
    shown = f"{link!r} is a link to {os.readlink(link)!r}"
    try:
        is_folder = stat.S_ISDIR(os.stat(link).st_mode)
    except FileNotFoundError as error:
        if link.lower().endswith(SUFFIXES):
            return  # All images that do not exist are named together.
        raise FileNotFoundError(
            f"{shown}, which does not exist; remove the link, or put back what it leads to"
        ) from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{shown}, which leads to itself; remove the link") from error
    target, passed = Path(os.path.realpath(link)), os.path.dirname(link)
    while is_folder:
        real = Path(os.path.realpath(passed))
        if target in (real, *real.parents):
            raise ValueError(
                f"{shown}, which holds the link again: the classes would have no end; remove the "
                "link"
            )
        if passed == root:
            return
        passed = os.path.dirname(passed)


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


class _Disk:
    """Finds files by names in any Unicode form."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, folder: str, name: str) -> tuple[str, os.stat_result]:
        """The name as the disk has it, relative to `folder`, and what is there."""
        try:
            return name, os.stat(os.path.join(folder, name))
        except FileNotFoundError:
            if name.isascii():
                raise
        there = ""
        for part in name.split(os.sep):
            listed = self._list(os.path.join(folder, there))
            there = os.path.join(there, listed.get(normal(part), part))
        return there, os.stat(os.path.join(folder, there))

    def _list(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            self._listed[folder] = {normal(name): name for name in os.listdir(folder)}
        return self._listed[folder]


def _hint(missing: Sequence[str]) -> str:
    if os.sep == "/" and any("\\" in path for path in missing):
        return "; there are backslashes in names: expected / between folders"
    if links := sum(map(os.path.islink, missing)):
        return f"; {links} of them are links to what is not there"
    return ""


def _refuse_lookalikes(title: str, names: Sequence[str], origin: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(normal(normal(name).casefold()), name)
        if other is not name:
            raise ValueError(
                f"duplicate file names in the class {title!r} of {origin}: {other!a} and "
                f"{name!a} differ at most in case or Unicode form; rename one of them"
            )
