"""Image files decoded many at once."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from metajax.data.readers.decoding import BadImage, decode, picture_shape

_FILES_A_JOB = 32
_T = TypeVar("_T")


def decode_files(
    paths: Sequence[str], images: np.ndarray, *, workers: int | None = None, title: str = ""
) -> dict[int, str]:
    """Decodes many files, each into its row of an array.

    Args:
      paths: of the files.
      images: `[files, height, width, channels]` uint8, written to.
      workers: threads; None for one a processor.
      title: shown by the progress bar.

    Returns:
      What is wrong with each file that is not a whole image, by its place; its row is undefined.

    Raises:
      OSError: a file cannot be read.
    """
    height, width, channels = images.shape[1:]

    def act(row: int) -> str | None:
        content = _content(paths[row])
        try:
            images[row] = decode(content, channels, (height, width))
        except BadImage as error:
            return str(error)
        return None

    causes = _in_parallel(act, len(paths), workers, title)
    return {row: cause for row, cause in enumerate(causes) if cause is not None}


def shapes_of_files(
    paths: Sequence[str], *, workers: int | None = None, title: str = ""
) -> list[tuple[int, int, int] | None]:
    """`(height, width, channels)` of each file as it is, or None where it is not a whole image.

    Args:
      paths: of the files.
      workers: threads; None for one a processor.
      title: shown by the progress bar.

    Raises:
      OSError: a file cannot be read.
    """

    def act(row: int) -> tuple[int, int, int] | None:
        content = _content(paths[row])
        try:
            return picture_shape(content)
        except BadImage:
            return None

    return _in_parallel(act, len(paths), workers, title)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _in_parallel(act: Callable[[int], _T], total: int, workers: int | None, title: str) -> list[_T]:
    """`act(0)`, `act(1)` and so on, in order."""

    def job(start: int) -> list[_T]:
        return [act(row) for row in range(start, min(start + _FILES_A_JOB, total))]

    results: list[_T] = []
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with tqdm(total=total, desc=title, unit="image", delay=2) as bar:
            for some in pool.map(job, range(0, total, _FILES_A_JOB)):
                results += some
                bar.update(len(some))
    finally:
        # Waited for: the memory they write to may be unmapped next.
        pool.shutdown(wait=True, cancel_futures=True)
    return results
