"""Calls of samplers and data sets."""

import jax
import jax.numpy as jnp
import numpy as np
from fuzz import kinds as k
from fuzz import things
from fuzz.table import Call

from metajax import data

RANGE = k.Kind(
    "range",
    lambda: {
        "None": None,
        "a text": "ab",
        "one number": 1.0,
        "three": (0.0, 1.0, 2.0),
        "texts": ("0", "1"),
        "a function": abs,
    },
)
PLACE = k.choice("DEVICE")
GROUPS = k.FLAG.without("an array").also(lambda: {"of none": {"alphabet": 1.0}})
IMAGES = k.ARRAY.also(
    lambda: {"one axis less": things.pictures()[0], "no class": things.pictures()[:0]}
)
SOURCES = k.OPTIONAL_ARRAY.also(lambda: {"floats": np.zeros(4), "too few": np.zeros(2, int)})
LABELS = k.ARRAY.also(lambda: {"floats": np.zeros(6), "too few": np.zeros(2, int)})
PADDED = k.optional_integer(1).without("a list")  # Several may be given.


def _two() -> dict:
    return {"ways": 2, "shots": 1, "queries": 1}


SAMPLERS = (
    Call(
        "metajax.data.sinusoid_episodes",
        data.sinusoid_episodes,
        lambda: {"shots": 1, "queries": 1},
        {
            "shots": k.integer(1),
            "queries": k.integer(1),
            "amplitude": RANGE,
            "phase": RANGE,
            "inputs": RANGE,
        },
    ),
    *[
        Call(
            name,
            lambda make=make, **given: make()(**given),
            lambda: {"key": things.KEY},
            {"key": k.KEY},
            slow=True,
        )
        for name, make in (
            ("a sinusoid sampler", lambda: data.sinusoid_episodes(shots=1, queries=1)),
            ("a device sampler", things.image_sample),
            ("a host sampler", things.host_sample),
            ("a fixed sampler", lambda: data.FixedEpisode(things.episode())),
        )
    ],
    Call(
        "metajax.data.ImageEpisodes.at",
        lambda **given: things.listed_sample().at(**given),
        lambda: {"key": things.KEY, "index": 0},
        {"key": k.KEY},
    ),
    Call(
        "metajax.data.HostEpisodes.at",
        lambda **given: data.listed_episodes(things.pictures(), things.drawn(), place="host").at(
            **given
        ),
        lambda: {"key": things.KEY, "index": 0},
        {"key": k.KEY},
        slow=True,
    ),
    Call(
        "metajax.data.HostEpisodes.fetch",
        lambda **given: things.host_sample().fetch(**given),
        lambda: {"keys": jax.random.split(things.KEY, 2)},
        {"keys": k.KEYS.without("one key", "too few")},
        slow=True,
    ),
    Call(
        "metajax.data.FixedEpisode",
        lambda **given: data.FixedEpisode(**given)(things.KEY),
        lambda: {"episode": things.episode()},
        {"episode": k.EPISODE.without("a meta-batch")},  # Its items are tasks, by its shapes.
    ),
    Call(
        "metajax.data.image_episodes",
        data.image_episodes,
        lambda: {"images": things.pictures(), **_two()},
        {
            "images": IMAGES,
            "ways": k.integer(1),
            "shots": k.integer(1),
            "queries": k.integer(1),
            "rotations": k.choice("TASKS"),
            "groups": GROUPS,
            "same_items": k.FLAG,
            "across_sources": k.FLAG,
            "augment": k.OPTIONAL_FUNCTION,
            "place": PLACE,
        },
    ),
    Call(
        "metajax.data.varying_episodes",
        data.varying_episodes,
        lambda: {"images": things.pictures(), "min_ways": 2},
        {
            "images": IMAGES,
            "min_ways": k.integer(1),
            "max_ways": k.integer(1),
            "max_queries": k.integer(1),
            "max_support": k.integer(1),
            "max_class_support": k.integer(1),
            "groups": GROUPS,
            "augment": k.OPTIONAL_FUNCTION,
            "place": PLACE,
        },
    ),
    Call(
        "metajax.data.listed_episodes",
        data.listed_episodes,
        lambda: {"images": things.pictures(), "drawn": things.drawn()},
        {
            "images": IMAGES,
            "drawn": k.Kind(
                "places",
                lambda: {
                    "None": None,
                    "a text": "list.npz",
                    "a tuple": tuple(things.drawn()),
                    "one set": things.drawn().support,
                    "an array": jnp.zeros((2, 2), int),
                },
            ),
            "augment": k.OPTIONAL_FUNCTION,
            "place": PLACE,
        },
    ),
    Call(
        "metajax.data.augmentation",
        data.augmentation,
        lambda: {"flip": True, "rotation": 10.0, "crop": 0.9, "noise": 0.1, "fill": 0.5},
        {
            "shift": k.integer(0),
            "flip": k.FLAG,
            "rotation": k.number(181.0, -1.0),
            "crop": k.number(0.0, 1.5),
            "noise": k.number(-1.0, float("inf")),
            "per": k.choice("ITEM"),
            "fill": k.number(float("inf")),
        },
    ),
    Call(
        "an augmentation",
        lambda **given: data.augmentation(flip=True)(**given),
        lambda: {"key": things.KEY, "images": things.pictures()[0] / np.float32(255)},
        {"key": k.KEY, "images": k.ARRAY.also(lambda: {"integers": things.pictures()[0]})},
        slow=True,
    ),
)

DATA_SETS = (
    Call(
        "metajax.data.glyphs",
        data.glyphs,
        lambda: {"split": "test", "drawers": 1, "size": 8},
        {
            "split": k.choice("TEST"),
            "drawers": k.integer(1),
            "size": k.integer(8),
            "seed": k.integer(0),
        },
    ),
    Call(
        "metajax.data.image_classes",
        data.image_classes,
        lambda: {"images": things.pictures()},
        {"images": IMAGES, "names": k.NAMES, "groups": k.NAMES, "sources": SOURCES},
    ),
    Call(
        "metajax.data.group_by_label",
        data.group_by_label,
        lambda: {"images": things.pictures()[0], "labels": np.array([0, 0, 1, 1])},
        {"images": k.ARRAY, "labels": LABELS, "names": k.NAMES, "sources": SOURCES},
    ),
    Call(
        "metajax.data.ImageClasses",
        data.ImageClasses,
        lambda: {
            "images": things.pictures()[0],
            "starts": np.array([0, 2]),
            "counts": np.array([2, 2]),
            "names": ("a", "b"),
        },
        {
            "images": k.ARRAY,
            "starts": k.ARRAY.also(lambda: {"floats": np.array([0.5, 2.0])}),
            "counts": k.ARRAY.also(lambda: {"floats": np.array([1.5, 2.0])}),
            "names": k.NAMES.also(lambda: {"None": None}),
            "groups": k.NAMES,
            "sources": SOURCES,
        },
    ),
    Call(
        "metajax.data.features",
        data.features,
        lambda: {"backbone": things.backbone(), "images": things.pictures(), "batch_size": 4},
        {
            "backbone": k.MODEL.also(lambda: {"a model": things.model(), "its name": "mine"}),
            "images": k.ARRAY.without("a set").also(
                lambda: {
                    "other channels": np.zeros((2, 2, 8, 8, 3), np.uint8),
                    "not square": np.zeros((2, 2, 8, 9, 1), np.uint8),
                    "too large": np.full((2, 2, 8, 8, 1), 255.0),
                    "not finite": np.full((2, 2, 8, 8, 1), np.nan),
                    "features": np.zeros((2, 2, 8)),
                }
            ),
            "cache": k.OPTIONAL_PATH,
            "batch_size": k.integer(1),
        },
        slow=True,
    ),
    Call(
        "metajax.data.ImageClasses.select",
        lambda **given: things.classes().select(**given),
        lambda: {"names": ["0", "1"]},
        {"names": k.NAMES.also(lambda: {"None": None, "strangers": ["x"]})},
    ),
    Call(
        "metajax.data.ImageClasses.split",
        lambda **given: things.classes().split(**given),
        lambda: {"shares": {"train": 0.5, "test": 0.5}},
        {
            "shares": k.MAPPING.also(
                lambda: {"texts": {"train": "0.5"}, "nan": {"train": float("nan")}}
            ),
            "seed": k.integer(0),
        },
    ),
    Call(
        "metajax.data.join_classes",
        data.join_classes,
        lambda: {"data": {"a": things.classes(), "b": things.classes()}},
        {
            "data": k.MAPPING.also(
                lambda: {"arrays": {"a": things.pictures()}, "one": things.classes()}
            ),
            "keep_groups": k.FLAG,
        },
    ),
    Call(
        "metajax.data.pad_episodes",
        data.pad_episodes,
        lambda: {"episodes": [things.episode()]},
        {
            "episodes": k.EPISODES,
            "support": PADDED.also(lambda: {"texts": ["4"]}),
            "query": PADDED.also(lambda: {"texts": ["4"]}),
        },
    ),
    Call(
        "metajax.data.from_iterable",
        data.from_iterable,
        lambda: {"source": [things.episode()]},
        {
            "source": k.Kind(
                "iterable",
                lambda: {
                    "None": None,
                    "3": 3,
                    "a text": "episodes",
                    "one episode": things.episode(),
                    "a sampler": things.sample,
                    "a dictionary": {"a": things.episode()},
                    "a generator function": _generator,
                },
            ),
            "to_episode": k.OPTIONAL_FUNCTION,
            "batched": k.OPTIONAL_FLAG,
            "pad": k.OPTIONAL_FUNCTION,
            "repeatable": k.FLAG,
        },
    ),
    Call(
        "metajax.data.stream_episodes",
        lambda **given: next(data.stream_episodes(**given)),
        lambda: {"sample": things.host_sample(), "keys": [jax.random.split(things.KEY, 2)]},
        {
            "sample": k.SAMPLE.also(lambda: {"on the device": things.image_sample()}),
            "keys": k.Kind(
                "keys",
                lambda: {
                    "None": None,
                    "3": 3,
                    "a text": "keys",
                    "integers": [0, 1],
                    "one key each": [things.KEY],
                    "one key": things.KEY,
                },
            ),
            "ahead": k.integer(1),
            "place": k.FUNCTION,
        },
        slow=True,
    ),
    Call(
        "metajax.data.sinusoid",
        data.sinusoid,
        lambda: {"inputs": jnp.ones(2), "amplitude": 1.0, "phase": 0.0},
        {"inputs": k.ARRAY, "amplitude": k.ARRAY, "phase": k.ARRAY},
    ),
)


def _generator():
    yield things.episode()


CALLS = (*SAMPLERS, *DATA_SETS)
