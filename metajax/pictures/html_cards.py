"""One picture on the page of predictions: its answer, its probabilities, its nearest pictures."""

from collections.abc import Mapping
from typing import Any

from metajax.pictures.html_text import (
    data_uri,
    isolated,
    key_of,
    percent,
    text,
    two_digits,
    with_value,
)

_SEEN, _LISTED = 3, 10  # The likeliest classes that are shown, and those behind a click too.


def state_of(picture: Mapping[str, Any]) -> str:
    """Whether a picture is `answered`, `rejected` (none of these) or `unread`."""
    if picture["error"] is not None:
        return "unread"
    return "rejected" if picture["label"] is None else "answered"


def card(
    row: int,
    picture: Mapping[str, Any],
    folder: str,
    thumbnail: bytes | None,
    symbols: Mapping[str, str],
) -> str:
    """A list item.

    Args:
      row: of the picture in the record.
      picture: its part of the record.
      folder: the beginning of its path that is left out.
      thumbnail: JPEG or PNG, or None.
      symbols: identifiers on the page of the thumbnails of known pictures.
    """
    state = state_of(picture)
    name = picture["path"][len(folder) :]
    parts = [
        f'<li class="card {state}" id="picture-{row}">',
        _photo(row, name, thumbnail),
        f'<div class="answer"><h3 class="name" title="{text(name)}">{isolated(name)}</h3>',
        _ANSWERS[state](picture),
        "</div>",
    ]
    if state != "unread":
        parts += [_probabilities(name, picture["probabilities"])]
    if state != "unread" and picture["nearest"]:
        parts += [_nearest(picture["nearest"], symbols)]
    return "\n".join([*parts, "</li>"])


def _photo(row: int, name: str, thumbnail: bytes | None) -> str:
    if thumbnail is None:
        return '<div class="photo"><span class="empty">no picture</span></div>'
    address = data_uri(thumbnail, f"pictures[{row}]")
    image = f'<img src="{address}" alt="The picture {text(name)}" decoding="async">'
    return f'<div class="photo">{image}</div>'


def _answered(picture: Mapping[str, Any]) -> str:
    label, probability = key_of(picture["label"]), picture["probability"]
    shown = with_value(probability, percent(probability))
    return f'<p class="label" title="{text(label)}">{isolated(label)} {shown}</p>'


def _rejected(picture: Mapping[str, Any]) -> str:
    label, probability = key_of(picture["likeliest"]), picture["probability"]
    shown = with_value(probability, percent(probability))
    return (
        '<p class="label"><em>None of these</em></p>\n'
        f'<p class="instead" title="{text(label)}">likeliest: {isolated(label)} {shown}</p>'
    )


def _unread(picture: Mapping[str, Any]) -> str:
    return (
        '<p class="label"><em>Could not be read</em></p>\n'
        f'<p class="instead">{isolated(picture["error"])}</p>'
    )


_ANSWERS = {"answered": _answered, "rejected": _rejected, "unread": _unread}


def _probabilities(name: str, probabilities: Mapping[str, float]) -> str:
    """The likeliest classes, more of them behind a click, and what the others have together."""
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    if len(ordered) <= _SEEN + 1:
        return f"<div>{_table(f'Probabilities of {name}', ordered)}</div>"
    listed = ordered[_SEEN:] if len(ordered) <= _LISTED + 1 else ordered[_SEEN:_LISTED]
    together = sum(probability for _, probability in ordered[_SEEN:])
    shown = with_value(together, percent(together))
    more = _table(f"Further probabilities of {name}", listed)
    if others := ordered[_SEEN + len(listed) :]:
        rest = sum(probability for _, probability in others)
        share = with_value(rest, percent(rest))
        more += f'\n<p class="others">{len(others)} others together {share}</p>'
    return (
        f"<div>{_table(f'Probabilities of {name}', ordered[:_SEEN])}\n"
        f"<details><summary>{len(ordered) - _SEEN} other classes, together {shown}</summary>\n"
        f"{more}\n</details></div>"
    )


def _table(caption: str, classes: list[tuple[str, float]]) -> str:
    rows = [
        f'<tr><th scope="row" title="{text(label)}">{isolated(label)}</th>'
        f"<td>{with_value(probability, percent(probability))}</td>"
        f'<td class="bar">{bar(probability)}</td></tr>'
        for label, probability in classes
    ]
    spoken = f'<caption><span class="spoken">{text(caption)}</span></caption>'
    return "\n".join([f'<table class="shares">{spoken}', *rows, "</table>"])


def bar(share: float) -> str:
    """A bar as long as the share of its place, without a style that the page's policy forbids."""
    return (
        '<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * share:.3f}" height="1"/></svg>'
    )


def _nearest(nearest: list[Mapping[str, Any]], symbols: Mapping[str, str]) -> str:
    items = []
    for known in nearest:
        name, label = text(known["picture"]), key_of(known["label"])
        photo = f'<span class="empty">{name}</span>'
        if symbol := symbols.get(known["picture"]):
            photo = (
                f'<svg class="known" viewBox="0 0 1 1" role="img" '
                f'aria-label="The known picture {name}"><use href="#{symbol}"/></svg>'
            )
        similarity = with_value(known["similarity"], two_digits(known["similarity"]))
        items.append(
            f'<li title="{name}">{photo}\n'
            f'<span class="of" title="{text(label)}">{isolated(label)}</span> {similarity}</li>'
        )
    begin = '<div><h4>Nearest known pictures</h4>\n<ul class="nearest" role="list">'
    return "\n".join([begin, *items, "</ul></div>"])
