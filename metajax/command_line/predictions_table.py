"""The answers of `metajax predict` as a table of comma-separated values."""

import csv
import io
from collections.abc import Mapping
from typing import Any

# A spreadsheet takes a cell that begins so for a formula, and runs it: OWASP's "CSV injection".
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def predictions_table(record: Mapping[str, Any]) -> tuple[str, int]:
    """The table, and how many of its names had to be changed.

    A name that a spreadsheet would take for a formula has an apostrophe before it, which says that
    it is text; the JSON has it as it is. Numbers are never changed.

    Args:
      record: the result of `metajax predict`.

    Returns:
      `picture, label, likeliest, probability, accepted, nearest, error` and a column of
      probabilities a class, `probability of ROSE`; lines end in CR LF (RFC 4180). No `label` is
      "none of these"; a picture that could not be read has an `error` and nothing else.
    """
    changed = 0

    def text(cell: Any) -> Any:
        nonlocal changed
        if not isinstance(cell, str) or not cell.startswith(_FORMULAS):
            return cell
        changed += 1
        return f"'{cell}"

    names = [str(name) for name in record["classes"]]
    stream = io.StringIO()
    rows = csv.writer(stream)
    rows.writerow(
        ["picture", "label", "likeliest", "probability", "accepted", "nearest", "error"]
        + [f"probability of {name}" for name in names]
    )
    for picture in record["pictures"]:
        probabilities = picture["probabilities"] or {}
        nearest = picture["nearest"]
        accepted = picture["accepted"]
        rows.writerow(
            [
                text(picture["path"]),
                text(picture["label"]),
                text(picture["likeliest"]),
                picture["probability"],
                None if accepted is None else str(accepted).lower(),
                text(nearest[0]["picture"]) if nearest else None,
                text(picture["error"]),
            ]
            + [probabilities.get(name) for name in names]
        )
    return stream.getvalue(), changed
