"""`metajax predict`: what a classifier says of pictures."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from metajax.command_line import exit_codes
from metajax.command_line.answered_pictures import Answered, answered_pictures
from metajax.command_line.classifier_files import load_classifier, network_and_head
from metajax.command_line.given_pictures import given_pictures
from metajax.command_line.output import Output, one_line
from metajax.command_line.predictions_table import predictions_table
from metajax.command_line.unread_pictures import warn_of_unread
from metajax.command_line.written_files import check_new_file, write_text

if TYPE_CHECKING:
    from metajax.pictures import FewShotClassifier


@dataclass(frozen=True)
class Predict:
    """Answer pictures by a classifier that `metajax fit` wrote.

    Attributes:
      classifier: The classifier's file, such as flowers.mjx.
      pictures: Files; folders, with all pictures below; or - for a list on standard input, a path a
        line.
      table: Write the answers as a table of comma-separated values, whose name ends in .csv.
      html: Write the answers with their pictures as one page for a browser, whose name ends in
        .html.
      nearest: How many of the pictures that it knows are named for each, the most similar ones.
    """

    classifier: str
    pictures: Annotated[tuple[str, ...], arg(help_behavior_hint="(one or more)")]
    table: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    html: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    nearest: Annotated[int, arg(metavar="COUNT")] = 3


def run(args: Predict, out: Output) -> int:
    """Answers the pictures, and writes what was asked for."""
    paths = given_pictures(args.pictures, sys.stdin.buffer)
    _check_written(args, paths)
    classifier = load_classifier(args.classifier)
    answered = answered_pictures(
        classifier,
        paths,
        nearest=args.nearest,
        pictured=args.html is not None,
        progress=out.progress,
    )
    record = _record(args.classifier, classifier, answered)
    _write(args, record, answered, classifier, out)
    out.table([_shown(row) for row in answered.rows])
    out.say(f"\n{_summary(answered.rows)}")
    out.result(record)
    unread = {row["path"]: row["error"] for row in answered.rows if row["error"] is not None}
    warn_of_unread(unread, "was not answered", out)
    return exit_codes.SOME_UNREAD if unread else exit_codes.WELL


def _check_written(args: Predict, paths: Sequence[str]) -> None:
    read = [args.classifier, *paths]
    if args.table is not None:
        check_new_file(args.table, (".csv",), "--table", read)
    if args.html is not None:
        check_new_file(args.html, (".html", ".htm"), "--html", read)


def _record(path: str, classifier: "FewShotClassifier", answered: Answered) -> dict[str, Any]:
    calibration = classifier.calibration_
    network, head = network_and_head(classifier)
    return {
        "classifier": path,
        "classes": classifier.classes_.tolist(),
        "network": network,
        "head": head,
        "kept": calibration.kept,
        "threshold": calibration.threshold,
        "temperature": calibration.temperature,
        "pictures": answered.rows,
    }


def _write(
    args: Predict,
    record: Mapping[str, Any],
    answered: Answered,
    classifier: "FewShotClassifier",
    out: Output,
) -> None:
    if args.table is not None:
        text, changed = predictions_table(record)
        write_text(args.table, text)
        if changed:
            out.warn(
                f"in {args.table} an apostrophe is before names that a spreadsheet would take "
                f"for formulas ({changed} cell{'s' if changed > 1 else ''}); --json has them "
                "as they are"
            )
    if args.html is not None:
        from metajax.pictures.html_page import predictions_page

        support = dict(zip(classifier.names_, classifier.thumbnails_ or (), strict=False))
        write_text(args.html, predictions_page(record, answered.thumbnails, support))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["error"] is not None:
        answer, probability = "unreadable", None
    else:
        answer = row["label"] if row["accepted"] else f"none of these ({row['likeliest']}?)"
        probability = f"{row['probability']:.3f}"
    return {
        "picture": row["path"],
        "answer": answer,
        "probability": probability,
        "most like": row["nearest"][0]["picture"] if row["nearest"] else None,
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Such as `12 pictures. rose: 7, tulip: 4, none of these: 1`."""
    answers = Counter(one_line(str(row["label"])) for row in rows if row["label"] is not None)
    counts = answers.most_common()
    counts.append(("none of these", sum(row["accepted"] is False for row in rows)))
    counts.append(("unreadable", sum(row["error"] is not None for row in rows)))
    told = ", ".join(f"{answer}: {count}" for answer, count in counts if count)
    return f"{len(rows)} picture{'s' if len(rows) > 1 else ''}. {told}"
