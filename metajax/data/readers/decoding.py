"""Encoded pictures as arrays, by Pillow: the one way for every reader of pictures."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from metajax.checks.numbers import is_integer

if TYPE_CHECKING:
    from PIL import Image

# Part of what a cache is made from: raise it whenever the same file gives other pixels.
DECODING = 3
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
ASPECTS = ("stretch", "crop", "pad")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Of the largest picture that is decoded unless more is asked for; it takes up to 0.5 GB.
MAX_PIXELS = 2**25

# Of a progressive JPEG, each of which takes the time of the whole picture; cameras write ten.
_MOST_SCANS = 500
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_BLOCK = 64  # images that a thread decodes at most before it takes others


class BadImage(Exception):  # noqa: N818 (the file is wrong, not the program)
    """What was read is not a whole image; the message says why."""


def require_pillow() -> None:
    """Makes Pillow ready for threads, or says that it is not installed, or told to be lax."""
    try:
        from PIL import Image, ImageFile
    except ImportError as error:
        raise ImportError(
            f"decoding images needs Pillow, which cannot be imported ({error}); "
            'run: pip install "metajax[images]"'
        ) from error
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: truncated images would be filled up with "
            "grey; expected False"
        )
    Image.init()


def two_sides(size: Any) -> tuple[int, int] | None:
    """`(height, width)` that a caller asked for as a side, as both or as None."""
    if size is None:
        return None
    sides = size if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(is_integer(side, 1) for side in sides):
        raise ValueError(
            f"size={size!r}; expected pixels, 1 or more, or (height, width), or None for images "
            "as they are"
        )
    return int(sides[0]), int(sides[1])


def decode(
    content: bytes,
    size: tuple[int, int] | None,
    channels: int | None,
    *,
    aspect: str = "stretch",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """The picture of a file, `[height, width, channels]` uint8; `require_pillow` comes first.

    `image_folder` describes how it is to be seen. Without `size`, (height, width), it is not
    resized; without `channels`, 1, 3 or 4, of which 4 keeps transparency, it has 1 or 3 as it is.

    Raises:
      BadImage: `content` is not a whole image, or has more pixels before it is resized.
    """
    from PIL import Image, ImageOps

    if not content:
        raise BadImage("it is empty")
    if content.startswith(b"\xff\xd8") and (scans := content.count(b"\xff\xda")) > _MOST_SCANS:
        raise BadImage(f"it has {scans} scans, more than the {_MOST_SCANS} of any JPEG in use")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            # The header alone has been read: nothing is unpacked for a picture that is too large.
            if picture.width * picture.height > max_pixels:
                raise BadImage(
                    f"it has {picture.width} x {picture.height} pixels, more than the "
                    f"max_pixels={max_pixels} that are allowed"
                )
            tags = getattr(picture, "tag_v2", {})  # Of TIFF, whose tiles may be larger than it.
            if (tile := tags.get(322, 0) * tags.get(323, 0)) > max_pixels:
                raise BadImage(
                    f"it has tiles of {tile} pixels, more than the max_pixels={max_pixels} that "
                    "are allowed"
                )
            if picture.format == "PNG" and picture.mode == "L" and "transparency" in picture.info:
                # Pillow makes 8 bits of 2 and 4, but not of the shade that is transparent.
                most = 2 ** content[24] - 1
                picture.info["transparency"] = (picture.info["transparency"] & most) * 255 // most
            ImageOps.exif_transpose(picture, in_place=True)
            return as_seen(picture, size, channels, aspect)
    except Image.UnidentifiedImageError:
        raise BadImage(f"it is no readable image of the formats {', '.join(FORMATS)}") from None
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Decoders raise nearly everything for damaged files.
        raise BadImage(f"{type(error).__name__}: {error}") from error


def as_seen(
    picture: "Image.Image", size: tuple[int, int] | None, channels: int | None, aspect: str
) -> np.ndarray:
    """An upright picture of Pillow as an array, see `decode`."""
    from PIL import Image

    channels = channels or (1 if Image.getmodebase(picture.mode) == "L" else 3)
    shown = _converted(picture, _MODES[channels])
    if size is not None and shown.size != (size[1], size[0]):
        shown = _resized(shown, (size[1], size[0]), aspect)
    return np.asarray(shown).reshape(shown.height, shown.width, channels)


def check_shape(image: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Raises where a picture that was left as it is has not the shape of the others."""
    if image.shape != shape:
        one = "size=84" if image.shape[:2] != shape[:2] else "channels=3 or channels=1"
        raise ValueError(
            f"{name} has the shape (height, width, channels) {image.shape}, others {shape}; make "
            f"all images alike by an argument such as {one}"
        )


def in_parallel(
    act: Callable[[range], Any], total: int, title: str, workers: int | None = None
) -> list[Any]:
    """What `act` gives for each block of `range(total)`, in order; threads call it."""
    workers = workers or os.cpu_count() or 1
    block = max(1, min(_BLOCK, total // (4 * workers)))  # A few pictures may be large ones.
    blocks = [range(start, min(start + block, total)) for start in range(0, total, block)]
    results = []
    pool = ThreadPoolExecutor(workers)
    try:
        with tqdm(total=total, desc=title, unit="image", delay=2) as bar:
            for rows, result in zip(blocks, pool.map(act, blocks), strict=True):
                results.append(result)
                bar.update(len(rows))
    finally:
        # Waited for: the memory they write to may be unmapped next.
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def _resized(picture: "Image.Image", size: tuple[int, int], aspect: str) -> "Image.Image":
    from PIL import Image, ImageOps

    lanczos = Image.Resampling.LANCZOS
    if aspect == "stretch":
        return picture.resize(size, lanczos)
    if aspect == "crop":
        return ImageOps.fit(picture, size, lanczos)
    # As `ImageOps.pad`, which fails where the shorter side becomes less than half a pixel.
    scale = min(size[0] / picture.width, size[1] / picture.height)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    framed = Image.new(picture.mode, size, "white")
    whole = picture.resize((width, height), lanczos)
    framed.paste(whole, ((size[0] - width) // 2, (size[1] - height) // 2))
    return framed


def _converted(picture: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        # Pillow's own conversion cuts values above 255 off in some versions.
        deep, clear = np.asarray(picture), picture.info.get("transparency")
        picture = Image.fromarray((deep >> 8).astype(np.uint8))
        if clear is not None:
            picture.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    elif picture.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, of no agreed range; convert it to 8 bits")
    transparent = picture.mode in _TRANSPARENT or "transparency" in picture.info
    if transparent and mode != "RGBA":
        ink = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink)
    return picture.convert(mode)
