"""What a classifier says of files, as rows of a record: of those that cannot be read, too."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

if TYPE_CHECKING:
    from metajax.pictures import FewShotClassifier

_BLOCK = 64  # Pictures in memory at once.


class Answered(NamedTuple):
    """Of each picture in order.

    Attributes:
      rows: `path`, `label` (None: none of these), `likeliest`, `probability` of that,
        `probabilities` by class, `accepted`, `nearest` (each with `picture`, `label` and
        `similarity`), and `error`: why it could not be read, all else being None then.
      thumbnails: small JPEG or PNG files; None where it could not be read, or none was asked for.
    """

    rows: list[dict[str, Any]]
    thumbnails: list[bytes | None]


def answered_pictures(
    classifier: "FewShotClassifier",
    paths: Sequence[str],
    *,
    nearest: int,
    pictured: bool,
    progress: bool,
) -> Answered:
    """Answers files, some at a time, so that there may be any number of them.

    Args:
      classifier: of pictures.
      paths: the files.
      nearest: how many of the fitted pictures are named for each.
      pictured: whether thumbnails are made.
      progress: whether a bar is shown.
    """
    answered = Answered([], [])
    with tqdm(
        total=len(paths), desc="pictures", unit="picture", delay=1, disable=not progress
    ) as bar:
        blocks = max(1, len(paths) // _BLOCK)
        for place in range(blocks):
            # The last one has what is left, too: a few pictures may ask for a program of their own.
            end = None if place == blocks - 1 else (place + 1) * _BLOCK
            block = paths[place * _BLOCK : end]
            found = _answered(classifier, block, nearest, pictured)
            answered.rows.extend(found.rows)
            answered.thumbnails.extend(found.thumbnails)
            bar.update(len(block))
    return answered


def key_of(label: Any) -> str:
    """What a class is called where JSON asks for a text: as a key."""
    return label if isinstance(label, str) else json.dumps(label)


def _answered(
    classifier: "FewShotClassifier", paths: Sequence[str], nearest: int, pictured: bool
) -> Answered:
    from metajax.pictures.reading import read_pictures, thumbnails_of

    assert classifier.look_ is not None
    # As people see them: the classifier inverts them itself where it has to.
    look = dataclasses.replace(classifier.look_, invert=False)
    read = read_pictures(paths, look, cache=False, corrupt="skip")
    rows = [_unread(path, read.bad.get(row)) for row, path in enumerate(paths)]
    thumbnails: list[bytes | None] = [None] * len(paths)
    if not len(read.kept):
        return Answered(rows, thumbnails)
    answers = classifier.answer(read.images, nearest=nearest)
    classes = classifier.classes_.tolist()
    for place, row in enumerate(read.kept.tolist()):
        probabilities = answers.probabilities[place].tolist()
        near = zip(
            answers.nearest[place].tolist(), answers.similarities[place].tolist(), strict=True
        )
        rows[row] |= {
            "label": answers.labels[place],
            "likeliest": answers.likeliest[place].item(),
            "probability": max(probabilities),
            "probabilities": dict(zip(map(key_of, classes), probabilities, strict=True)),
            "accepted": bool(answers.accepted[place]),
            "nearest": [
                {
                    "picture": classifier.names_[known],
                    "label": classes[classifier.rows_[known]],
                    "similarity": similarity,
                }
                for known, similarity in near
            ],
        }
    if pictured:
        for row, thumbnail in zip(read.kept.tolist(), thumbnails_of(read.images), strict=True):
            thumbnails[row] = thumbnail
    return Answered(rows, thumbnails)


def _unread(path: str, error: str | None) -> dict[str, Any]:
    nothing = ("label", "likeliest", "probability", "probabilities", "accepted", "nearest")
    return {"path": path, **dict.fromkeys(nothing), "error": error}
