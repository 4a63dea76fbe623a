import csv
import io

import pytest

from metajax.command_line.predictions_table import predictions_table


def _row(**given):
    names = ("label", "likeliest", "probability", "probabilities", "accepted", "nearest", "error")
    return dict.fromkeys(names) | given


_RECORD = {
    "classes": ["rose", "=1+1", 7],
    "pictures": [
        _row(
            path="a,b.png",
            label="rose",
            likeliest="rose",
            probability=0.75,
            probabilities={"rose": 0.75, "=1+1": 0.25, "7": 0.0},
            accepted=True,
            nearest=[{"picture": 'rose/"1".png', "label": "rose", "similarity": -0.5}],
        ),
        _row(
            path="-x.png",
            label=None,
            likeliest="=1+1",
            probability=0.5,
            probabilities={"rose": 0.25, "=1+1": 0.5, "7": 0.25},
            accepted=False,
            nearest=[],
        ),
        _row(path="@c.png", error="no picture"),
        _row(
            path="d.png",
            label=7,
            likeliest=7,
            probability=1.0,
            probabilities={"rose": 0.0, "=1+1": 0.0, "7": 1.0},
            accepted=True,
            nearest=[{"picture": "#0", "label": 7, "similarity": 1.0}],
        ),
    ],
}


def test_a_row_a_picture_and_no_formula():
    text, changed = predictions_table(_RECORD)
    first, second, third, fourth = csv.DictReader(io.StringIO(text, newline=""))
    assert first == {
        "picture": "a,b.png",
        "label": "rose",
        "likeliest": "rose",
        "probability": "0.75",
        "accepted": "true",
        "nearest": 'rose/"1".png',
        "error": "",
        "probability of rose": "0.75",
        "probability of =1+1": "0.25",
        "probability of 7": "0.0",
    }
    assert (second["picture"], second["label"], second["likeliest"]) == ("'-x.png", "", "'=1+1")
    assert (second["accepted"], second["nearest"]) == ("false", "")
    assert (third["picture"], third["probability"], third["error"]) == ("'@c.png", "", "no picture")
    assert third["accepted"] == ""
    assert (fourth["label"], fourth["probability of 7"]) == ("7", "1.0")
    assert changed == 3


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_every_sign_that_begins_a_formula_is_quoted(sign):
    record = {"classes": [], "pictures": [_row(path=f"{sign}1", error="no picture")]}
    text, changed = predictions_table(record)
    assert next(csv.DictReader(io.StringIO(text, newline="")))["picture"] == f"'{sign}1"
    assert changed == 1
