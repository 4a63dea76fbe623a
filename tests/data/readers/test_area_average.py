"""Area averaging, to the last bit."""

import numpy as np
import pytest

from metajax.data.readers.area_average import area_average


@pytest.mark.parametrize(
    ("size", "pixels", "channels"), [(105, 28, 1), (72, 28, 3), (72, 24, 3), (9, 9, 1), (5, 7, 2)]
)
def test_area_average_against_parts_of_pixels(size: int, pixels: int, channels: int) -> None:
    """As many parts of a pixel as there are cells, which cells hold whole."""
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, channels), np.uint8)
    images[0] = np.where(images[0] < 80, 255, 0)
    images[1] = 255
    fine = images.repeat(pixels, axis=1).repeat(pixels, axis=2)
    exact = fine.reshape(3, pixels, size, pixels, size, channels).sum(axis=(2, 4), dtype=int)
    expected = (2 * exact + size**2) // (2 * size**2)
    np.testing.assert_array_equal(area_average(images, pixels), expected)
