"""The predictions for a folder of pictures as one page of HTML that needs nothing but itself."""

import base64
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from metajax.pictures.html_cards import card
from metajax.pictures.html_summary import choices, classes_of, settings, tiles
from metajax.pictures.html_text import as_script, data_uri, isolated, key_of, text


def predictions_page(
    record: Mapping[str, Any], pictures: Sequence[bytes | None], support: Mapping[str, bytes]
) -> str:
    """One page: every picture with its answer, its probabilities and its nearest known pictures.

    It asks for nothing from elsewhere (and a policy in it forbids that), fits a phone and paper,
    and can be read without its script, which filters and sorts. The whole record is in it as JSON,
    the element `record`. Probabilities are shown in percent to a tenth, similarities to two
    digits; every such number is an element `<data value=...>` of the record's own.

    Args:
      record: what `metajax predict --json` prints: `classifier`, `classes` (labels), `network`,
        `head`, `kept`, `threshold` and `temperature` (the last five may be None), and `pictures`,
        of each `path`, `label` (None: none of these), `likeliest`, `probability` (in [0, 1]),
        `probabilities` by class, `accepted`, `nearest` (each with `picture`, `label` and
        `similarity`) and `error` (a sentence where it could not be read, otherwise None).
      pictures: `[pictures]` thumbnails, JPEG or PNG, or None where there is none.
      support: thumbnails of the known pictures by the names that `nearest` calls them; those that
        it does not name are left out.

    Returns:
      The page, to be written as UTF-8.

    Raises:
      TypeError: the record holds what JSON has not.
      ValueError: there is not one thumbnail a picture, one is no JPEG or PNG, a number is not
        finite, or a label is no class.
    """
    script = as_script(record)
    record = json.loads(script)  # Labels as keys are texts from here on.
    _check(record, pictures)
    symbols, known = _symbols(record, support)
    folder = _common_folder([picture["path"] for picture in record["pictures"]])
    cards = [
        card(row, picture, folder, thumbnail, symbols)
        for row, (picture, thumbnail) in enumerate(zip(record["pictures"], pictures, strict=True))
    ]
    style, code = _file("page.css"), _file("page.js")
    return Template(_file("frame.html")).substitute(
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
            f"script-src '{_digest(code)}'; base-uri 'none'; form-action 'none'"
        ),
        title=text(record["classifier"]),
        heading=isolated(record["classifier"]),
        style=style,
        tiles=tiles(record["pictures"]),
        settings=settings(record, folder),
        classes=classes_of(record),
        choices=choices(record),
        cards="\n".join(cards),
        known=known,
        record=script,
        code=code,
    )


def _check(record: Mapping[str, Any], pictures: Sequence[bytes | None]) -> None:
    if len(pictures) != len(record["pictures"]):
        raise ValueError(
            f"{len(pictures)} thumbnails for {len(record['pictures'])} pictures; expected one a "
            "picture, None where there is none"
        )
    labels = {key_of(label) for label in record["classes"]}
    for picture in record["pictures"]:
        if picture["label"] is not None and key_of(picture["label"]) not in labels:
            raise ValueError(
                f"the label {picture['label']!r} of {picture['path']!r}; expected one of the "
                f"record's {len(labels)} classes, or None for none of these"
            )


def _symbols(record: Mapping[str, Any], support: Mapping[str, bytes]) -> tuple[dict[str, str], str]:
    """Identifiers of the known pictures that are named, and the pictures, each of them once."""
    named = {known["picture"] for p in record["pictures"] for known in p["nearest"] or ()}
    kept = [name for name in support if name in named]
    symbols = {name: f"known-{index}" for index, name in enumerate(kept)}
    images = [
        f'<image id="{symbols[name]}" width="1" height="1" '
        f'href="{data_uri(support[name], f"support[{name!r}]")}"/>'
        for name in kept
    ]
    return symbols, "\n".join(images)


def _common_folder(paths: Sequence[str]) -> str:
    """The folder in which all are, with the separator at its end; empty where there is none."""
    after_each = re.compile(f"(?<=[/{re.escape(os.sep)}])")
    steps = zip(*(after_each.split(path)[:-1] for path in paths), strict=False)
    return "".join(step[0] for step in itertools.takewhile(lambda step: len({*step}) == 1, steps))


def _file(name: str) -> str:
    return (resources.files("metajax.pictures") / "page" / name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """What the policy calls the content of a style or script element by."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
