"""Images listed in CSV files, such as mini-ImageNet's."""

import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from irregular_files import irregular

from metajax.data.readers.files.image_csv import image_csv
from metajax.regular_files import IrregularFileError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture
def images(tmp_path) -> Path:
    """Ten pictures `0.png` to `9.png`, each filled with ten times its number."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for i in range(10):
        Image.fromarray(np.full((2, 2), 10 * i, np.uint8)).save(folder / f"{i}.png")
    Image.fromarray(np.full((2, 2), 200, np.uint8)).save(folder / "more" / "ein bild é.png")
    return folder


def listed(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(folder: Path, text: str, split: str | None = None, **options):
    arguments = {"size": 2, "channels": 1} | options
    return image_csv(listed(folder, text), split, images=folder / "images", **arguments)


def values(classes) -> dict[str, list[int]]:
    return {name: classes[name][:, 0, 0, 0].tolist() for name in classes.names}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename,label\n3.png,n02\n1.png,n02\n2.png,n01\n", {"n01": [20], "n02": [10, 30]}),
        ("\ufefffile,class\r\n1.png,\u00e9\r\n", {"\u00e9": [10]}),
        ('file,x,class\n1.png,"a\nb",\u00e9\n\n', {"\u00e9": [10]}),
        ("file,class\nmore/ein bild \u00e9.png , c d\n./1.png,c d\n", {"c d": [10, 200]}),
        ("file,class\n\n1.png,a\n  \n\t\n2.png,a\n , \n\n", {"a": [10, 20]}),
    ],
)
def test_forms_of_csv(tmp_path, images, text, expected):
    classes = read(tmp_path, text)
    assert values(classes) == expected
    assert list(classes.names) == sorted(expected)
    assert classes.groups is None
    assert isinstance(classes.images, np.memmap)


def test_aspects(tmp_path, images):
    """A square picture, of shade 10, between white borders."""
    padded = read(tmp_path, "file,class\n1.png,a\n", size=(2, 4), aspect="pad")
    assert padded["a"][0, 0, :, 0].tolist() == [255, 10, 10, 255]


@pytest.mark.parametrize(
    "header",
    ["class,file,split", "Label, PATH ,Split", "class,image,SPLIT", '"class","file",split'],
)
def test_columns_of_other_names(tmp_path, images, header):
    text = f"{header}\na,1.png,train\nb,2.png,test\nc,3.png,train\n"
    assert values(read(tmp_path, text, "train")) == {"a": [10], "c": [30]}
    assert values(read(tmp_path, text)) == {"a": [10], "b": [20], "c": [30]}


def test_the_cache_is_used_until_files_or_rows_change(tmp_path, images, user_cache, monkeypatch):
    text = "file,class,split\n1.png,a,x\n2.png,b,x\n3.png,c,y\n"
    read(tmp_path, text, "x")
    read(tmp_path, text, "y")
    assert len(os.listdir(user_cache)) == 2
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        assert values(read(tmp_path, text, "x")) == {"a": [10], "b": [20]}
    with pytest.warns(RuntimeWarning, match="1 of its classes changed: 'b'"):
        changed = read(tmp_path, text.replace("2.png", "4.png"), "x")
    assert values(changed) == {"a": [10], "b": [40]}
    Image.fromarray(np.full((2, 2), 99, np.uint8)).save(images / "1.png")
    with pytest.warns(RuntimeWarning, match="classes changed: 'a', 'b'"):
        assert values(read(tmp_path, text, "x")) == {"a": [99], "b": [20]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \[\], none of .*; expected a header such as filename,label"),
        ("file,class\n", "has a header but no rows; expected one an image"),
        ("file,class\n\n\n", "has a header but no rows"),
        ("name,class\n1.png,a\n", r"columns \['name', 'class'\], none of them called 'filen"),
        ("file,kind\n1.png,a\n", r"columns \['file', 'kind'\], none of them called 'label' or"),
        ("file;class\n1.png;a\n", r"columns \['file;class'\], none of .*commas between columns"),
        ("file,path,class\n1.png,1.png,a\n", "2 of them called 'filename' or 'file' or"),
        ("file,class,split,split\n1.png,a,x,x\n", "2 of them called 'split'; expected a header"),
        ("file,class\n1.png,a\n2.png\n", r"line 3 .* has the 1 fields \['2.png'\]; expected the 2"),
        ("file,class\n1.png,a,b\n", r"line 2 of .* has the 3 fields"),
        ('file,class\n"1.png","a\nb"\n2.png\n', "line 4 of .* has the 1 fields"),
        ("file,class\n1.png,\n", r"line 2 .* the 2 fields .*, a file and a class among them"),
        ("file,class\n ,a\n", "line 2 of .* has the 2 fields .*, a file and a class among them"),
        ("file,class\nn,a\n./n,b\n", r"1 files more .*: .line 2 \(.*n, a\) and line 3 \(.*n, b\)"),
        ("file,class,split\nn,a,x\nn,a,y\n", "expected each file once, in one class and split"),
        ('file,class\n"1.png,a\n', "has the 1 fields"),
        ("file,class\n" + "x" * 200_000 + ",a\n", r"is no CSV file in UTF-8 \(field larger than"),
    ],
)
def test_csv_files_that_do_not_fit(tmp_path, images, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_splits_that_are_not_there(tmp_path, images):
    for rows, there in (("a\n", "none"), ("a,test\n2.png,a,train\n", "'test', 'train'")):
        header = "file,class,split\n" if "," in rows else "file,class\n"
        said = rf"no split 'val' in '.*list.csv'; expected one of its splits, {there}, or"
        with pytest.raises(ValueError, match=said):
            read(tmp_path, f"{header}1.png,{rows}", "val")


def test_rows_of_images_that_are_not_there(tmp_path, images):
    text = "file,class,split\n1.png,a,x\n" + "".join(f"none{i:02d}.png,b,y\n" for i in range(12))
    said = (
        r"12 of the 13 images of 'images-list' do not exist, or .*: '.*none00.png', .* and 2 more; "
    )
    with pytest.raises(FileNotFoundError, match=f"{said}expected image files, and / between"):
        read(tmp_path, text)
    assert values(read(tmp_path, text, "x")) == {"a": [10]}  # the other split is elsewhere


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_another_unicode_form(tmp_path, images, form):
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "größe é/é.png")
    (images / other).parent.mkdir()
    (images / "more" / "ein bild é.png").rename(images / other)
    name = unicodedata.normalize(form, "größe é/é.png")
    for _ in range(2):
        assert values(read(tmp_path, f"file,class\n{name},a\n1.png,a\n")) == {"a": [10, 200]}
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 images .* do not exist, .*2.png'; ex"):
        read(tmp_path, f"file,class\n{name.replace('.png', '2.png')},a\n")


def test_rows_that_name_what_is_no_file(tmp_path, images):
    made = {"a folder": images / "more"} | irregular(tmp_path)
    for kind, path in made.items():
        (images / "link").unlink(missing_ok=True)
        (images / "link").symlink_to(path)
        with pytest.raises(IrregularFileError, match=f"link' is {kind}; expected a regular file"):
            read(tmp_path, "file,class\n1.png,a\nlink,a\n")
        if kind != "a folder":
            with pytest.raises(IrregularFileError, match=f"' is {kind}; expected a regular file"):
                image_csv(path, images=images, size=2)
    with pytest.raises(FileNotFoundError, match=r"1 of the 1 images .*: '.*1.png/x'; expected im"):
        read(tmp_path, "file,class\n1.png/x,a\n")


@pytest.mark.parametrize(
    "other",
    ["1.png", "./1.png", "more/../1.png", "LINK/1.png", "link.png", "hard.png", "bj\u00f6rk.png"],
)
def test_files_named_twice(tmp_path, images, other):
    (images / "bjo\u0308rk.png").symlink_to("1.png")
    (images / "LINK").symlink_to(".")
    (images / "link.png").symlink_to("1.png")
    (images / "hard.png").hardlink_to(images / "1.png")
    text = f"file,class,split\n2.png,a,x\n1.png,a,x\n{other},b,y\n"
    said = r"names 1 files more than once: .line 3 \(.*1.png, a\) and line 4 \(.*, b\).; expect"
    for split in ("x", "y", None):
        with pytest.raises(ValueError, match=said):
            read(tmp_path, text, split)
    assert values(read(tmp_path, text.replace("1.png,a,x\n", ""), "y")) == {"b": [10]}


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "é"), ("utf-16", "e")])
def test_other_encodings(tmp_path, images, encoding, text):
    path = listed(tmp_path, f"file,class\n1.png,{text}\n", encoding)
    with pytest.raises(ValueError, match=r"is no CSV file in UTF-8 \(.*codec.*\); save it"):
        image_csv(path, images=images, size=2)


def test_a_file_too_large_to_be_a_list(tmp_path, images):
    (tmp_path / "x.csv").write_text("file,class\n")
    os.truncate(tmp_path / "x.csv", 2**40)  # Of which the disk holds nothing.
    with pytest.raises(ValueError, match=r"x.csv' has 1099511627776 bytes; expected at most"):
        image_csv(tmp_path / "x.csv", images=images, size=4)


def test_paths_that_are_not_there(tmp_path, images):
    with pytest.raises(FileNotFoundError, match=r"No such file .*none.csv"):
        image_csv(tmp_path / "none.csv", images=images, size=2)
    with pytest.raises(IrregularFileError, match="images' is a folder; expected a regular file"):
        image_csv(images, images=images, size=2)
    path = listed(tmp_path, "file,class\n1.png,a\n")
    with pytest.raises(FileNotFoundError, match="none' is no folder; expected one with the images"):
        image_csv(path, images=tmp_path / "none", size=2)
    with pytest.raises(NotADirectoryError, match=r"list\.csv' is no folder; expected one"):
        image_csv(path, images=path, size=2)
    with pytest.raises(ValueError, match="size=0; expected pixels"):
        image_csv(tmp_path / "none.csv", images=images, size=0)
