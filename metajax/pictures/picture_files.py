"""Files of pictures, whatever their folders: decoded by threads, and once."""

import os
from collections.abc import Sequence

import numpy as np

from metajax.data.readers.cache import cache_folder, read_cache, write_cache
from metajax.data.readers.decoding import require_pillow
from metajax.data.readers.files.decoded_files import Decoding, files_digests
from metajax.regular_files import open_regular

_TITLE = "pictures"


def why_unopened(path: str) -> str:
    """Why a file cannot be opened, or ""."""
    try:
        open_regular(path).close()
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            return "it is a link that leads nowhere"
        return error.strerror or str(error)
    except ValueError as error:  # A zero byte in its name.
        return str(error)
    return ""


def decoded_now(
    paths: Sequence[str], shape: tuple[int, ...], options: Decoding
) -> tuple[np.ndarray, dict[int, str]]:
    """The pictures `[files, *shape]`, of any content where one is bad, and by row why it is."""
    require_pillow()
    images = np.zeros((len(paths), *shape), np.uint8)
    return images, options.decode_into(images, paths, _TITLE)


def decoded_once(
    paths: Sequence[str], shape: tuple[int, ...], options: Decoding
) -> tuple[np.ndarray, dict[int, str]]:
    """The same from a cache, memory-mapped; what is wrong with a picture is kept as its source."""
    how = options.record()
    made_from = {**how, "classes": files_digests({_TITLE: paths}, _TITLE)}
    folder = cache_folder(options.cache, _TITLE, [how, "read_pictures", paths])
    if (found := read_cache(folder, made_from)) is None:
        require_pillow()
        wrong = np.full(len(paths), "", object)

        def fill(images: np.ndarray) -> tuple[list[int], str]:
            for row, why in options.decode_into(images, paths, _TITLE).items():
                wrong[row] = why
            return [len(paths)], ""

        counts = [len(paths)]
        found = write_cache(folder, made_from, fill, [_TITLE], counts, shape, sources=wrong)
    sources = [] if found.sources is None else found.sources.tolist()
    return np.asarray(found.images), {row: why for row, why in enumerate(sources) if why}
