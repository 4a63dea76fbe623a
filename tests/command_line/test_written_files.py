import os
import stat

import pytest

from metajax.command_line.written_files import check_new_file, write_text


def test_what_is_read_and_what_is_called_otherwise_is_not_replaced(tmp_path):
    path = str(tmp_path / "a.csv")
    check_new_file(path, (".csv",), "--table", [])
    check_new_file(str(tmp_path / "A.CSV"), (".csv",), "--table", [])
    with pytest.raises(ValueError, match=r"--table is 'photo.jpg'; expected .* ends in .csv"):
        check_new_file("photo.jpg", (".csv",), "--table", [])
    with pytest.raises(ValueError, match=r"ends in .html or .htm"):
        check_new_file("a", (".html", ".htm"), "--html", [])
    (tmp_path / "a.csv").touch()
    (tmp_path / "link.csv").symlink_to(path)
    with pytest.raises(ValueError, match="which is read; choose another name"):
        check_new_file(str(tmp_path / "link.csv"), (".csv",), "--table", [path])


def test_where_no_file_can_be_is_said_before_the_work(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*; make it"):
        check_new_file(str(tmp_path / "none" / "a.csv"), (".csv",), "--table", [])
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="expected the name of a file"):
        check_new_file(str(tmp_path / "a.csv"), (".csv",), "--table", [])


def test_a_text_is_there_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.csv"
    write_text(str(path), "é\udcff\r\n")
    assert path.read_bytes() == "é\\udcff\r\n".encode()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    with pytest.raises(TypeError):
        write_text(str(path), None)  # It fails half-way.
    assert path.read_bytes() == "é\\udcff\r\n".encode()
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link.html").symlink_to(tmp_path / "a.html")
    write_text(str(tmp_path / "link.html"), "text")
    assert (tmp_path / "a.html").read_text() == "text"
    assert (tmp_path / "link.html").is_symlink()
