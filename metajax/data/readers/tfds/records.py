"""Records of a prepared data set, and their pictures, decoded by Pillow when they are asked for.

TensorFlow, OpenCV and Pillow disagree about some pictures, one-bit ones among them; what is read
here does not depend on which of them are installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metajax.data.labelled_images import in_short
from metajax.data.readers.decoding import decode, require_pillow
from metajax.data.readers.tfds.prepared import DAMAGED, explained, import_tfds


class Records:
    """The wanted features of one split, at random access and by several threads.

    Raises:
      FileNotFoundError: a file of the split is missing.
      ValueError: the split is unknown or empty.
    """

    def __init__(self, builder: Any, split: str, image_key: str, label_keys: Sequence[str]) -> None:
        tfds, info = import_tfds(), builder.info
        self.image_key, self.label_keys = image_key, label_keys
        wanted = {key: info.features[key] for key in (image_key, *label_keys)}
        self._features = tfds.features.FeaturesDict(wanted)
        self._decoders = {image_key: tfds.decode.SkipDecoding()}
        with explained(
            f"split={split!r} of {info.name!r} cannot be read",
            f"expected of {sorted(info.splits)}, which may be joined as 'train+test'",
        ):
            info.set_file_format("array_record", override=True, override_if_initialized=True)
            self.files = [Path(file.filename) for file in info.splits[split].file_instructions]
        if not self.files:
            raise ValueError(f"split={split!r} of {info.name!r} is empty; expected images")
        if missing := [file for file in self.files if not file.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.files)} files of split={split!r} are missing, "
                f"such as {str(missing[0])!r}; copy the whole folder, or delete it and prepare it "
                "again"
            )
        names = in_short([file.name for file in self.files], 3)
        self._where = f"{names} in {str(self.files[0].parent)!r}"
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = builder.as_data_source(split, deserialize_method=raw)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The examples of these numbers, pictures as encoded bytes."""
        with explained(f"records of {self._where} cannot be read", DAMAGED):
            return [self._example(record) for record in self._source.__getitems__(numbers)]

    def _example(self, record: bytes) -> dict[str, Any]:
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        for key in self.label_keys:
            if example[key] is None:
                raise ValueError(f"a record has no {key!r}")
            if isinstance(example[key], bytes):
                example[key] = example[key].decode()
        return example


@dataclasses.dataclass(frozen=True, eq=False)
class RecordImages:
    """Images that stay in their files: every access decodes anew.

    Attributes:
      records: in which they are.
      numbers: `[images]` the number of each image's record.
      image_shape: `(height, width, channels)`.
      max_pixels: that a picture may have.
      resize: an image of another size is resized; otherwise it is an error.
    """

    records: Records
    numbers: np.ndarray
    image_shape: tuple[int, int, int]
    max_pixels: int
    resize: bool
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(images, height, width, channels)`."""
        return (len(self.numbers), *self.image_shape)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The images `[n, height, width, channels]` of `rows`, `[n]` integers."""
        require_pillow()
        height, width, channels = self.image_shape
        size = (height, width) if self.resize else None
        numbers = np.asarray(self.numbers[rows])
        images, keys = [], numbers.ravel().tolist()
        for key, example in zip(keys, self.records.read(keys), strict=True):
            with explained(f"the image of record {key} cannot be decoded", DAMAGED):
                content = example[self.records.image_key]
                image = decode(content, channels, size, max_pixels=self.max_pixels)
            if image.shape[:2] != (height, width):
                raise ValueError(
                    f"the image of record {key} is {image.shape[0]} x {image.shape[1]}, expected "
                    f"{height} x {width}; pass size= to resize all images"
                )
            images.append(image)
        return np.array(images, np.uint8).reshape(*numbers.shape, height, width, channels)
