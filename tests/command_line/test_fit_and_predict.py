"""The two verbs on pictures of one colour each, by a network that sees their mean colour."""

import csv
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from metajax.command_line.main import main
from metajax.models.pretrained import Backbone, Part, Preprocessing
from metajax.pictures import encoders
from metajax.types import Model

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")

_COLOURS = {"blue": (20, 30, 220), "green": (40, 200, 50), "rot": (220, 20, 30)}


def _seeing_colours(size: int = 4) -> Backbone:
    def apply(params, inputs):
        return inputs.mean(axis=(1, 2)) @ params

    part = Part(Model(lambda key, inputs: jnp.eye(3), apply), jnp.eye(3))
    return Backbone("colours", {"all": part}, Preprocessing(size, (0.5,) * 3, (0.5,) * 3))


def _picture(path, colour, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (6, 5, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three classes of eight pictures, and four that are new, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    colours = encoders.Registered(_seeing_colours, 4)
    monkeypatch.setitem(encoders.REGISTERED, "colours", colours)
    for number in range(8):
        for row, (name, colour) in enumerate(_COLOURS.items()):
            _picture(tmp_path / "known" / name / f"{number}.png", colour, 100 * row + number)
    for name, colour in [*_COLOURS.items(), ("grey", (110, 110, 110))]:
        _picture(tmp_path / "new" / f"{name}.png", colour, seed=7)
    return tmp_path


def _told(capsys, *argv: str) -> tuple[int, str, str]:
    code = main([*argv])
    return code, *capsys.readouterr()


def _fitted(capsys, *options: str):
    return _told(capsys, "fit", "colours", "known", *options)


def test_from_a_folder_to_answers(folder, capsys):
    code, results, rest = _fitted(capsys)
    assert (code, rest) == (0, "")
    assert "rot           8" in results
    assert "Set aside in turn, 24 of 24 pictures got their class (100%)." in results
    assert "Next: metajax predict known.mjx PICTURES" in results
    code, results, rest = _told(capsys, "predict", "known.mjx", "new")
    assert (code, rest) == (0, "")
    lines = results.splitlines()
    assert lines[0].split() == ["picture", "answer", "probability", "most", "like"]
    assert lines[1].startswith("new/blue.png   blue ")
    assert lines[3].startswith("new/grey.png   none of these (")
    assert lines[-1] == "4 pictures. blue: 1, green: 1, rot: 1, none of these: 1"


def test_json_is_the_record(folder, capsys):
    code, results, rest = _fitted(capsys, "-o", "colours.mjx", "--head", "means", "--json")
    assert (code, rest) == (0, "")
    fitted = json.loads(results)
    assert fitted["classifier"] == "colours.mjx"
    assert fitted["bytes"] == (folder / "colours.mjx").stat().st_size
    assert (fitted["network"], fitted["head"], fitted["kept"]) == ("colours", "means", 0.95)
    assert fitted["classes"] == {"blue": 8, "green": 8, "rot": 8}
    assert fitted["held_out"] == {"accuracy": 1.0, "items": 24}
    code, results, rest = _told(capsys, "predict", "colours.mjx", "new", "--json", "--nearest", "2")
    assert (code, rest) == (0, "")
    record = json.loads(results)
    assert record["classifier"] == "colours.mjx"
    assert record["classes"] == ["blue", "green", "rot"]
    assert (record["network"], record["head"]) == ("colours", "means")
    for name in ("kept", "threshold", "temperature"):
        assert record[name] == fitted[name]
    blue, green, grey, rot = record["pictures"]
    assert [row["label"] for row in (blue, green, grey, rot)] == ["blue", "green", None, "rot"]
    assert grey["likeliest"] in _COLOURS
    assert not grey["accepted"]
    assert blue["probability"] == max(blue["probabilities"].values())
    assert sum(blue["probabilities"].values()) == pytest.approx(1)
    assert [near["label"] for near in blue["nearest"]] == ["blue", "blue"]
    assert blue["nearest"][0]["picture"].startswith("blue/")
    assert blue["nearest"][0]["similarity"] >= blue["nearest"][1]["similarity"]
    assert blue["error"] is None


def test_what_cannot_be_read_does_not_hold_up_the_others(folder, capsys):
    _fitted(capsys)
    (folder / "new" / "broken.png").write_bytes(b"no picture")
    given = ["known.mjx", "missing.png", "new/broken.png", "new/rot.png"]
    code, results, rest = _told(capsys, "predict", *given, "--table", "t.csv")
    assert code == 3
    assert "new/broken.png  unreadable  -            -\n" in results
    assert results.endswith("3 pictures. rot: 1, unreadable: 2\n")
    assert rest.startswith("warning: 'missing.png' was not answered: No such file")
    assert "warning: 'new/broken.png' was not answered: " in rest
    with open("t.csv", newline="") as file:
        missing, broken, rot = csv.DictReader(file)
    assert missing["error"]
    assert (broken["label"], rot["label"], rot["error"]) == ("", "rot", "")
    code, results, _ = _told(capsys, "predict", "known.mjx", "missing.png", "--json")
    assert (code, json.loads(results)["pictures"][0]["label"]) == (3, None)


def test_a_fit_may_go_on_without_what_cannot_be_read(folder, capsys):
    (folder / "known" / "rot" / "0.png").write_bytes(b"no picture")
    code, results, rest = _fitted(capsys, "--skip-unreadable", "--json")
    assert code == 3
    fitted = json.loads(results)
    assert fitted["classes"] == {"blue": 8, "green": 8, "rot": 7}
    (path,) = fitted["unreadable"]
    assert path.endswith("0.png")
    assert rest.startswith(f"warning: {path!r} was left out: ")
    assert rest.count("\n") == 1


def test_the_page_has_the_numbers_of_the_json(folder, capsys):
    _fitted(capsys)
    code, results, _ = _told(capsys, "predict", "known.mjx", "new", "--html", "r.html", "--json")
    assert code == 0
    page = (folder / "r.html").read_text(encoding="utf-8")
    embedded = page.split('type="application/json"', 1)[1].split(">", 1)[1].split("</script>", 1)[0]
    assert json.loads(embedded) == json.loads(results)
    assert page.count("data:image/jpeg;base64,") >= 4 + 4


def test_names_that_a_spreadsheet_would_run(folder, capsys):
    (folder / "known" / "rot").rename(folder / "known" / "=1+1")
    _fitted(capsys)
    code, _, rest = _told(capsys, "predict", "known.mjx", "new/rot.png", "--table", "t.csv")
    assert code == 0
    assert rest.startswith("warning: in t.csv an apostrophe is before names")
    assert "formulas (3 cells)" in rest
    assert ",'=1+1,'=1+1," in (folder / "t.csv").read_text()


def test_the_settings_reach_the_classifier(folder, capsys):
    options = ["--answer-all", "--side", "2", "--aspect", "pad", "--invert", "--cache", "mine"]
    code, results, _ = _fitted(capsys, *options)
    assert code == 0
    assert "Every picture is answered with a class.\n" in results
    assert (folder / "mine").is_dir()
    assert not (folder / "cache").exists()
    code, results, _ = _told(capsys, "predict", "known.mjx", "new")
    assert code == 0
    assert "none of these" not in results


def test_one_picture_a_class_is_enough(folder, capsys):
    for name in _COLOURS:
        for number in range(1, 8):
            (folder / "known" / name / f"{number}.png").unlink()
    code, results, _ = _fitted(capsys)
    assert code == 0
    assert "One picture a class: how often answers are right cannot be said." in results
    assert "there are too few to say which are none of them" in results


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("fit colours nowhere", "nowhere' is no folder; expected one with a folder a class"),
        ("fit colours new", "images"),
        ("fit colours empty", "empty"),
        ("fit colours one", "one class"),
        (
            "fit crowns known",
            "there is no network 'crowns'; expected efficientnet_lite0 or colours",
        ),
        ("fit known known --head means", "which tells classes apart in its own way; leave --head"),
        ("fit known known", "is no run's folder"),
        ("fit known colours", "expected the network first, and then the pictures: metajax fit col"),
        ("fit colours bad", "go on without them by --skip-unre"),
        ("fit colours bad --skip-unreadable", "no picture of 'blue' can be read: "),
        ("fit colours known -o known", "--output is 'known'; expected a file whose name ends"),
        ("fit colours known -o a/b.mjx", "there is no folder"),
        ("fit colours known --kept 2", "--kept is 2; expected a share between 0 and 1"),
        ("fit colours known --kept 1", "--kept is 1; expected a share between 0 and 1"),
        ("fit colours known --kept 0.8 --answer-all", "every picture; leave one out"),
        ("fit colours known --side 0", "--side 0; expected an integer"),
        ("predict nothing.mjx new", "there is no file 'nothing.mjx'; expected a classifier"),
        ("predict new new", "'new' is a folder; expected a classifier's file"),
        ("predict known.mjx", "no picture was given; expected files, folders, or -"),
        ("predict known.mjx empty", "no picture in 'empty'"),
        ("predict new/rot.png new", "new/rot.png"),
        ("predict known.mjx new --table t.txt", "--table is 't.txt'; expected a file"),
        ("predict known.mjx new --table known.mjx", "--table is 'known.mjx'; expected a file"),
        ("predict known.mjx new/a.csv --table new/a.csv", "which is read; choose another"),
        ("predict known.mjx new --html a/r.html", "there is no folder"),
        ("predict known.mjx new --nearest -1", "--nearest -1; expected an integer"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(folder, capsys, argv, told):
    if argv.startswith("predict known.mjx"):
        _fitted(capsys)
    (folder / "empty").mkdir()
    _picture(folder / "one" / "class" / "1.png", (0, 0, 0))
    _picture(folder / "bad" / "red" / "1.png", (0, 0, 0))
    (folder / "bad" / "blue").mkdir()
    (folder / "bad" / "blue" / "1.png").write_bytes(b"no picture")
    code, results, rest = _told(capsys, *argv.split(" "))
    assert (code, results) == (1, "")
    assert rest.startswith("error: ")
    assert told in rest
    assert "Traceback" not in rest
    assert not [*folder.glob("*.csv"), *folder.glob("*.html")]


def test_an_earlier_classifier_is_replaced_whole(folder, capsys):
    _fitted(capsys)
    before = (folder / "known.mjx").read_bytes()
    assert _fitted(capsys, "--kept", "0.5")[0] == 0
    assert (folder / "known.mjx").read_bytes() != before
    (folder / "known" / "blue" / "0.png").write_bytes(b"no picture")
    before = (folder / "known.mjx").read_bytes()
    code, _, rest = _fitted(capsys)
    assert code == 1
    assert "0.png" in rest
    assert (folder / "known.mjx").read_bytes() == before


def test_without_safetensors_no_picture_is_looked_at(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    code, results, rest = _told(capsys, "fit", "colours", "known")
    assert (code, results) == (1, "")
    assert rest.startswith("error: .mjx files need safetensors")
    assert not (folder / "cache").exists()
