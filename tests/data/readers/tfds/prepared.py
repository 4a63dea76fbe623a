"""Small data sets really prepared by TensorFlow Datasets, without TensorFlow and a network."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
pytest.importorskip("array_record", reason="array_record is not installed")
image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

# Splits of (key, example): the key decides the place in the prepared files.
Splits = Mapping[str, Sequence[tuple[Any, Mapping[str, Any]]]]


def builder_class(name: str, features: Mapping[str, Any], splits: Splits, **settings: Any) -> type:
    """A builder of these examples; `settings` are its version, its configs or `shuffle=False`."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(dict(features)),
            disable_shuffling=not settings.get("shuffle", True),
        )

    def split_generators(self, _manager):
        return {split: self._generate_examples(split) for split in splits}

    body = {
        "__module__": __name__,
        "name": name,
        "VERSION": tfds.core.Version(settings.get("version", "1.0.0")),
        "BUILDER_CONFIGS": [
            tfds.core.BuilderConfig(name=config) for config in settings.get("configs", ())
        ],
        "pkg_dir_path": tfds.core.Path(__file__).parent,
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": lambda self, split: iter(splits[split]),
    }
    bases = (tfds.core.GeneratorBasedBuilder,)
    return type(bases[0])(name, bases, body, skip_registration=True)


def prepare(
    root: Path, name: str, features: Mapping[str, Any], splits: Splits, **settings: Any
) -> Path:
    """Prepares `root/name/[config/]version` as array_record files."""
    made = builder_class(name, features, splits, **settings)
    for config in settings.get("configs", (None,)):
        builder = made(data_dir=root, file_format="array_record", config=config)
        builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


def change(folder: Path, **values: Any) -> None:
    """Changes what a prepared folder says of itself."""
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """A picture of integer pixels, converted to a mode of Pillow."""
    stream = io.BytesIO()
    picture = image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(stream, "PNG")
    return stream.getvalue()


FEATURES = {
    "image": tfds.features.Image(shape=(8, 6, 3)),
    "label": tfds.features.ClassLabel(names=["ant", "bee", "cat", "nobody"]),
    "size": tfds.features.ClassLabel(num_classes=2),
    "word": tfds.features.Text(),
    "boxes": tfds.features.Sequence(np.int64),
}


def example(seed: int, **changes) -> dict:
    label = (0, 1, 1, 2, 0, 1)[seed % 6]
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)
    plain = {"label": label, "size": label // 2, "word": "aeiou"[label], "boxes": [seed]}
    return {"image": png(pixels)} | plain | changes
