import io
import os

import pytest

from metajax.command_line.given_pictures import given_pictures

_NO_LISTING = io.BytesIO()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "below/z.gif", ".git/x.png"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_its_pictures_at_any_depth(folder):
    assert given_pictures(["new"], _NO_LISTING) == [
        os.path.join("new", "a.png"),
        os.path.join("new", "b.JPG"),
        os.path.join("new", "below", "z.gif"),
    ]


def test_a_file_may_be_called_anything_and_is_answered_once(folder):
    given = ["new/notes.txt", "missing.png", "new/a.png", "new"]
    assert given_pictures(given, _NO_LISTING) == [*given[:3], "new/b.JPG", "new/below/z.gif"]


@pytest.mark.parametrize("listing", [b"new/a.png\nmiss \xff ing.png\r\n\n", b"a\nb.png\0new\0"])
def test_a_list_has_a_path_a_line_or_zero_bytes(folder, listing):
    found = given_pictures(["-"], io.BytesIO(listing))
    if b"\0" in listing:
        assert found[:2] == ["a\nb.png", "new/a.png"]
    else:
        assert found == ["new/a.png", os.fsdecode(b"miss \xff ing.png")]


def test_no_picture_is_an_error_that_says_what_is_one(folder):
    with pytest.raises(ValueError, match=r"expected files, folders, or -"):
        given_pictures([], _NO_LISTING)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no picture in 'empty'; expected files that end in .png"):
        given_pictures(["empty"], _NO_LISTING)
    with pytest.raises(ValueError, match=r"standard input is empty; expected a path a line"):
        given_pictures(["-"], _NO_LISTING)


def test_a_folder_that_leads_to_itself_ends(folder):
    (folder / "new" / "again").symlink_to(folder / "new")
    assert len(given_pictures(["new"], _NO_LISTING)) == 3
