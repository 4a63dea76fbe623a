"""Images reduced by exact area averaging, alike on every platform."""

import math

import numpy as np


def area_average(images: np.ndarray, pixels: int) -> np.ndarray:
    """Mean under every cell of a `pixels` x `pixels` grid laid over square images.

    A cell is `size / pixels = w / p` pixels wide, in lowest terms, so with `A[i, j]` the `p`-ths of
    pixel `j` that lie in cell `i`, the mean is `A @ image @ A.T / w**2`. Those products are whole
    numbers, below 2**24 and so exact in float32 for sizes up to 256: the result is the same
    whatever the matrix product.

    Of `[n, size, size, channels]` uint8 it makes `[n, pixels, pixels, channels]` uint8, rounded to
    the nearest, halves up.
    """
    count, size, _, channels = images.shape
    if pixels == size:
        return images
    common = math.gcd(size, pixels)
    wide, parts = size // common, pixels // common
    fine = np.arange(size * parts)
    averaging = np.zeros((pixels, size), np.float32)
    np.add.at(averaging, (fine // wide, fine // parts), 1)
    rows = averaging @ images.reshape(count, size, size * channels).astype(np.float32)
    # One product with many rows, which the few channels would cut up.
    lines = rows.reshape(count, pixels, size, channels).swapaxes(2, 3).reshape(-1, size)
    covered = (lines @ averaging.T).astype(np.int32).reshape(count, pixels, channels, pixels)
    means = ((2 * covered + wide**2) // (2 * wide**2)).astype(np.uint8)
    return np.ascontiguousarray(means.swapaxes(2, 3))
