"""Calls of readers of files, of small folders that are made when one is really read."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fuzz import kinds as k
from fuzz.table import Call

from metajax import data
from metajax.data.readers import cache
from metajax.data.readers.omniglot import reading
from metajax.data.readers.omniglot.archive import OFFICIAL
from metajax.data.readers.tfds.cifar import cifar100_listing
from metajax.pictures.reading import labelled_pictures

NOWHERE = {"nothing there": "no/such/folder"}
FOLDER = k.PATH.also(lambda: NOWHERE)
CACHE = k.OPTIONAL_PATH
SPLIT = k.choice("TRAIN").without("None")  # Of data without splits it is None.
SIZE = k.Kind(
    "size",
    lambda: {
        "0": 0,
        "1.5": 1.5,
        "True": True,
        "a text": "84",
        "an array": np.array([8, 8]),
        "three": (8, 8, 3),
        "floats": (8.0, 8.0),
        "one of them 0": (8, 0),
        "one that overflows": np.uint8(8),
    },
)
CHANNELS = k.Kind(
    "channels",
    lambda: {
        "2": 2,
        "1.0": 1.0,
        "True": True,
        "a text": "RGB",
        "a list": [3],
        "an array": np.array([1, 3]),
    },
)
DECODING = {
    "size": SIZE,
    "channels": CHANNELS,
    "aspect": k.choice("CROP"),
    "cache": CACHE,
    "corrupt": k.choice("SKIP"),
    "max_pixels": k.integer(1),
    "workers": k.optional_integer(1),
}


class Made(os.PathLike):
    """The path of files that are made when it is asked for: what is refused before needs none."""

    def __init__(self, make: Callable[[Path], Any], name: str = ".") -> None:
        self._make, self._name = make, name

    def __fspath__(self) -> str:
        return str(_root(self._make) / self._name)


_KEPT: dict[Callable[[Path], Any], tempfile.TemporaryDirectory] = {}


def _root(make: Callable[[Path], Any]) -> Path:
    if make not in _KEPT:
        folder = tempfile.TemporaryDirectory()
        make(Path(folder.name))
        _KEPT[make] = folder
    return Path(_KEPT[make].name)


def _pictures(root: Path) -> None:
    """Two classes of two pictures each in the folder of a split, and a list of them."""
    from PIL import Image

    lines = ["filename,label,split"]
    for number in range(4):
        name = f"train/{'ab'[number // 2]}/{number}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 60 * number, np.uint8)).save(root / name)
        lines.append(f"{name},{'ab'[number // 2]},train")
    (root / "list.csv").write_text("\n".join(lines))


def _emoji(root: Path) -> None:
    """One class of one image in each group."""
    from metajax.data.readers.emoji import FILE, SPLITS

    groups = [group for groups in SPLITS.values() for group in groups]
    of_images = np.arange(len(groups))
    np.savez(
        root / FILE,
        images=np.zeros((len(groups), 72, 72, 3), np.uint8),
        class_index=of_images,
        design_index=of_images,
        **dict.fromkeys(("code_points", "names", "categories", "designs"), np.array(groups)),
    )


def _zips(root: Path) -> None:
    for name in OFFICIAL:
        (root / name).write_bytes(b"never opened")


def _prepared(root: Path) -> None:
    """The data sets `small` and `cifar100` of TensorFlow Datasets, one image a class."""
    from data.readers.tfds.prepared import FEATURES, example, png, prepare, tfds

    prepare(root, "small", FEATURES, {"train": list(enumerate(map(example, range(4))))})
    rows = cifar100_listing()
    supers = sorted({row["superclass"] for row in rows})
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=[row["class"] for row in rows]),
        "coarse_label": tfds.features.ClassLabel(names=supers),
    }
    picture = png(np.zeros((32, 32, 3), np.uint8))
    examples = [
        (at, {"image": picture, "label": at, "coarse_label": supers.index(row["superclass"])})
        for at, row in enumerate(rows)
    ]
    prepare(root, "cifar100", features, {"train": examples, "test": examples})


def _omniglot(reader: Callable[..., Any]) -> Callable[..., Any]:
    """The reader, of zips that are not those published."""

    def blank(path: Path, ids: range) -> np.ndarray:
        return np.zeros((len(ids), 20, 28, 28), np.uint8)

    def call(**given: Any) -> Any:
        with (
            mock.patch.object(reading, "read_archive", blank),
            mock.patch.object(cache, "warn_user"),
        ):
            return reader(**given)

    return call


FILES = (
    Call(
        "metajax.data.image_folder",
        data.image_folder,
        lambda: {
            "folder": Made(_pictures),
            "split": "train",
            "size": 4,
            "max_pixels": 100,
            "workers": 1,
        },
        {"folder": FOLDER, "split": SPLIT, **DECODING},
        slow=True,
        needs=("PIL",),
    ),
    Call(
        "metajax.data.image_csv",
        data.image_csv,
        lambda: {
            "csv_file": Made(_pictures, "list.csv"),
            "images": Made(_pictures),
            "split": "train",
            "size": (4, 4),
        },
        {
            "csv_file": k.PATH,  # Of a missing file the system says so.
            "split": SPLIT,
            "images": FOLDER,
            **DECODING,
        },
        needs=("PIL",),
    ),
    Call(
        "metajax.pictures.labelled_pictures",
        labelled_pictures,
        lambda: {"folder": Made(_pictures, "train")},
        {"folder": FOLDER},
        needs=("PIL",),
    ),
)
OMNIGLOT = (
    *[
        Call(
            f"metajax.data.{reader.__name__}",
            _omniglot(reader),
            lambda: {"folder": Made(_zips)},
            {
                "folder": FOLDER,
                "split": k.choice("TRAIN"),
                "protocol": k.choice("VINYALS"),
                "seed": k.optional_integer(0).also(lambda: {"of a published list": 0}),
                "cache": CACHE,
            },
        )
        for reader in (data.omniglot, data.omniglot_classes)
    ],
    Call(
        "metajax.data.download_omniglot",
        data.download_omniglot,
        # Where the zips are there is nothing to download.
        lambda: {"folder": Made(_zips), "progress": False},
        {"folder": k.PATH, "base_url": k.TEXT, "progress": k.FLAG},
    ),
)
EMOJI = (
    Call(
        "metajax.data.emoji",
        data.emoji,
        lambda: {"path": Made(_emoji), "split": "test", "pixels": 8},
        {"path": FOLDER, "split": k.choice("TEST"), "pixels": k.integer(1)},
    ),
)
NEEDED = ("tensorflow_datasets", "array_record", "PIL")
PREPARED = {
    "data_dir": k.OPTIONAL_PATH.also(lambda: NOWHERE),
    "cache": CACHE,
    "download": k.FLAG,
}
TFDS = (
    Call(
        "metajax.data.tfds_classes",
        data.tfds_classes,
        lambda: {"name": "small", "data_dir": Made(_prepared), "max_pixels": 100},
        {
            "name": k.TEXT.also(lambda: {"no name": "not a name", "a stranger": "unknown"}),
            "split": k.TEXT.also(lambda: {"a stranger": "validation", "no split": "train["}),
            "size": SIZE,
            **dict.fromkeys(
                ("image_key", "label_key"), k.TEXT.also(lambda: {"no feature": "picture"})
            ),
            "group_key": k.TEXT.without("None").also(lambda: {"no feature": "picture"}),
            "max_pixels": k.integer(1),
            "manual_dir": k.OPTIONAL_PATH,
            **PREPARED,
        },
        late=True,
        needs=NEEDED,
    ),
    *[
        Call(
            f"metajax.data.{reader.__name__}",
            reader,
            lambda: {"data_dir": Made(_prepared), "download": False},
            {"split": k.choice("TRAIN"), **PREPARED},
            late=True,
            needs=NEEDED,
        )
        for reader in (data.cifar_fs, data.fc100)
    ],
)
CALLS = (*FILES, *OMNIGLOT, *EMOJI, *TFDS)
