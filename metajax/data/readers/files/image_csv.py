"""Image files listed in CSV files, such as mini-ImageNet's."""

import csv
import io
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from metajax.checks.settings import check_optional_texts, check_paths
from metajax.data.labelled_images import ImageClasses, in_short
from metajax.data.readers.decoding import MAX_PIXELS
from metajax.data.readers.files.decoded_files import (
    Decoding,
    decoded_classes,
    normal,
    require_folder,
    require_split,
)
from metajax.regular_files import read_regular

_LARGEST_LIST = 2**30
# What a column may be called, in any case.
_FILE, _CLASS, _SPLIT = ("filename", "file", "image", "path"), ("label", "class"), ("split",)


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    split: str | None


def image_csv(
    csv_file: str | os.PathLike[str],
    split: str | None = None,
    *,
    images: str | os.PathLike[str],
    size: int | tuple[int, int] | None,
    channels: int | None = 3,
    aspect: str = "stretch",
    cache: str | os.PathLike[str] | None = None,
    corrupt: str = "error",
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> ImageClasses:
    """Classes from image files and a CSV file that names the class of each.

    The CSV file, in UTF-8 with commas, has a header with a column `filename`, `file`, `image` or
    `path`, a column `label` or `class`, and maybe `split`, in any case and order; other columns are
    ignored, and so are blank lines and blanks around a field. File names may be in another Unicode
    form than on the disk. Images that it does not name are left alone. Classes are sorted by name
    and images by file name. Decoding and the cache are those of `image_folder`.

    Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning" (2017), published
    mini-ImageNet's splits as one such file each, with the header `filename,label`.

    Args:
      csv_file: the CSV file.
      split: the rows to take, by their column `split`; None takes all.
      images: the folder that file names are relative to.
      size: see `image_folder`.
      channels: see `image_folder`.
      aspect: see `image_folder`.
      cache: see `image_folder`.
      corrupt: see `image_folder`.
      max_pixels: see `image_folder`.
      workers: see `image_folder`.

    Raises:
      FileNotFoundError: the CSV file, `images`, or images that chosen rows name do not exist.
      ImportError, OSError: see `image_folder`.
      TypeError, ValueError: see `image_folder`; the CSV file is not UTF-8, has no rows, lacks a
        column or has two of a kind, a row has too many or few fields or an empty one, a file is
        named twice in any of the splits, by whatever names, or the split is not there.
    """
    check_paths(csv_file=csv_file, images=images)
    check_optional_texts(split=split)
    options = Decoding(size, channels, cache, corrupt, max_pixels, workers, aspect)
    listing, root = Path(os.path.abspath(csv_file)), Path(os.path.abspath(images))
    require_folder(root, "the images that the CSV file names")
    rows = _rows(listing, root)
    _refuse_repeated(rows, listing)
    if split is not None:
        require_split(split, {row.split for row in rows if row.split is not None}, listing)
        rows = [row for row in rows if row.split == split]
    files: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (row.label, normal(row.path))):
        files.setdefault(row.label, []).append(row.path)
    title = f"{root.name or 'images'}-{listing.stem}{'' if split is None else f'-{split}'}"
    origin = ["image_csv", str(listing), str(root), split]
    return decoded_classes(files, None, options, origin, title)


def _rows(listing: Path, root: Path) -> list[_Row]:
    content = read_regular(listing, _LARGEST_LIST)
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        lines = [(reader.line_num, [field.strip() for field in line]) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{str(listing)!r} is no CSV file in UTF-8 ({error}); save it as one"
        ) from error
    header = [name.casefold() for name in lines[0][1]] if lines else []
    file_at, label_at = _column(header, _FILE, listing), _column(header, _CLASS, listing)
    split_at = _column(header, _SPLIT, listing) if "split" in header else None
    rows = []
    for number, fields in lines[1:]:
        if not any(fields):
            continue
        if len(fields) != len(header) or not fields[file_at] or not fields[label_at]:
            raise ValueError(
                f"line {number} of {str(listing)!r} has the {len(fields)} fields {fields}; "
                f"expected the {len(header)} of the header {header}, a file and a class among them"
            )
        name = os.path.normpath(fields[file_at])
        forms = (name, normal(name), unicodedata.normalize("NFD", name))
        paths = [os.path.join(root, form) for form in forms]
        path = next(filter(os.path.exists, paths), paths[0])
        split = None if split_at is None else fields[split_at]
        rows.append(_Row(number, path, normal(fields[label_at]), split))
    if not rows:
        raise ValueError(f"{str(listing)!r} has a header but no rows; expected one an image")
    return rows


def _column(header: list[str], names: tuple[str, ...], listing: Path) -> int:
    places = [place for place, name in enumerate(header) if name in names]
    if len(places) != 1:
        raise ValueError(
            f"{str(listing)!r} has the columns {header}, {len(places) or 'none'} of them called "
            f"{' or '.join(map(repr, names))}; expected a header such as filename,label with one "
            "of each kind, and commas between columns"
        )
    return places[0]


def _refuse_repeated(rows: list[_Row], listing: Path) -> None:
    """One file in two rows, by whatever names, would be in two classes or splits."""
    found: dict[object, list[_Row]] = {}
    for row in rows:
        identity: object = row.path  # Images of other splits may be elsewhere.
        if os.path.exists(row.path):
            inode = os.stat(row.path)
            identity = inode.st_dev, inode.st_ino
        found.setdefault(identity, []).append(row)
    repeated = [
        " and ".join(f"line {row.line} ({row.path}, {row.label})" for row in same)
        for same in found.values()
        if len(same) > 1
    ]
    if repeated:
        raise ValueError(
            f"{str(listing)!r} names {len(repeated)} files more than once: {in_short(repeated)}; "
            "expected each file once, in one class and split"
        )
