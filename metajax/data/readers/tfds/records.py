"""Records of a prepared data set: the classes that their labels make, and their pictures.

TensorFlow, OpenCV and Pillow disagree about some pictures, one-bit ones among them; what is read
here, by Pillow, does not depend on which of them are installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.labelled_images import in_short
from metajax.data.readers.cache import file_state
from metajax.data.readers.decoding import check_shape, in_parallel, require_pillow
from metajax.data.readers.tfds.prepared import DAMAGED, explained, import_tfds


class Records:
    """The wanted features of one split, at random access and by several threads.

    `keys` are the arguments `image_key`, `label_key` and maybe `group_key`, in this order. A
    `ValueError` says that there is no such split, or that the features are no pictures and labels.
    """

    def __init__(self, builder: Any, split: str, keys: Mapping[str, Any]) -> None:
        tfds, info = import_tfds(), builder.info
        _check_features(info, keys)
        self.image_key, *self.label_keys = keys.values()
        wanted = {key: info.features[key] for key in keys.values()}
        self.features = tfds.features.FeaturesDict(wanted)
        self._decoders = {self.image_key: tfds.decode.SkipDecoding()}
        with explained(
            f"split={split!r} of {info.name!r} cannot be read",
            f"expected of {sorted(info.splits)}, which may be joined as 'train+test'",
        ):
            info.set_file_format("array_record", override=True, override_if_initialized=True)
            files = [Path(file.filename) for file in info.splits[split].file_instructions]
        if not files:
            raise ValueError(f"split={split!r} of {info.name!r} is empty; expected images")
        names = in_short([file.name for file in files], 3)
        self._where = f"records of {names} in {str(files[0].parent)!r} cannot be read"
        said = [path for kind in ("*.json", "*.labels.txt") for path in files[0].parent.glob(kind)]
        with explained(self._where, DAMAGED):
            self.states = {path.name: file_state(path) for path in (*said, *files)}
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = builder.as_data_source(split, deserialize_method=raw)

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The examples of these numbers, pictures as encoded bytes."""
        with explained(self._where, DAMAGED):
            examples = [
                self.features.deserialize_example_np(record, decoders=self._decoders)
                for record in self._source.__getitems__(numbers)
            ]
            if any(example[key] is None for example in examples for key in self.label_keys):
                raise ValueError("a record has no label")
        return examples

    def classes(self) -> tuple[tuple[str, ...], tuple[str, ...] | None, np.ndarray, np.ndarray]:
        """What the classes are called, their groups or None, how many images each has: `[classes]`.

        And `[images]`, the numbers of the records, class by class. A `ValueError` says that a label
        is -1 or out of the range, or that a class has images of two groups.
        """

        def labels(rows: range) -> list[list[Any]]:
            return [[example[key] for key in self.label_keys] for example in self.read(rows)]

        blocks = in_parallel(labels, len(self._source), "labels")
        columns = zip(*itertools.chain(*blocks), strict=True)
        (names, places), *grouping = map(self._named, self.label_keys, columns)
        counts, order = np.bincount(places), np.argsort(places, kind="stable")
        groups = None
        for called, of_image in grouping:
            of_class = of_image[order][np.cumsum(counts) - counts]
            if (odd := np.flatnonzero(of_image != of_class[places])).size:
                one = places[odd[0]]
                raise ValueError(
                    f"the class {names[one]!r} has images of two groups, {called[of_class[one]]!r} "
                    f"and {called[of_image[odd[0]]]!r}; expected a group_key that is the same for "
                    f"all images of a class, but got {self.label_keys[1]!r}"
                )
            groups = tuple(called[group] for group in of_class)
        return names, groups, counts, order

    def _named(self, key: str, labels: Sequence[Any]) -> tuple[tuple[str, ...], np.ndarray]:
        """What the labels are called, in their order, and the place of each image's among them."""
        feature: Any = self.features[key]
        texts = [label.decode() if isinstance(label, bytes) else label for label in labels]
        found, places = np.unique(texts, return_inverse=True)
        if not isinstance(feature, import_tfds().features.ClassLabel):
            return tuple(map(str, found)), places
        if found[0] == -1:
            raise ValueError(
                f"{labels.count(-1)} of {len(labels)} images have the label -1 in {key!r}, which "
                "stands for no label; use a split whose images are labelled"
            )
        with explained(f"the labels {key!r} cannot be used", DAMAGED):
            if found[0] < 0 or found[-1] >= feature.num_classes:
                raise ValueError(
                    f"they reach from {found[0]} to {found[-1]}, expected "
                    f"[0, {feature.num_classes})"
                )
            return tuple(map(feature.int2str, found)), places


class RecordImages:
    """Images that stay in their files, all of one shape: every access decodes anew.

    `numbers` are those of the images' records; `to_array` decodes a picture.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, records: Records, numbers: np.ndarray, to_array: Callable[[bytes], np.ndarray]
    ) -> None:
        self._records, self._numbers, self._to_array = records, numbers, to_array
        (first,) = self._decoded(numbers[:1].tolist())
        self.shape = (len(numbers), *first.shape)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The images `[n, height, width, channels]` of `rows`, `[n]` integers."""
        numbers = np.asarray(self._numbers[rows])
        images, keys = [], numbers.ravel().tolist()
        for key, image in zip(keys, self._decoded(keys), strict=True):
            check_shape(image, self.shape[1:], f"the image of record {key}")
            images.append(image)
        return np.array(images, np.uint8).reshape(*numbers.shape, *self.shape[1:])

    def _decoded(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        require_pillow()
        for number, example in zip(numbers, self._records.read(numbers), strict=True):
            with explained(f"the image of record {number} cannot be decoded", DAMAGED):
                image = self._to_array(example[self._records.image_key])
            yield image


def _check_features(info: Any, keys: Mapping[str, Any]) -> None:
    tfds = import_tfds()
    for argument, key in keys.items():
        feature: Any = dict(info.features).get(key)
        shape: Any = getattr(feature, "shape", None)
        expected = "one integer or string an image"
        fits = shape == () and np.dtype(feature.np_dtype).kind in "iuOSUT"
        if argument == "image_key":
            expected = "uint8 images [height, width, 1, 3 or 4 channels]"
            fits = isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
            fits = fits and len(shape) == 3 and shape[2] in (None, 1, 3, 4)
        if not fits:
            raise ValueError(
                f"{argument}={key!r} is {feature or 'no feature'}; expected {expected}; "
                f"{info.name!r} has the features {sorted(info.features)}"
            )
