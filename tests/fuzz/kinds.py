"""Kinds of arguments: of each the values that are wrong, by what they are."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from fuzz import things

import metajax as mj


class Kind(NamedTuple):
    """What an argument is to be.

    Attributes:
      name: of the kind.
      bad: the values that are none, by what they are.
    """

    name: str
    bad: Callable[[], Mapping[str, Any]]

    def without(self, *labels: str) -> "Kind":
        """The same where these are something else's business, or right."""
        assert not {*labels} - {*self.bad()}
        return Kind(
            self.name,
            lambda: {label: value for label, value in self.bad().items() if label not in labels},
        )

    def also(self, more: Callable[[], Mapping[str, Any]]) -> "Kind":
        """The same with more that is wrong in one place."""
        return Kind(self.name, lambda: {**self.bad(), **more()})


def integer(least: int) -> Kind:
    return Kind(
        "integer",
        lambda: {
            "nan": math.nan,
            "inf": math.inf,
            "1.5": 1.5,
            "2.0": 2.0,
            "NumPy's float": np.float32(2),
            "True": True,
            "a text": "3",
            "None": None,
            "one below": least - 1,
            "an array": jnp.array(2),
            "a list": [3],
            "one that overflows": np.uint8(3),
        },
    )


def optional_integer(least: int) -> Kind:
    return integer(least).without("None")._replace(name="optional integer")


def number(*outside: float) -> Kind:
    return Kind(
        "number",
        lambda: {
            "nan": math.nan,
            "a text": "0.5",
            "None": None,
            "True": True,
            "a list": [0.5],
            "complex": 1j,
            "a function": abs,
            **{str(value): value for value in outside},
        },
    )


def traced_number(*outside: float) -> Kind:
    """A number, or an array of one, that may be a tracer's."""
    return number(*outside).without("None")._replace(name="number or array")


FLAG = Kind(
    "flag",
    lambda: {
        "1": 1,
        "0.0": 0.0,
        "a text": "yes",
        "None": None,
        "an array": jnp.array(True),
        "a list": [],
    },
)
OPTIONAL_FLAG = FLAG.without("None")._replace(name="optional flag")

STEPS = FLAG.also(
    lambda: {
        "halves": (0, 0.5),
        "below 0": (-1, 1),
        "not rising": (1, 1),
        "texts": ["0"],
        "a set": {0, 1},
    }
)._replace(name="flag or steps")


def choice(upper: str) -> Kind:
    """One of a few words, of which `upper` is one in capitals."""
    return Kind(
        "choice",
        lambda: {
            "another word": "otherwise",
            "in other letters": upper,
            "None": None,
            "3": 3,
            "True": True,
            "a list": ["none"],
            "an array of texts": np.array(["none", "batch"]),
            "a dictionary": {"none": 1},
        },
    )


TEXT = Kind("text", lambda: {"None": None, "3": 3, "a list": ["a"], "bytes": b"tasks"})
PATH = Kind(
    "path", lambda: {"None": None, "3": 3, "a list": ["runs"], "a function": abs, "True": True}
)
OPTIONAL_PATH = PATH.without("None")._replace(name="optional path")
MAPPING = Kind(
    "mapping",
    lambda: {"None": None, "3": 3, "a list": [1], "a text": "name", "a function": abs},
)
OPTIONAL_MAPPING = MAPPING.without("None")._replace(name="optional mapping")
FUNCTION = Kind(
    "function",
    lambda: {
        "None": None,
        "a text": "cross_entropy",
        "3": 3,
        "a list": [abs],
        "an array": jnp.ones(2),
        "a dictionary": {"a": abs},
    },
)
OPTIONAL_FUNCTION = FUNCTION.without("None")._replace(name="optional function")
KEY = Kind(
    "key",
    lambda: {
        "None": None,
        "an integer": 0,
        "a float": 0.5,
        "a text": "key",
        "a batch of keys": jax.random.split(things.KEY, 2),
        "floats": jnp.zeros(2),
        "integers with a sign": jnp.zeros(2, jnp.int32),
        "NumPy's generator": np.random.default_rng(0),
        "a list": [0, 1],
    },
)
OPTIONAL_KEY = KEY.without("None")._replace(name="optional key")
KEYS = Kind(
    "keys",
    lambda: {
        "None": None,
        "an integer": 0,
        "a text": "keys",
        "one key": things.KEY,
        "a list of integers": [0, 1, 2, 3],
        "floats": jnp.zeros(4),
        "too few": jax.random.split(things.KEY, 3),
    },
)
MODEL = Kind(
    "model",
    lambda: {
        "None": None,
        "a text": "mlp",
        "a function": things.apply,
        "a pair of functions": (things.begin, things.apply),
        "a module": nn.Dense(3),
        "the class": mj.Model,
        "a learner": things.learner(),
        "parameters": {"w": jnp.ones((4, 3))},
    },
)
OPTIONAL_MODEL = MODEL.without("None")._replace(name="optional model")
OBJECTIVE = Kind(
    "objective",
    lambda: {
        "None": None,
        "a text": "supervised",
        "a function": mj.cross_entropy,
        "a model": things.model(),
        "a learner": things.learner(),
        "the class": mj.Objective,
    },
)
LEARNER = Kind(
    "learner",
    lambda: {
        "None": None,
        "a text": "maml",
        "a model": things.model(),
        "an objective": things.objective(),
        "a pair of functions": (things.begin, things.apply),
        "its factory's name": ["maml"],
        "parameters": {"w": jnp.ones(2)},
    },
)
OPTIMIZER = Kind(
    "optimiser",
    lambda: {
        "None": None,
        "a rate": 0.1,
        "a text": "adam",
        "a factory": optax.adam,
        "its update": optax.sgd(0.1).update,
        "its state": optax.adam(0.1).init(jnp.ones(2)),
        "a list": [optax.sgd(0.1)],
        "MultiSteps": optax.MultiSteps(optax.sgd(0.1), 2),
    },
)
OPTIONAL_OPTIMIZER = OPTIMIZER.without("None")._replace(name="optional optimiser")
PARAMS = Kind(
    "parameters",
    lambda: {
        "None": None,
        "a text": "params",
        "a function": abs,
        "integers": jax.tree.map(lambda x: x.astype(jnp.int32), things.params()),
        "another model's": {"w": jnp.ones((4, 3))},
        "an empty dictionary": {},
        "a number": 3,
        "a model": things.model(),
        "the whole variables": {"params": things.params()},
    },
)
STATE = Kind(
    "state",
    lambda: {
        "None": None,
        "a text": "state",
        "parameters": things.params(),
        "a tuple": tuple(things.state()),
        "an optimiser's state": things.state().opt_state,
        "a result": mj.TrainResult(things.state(), "finished", [], 0.0, 0.0),
        "a function": abs,
        "no key": things.state()._replace(key=None),
        "an integer for its key": things.state()._replace(key=0),
        "half a step": things.state()._replace(step=0.5),
    },
)
EXAMPLES = Kind(
    "set",
    lambda: {
        "None": None,
        "a text": "support",
        "an episode": things.episode(),
        "inputs alone": things.episode().support.inputs,
        "a dictionary": dict(things.episode().support._asdict()),
        "a tuple of one": (things.episode().support.inputs,),
        "texts": mj.Examples(["a", "b", "c"], [0, 1, 2]),
        "too few targets": things.episode().support._replace(targets=jnp.zeros(2, int)),
        "functions": mj.Examples(abs, abs),
    },
)
EPISODE = Kind(
    "episode",
    lambda: {
        "None": None,
        "a text": "episode",
        "one set": things.episode().support,
        "a tuple of arrays": tuple(things.episode().support[:2]),
        "inputs alone": things.episode().support.inputs,
        "a dictionary": dict(things.episode()._asdict()),
        "three sets": (*things.episode(), things.episode().query),
        "a sampler": things.sample,
        "a meta-batch": things.episodes(),
    },
)
EPISODES = (
    EPISODE.without("a meta-batch")
    ._replace(name="meta-batch")
    .also(lambda: {"one episode": things.episode()})
)
SAMPLE = Kind(
    "sampler",
    lambda: {
        "None": None,
        "a text": "sinusoids",
        "3": 3,
        "one episode": things.episode(),
        "one set": things.episode().support,
        "a learner": things.learner(),
        "a dictionary": {"train": things.sample},
        "a function of two": lambda key, more: things.sample(key),
        "a function of nothing": lambda: things.episode(),
        "a function to a set": lambda key: things.sample(key).support,
        "a function to a number": lambda key: 3,
        "a function to nothing": lambda key: None,
        "images": things.pictures(),
        "an empty list": [],
    },
)
ARRAY = Kind(
    "array",
    lambda: {
        "None": None,
        "a text": "inputs",
        "a function": abs,
        "an object": object(),
        "texts": ["a", "b", "c"],
        "a ragged list": [[1.0, 2.0], [3.0]],
        "a dictionary": {"inputs": 1.0},
        "a set": {1.0, 2.0},
    },
)
OPTIONAL_ARRAY = ARRAY.without("None")._replace(name="optional array")
NAMES = Kind("names", lambda: {"3": 3, "a text": "abcdef", "numbers": [1, 2, 3, 4, 5, 6]})
SELECTION = Kind(
    "selection",
    lambda: {
        "3": 3,
        "True": True,
        "an empty text": "",
        "no paths": [],
        "numbers": [0, 1],
        "a dictionary": {"head": True},
    },
)
MESH = Kind(
    "mesh",
    lambda: {"None": None, "a text": "tasks", "4": 4, "devices": jax.devices()},
)
