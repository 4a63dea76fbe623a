"""Rows of a memory-mapped file: the right ones, announced where they are."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from metajax.data.memory_map_rows import read_rows, spans


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    path = tmp_path / "bilder ü.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 30, 31, 3), np.uint8))
    return np.load(path, mmap_mode="r")


def test_rows_are_those_of_the_array(mapped: np.memmap) -> None:
    rows = np.array([7, 39, 0, 7])
    whole = np.array(mapped)
    np.testing.assert_array_equal(read_rows(mapped, rows), whole[rows])
    np.testing.assert_array_equal(read_rows(mapped[5:], rows[2:]), whole[5:][rows[2:]])
    np.testing.assert_array_equal(read_rows(mapped[::2], rows[2:]), whole[::2][rows[2:]])
    np.testing.assert_array_equal(read_rows(whole, rows), whole[rows])


@pytest.mark.parametrize("first", [0, 11])
def test_the_pages_of_the_rows_are_announced(mapped: np.memmap, first: int) -> None:
    part, mapping = mapped[first:], mapped.base
    assert isinstance(mapping, mmap.mmap)
    rows = np.array([3, 20])
    for row, (start, length) in zip(rows, spans(part, mapping, rows), strict=True):
        assert start % mmap.PAGESIZE == 0
        content = part[row].tobytes()
        assert mapping[start : start + length].endswith(content)
        assert length < len(content) + mmap.PAGESIZE
