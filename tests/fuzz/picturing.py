"""Calls of the classifier of pictures, on a network of two parts and pictures of two pixels."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj
from metajax import pictures

FOLDER = tempfile.TemporaryDirectory(prefix="metajax-tests-", ignore_cleanup_errors=True)


@things.made_once
def _shown() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
    return images, np.array([0, 1, 2, 0, 1, 2])


def _classifier(**given: Any) -> pictures.FewShotClassifier:
    return pictures.FewShotClassifier(**{"network": things.backbone(), "cache": False, **given})


@things.made_once
def _fitted() -> pictures.FewShotClassifier:
    return _classifier().fit(*_shown())


def _fit(**given: Any) -> np.ndarray:
    return _classifier(**given).fit(*_shown()).items_


def _of(method: str) -> Any:
    return lambda **given: getattr(_fitted(), method)(**given)


def _added(**given: Any) -> np.ndarray:
    return _classifier().fit(*_shown()).add(**given).items_


@things.made_once
def _file() -> Path:
    path = Path(FOLDER.name) / "one.mjx"
    _fitted().save(path)
    return path


def _saved(path: Any) -> None:
    _fitted().save(Path(FOLDER.name) / "other.mjx" if path == "other.mjx" else path)


def _loaded(**given: Any) -> np.ndarray:
    return pictures.FewShotClassifier.load(**given).items_


def _asked() -> dict[str, Any]:
    return {"X": _shown()[0]}


PICTURES = k.Kind(
    "pictures",
    lambda: {
        "None": None,
        "3": 3,
        "a path": "one.png",
        "none": [],
        "numbers": [1.0, 2.0],
        "features": np.zeros((6, 4)),
        "a dictionary": {"a": 1},
        "above 255": _shown()[0].astype(int) + 300,
        "nan": _shown()[0] * np.nan,
        "five channels": np.zeros((6, 2, 2, 5), np.uint8),
    },
)
LABELS = k.Kind(
    "labels",
    lambda: {
        "None": None,
        "3": 3,
        "a text": "abcabc",
        "a dictionary": {"a": 1},
        "columns": np.zeros((6, 2), int),
        "halves": np.arange(6) / 2,
        "nan": np.full(6, np.nan),
        "objects": np.array([None] * 6, object),
        "ragged": [[1], [1, 2]],
        "too few": [0, 1, 0],
    },
)
HEAD = k.Kind(
    "head",
    lambda: {
        "None": None,
        "another word": "forest",
        "a learner": things.learner(),
        "a Trained of no learner": pictures.Trained(things.model(), {}),  # pyright: ignore
    },
)
NETWORK = k.Kind(
    "network",
    lambda: {
        "another name": "resnet",
        "3": 3,
        "a model": things.model(),
        "a learner": things.learner(),
        "a folder that is not there": f"{FOLDER.name}/runs",
    },
)
CACHE = k.OPTIONAL_PATH
CALLS = (
    Call(
        "metajax.pictures.FewShotClassifier",
        _fit,
        dict,
        {
            "network": NETWORK,
            "head": HEAD,
            "side": k.optional_integer(1),
            "aspect": k.choice("CROP"),
            "invert": k.FLAG,
            "kept": k.number(0.0, 1.0).without("None"),
            "cache": CACHE,
        },
    ),
    Call(
        "metajax.pictures.FewShotClassifier.fit",
        lambda **given: _classifier().fit(**given).items_,
        lambda: {"X": _shown()[0], "y": _shown()[1]},
        {"X": PICTURES, "y": LABELS.also(lambda: {"one class": [1] * 6})},
    ),
    Call(
        "metajax.pictures.FewShotClassifier.add",
        _added,
        lambda: {"X": _shown()[0], "y": _shown()[1]},
        {"X": PICTURES, "y": LABELS.also(lambda: {"texts": ["a"] * 6})},
    ),
    *[
        Call(f"metajax.pictures.FewShotClassifier.{method}", _of(method), _asked, {"X": PICTURES})
        for method in ("predict", "predict_proba")
    ],
    Call(
        "metajax.pictures.FewShotClassifier.answer",
        _of("answer"),
        _asked,
        {"X": PICTURES, "nearest": k.integer(0)},
    ),
    Call(
        "metajax.pictures.FewShotClassifier.score",
        _of("score"),
        lambda: {"X": _shown()[0], "y": _shown()[1]},
        {
            "X": PICTURES,
            "y": LABELS.also(lambda: {"texts": ["a"] * 6}),
            "sample_weight": k.Kind(
                "weights",
                lambda: {
                    "a text": "abcabc",
                    "one": 1.0,
                    "too few": [1.0, 1.0],
                    "below 0": -np.ones(6),
                    "none": np.zeros(6),
                    "nan": np.full(6, np.nan),
                },
            ),
        },
    ),
    Call(
        "metajax.pictures.FewShotClassifier.save",
        _saved,
        lambda: {"path": "other.mjx"},
        {"path": k.PATH},
        needs=("safetensors",),
    ),
    Call(
        "metajax.pictures.FewShotClassifier.load",
        _loaded,
        lambda: {"path": _file()},
        {
            "path": k.PATH,
            "network": NETWORK.also(
                lambda: {
                    "another network": mj.models.pretrained.Backbone(
                        "other", things.backbone().parts, things.seen()
                    )
                }
            ),
            "head": HEAD.without("None"),
        },
        needs=("safetensors",),
    ),
    Call(
        "metajax.pictures.Look",
        pictures.Look,
        lambda: {"side": 8, "channels": 3},
        {
            "side": k.integer(1),
            "channels": k.integer(1).also(lambda: {"2": 2}),
            "aspect": k.choice("CROP"),
            "invert": k.FLAG,
        },
    ),
)
