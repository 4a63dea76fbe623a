"""Many image files decoded at once."""

import threading

import numpy as np
import pytest

from metajax.data.readers.files.parallel_decoding import decode_files, shapes_of_files

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def saved(path, pixels) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("workers", [1, 3, None])
def test_many_files_each_in_its_row(tmp_path, workers):
    paths = []
    for index in range(100):
        path = tmp_path / f"{index}.png"
        paths.append(saved(path, np.full((2, 2), index, np.uint8)))
    for bad in (7, 64):
        (tmp_path / f"{bad}.png").write_bytes(b"")
    images = np.zeros((100, 2, 2, 1), np.uint8)
    causes = decode_files(paths, images, workers=workers)
    assert causes == {7: "it is empty", 64: "it is empty"}
    expected = [0 if index in causes else index for index in range(100)]
    assert images[:, 1, 1, 0].tolist() == expected
    shapes = shapes_of_files(paths, workers=workers)
    assert shapes == [None if index in causes else (2, 2, 1) for index in range(100)]


def test_a_file_that_cannot_be_read_is_not_taken_for_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError):
        shapes_of_files([str(tmp_path / "none.png")])
    with pytest.raises(FileNotFoundError):
        decode_files([str(tmp_path / "none.png")], np.zeros((1, 2, 2, 3), np.uint8))


def test_threads_have_ended_where_decoding_was_stopped(tmp_path, monkeypatch):
    colours = np.zeros((12, 10, 3), np.uint8)
    paths = [saved(tmp_path / f"{i}.png", colours) for i in range(200)]
    begun = []

    def interrupted(path, channels, size):
        begun.append(path)
        if len(begun) == 40:
            raise KeyboardInterrupt
        return colours

    monkeypatch.setattr("metajax.data.readers.files.parallel_decoding.decode", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        decode_files(paths, np.zeros((200, 12, 10, 3), np.uint8), workers=2)
    assert threading.active_count() == before
    assert len(begun) < 200
