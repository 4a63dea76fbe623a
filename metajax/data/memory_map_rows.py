"""Rows of memory-mapped arrays, read all at once and nothing around them.

A page fault reads one place at a time, and much around it: random rows of a file that does not fit
in memory come a hundred times faster where the system is told of all of them first.
"""

import mmap
from typing import Any

import numpy as np

from metajax.data.labelled_images import ImageSource, rows_of


def read_rows(images: ImageSource, rows: np.ndarray) -> np.ndarray:
    """`images[rows]`, `[n, ...]`, of `[n]` integers."""
    mapping = _mapping(images)
    if mapping is not None and hasattr(mmap, "MADV_WILLNEED"):
        for start, length in spans(images, mapping, rows):
            mapping.madvise(mmap.MADV_WILLNEED, start, length)
    return rows_of(images, rows)


def spans(images: Any, mapping: mmap.mmap, rows: np.ndarray) -> list[tuple[int, int]]:
    """Where rows lie in a mapped file: start, at the beginning of a page, and length in bytes."""
    begin = np.frombuffer(mapping, np.uint8).ctypes.data
    size = images[:1].nbytes
    starts = (images.ctypes.data - begin + rows * size).tolist()
    return [(s - s % mmap.PAGESIZE, s % mmap.PAGESIZE + size) for s in starts]


def _mapping(images: Any) -> mmap.mmap | None:
    """The file that an array is a contiguous part of."""
    if not isinstance(images, np.memmap) or not images.flags.c_contiguous:
        return None
    base: Any = images
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
