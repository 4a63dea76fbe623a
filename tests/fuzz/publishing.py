"""Calls of the recipes, and of the records that they are made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

import metajax as mj
from metajax import recipes

BATCHING = k.choice("JOINT")
INITIALIZER = k.choice("ZEROS")
RATE = k.number(0.0, -1.0, float("inf"))
SHARE = k.number(0.0, 1.0)
OPTIONAL_RATE = RATE.without("None")._replace(name="optional number")


def _record(kind: type) -> k.Kind:
    """What is no record of this kind."""
    return k.Kind(
        kind.__name__,
        lambda: {
            "None": None,
            "a text": "train",
            "3": 3,
            "a list": [],
            "the class": kind,
            "a dictionary": dataclasses.asdict(_number()),
            "another record": _number(),
        },
    )


def _number() -> recipes.Number:
    return recipes.Number(50.0, "here", 1.0)


def _maml() -> recipes.Recipe:
    return recipes.find("maml", "glyphs")


def _matching() -> recipes.Recipe:
    return recipes.find("matching", "glyphs", variant="")


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _row(kind: type, right: Callable[[], Any], kinds: dict[str, k.Kind]) -> Call:
    return Call(f"metajax.recipes.{kind.__name__}", kind, lambda: _fields(right()), kinds)


OPTIONAL_NUMBER = k.Kind(
    "optional result",
    lambda: {
        "a text": "98.7",
        "a number": 98.7,
        "a list": [_number()],
        "the class": recipes.Number,
    },
)
OPTIONAL_INNER = k.Kind(
    "inner loop",
    lambda: {"a text": "sgd", "a rate": 0.1, "a learner that compares has none": _maml_inner()},
)


def _maml_inner() -> Any:
    return _maml().training.inner


RECORDS = (
    _row(
        recipes.Network,
        lambda: recipes.Network(
            "perceptron", head_kernel_init="truncated_normal(0.2)", widths=(8, 8)
        ),
        {
            "architecture": k.choice("STRIDED"),
            "filters": k.integer(1),
            "features": k.choice("MEAN"),
            "pool_padding": k.choice("same"),
            "pool_first": k.FLAG,
            "padding": k.choice("same"),
            "use_scale": k.FLAG,
            "epsilon": RATE,
            "kernel_init": INITIALIZER,
            "head_kernel_init": INITIALIZER,
            "head_bias_init": INITIALIZER,
            "widths": k.Kind(
                "widths",
                lambda: {
                    "None": None,
                    "3": 3,
                    "a text": "ab",
                    "a list": [8],
                    "of 0": (8, 0),
                    "halves": (0.5,),
                    "none of a perceptron": (),
                },
            ),
        },
    ),
    _row(
        recipes.Inner,
        lambda: recipes.Inner(0.1, 1),
        {
            "rate": RATE,
            "steps": k.integer(0),
            "optimizer": k.choice("SGD"),
            "batch_size": k.optional_integer(1),
            "decay": SHARE,
            "carried": k.choice("LEARNED"),
            "adapts": k.choice("ALL"),
        },
    ),
    _row(
        recipes.Outer,
        lambda: recipes.Outer(0.1, schedule="steps", every=5, clip=1.0),
        {
            "rate": RATE,
            "optimizer": k.choice("ADAM"),
            "schedule": k.choice("COSINE").also(lambda: {"every= beside it": "cosine"}),
            "every": k.integer(1),
            "factor": SHARE,
            "clip": OPTIONAL_RATE,
            "clip_modules": k.FLAG,
            "clip_values": OPTIONAL_RATE,
            "weight_decay": k.number(-1.0, float("inf")),
        },
    ),
    _row(
        recipes.Split,
        lambda: recipes.Split("train"),
        {"part": k.TEXT, "protocol": k.TEXT, "seed": k.integer(0)},
    ),
    _row(
        recipes.Drawing,
        lambda: _maml().training.drawing,
        {
            "split": _record(recipes.Split),
            "ways": k.integer(1),
            "shots": k.integer(1),
            "queries": k.integer(1),
            "rotations": k.choice("TASKS"),
            "across_sources": k.FLAG,
        },
    ),
    _row(
        recipes.Training,
        lambda: _matching().training,
        {
            "algorithm": k.choice("MATCHING"),
            "data": k.choice("GLYPHS"),
            "drawing": _record(recipes.Drawing),
            "network": _record(recipes.Network),
            "outer": _record(recipes.Outer),
            "iterations": k.integer(1),
            "meta_batch": k.integer(1),
            "inner": OPTIONAL_INNER,
            "query_batching": BATCHING,
            "pixels": k.optional_integer(1),
            "normalize": k.choice("BOTH"),
            "temperature": k.number(0.0, -1.0).without("None"),
            "full_context": k.choice("NONE"),
        },
    ),
    Call(
        "metajax.recipes.Training.scaled",
        lambda **given: _maml().training.scaled(**given),
        lambda: {"factor": 0.5},
        {"factor": RATE},
    ),
    _row(
        recipes.Testing,
        lambda: _maml().testing,
        {
            "drawing": _record(recipes.Drawing),
            "episodes": k.integer(2),
            "steps": k.integer(0),
            "batch_size": k.optional_integer(1),
            "query_batching": BATCHING,
        },
    ),
    _row(
        recipes.Number,
        _number,
        {
            "value": k.number(-1.0, 101.0),
            "source": k.TEXT,
            "interval": k.number(-1.0, float("inf")).without("None"),
            "note": k.TEXT,
        },
    ),
    _row(
        recipes.Recipe,
        _maml,
        {
            "training": _record(recipes.Training),
            "testing": _record(recipes.Testing).also(
                lambda: {
                    "of other ways": recipes.find("maml", "omniglot", ways=20, shots=1).testing
                }
            ),
            "source": k.TEXT,
            "variant": k.TEXT,
            "published": OPTIONAL_NUMBER,
            "transductive": OPTIONAL_NUMBER,
            "reproductions": k.Kind(
                "results",
                lambda: {"None": None, "one": _number(), "a list": [_number()], "texts": ("98",)},
            ),
            "note": k.TEXT,
        },
    ),
)

CALLS = (
    *RECORDS,
    Call(
        "metajax.recipes.find",
        recipes.find,
        lambda: {"algorithm": "maml", "data": "glyphs", "ways": 5, "shots": 1, "variant": ""},
        {
            "algorithm": k.choice("MAML"),
            "data": k.choice("GLYPHS"),
            "ways": k.optional_integer(1).also(lambda: {"that nobody has": 7}),
            "shots": k.optional_integer(1).also(lambda: {"that nobody has": 7}),
            "variant": k.TEXT.also(lambda: {"another": "bounded"}),
        },
    ),
    Call(
        "metajax.recipes.named",
        recipes.named,
        lambda: {"name": "maml-glyphs-5w1s"},
        {"name": k.TEXT},
    ),
    Call(
        "metajax.recipes.changed",
        recipes.changed,
        lambda: {"recipe": _maml()},
        {
            "recipe": _record(recipes.Recipe),
            **dict.fromkeys(
                ("iterations", "meta_batch", "filters", "pixels"), k.optional_integer(1)
            ),
            **dict.fromkeys(("ways", "shots", "queries"), k.optional_integer(1)),
            **dict.fromkeys(("train_ways", "train_shots", "train_queries"), k.optional_integer(1)),
            **dict.fromkeys(("steps", "test_steps"), k.optional_integer(0)),
            **dict.fromkeys(("outer_rate", "inner_rate"), OPTIONAL_RATE),
        },
    ),
    Call(
        "metajax.recipes.as_json",
        recipes.as_json,
        lambda: {"recipe": _maml()},
        {"recipe": _record(recipes.Recipe)},
    ),
    Call(
        "metajax.recipes.from_json",
        recipes.from_json,
        lambda: {"record": recipes.as_json(_maml())},
        {
            "record": k.MAPPING.also(
                lambda: {
                    "empty": {},
                    "with more": recipes.as_json(_maml()) | {"code": "import os"},
                    "another rate": recipes.as_json(_maml()) | {"training": [0.1]},
                }
            )
        },
    ),
    Call(
        "metajax.recipes.build",
        recipes.build,
        lambda: {"recipe": _maml(), "record_steps": False, "backward": mj.Backward()},
        {
            "recipe": _record(recipes.Recipe).also(
                lambda: {"its name": "maml-glyphs-5w1s", "a learner": things.learner()}
            ),
            "record_steps": k.STEPS,
            "backward": k.Kind(
                "backward",
                lambda: {"None": None, "a text": "unroll", "the class": mj.Backward, "True": True},
            ),
        },
    ),
    Call(
        "metajax.recipes.sampler",
        recipes.sampler,
        lambda: {"data": "sinusoids", "drawing": _maml().training.drawing},
        {
            "data": k.choice("GLYPHS"),
            "drawing": _record(recipes.Drawing),
            "folder": k.OPTIONAL_PATH,
            "pixels": k.optional_integer(1),
            "place": k.choice("DEVICE"),
        },
    ),
)
