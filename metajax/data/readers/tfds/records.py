"""The records of a prepared data set of TensorFlow Datasets at random access, without TensorFlow.

Both of its usual file formats are read: `array_record`, by the package of that name, and
`tfrecord`, whose records follow each other as an 8-byte length, a 4-byte checksum of it, the bytes
and a 4-byte checksum of them. Checksums are not checked.
"""

from __future__ import annotations

import importlib
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metajax.data.labelled_images import in_short

_BEFORE, _AFTER = 12, 4


class Records(Protocol):
    """Serialised examples in the order of TensorFlow Datasets, readable by several threads."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        """The records of these numbers."""
        ...


def open_records(builder: Any, split: str) -> Records:
    """The records of a split, such as `"train"`, `"train+test"` or `"train[:10%]"`.

    Raises:
      FileNotFoundError: a file of the split is missing.
      ImportError: the package that reads its format is missing.
      ValueError: an unknown or empty split, a format that cannot be read, or a damaged file.
    """
    kind = file_format(builder)
    files = split_files(builder, split)
    return ArrayRecords(files) if kind == "array_record" else TfRecords(files)


def file_format(builder: Any) -> str:
    """`"array_record"` or `"tfrecord"`.

    Raises:
      ValueError: the files are in another format.
    """
    kind = builder.info.file_format.value if builder.info.file_format else "unknown"
    if kind not in ("array_record", "tfrecord"):
        raise ValueError(
            f"{str(builder.data_path)!r} is in the format {kind!r}; expected 'array_record' or "
            "'tfrecord': prepare it again with --file_format=array_record and another data_dir"
        )
    return kind


def split_files(builder: Any, split: str) -> list[Any]:
    """What a split reads: `filename`, `skip` and `take` of each file, in order."""
    info = builder.info
    try:
        files = info.splits[split].file_instructions
    except ValueError as error:
        raise ValueError(
            f"split={split!r} of {info.name!r} cannot be read ({str(error).splitlines()[0]}); "
            f"there are {sorted(info.splits)}, which may be joined as 'train+test'"
        ) from error
    if not sum(file.take for file in files):
        raise ValueError(f"split={split!r} of {info.name!r} is empty; expected images")
    if missing := [file.filename for file in files if not Path(file.filename).is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files of split={split!r} are missing, such as "
            f"{str(missing[0])!r}; copy the whole folder, or delete it and prepare it again"
        )
    return files


class ArrayRecords:
    """Records of array_record files.

    Args:
      files: `filename`, `skip` and `take` of each file, in order.

    Raises:
      ImportError: the package `array_record` is missing.
    """

    def __init__(self, files: Sequence[Any]) -> None:
        try:
            reader = importlib.import_module("array_record.python.array_record_data_source")
        except ImportError as error:
            raise ImportError(
                f"array_record files need the package of that name ({error}); run: pip install "
                "array_record, or prepare the data set with --file_format=tfrecord"
            ) from error
        self._files = files
        self._source = reader.ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        """The records of these numbers.

        Raises:
          ValueError: a file is damaged or cut short.
        """
        if not len(keys):
            return []
        try:
            return self._source.__getitems__(keys)
        except (RuntimeError, IndexError) as error:
            names = in_short([Path(file.filename).name for file in self._files], 3)
            raise ValueError(
                f"records cannot be read ({error}) from {names} in "
                f"{str(Path(self._files[0].filename).parent)!r}; a file may be truncated: copy it "
                "again, or prepare the data set again"
            ) from error


class TfRecords:
    """Records of tfrecord files, found by one pass over the lengths they begin with.

    Args:
      files: `filename`, `skip` and `take` of each file, in order.

    Raises:
      ValueError: a file is cut short or does not hold as many records as it should.
    """

    def __init__(self, files: Sequence[Any]) -> None:
        self._maps: list[mmap.mmap] = []
        spans = []
        for number, file in enumerate(files):
            if not Path(file.filename).stat().st_size:
                raise ValueError(
                    f"{str(file.filename)!r} is empty, expected {file.examples_in_shard} records; "
                    "copy it again, or prepare the data set again"
                )
            with Path(file.filename).open("rb") as stream:
                content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps.append(content)
            found = _spans(content, file.filename)
            if len(found) != file.examples_in_shard:
                raise ValueError(
                    f"{str(file.filename)!r} holds {len(found)} records, expected "
                    f"{file.examples_in_shard}; copy it again, or prepare the data set again"
                )
            spans += [(number, *span) for span in found[file.skip : file.skip + file.take]]
        self._spans = np.array(spans, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitems__(self, keys: Sequence[int], /) -> list[bytes]:
        """The records of these numbers."""
        picked = self._spans[np.asarray(keys, np.int64)].tolist()
        return [self._maps[number][start:end] for number, start, end in picked]


def _spans(content: mmap.mmap, name: str) -> list[tuple[int, int]]:
    """Where each record starts and ends."""
    spans, position = [], 0
    while position < len(content):
        start = position + _BEFORE
        end = start + int.from_bytes(content[position : position + 8], "little")
        position = end + _AFTER
        if position > len(content):
            raise ValueError(
                f"{str(name)!r} ends inside record {len(spans)}, after {len(content)} bytes; it "
                "may be truncated: copy it again, or prepare the data set again"
            )
        spans.append((start, end))
    return spans
