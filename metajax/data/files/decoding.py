"""Image files decoded with Pillow, many at once."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    from PIL import Image

# Part of what a cache is made from: raise it whenever the same file gives other pixels.
DECODING = 1
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_FILES_A_JOB = 32
_ONE_CHANNEL = ("1", "L", "LA", "La", "I")
_T = TypeVar("_T")


def require_pillow() -> None:
    """Makes Pillow ready for threads.

    Raises:
      ImportError: it is not installed.
      RuntimeError: it is told to pass truncated files off as whole ones.
    """
    try:
        from PIL import Image, ImageFile
    except ImportError as error:
        raise ImportError(
            "decoding images needs Pillow, which is not installed; "
            'run: pip install "metajax[images]"'
        ) from error
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: truncated images would be filled up with "
            "grey; expected False"
        )
    Image.init()


def decode(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """One image as it is to be seen, resized.

    It is turned upright as its EXIF orientation says, laid on white where it is transparent,
    converted to RGB or to grey (ITU-R 601 luma), and resized with the Lanczos filter where its
    size differs. Of 16 bits the upper 8 are kept; of an animation the first frame.

    Args:
      path: of the file.
      shape: `(height, width, channels)`, 1 channel or 3.

    Returns:
      `[height, width, channels]` uint8.

    Raises:
      OSError: the file cannot be read.
      BadImage: what was read is not a whole image.
    """
    from PIL import Image

    height, width, channels = shape

    def act(picture: "Image.Image") -> np.ndarray:
        picture = _converted(picture, "L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(picture).reshape(shape)

    return _with_picture(path, act)


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
        try:
            images[row] = decode(paths[row], (height, width, channels))
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

    def shape(picture: "Image.Image") -> tuple[int, int, int]:
        grey = picture.mode in _ONE_CHANNEL or picture.mode.startswith("I;16")
        return picture.height, picture.width, 1 if grey else 3

    def act(row: int) -> tuple[int, int, int] | None:
        try:
            return _with_picture(paths[row], shape)
        except BadImage:
            return None

    return _in_parallel(act, len(paths), workers, title)


class BadImage(Exception):  # noqa: N818 (the file is wrong, not the program)
    """What was read is not a whole image; the message says why."""


def _with_picture(path: str, act: Callable[["Image.Image"], _T]) -> _T:
    """`act` of the upright picture; whatever goes wrong after reading is the file's fault."""
    from PIL import Image, ImageOps

    with open(path, "rb") as file:
        content = file.read()
    if not content:
        raise BadImage("it is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            upright = ImageOps.exif_transpose(picture)
            upright.format = picture.format
            return act(upright)
    except Image.UnidentifiedImageError:
        raise BadImage(f"it is no readable image of the formats {', '.join(FORMATS)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise nearly everything for damaged files.
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _converted(picture: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    sixteen_bits = picture.mode.startswith("I;16")
    if sixteen_bits or (picture.mode == "I" and picture.format == "PNG"):
        # Pillow's own conversion cuts values above 255 off in some versions.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, of no agreed range; convert it to 8 bits")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        ink = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink)
    return picture.convert(mode)


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
