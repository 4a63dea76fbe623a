"""Single pictures as arrays: what Pillow shows, in every mode, and what is no image."""

import contextlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest

from metajax.data.readers.decoding import BadImage, decode, require_pillow

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
from PIL import ImageFile, ImageOps  # noqa: E402

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encoded(picture, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_files_are_decoded_as_pillow_does(kind):
    content = encoded(Image.fromarray(COLOURS), kind)
    with Image.open(io.BytesIO(content)) as picture:
        rgb = picture.convert("RGB")
        grey = picture.convert("L")
        small = rgb.resize((7, 5), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode(content, None, 3), np.asarray(rgb))
    np.testing.assert_array_equal(decode(content, None, 1)[..., 0], np.asarray(grey))
    np.testing.assert_array_equal(decode(content, (5, 7), 3), np.asarray(small))


@pytest.mark.parametrize(("wide", "high"), [(12, 4), (4, 12), (5, 7), (9, 9)])
def test_aspects(wide, high):
    """Each half of a picture is of one colour: what is kept of it is seen in the middle."""
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[: high // 2], pixels[:, : wide // 2, 1] = (200, 0, 0), 100
    content, side = encoded(Image.fromarray(pixels), "PNG"), min(wide, high)
    top, left = (high - side) // 2, (wide - side) // 2
    square = pixels[top : top + side, left : left + side]
    cropped = decode(content, (side, side), 3, aspect="crop")
    np.testing.assert_array_equal(cropped, square)
    side = max(wide, high)
    top, left = (side - high) // 2, (side - wide) // 2
    framed = np.full((side, side, 3), 255, np.uint8)
    framed[top : top + high, left : left + wide] = pixels
    np.testing.assert_array_equal(decode(content, (side, side), 3, aspect="pad"), framed)


def test_aspects_of_a_part_that_is_no_square():
    """Of 12 x 10 pixels 2 : 1 takes 10 x 5, between 3.5 rows that are left, or 10 of 24."""
    picture = Image.fromarray(COLOURS)
    content = encoded(picture, "PNG")
    fitted = ImageOps.fit(picture, (20, 10), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode(content, (10, 20), 3, aspect="crop"), np.asarray(fitted))
    padded = ImageOps.pad(picture, (24, 12), Image.Resampling.LANCZOS, "white")
    np.testing.assert_array_equal(decode(content, (12, 24), 3, aspect="pad"), np.asarray(padded))
    assert np.all(decode(content, (12, 24), 3, aspect="pad")[:, [*range(7), *range(17, 24)]] == 255)


@pytest.mark.parametrize(("wide", "high"), [(1, 1), (1, 3000), (3000, 1), (2, 900)])
@pytest.mark.parametrize("aspect", ["stretch", "crop", "pad"])
def test_the_smallest_and_the_longest_pictures_have_any_aspect(aspect, wide, high):
    content = encoded(Image.new("L", (wide, high), 40), "PNG")
    found = decode(content, (8, 8), 1, aspect=aspect)
    assert found.shape == (8, 8, 1)
    expected = {40, 255} if aspect == "pad" and wide != high else {40}
    assert {*found.ravel().tolist()} == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_opaque_modes(mode):
    picture = Image.fromarray(COLOURS).convert(mode)
    content = encoded(picture, "TIFF")
    for channels, target in ((1, "L"), (3, "RGB")):
        expected = np.asarray(picture.convert(target)).reshape(12, 10, channels)
        np.testing.assert_array_equal(decode(content, None, channels), expected)
    assert decode(content, None, None).shape[2] == (1 if mode in ("1", "L", "LA") else 3)


def test_transparent_images_lie_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 128, 255  # black ink, of which the first pixel has none
    content = encoded(Image.fromarray(pixels), "PNG")
    assert decode(content, None, 3)[0].tolist() == [[255] * 3, [127] * 3, [0] * 3]
    assert decode(content, None, 1)[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_transparent_colour_lies_on_white(mode):
    picture = Image.fromarray(np.array([[0, 200]], np.uint8)).convert(mode)
    assert decode(encoded(picture, "PNG", transparency=0), None, 1)[0, :, 0].tolist() == [255, 200]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_upper_8_of_16_bits(kind):
    pixels = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    content = encoded(Image.fromarray(pixels), kind)
    for channels in (1, 3):
        assert decode(content, None, channels)[0, :, -1].tolist() == [0, 0, 1, 127, 255]
    assert decode(content, None, None).shape == (1, 5, 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(width: int, bits: int, pixels: bytes, clear: int) -> bytes:
    """One row of pixels, of which the shade `clear` is transparent."""
    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += chunk(b"tRNS", struct.pack(">H", clear))
    return content + chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "pixels", "shades"),
    [(2, b"\x1b", [0, 85, 170, 255]), (4, b"\x01\x2f", [0, 17, 34, 255])],
)
def test_a_transparent_shade_of_few_bits_lies_on_white(bits, pixels, shades):
    for clear, left in ((1, [shades[0], 255, *shades[2:]]), (2, [*shades[:2], 255, shades[3]])):
        assert decode(grey_png(4, bits, pixels, clear), None, 1)[0, :, 0].tolist() == left


def test_a_transparent_shade_of_16_bits_lies_on_white():
    content = grey_png(3, 16, b"\x01\x02\x01\x03\x80\x00", 0x0102)
    for channels in (1, 3):
        assert decode(content, None, channels)[0, :, 0].tolist() == [255, 1, 128]
    assert decode(content, None, 4)[0].tolist() == [
        [1, 1, 1, 0],
        [1, 1, 1, 255],
        [128, 128, 128, 255],
    ]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_have_no_range(dtype):
    content = encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF")
    with pytest.raises(BadImage, match="32 bits a pixel, of no agreed range; convert it to 8"):
        decode(content, None, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    if kind != "TIFF":  # Which old versions of Pillow turn twice.
        assert upright.shape[:2] == ((12, 10) if orientation < 5 else (10, 12))
    np.testing.assert_array_equal(decode(content, None, None), upright)


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((3, 3), value, np.uint8)) for value in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.all(decode(content, None, 1) == 10)


# What is no image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_truncated_files_are_no_images(kind):
    content = encoded(Image.fromarray(COLOURS), kind)
    whole, accepted = decode(content, None, 3), []
    for length in range(1, len(content), 7):
        with contextlib.suppress(BadImage):
            np.testing.assert_array_equal(decode(content[:length], None, 3), whole)
            accepted.append(length)
    # Without its last few bytes a file may still hold all pixels, never without more of them.
    assert all(length > len(content) - 20 for length in accepted)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "^it is empty$"),
        (b"<html>404</html>", "^it is no readable image of the formats PNG, JPEG, BMP, GIF, WEBP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no readable image"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + b"\0" * 30, "^[A-Z].*: |no read"),
    ],
)
def test_files_that_are_no_images(content, message):
    with pytest.raises(BadImage, match=message):
        decode(content, None, 3)


def enlarged(content: bytes, width: int, height: int) -> bytes:
    """A PNG file whose header promises another size."""
    sides = struct.pack(">II", width, height)
    return content[:8] + chunk(b"IHDR", sides + content[24:29]) + content[33:]


def test_sizes_are_looked_at_before_pixels_are_unpacked(monkeypatch):
    content = encoded(Image.fromarray(COLOURS), "PNG")
    assert decode(content, None, 3, max_pixels=120).shape == (12, 10, 3)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was unpacked"))
    said = r"^it has \d+ x \d+ pixels, more than the max_pixels=\d+ that are allowed$"
    for huge, limit in ((content, {"max_pixels": 119}), (enlarged(content, 8000, 8000), {})):
        with pytest.raises(BadImage, match=said):
            decode(huge, (2, 2), 3, **limit)
    with pytest.raises(BadImage, match="DecompressionBombError: Image size"):
        decode(enlarged(content, 20_000, 20_000), None, 3)  # Which Pillow refuses by itself.


def tiled_tiff(side: int, tile: int) -> bytes:
    """A grey picture in one tile."""
    pixels = zlib.compress(bytes(tile**2))
    entries = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 134}
    entries |= {325: len(pixels)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + fields + bytes(4) + pixels


def test_tiles_and_scans_are_looked_at_before_pixels_are_unpacked(monkeypatch):
    jpeg = io.BytesIO()
    Image.fromarray(COLOURS).save(jpeg, "JPEG", progressive=True)
    scan = jpeg.getvalue()[jpeg.getvalue().rfind(b"\xff\xda") : -2]
    scans = jpeg.getvalue()[:-2] + 500 * scan + b"\xff\xd9"
    assert decode(jpeg.getvalue(), None, 3).shape == (12, 10, 3)
    assert decode(tiled_tiff(10, 16), None, 1).shape == (10, 10, 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was unpacked"))
    for content, said in (
        (tiled_tiff(10, 4096), "tiles of 16777216 pixels, more than the max_pixels=1000 that are"),
        (scans, "it has 51. scans, more than the 500 of any JPEG in use"),
    ):
        with pytest.raises(BadImage, match=said):
            decode(content, None, 3, max_pixels=1000)


def test_pillow_told_to_accept_truncated_files(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match=r"LOAD_TRUNCATED_IMAGES is set: .*; expected False"):
        require_pillow()


def test_pillow_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'run: pip install "metajax\[images\]"'):
        require_pillow()
