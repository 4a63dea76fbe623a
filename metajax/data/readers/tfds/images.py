"""Images of a prepared data set of TensorFlow Datasets, decoded by Pillow when they are asked for.

TensorFlow, OpenCV and Pillow disagree about some pictures, one-bit ones among them; what is read
here does not depend on which of them are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from metajax.data.readers.decoding import BadImage, decode, picture_shape, require_pillow
from metajax.data.readers.tfds.preparing import import_tfds
from metajax.data.readers.tfds.records import Records


class RecordImages:
    """Images at random access that stay in their files: no copy, however many there are.

    Every access reads and decodes anew. Several threads may read at once.

    Attributes:
      shape: `(images, height, width, channels)`.
      dtype: uint8.
      numbers: `[images]` the number of each image's record in the order of TensorFlow Datasets.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        records: Records,
        encoded: Callable[[bytes], bytes],
        numbers: np.ndarray,
        image_shape: tuple[int, int, int],
        *,
        resize: bool,
    ) -> None:
        """Args:
        records: of the data set.
        encoded: takes a picture's bytes out of a record.
        numbers: see the attribute.
        image_shape: `(height, width, channels)`.
        resize: resize images of another size; otherwise they are an error.
        """
        self.shape = (len(numbers), *image_shape)
        self.numbers = numbers
        self._records, self._encoded, self._resize = records, encoded, resize

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The images `[n, height, width, channels]` of `rows`, `[n]` integers.

        Raises:
          ImportError, RuntimeError: see `metajax.data.readers.decoding.require_pillow`.
          ValueError: a picture cannot be decoded, or has another size.
        """
        numbers = np.asarray(self.numbers[rows])
        images = np.empty((numbers.size, *self.shape[1:]), np.uint8)
        keys = numbers.ravel().tolist()
        require_pillow()
        for image, key, record in zip(images, keys, self._records.__getitems__(keys), strict=True):
            image[...] = self._decoded(self._encoded(record), key)
        return images.reshape(*numbers.shape, *self.shape[1:])

    def _decoded(self, content: bytes, key: int) -> np.ndarray:
        height, width, channels = self.shape[1:]
        try:
            image = decode(content, channels, (height, width) if self._resize else None)
        except BadImage as error:
            raise ValueError(_undecodable(key, error)) from error
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"the image of record {key} is {image.shape[0]} x {image.shape[1]}, expected "
                f"{height} x {width}; pass size= to resize all images"
            )
        return image


def picture_size(content: bytes, key: int) -> tuple[int, int]:
    """The `(height, width)` of the picture of record `key`.

    Raises:
      ValueError: it cannot be decoded.
    """
    try:
        return picture_shape(content)[:2]
    except BadImage as error:
        raise ValueError(_undecodable(key, error)) from error


def image_channels(features: Any, key: str) -> tuple[tuple[int, int] | None, int]:
    """The size (height, width) that all images of a feature have, or None, and their channels.

    Raises:
      ValueError: the feature is not one of 8-bit images.
    """
    feature = features[key]
    if not isinstance(feature, import_tfds().features.Image):
        raise ValueError(
            f"image_key={key!r} is {feature!r}; expected one of the images "
            f"{[k for k in features if isinstance(features[k], import_tfds().features.Image)]}"
        )
    shape, dtype = tuple(feature.shape), np.dtype(feature.np_dtype)
    channels = shape[-1] or 3
    if len(shape) != 3 or channels not in (1, 3, 4) or dtype != np.uint8:
        raise ValueError(
            f"the images of image_key={key!r} are {dtype} {shape}; expected uint8 [height, width, "
            "1, 3 or 4 channels]"
        )
    return (None if None in shape[:2] else shape[:2]), channels


def _undecodable(key: int, error: BadImage) -> str:
    return (
        f"the image of record {key} cannot be decoded ({error}); the files "
        "may be damaged: copy them again, or prepare the data set again"
    )
