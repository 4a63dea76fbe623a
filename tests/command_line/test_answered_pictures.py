from typing import NamedTuple

import numpy as np
import pytest

from metajax.command_line import answered_pictures as module
from metajax.command_line.answered_pictures import answered_pictures, key_of
from metajax.pictures.reading import Look

Image = pytest.importorskip("PIL.Image")


class _Answers(NamedTuple):
    labels: np.ndarray
    likeliest: np.ndarray
    probabilities: np.ndarray
    accepted: np.ndarray
    nearest: np.ndarray
    similarities: np.ndarray


class _Brightness:
    """Of the label of the nearest of two known grey values, 0 and 255; integers as labels."""

    look_ = Look(2, 1, invert=True)
    classes_ = np.array([0, 255])
    rows_ = np.array([1, 0])
    names_ = ("white", "black")

    def __init__(self):
        self.asked = []

    def answer(self, images, nearest):
        self.asked.append(len(images))
        bright = images.mean(axis=(1, 2, 3)) / 255
        likeliest = self.classes_[(bright > 0.5).astype(int)]
        labels = np.array(likeliest.tolist(), object)
        accepted = abs(bright - 0.5) > 0.25
        labels[~accepted] = None
        order = np.where(bright[:, None] > 0.5, [[0, 1]], [[1, 0]])[:, :nearest]
        probabilities = np.stack([1 - bright, bright], axis=1)
        return _Answers(labels, likeliest, probabilities, accepted, order, order - 0.5)


def test_rows_are_in_order_whatever_could_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    paths = []
    for number, grey in enumerate([0, None, 255, 102, 255, 0, 255, None]):
        paths.append(str(tmp_path / f"{number}.png"))
        if grey is not None:
            Image.fromarray(np.full((4, 4), grey, np.uint8)).save(paths[-1])
    classifier = _Brightness()
    found = answered_pictures(classifier, paths, nearest=1, pictured=True, progress=False)
    assert classifier.asked == [2, 4]  # Of blocks of 3 and 5.
    assert [row["path"] for row in found.rows] == paths
    assert [row["label"] for row in found.rows] == [0, None, 255, None, 255, 0, 255, None]
    assert [row["error"] is None for row in found.rows] == [True, False] + [True] * 5 + [False]
    assert [picture is None for picture in found.thumbnails] == [False, True] + [False] * 5 + [True]
    assert found.rows[3] == {
        "path": paths[3],
        "label": None,
        "likeliest": 0,
        "probability": 0.6,
        "probabilities": {"0": 0.6, "255": 0.4},
        "accepted": False,
        "nearest": [{"picture": "black", "label": 0, "similarity": 0.5}],
        "error": None,
    }
    assert {*found.rows[1].values()} == {paths[1], None, found.rows[1]["error"]}


def test_nothing_is_drawn_unless_asked_and_nothing_asked_of_what_cannot_be_read(tmp_path):
    classifier = _Brightness()
    missing = [str(tmp_path / "none.png")]
    found = answered_pictures(classifier, missing, nearest=1, pictured=True, progress=False)
    assert classifier.asked == []
    assert found.thumbnails == [None]
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(missing[0])
    found = answered_pictures(classifier, missing, nearest=0, pictured=False, progress=False)
    assert (found.rows[0]["nearest"], found.thumbnails) == ([], [None])


def test_labels_are_texts_as_keys():
    assert [key_of(label) for label in ("1", 1, True)] == ["1", "1", "true"]
