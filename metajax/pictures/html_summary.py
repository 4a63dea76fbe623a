"""What the page of predictions says above the pictures: counts, classes, how answers were made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metajax.pictures.html_cards import bar, state_of
from metajax.pictures.html_text import in_short, isolated, key_of, percent, text, with_value

_SEEN = 10  # Classes that are shown; the others are behind a click.
_STATES = {"answered": "answered", "rejected": "none of these", "unread": "unreadable"}


def tiles(pictures: Sequence[Mapping[str, Any]]) -> str:
    """How many pictures there are, and how many of each state."""
    counts = Counter(state_of(picture) for picture in pictures)
    shown = [("all", "picture" if len(pictures) == 1 else "pictures", len(pictures))]
    shown += [(state, words, counts[state]) for state, words in _STATES.items()]
    return "\n".join(
        f'<li class="{state if count else ""}" data-show="{state}"><b>{count}</b> {words}</li>'
        for state, words, count in shown
    )


def classes_of(record: Mapping[str, Any]) -> str:
    """The classes with their counts of answers, most of them first; the later ones folded."""
    counts = _answers(record)
    order = sorted(range(len(counts)), key=lambda c: -counts[c])
    most = max([1, *counts])
    rows = []
    for c in order:
        label = key_of(record["classes"][c])
        rows += [
            f'<tr data-show="{c}"><th scope="row" title="{text(label)}">{isolated(label)}</th>'
            f'<td>{counts[c]}</td><td class="bar">{bar(counts[c] / most)}</td></tr>'
        ]
    if len(rows) <= _SEEN + 1:
        return _table("Pictures of each class", rows)
    first = _table("Pictures of each class", rows[:_SEEN])
    pictures = sum(counts[c] for c in order[_SEEN:])
    others = f"{len(rows) - _SEEN} other classes, {_pictures(pictures)}"
    further = _table("Pictures of each other class", rows[_SEEN:])
    return f"{first}\n<details><summary>{others}</summary>\n{further}\n</details>"


def choices(record: Mapping[str, Any]) -> str:
    """The options of what may be shown: a state or a class, with counts."""
    counts = Counter(state_of(picture) for picture in record["pictures"])
    states = "".join(
        f'<option value="{state}">{words.capitalize()} ({counts[state]})</option>'
        for state, words in _STATES.items()
    )
    labels = "".join(
        f'<option value="{c}">{text(key_of(label))} ({count})</option>'
        for c, (label, count) in enumerate(zip(record["classes"], _answers(record), strict=True))
    )
    return f'{states}<optgroup label="Answered as">{labels}</optgroup>'


def settings(record: Mapping[str, Any], folder: str) -> str:
    """By what the answers were made, and what a probability does not say."""
    threshold = record["threshold"]
    told = "" if threshold is None else "; the threshold is there to find those"
    rows = [("Pictures from", isolated(folder))] if folder else []
    rows += [
        (name, isolated(str(record[part])))
        for name, part in (("Network", "network"), ("Head", "head"))
        if record[part] is not None
    ]
    rows += [("Classes", str(len(record["classes"])))]
    if threshold is None:
        rows += [("Threshold", "none: every picture is answered")]
    else:
        shown = with_value(threshold, in_short(threshold))
        if (kept := record["kept"]) is not None:
            shown += f", to answer {with_value(kept, percent(kept))} of known pictures"
        rows += [("Threshold", shown)]
    if (temperature := record["temperature"]) is not None:
        rows += [("Temperature", with_value(temperature, in_short(temperature)))]
    listed = "\n".join(f"<div><dt>{name}</dt> <dd>{value}</dd></div>" for name, value in rows)
    return (
        f'<dl>\n{listed}\n</dl>\n<p class="note">A picture’s probabilities add up to 100&nbsp;% '
        f"even if it shows none of the classes{told}.</p>"
    )


def _answers(record: Mapping[str, Any]) -> list[int]:
    """How many pictures were answered as each class."""
    counts = Counter(key_of(p["label"]) for p in record["pictures"] if state_of(p) == "answered")
    return [counts[key_of(label)] for label in record["classes"]]


def _table(caption: str, rows: Sequence[str]) -> str:
    spoken = f'<caption><span class="spoken">{caption}</span></caption>'
    return "\n".join([f'<table class="counts">{spoken}', *rows, "</table>"])


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
