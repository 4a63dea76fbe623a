"""FIFOs, sockets, devices and links to them are refused, not waited for."""

import os
from pathlib import Path

import pytest
from irregular_files import irregular

from metajax.regular_files import IrregularFileError, check_regular, open_regular, read_regular


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    for kind, path in irregular(tmp_path).items():
        link = tmp_path / f"link to {path.name}"
        link.symlink_to(path)
        for name in (path, link):
            for refuse in (open_regular, check_regular):
                with pytest.raises(IrregularFileError, match=f"{kind}; expected a regular file"):
                    refuse(name)
    with pytest.raises(IrregularFileError, match="a folder; expected a regular file"):
        open_regular(tmp_path)


def test_files_read_whole_are_no_larger_than_expected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_regular(tmp_path / "file", 4) == b"1234"
    os.truncate(tmp_path / "file", 2**40)  # Of which the disk holds nothing.
    with pytest.raises(ValueError, match=r"file' has 1099511627776 bytes; expected at most 1000$"):
        read_regular(tmp_path / "file", 1000)


def test_a_folder_is_walked(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"12")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("a/file")
    check_regular(tmp_path)
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"12"
    os.mkfifo(tmp_path / "a" / "b" / "fifo")
    with pytest.raises(IrregularFileError, match="a/b/fifo' is a FIFO"):
        check_regular(tmp_path)
    os.remove(tmp_path / "a" / "b" / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(IrregularFileError, match="leads nowhere"):
        check_regular(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    for read in (open_regular, check_regular):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
