"""The page of predictions: well-formed whatever names hold, and its numbers those of the record."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from page_records import HOSTILE_CLASSES, HOSTILE_FILES, png, predictions

from metajax.pictures.html_page import predictions_page
from metajax.pictures.html_summary import classes_of
from metajax.pictures.html_text import as_script, percent

_VOID = {"meta", "link", "img", "input", "br"}
_NAMES = ["rose", "tulip", "daisy", "aster", "lily", "iris"]
_FILES = [f"holiday/IMG_{row}.jpg" for row in range(7)]


class _Page(HTMLParser):
    """Elements in order, each with what it holds; closed in the order in which they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[int] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in _VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "use", "image")  # Of SVG alone.
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(held))
            for name, attributes, held in self.elements
            if name == tag and wanted.items() <= attributes.items()
        ]

    def record(self) -> Any:
        ((_, held),) = self.all("script", id="record")
        return json.loads(held)


@pytest.fixture(scope="module")
def usual() -> tuple[Any, _Page]:
    record, *pictures = predictions(_NAMES, _FILES)
    return record, _Page(predictions_page(record, *pictures))


@pytest.fixture(scope="module")
def hostile() -> tuple[Any, str]:
    record, *pictures = predictions(HOSTILE_CLASSES, HOSTILE_FILES, rejected=(1, 4))
    record["classifier"] = "</title><script>alert(2)</script>\"'&.mjx"
    return record, predictions_page(record, *pictures)


def test_it_is_well_formed_and_asks_for_nothing(usual, hostile) -> None:
    for page in (usual[1], _Page(hostile[1])):
        identifiers = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
        assert len({*identifiers}) == len(identifiers)
        for tag, attributes, _ in page.elements:
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "action"):
                assert attributes.get(name, "#").startswith(("#", "data:")), tag
            for name in ("aria-labelledby", "for"):
                assert {*attributes.get(name, "").split()} <= {*identifiers}
            if attributes.get("href", "").startswith("#"):
                assert attributes["href"][1:] in identifiers
        assert all("alt" in attributes for attributes, _ in page.all("img"))


def test_the_policy_allows_its_own_style_and_script_alone(usual) -> None:
    _, page = usual
    ((attributes, _),) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.split(maxsplit=1) for part in attributes["content"].split("; "))
    (_, style), *more = page.all("style")
    assert not more
    code = [held for attributes, held in page.all("script") if "id" not in attributes]
    for kind, (content,) in {"style-src": [style], "script-src": code}.items():
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"


def test_names_are_text_and_nothing_else(hostile) -> None:
    record, text = hostile
    text.encode()  # Half of a character would have no place in a file.
    page = _Page(text)
    assert page.record() == record
    assert len(page.all("script")) == 2
    assert not page.all("b", onerror="alert(1)")
    assert len(page.all("img")) == len(HOSTILE_FILES) - 1
    shown = [held for _, held in page.all("bdi")]
    for name in (*HOSTILE_CLASSES[:7], HOSTILE_CLASSES[8], *HOSTILE_FILES[:2], HOSTILE_FILES[8]):
        assert name in shown
    assert "line␊break␀␇.jpg" in shown
    assert "broken\ufffd\ufffd.jpg" in shown
    assert "evil\ufffdgpj.exe" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_numbers_are_the_record_s_own(usual) -> None:
    record, page = usual
    cards = [element for element in page.all("li") if "card" in element[0].get("class", "")]
    assert [attributes["class"].split()[1] for attributes, _ in cards[:4]] == [
        "answered",
        "rejected",
        "unread",
        "answered",
    ]
    numbers = [(json.loads(attributes["value"]), held) for attributes, held in page.all("data")]
    own = {record["threshold"], record["temperature"], record["kept"]}
    for picture in record["pictures"]:
        shares = sorted((picture["probabilities"] or {}).values(), reverse=True)
        own |= {*shares, *(known["similarity"] for known in picture["nearest"])}
        own |= {sum(shares[3:])}
        for share in shares:
            assert (share, percent(share)) in numbers
        if picture["label"] is not None:
            shown = [held for _, held in page.all("p", title=picture["label"])]
            assert f"{picture['label']} {percent(picture['probability'])}" in shown
    assert {value for value, _ in numbers} <= own


def test_counts(usual) -> None:
    record, page = usual
    tiles = {
        attributes["data-show"]: held
        for attributes, held in page.all("li")
        if "data-show" in attributes
    }
    assert tiles == {
        "all": "7 pictures",
        "answered": "5 answered",
        "rejected": "1 none of these",
        "unread": "1 unreadable",
    }
    labels = [picture["label"] for picture in record["pictures"]]
    options = [held for attributes, held in page.all("option") if attributes["value"].isdigit()]
    assert options == [f"{name} ({labels.count(name)})" for name in _NAMES]
    rows = [held for attributes, held in page.all("tr") if "data-show" in attributes]
    assert sorted(rows) == sorted(f"{name}{labels.count(name)}" for name in _NAMES)


def test_a_class_called_none_is_not_none_of_these() -> None:
    record, *pictures = predictions(["none", "none of these"], ["a.jpg", "b.jpg"])
    page = _Page(predictions_page(record, *pictures))
    ems = [held for _, held in page.all("em")]
    assert ems == ["None of these"]
    assert record["pictures"][0]["label"] in [held for _, held in page.all("bdi")]
    values = [attributes["value"] for attributes, _ in page.all("option")]
    assert len({*values}) == len(values)


def test_a_known_picture_is_held_once_and_only_if_it_is_named() -> None:
    record, thumbnails, support = predictions(_NAMES, _FILES)
    page = predictions_page(record, thumbnails, support | {"else/0.png": png(1, 2, 3)})
    named = {known["picture"] for p in record["pictures"] for known in p["nearest"]}
    assert len(_Page(page).all("image")) == len(named)
    assert page.count(base64.b64encode(support[named.pop()]).decode()) == 1
    assert base64.b64encode(png(1, 2, 3)).decode() not in page


@pytest.mark.parametrize("classes", [[3, 10], [False, True], ["one", "two"]])
def test_without_pictures_a_threshold_or_a_network(classes: list[Any]) -> None:
    record, thumbnails, _ = predictions(classes, ["#0", "#1"], rejected=())
    record |= dict.fromkeys(("kept", "threshold", "temperature", "network"))
    page = _Page(predictions_page(record, [None] * len(thumbnails), {}))
    assert page.record() == json.loads(json.dumps(record))
    assert "none: every picture is answered" in [held for _, held in page.all("dd")]
    assert not page.all("img")
    keys = [json.loads(json.dumps({label: 0})).popitem()[0] for label in classes]
    assert {*keys} <= {held for _, held in page.all("bdi")}


def test_no_picture_at_all() -> None:
    page = _Page(predictions_page(predictions(_NAMES, [])[0], [], {}))
    assert not [element for element in page.all("li") if "card" in element[0].get("class", "")]


def test_the_folder_of_all_pictures_is_said_once() -> None:
    page = _Page(predictions_page(*predictions(_NAMES, ["/a/b1/x.jpg", "/a/b2/y.jpg"])))
    assert [held for _, held in page.all("h3")] == ["b1/x.jpg", "b2/y.jpg"]
    assert "/a/" in [held for _, held in page.all("dd")]


def test_percents_are_ordered_and_never_say_none_or_all_for_less() -> None:
    shares = np.concatenate([np.linspace(0, 1, 4001), [1e-12, 9.99e-4, 0.99901, 1 - 1e-12]])
    for share in shares.tolist():
        shown = percent(share).removesuffix("\N{NO-BREAK SPACE}%")
        if 0.001 <= share <= 0.999:
            assert abs(float(shown) / 100 - share) <= 0.00051
        else:
            assert shown == {0.0: "0", 1.0: "100"}.get(share, "<0.1" if share < 0.5 else ">99.9")


def test_what_is_no_record_or_no_picture_is_told() -> None:
    record, thumbnails, support = predictions(_NAMES, _FILES)
    with pytest.raises(ValueError, match="6 thumbnails for 7 pictures; expected one a picture"):
        predictions_page(record, thumbnails[1:], support)
    with pytest.raises(ValueError, match=r"pictures\[0\] is b'GIF89a'; expected .* JPEG or a PNG"):
        predictions_page(record, [b"GIF89a", *thumbnails[1:]], support)
    named = record["pictures"][0]["nearest"][0]["picture"]
    with pytest.raises(ValueError, match=r"support.* is 'a path'; expected the bytes"):
        predictions_page(record, thumbnails, {named: "a path"})
    first = record["pictures"][0] | {"label": "oak", "path": "x"}
    with pytest.raises(ValueError, match="the label 'oak' of 'x'; expected one"):
        predictions_page(record | {"pictures": [first]}, thumbnails[:1], support)
    with pytest.raises(ValueError, match="not JSON compliant"):
        predictions_page(record | {"threshold": math.nan}, thumbnails, support)
    with pytest.raises(TypeError, match="float32"):
        predictions_page(record | {"threshold": np.float32(0.5)}, thumbnails, support)


def test_no_sign_of_html_is_in_the_script() -> None:
    record = {"</script>": ["<!--", "-->", "&lt;", "]]>"]}
    assert not {*"<>&"} & {*as_script(record)}
    assert json.loads(as_script(record)) == record


def test_the_class_of_most_pictures_comes_first() -> None:
    labels = ["rose", "tulip", "tulip", "tulip", "lily", "lily"]
    record = {
        "classes": ["rose", "tulip", "lily"],
        "pictures": [{"label": label, "error": None} for label in labels],
    }
    rows = re.findall(r"<bdi>(\w+)</bdi></th><td>(\d)", classes_of(record))
    assert rows == [("tulip", "3"), ("lily", "2"), ("rose", "1")]
