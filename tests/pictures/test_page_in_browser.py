"""The page of predictions in a real browser: nothing to complain of, and what it shows is so."""

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless_chromium import Browser, Tab, browser, found
from page_records import HOSTILE_CLASSES, HOSTILE_FILES, predictions

from metajax.data.readers.emoji import emoji
from metajax.pictures.html_page import predictions_page

pytestmark = pytest.mark.skipif(
    found() is None or not hasattr(os, "posix_spawn"), reason="no Chromium on the PATH"
)
_CLASSES = [f"class {index}" for index in range(12)]
_FILES = [f"holiday/IMG_{row}.jpg" for row in (3, 20, 100, 1, 10, 2, 7, 30, 5, 11)]

# Of the cards that are shown, in order: their rows.
_ROWS = """[...document.querySelectorAll("#cards > li")].filter(li => li.offsetHeight)
  .map(li => Number(li.id.split("-")[1]))"""
_NAMED = {"button", "combobox", "searchbox", "heading", "image", "rowheader", "DisclosureTriangle"}
_WIDTH = "document.documentElement.scrollWidth"
_SET = """((id, value) => {
  const at = document.getElementById(id);
  at.value = value;
  at.dispatchEvent(new Event("input", { bubbles: true }));
})"""
# Texts whose colour is too near to what is behind them, by the contrast of WCAG 2.
_PALE = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parts(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = at => {
    const colour = getComputedStyle(at).backgroundColor;
    return (parts(colour)[3] ?? 1) === 0 ? behind(at.parentElement) : colour;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const at = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !at.checkVisibility() || at.closest(".spoken")) continue;
    const both = [light(getComputedStyle(at).color), light(behind(at))];
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) found.push(texts.currentNode.data);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = found()
    assert program is not None
    with browser(program) as started:
        yield started


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    record, *pictures = predictions(_CLASSES, _FILES)
    return record, _written(tmp_path_factory.mktemp("page"), record, pictures)


def _written(folder: Path, record: Any, pictures: list[Any]) -> Path:
    file = folder / "report.html"
    file.write_text(predictions_page(record, *pictures), encoding="utf-8")
    return file


def _well(tab: Tab, width: int) -> None:
    """Neither complaints nor anything that is wider than the window, nor too pale."""
    assert tab.problems() == []
    assert tab.value(_WIDTH) <= width  # A phone's innerWidth grows with what is in it.
    assert tab.value(_PALE) == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_nothing_to_complain_of(chromium, usual, width, dark) -> None:
    with chromium.open(usual[1], width, dark=dark) as tab:
        _well(tab, width)
        assert tab.value("[...document.images].every(image => image.naturalWidth > 0)")
        # What a screen reader says of what can be used or seen.
        named = {
            node["role"]["value"]: node["name"]["value"]
            for node in sorted(tab.ask("Accessibility.getFullAXTree")["nodes"], key=_unnamed)
            if not node["ignored"] and node["role"]["value"] in _NAMED
        }
        assert {*named} == _NAMED
        assert all(named.values())


def _unnamed(node: dict[str, Any]) -> bool:
    return not node.get("name", {}).get("value")


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (360, False)])
def test_hostile_names(chromium, tmp_path, width, dark) -> None:
    record, *pictures = predictions(HOSTILE_CLASSES, HOSTILE_FILES, rejected=(1, 4))
    record["classifier"] = "</title><script>alert(2)</script>\"'&" + "y" * 200
    record["pictures"][2]["error"] = "z" * 200
    with chromium.open(_written(tmp_path, record, pictures), width, dark=dark) as tab:
        _well(tab, width)
        held = tab.value("JSON.parse(document.getElementById('record').textContent)")
        assert held["classes"] == HOSTILE_CLASSES
        assert tab.value("document.scripts.length") == 2
        assert tab.value("document.title") == f"Predictions of {record['classifier']}"
        shown = tab.value("document.querySelector('#picture-0 h3').innerText")
        assert shown == HOSTILE_FILES[0]
        # All choices and counts do what they say, whatever a class is called.
        for index, label in enumerate(HOSTILE_CLASSES):
            tab.value(f"{_SET}('show', '{index}')")
            rows = [r for r, p in enumerate(record["pictures"]) if p["label"] == label]
            assert tab.value(_ROWS) == rows


def test_complaints_would_be_found(chromium, tmp_path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'>"
        "<p style='color: #ccc; background: #fff; width: 150vw'>pale and wide</p>"
        "<script>console.error('oh'); setTimeout(() => { throw Error('thrown') })</script>"
        "<img src='http://127.0.0.1:9/x.png'>"
    )
    with chromium.open(file, 390) as tab:
        told = "\n".join(tab.problems())
        for part in ('"oh"', "Error: thrown", "a request of http://127.0.0.1:9/x.png"):
            assert part in told
        assert tab.value(_WIDTH) > 500
        assert tab.value(_PALE) == ["pale and wide"]


def test_the_policy_holds_off_all_that_is_not_the_page_s(chromium, usual) -> None:
    with chromium.open(usual[1]) as tab:
        refused = tab.value("""new Promise(done => {
          const refused = [];
          addEventListener("securitypolicyviolation", event => {
            refused.push(event.effectiveDirective);
            if (refused.length === 5) done(refused.sort());
          });
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          const [image, inside] = [new Image(), document.createElement("p")];
          image.src = "http://127.0.0.1:9/x.png";
          inside.innerHTML = "<b style='color: red' onclick='0'>b</b>";
          document.body.append(script, inside);
          fetch("http://127.0.0.1:9/").catch(() => 0);
        })""")
        assert refused == [
            "connect-src",
            "img-src",
            "script-src-attr",
            "script-src-elem",
            "style-src-attr",
        ]
        assert tab.value("window.ran") is None


def test_numbers_equal_those_of_the_json(chromium, usual) -> None:
    record, file = usual
    with chromium.open(file) as tab:
        assert tab.value("JSON.parse(document.getElementById('record').textContent)") == record
        cards = tab.value("""[...document.querySelectorAll(".card")].map(card => ({
          title: card.querySelector("h3").innerText,
          label: card.querySelector(".label bdi")?.innerText ?? null,
          answer: card.querySelector(".answer data")?.value ?? null,
          said: card.querySelector(".answer").innerText,
          shares: [...card.querySelectorAll(".shares tr")].map(row => [
            row.querySelector("th").textContent,
            row.querySelector("data").value,
            row.querySelector("data").textContent,
            row.querySelector(".bar rect").getAttribute("width"),
          ]),
          nearest: [...card.querySelectorAll(".nearest li")].map(li => [
            li.title, li.querySelector(".of").textContent, li.querySelector("data").value,
          ]),
        }))""")
    assert len(cards) == len(record["pictures"])
    for card, picture in zip(cards, record["pictures"], strict=True):
        assert f"holiday/{card['title']}" == picture["path"]
        assert card["label"] == picture["label"]
        assert json.loads(card["answer"] or "null") == picture["probability"]
        assert ("None of these" in card["said"]) == (picture["accepted"] is False)
        assert (picture["error"] or "") in card["said"].replace("\N{NO-BREAK SPACE}", " ")
        likeliest = sorted((picture["probabilities"] or {}).items(), key=lambda item: -item[1])
        assert [(label, float(share)) for label, share, *_ in card["shares"]] == likeliest[:10]
        for _, share, shown, width in card["shares"]:
            assert abs(float(width) - 100 * float(share)) < 0.001
            if shown[0] not in "<>":
                assert abs(float(shown[:-2]) - 100 * float(share)) <= 0.0501
        nearest = [(name, label, float(value)) for name, label, value in card["nearest"]]
        assert nearest == [
            (known["picture"], known["label"], known["similarity"]) for known in picture["nearest"]
        ]


def test_filter_sort_and_search(chromium, usual) -> None:
    record, file = usual
    pictures = record["pictures"]
    rows = range(len(pictures))
    with chromium.open(file) as tab:

        def shown(**chosen: str) -> list[int]:
            for name, value in chosen.items():
                tab.value(f"{_SET}({name!r}, {value!r})")
            found = tab.value(_ROWS)
            said = tab.value("document.getElementById('shown').textContent")
            assert said == f"{len(found)} of {len(pictures)} shown"
            return found

        assert shown() == [*rows]
        assert shown(show="rejected") == [1]
        assert shown(show="unread") == [2]
        assert shown(show="answered") == [row for row in rows if pictures[row]["label"]]
        label = pictures[0]["label"]
        of_class = [row for row in rows if pictures[row]["label"] == label]
        assert shown(show=str(_CLASSES.index(label))) == of_class
        read = [row for row in rows if row != 2]
        least = sorted(read, key=lambda row: pictures[row]["probability"])
        assert shown(show="all", sort="least") == [*least, 2]
        assert shown(sort="most") == [*reversed(least), 2]
        by_number = sorted(rows, key=lambda row: int(_FILES[row][12:-4]))
        assert shown(sort="name") == by_number
        assert shown(search="img_1") == [row for row in by_number if "IMG_1" in _FILES[row]]
        assert shown(search="nothing of this name") == []
        assert shown(search="", sort="given") == [*rows]
        assert tab.problems() == []


def test_a_count_shows_what_it_counts(chromium, usual) -> None:
    record, file = usual
    with chromium.open(file) as tab:
        counted = tab.value("""[...document.querySelectorAll("tr[data-show]")].map(row => {
          row.querySelector("button").click();
          const shown = [...document.querySelectorAll("#cards > li")].filter(li => !li.hidden);
          return [
            row.querySelector("th").textContent,
            Number(row.querySelector("td").textContent),
            shown.map(li => Number(li.id.split("-")[1])),
          ];
        })""")
        assert sorted(label for label, *_ in counted) == sorted(_CLASSES)
        for label, count, rows in counted:
            assert rows == [r for r, p in enumerate(record["pictures"]) if p["label"] == label]
            assert len(rows) == count


def test_the_keyboard_alone(chromium, usual) -> None:
    record, file = usual
    with chromium.open(file) as tab:
        tab.press("Tab")
        assert tab.value("document.activeElement.innerText") == "To the pictures"
        tab.press("Enter")
        assert tab.value("document.activeElement.id") == "pictures"
        tab.value("document.querySelector('[data-show=answered] button').focus()")
        tab.press("Tab")
        outline = tab.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        tab.press("Enter")
        assert tab.value(_ROWS) == [1]
        pressed = "document.activeElement.getAttribute('aria-pressed')"
        assert tab.value(pressed) == "true"
        assert tab.value("document.getElementById('show').value") == "rejected"
        tab.press("Enter")
        assert tab.value(_ROWS) == [*range(len(record["pictures"]))]
        assert tab.value(pressed) == "false"


def test_saving_the_json(chromium, usual, tmp_path) -> None:
    record, file = usual
    chromium.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    with chromium.open(file) as tab:
        tab.value("document.getElementById('save').click()")
        saved, end = tmp_path / "predictions.json", time.monotonic() + 30
        while not saved.exists() and time.monotonic() < end:
            tab.value("new Promise(done => setTimeout(done, 20))")
        assert json.loads(saved.read_text()) == record
        assert tab.problems() == []


def test_without_scripts_all_can_be_read(chromium, usual) -> None:
    record, file = usual
    with chromium.open(file, 390, scripts=False) as tab:
        assert tab.value(_ROWS) == [*range(len(record["pictures"]))]
        assert not tab.value("document.getElementById('controls').offsetHeight")
        assert tab.value("document.querySelectorAll('button').length") == 1  # Of the hidden form.
        assert tab.problems() == []


def test_on_paper(chromium, usual) -> None:
    record, file = usual
    with chromium.open(file, 794, dark=True, media="print") as tab:
        assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not tab.value("document.getElementById('controls').offsetHeight")
        assert tab.value(_ROWS) == [*range(len(record["pictures"]))]
        assert tab.value(_PALE) == []
        assert tab.printed().startswith(b"%PDF")


def _emoji(pictures: int, ways: int) -> tuple[Any, list[bytes | None], dict[str, bytes]]:
    """The record of many pictures, with real ones for thumbnails."""
    image = pytest.importorskip("PIL.Image")
    folder = Path(os.environ.get("METAJAX_DATA_DIR", "")) / "emoji"
    if not (folder / "emoji72.npz").exists():
        pytest.skip(f"{folder / 'emoji72.npz'} does not exist")
    drawn = emoji(folder, "test")

    def jpeg(row: int) -> bytes:
        file = io.BytesIO()
        image.fromarray(drawn.images[row]).resize((96, 96)).save(file, "JPEG")
        return file.getvalue()

    classes = [name.split(" ", 1)[1] for name in drawn.names[:ways]]
    files = [f"/home/a/holiday/IMG_{row}.jpg" for row in range(pictures)]
    record, _, _ = predictions(classes, files, rejected=(*range(5, pictures, 16),))
    known = {
        f"{label}/{shot}.png": jpeg(int(drawn.starts[index]) + shot)
        for index, label in enumerate(classes)
        for shot in range(3)
    }
    thumbnails = [
        None
        if picture["error"]
        else jpeg(int(drawn.starts[classes.index(picture["likeliest"])]) + 3)
        for picture in record["pictures"]
    ]
    return record, thumbnails, known


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("pictures", "ways"), [(3, 3), (200, 40)])
def test_pages_of_real_pictures(chromium, tmp_path, pictures, ways, width) -> None:
    image = pytest.importorskip("PIL.Image")
    record, *thumbnails = _emoji(pictures, ways)
    with chromium.open(_written(tmp_path, record, thumbnails), width) as tab:
        _well(tab, width)
        assert tab.value("[...document.images].every(image => image.naturalWidth > 0)")
        tab.value("document.getElementById('cards').scrollIntoView()")
        tab.screenshot(tmp_path / "seen.png")
        pixels = np.asarray(image.open(tmp_path / "seen.png").convert("RGB"))
        # Drawings in many colours, those of known pictures too, and not a page of grey and white.
        colours = np.unique(pixels.reshape(-1, 3) // 32, axis=0)
        assert len(colours) > 60
        known = tab.value("""(() => {
          const box = document.querySelector("#picture-0 .known").getBoundingClientRect();
          return [box.x, box.y, box.width, box.height].map(side => side * devicePixelRatio);
        })()""")
        x, y, across, down = map(int, known)
        assert pixels[y + 4 : y + down - 4, x + 4 : x + across - 4].std() > 10
        rejected = [row for row, p in enumerate(record["pictures"]) if p["accepted"] is False]
        tab.value(f"{_SET}('show', 'rejected')")
        assert tab.value(_ROWS) == rejected
        assert tab.problems() == []
