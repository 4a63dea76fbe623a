"""Hand-drawn characters that come with the library: Hershey's glyphs under random deformation.

An Omniglot stand-in for machines with no data set and no network: 976 characters in 35 kB of line
segments, each drawn by as many simulated drawers as asked. Every drawer bends the strokes with
a smooth displacement field, skews and scales the whole, shakes single strokes, and takes a pen of
their own width. `HERSHEY_LICENSE`, also inside the data file, is the acknowledgement that the fonts
ask for.
"""

import io
import math
import zipfile
import zlib
from importlib import resources
from typing import NamedTuple

import numpy as np

from metajax.checks.numbers import check_integers
from metajax.kinds import check_words

SPLITS = ("train", "validation", "test")
DATA_FILE = "hershey_glyphs.npz"
# How far drawers differ. Chosen so that nearest-neighbour accuracy on pixels, 5-way 1-shot on the
# test split, comes close to Omniglot's: 51 % here, 42 % there (test split of Vinyals et al.).
_BEND = 0.09  # standard deviation of each of the waves of the displacement field, glyph half-sides
_WAVES = 3
_SHAKE = 0.03  # standard deviation of the shift of a stroke, glyph half-sides
_TURN = 0.1  # standard deviation, radians
_SHEAR = 0.12  # standard deviation
_STRETCH = 0.13  # standard deviation of the log of the ratio of width to height
_SIDE = (0.58, 0.85)  # range of the larger side, as a fraction of the frame
_SHIFT = 0.3  # share of the room around the box that its place varies over
_PEN = (0.018, 0.028)  # range of the pen's radius, as a fraction of the frame
_PIECE = 0.2  # longest straight piece before bending, glyph half-sides
_DRAWERS_AT_ONCE = 32


class Glyph(NamedTuple):
    """One character: `name` is "face:index in the face", `strokes` are int8 `[points, 2]` (x, y).

    y grows downwards, as in the font files.
    """

    name: str
    strokes: tuple[np.ndarray, ...]


def segments(glyph: Glyph) -> np.ndarray:
    """Line segments of a glyph, `[segments, 2 ends, 2]` in [-1, 1], its larger side filling it."""
    ends = [np.stack([s, s] if len(s) == 1 else [s[:-1], s[1:]], 1) for s in glyph.strokes]
    joined = np.concatenate(ends).astype(np.float64)
    low, high = joined.min((0, 1)), joined.max((0, 1))
    return (joined - (low + high) / 2) / max((high - low).max(), 1) * 2


def read_glyphs() -> tuple[list[Glyph], np.ndarray]:
    """All glyphs of the shipped file in order, and `[glyphs]` uint8 indices into `SPLITS`.

    Raises:
      ValueError: the file is missing, empty, cut short or inconsistent.
    """
    file = resources.files("metajax.data").joinpath(DATA_FILE)
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as data:
            coordinates, points, strokes = data["coordinates"], data["points"], data["strokes"]
            splits, names = data["splits"], data["names"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{file} cannot be read ({type(error).__name__}: {error}); expected the glyph file "
            "that comes with metajax; reinstall metajax"
        ) from error
    if not len(names) or len(coordinates) != points.sum() or len(points) != strokes.sum():
        raise ValueError(
            f"{file} has {len(names)} glyphs, {len(points)} strokes and {len(coordinates)} points, "
            f"expected {strokes.sum()} strokes and {points.sum()} points; reinstall metajax"
        )
    drawn = np.split(coordinates, np.cumsum(points, dtype=np.int64)[:-1])
    ends = np.cumsum(strokes, dtype=np.int64)
    return [
        Glyph(str(name), tuple(drawn[end - count : end]))
        for name, count, end in zip(names, strokes, ends, strict=True)
    ], splits


def glyphs(split: str = "train", *, drawers: int = 20, size: int = 28, seed: int = 0) -> np.ndarray:
    """Images of the characters of a split, one per drawer.

    The splits are by character: no test character has a look-alike in train. An image depends only
    on the seed, its glyph and its drawer, so more drawers or other splits do not change it, and
    a larger `size` is the same drawing in finer pixels.

    Args:
      split: "train" (625 classes), "validation" (117) or "test" (234).
      drawers: images per class, at least 1.
      size: side of the images in pixels, at least 8.
      seed: chooses the drawers; at least 0.

    Returns:
      `[classes, drawers, size, size, 1]` uint8, ink 255 on 0, anti-aliased.

    Raises:
      TypeError: a number is no integer.
      ValueError: an unknown split, a number out of range, or a damaged data file.
    """
    check_words(SPLITS, split=split)
    check_integers(1, drawers=drawers)
    check_integers(8, size=size)
    check_integers(0, seed=seed)
    drawn, splits = read_glyphs()
    chosen = np.flatnonzero(splits == SPLITS.index(split))
    images = np.empty((len(chosen), drawers, size, size, 1), np.uint8)
    for row, index in enumerate(chosen):
        pieces, stroke = _pieces(drawn[index])
        random = np.random.default_rng([seed, int(index)])
        for start in range(0, drawers, _DRAWERS_AT_ONCE):
            block = images[row, start : start + _DRAWERS_AT_ONCE, :, :, 0]
            # Always whole blocks of drawers, so that drawer k draws alike however many there are.
            bent, pens = _bend(pieces, stroke, random)
            block[:] = _ink(bent * size, pens * size, size, len(block))
    return images


def _pieces(glyph: Glyph) -> tuple[np.ndarray, np.ndarray]:
    """Segments cut into pieces `[pieces, 2, 2]` no longer than `_PIECE`, and the stroke of each."""
    lines = segments(glyph)
    stroke = np.repeat(np.arange(len(glyph.strokes)), [max(len(s) - 1, 1) for s in glyph.strokes])
    lengths = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    cuts = np.maximum(np.ceil(lengths / _PIECE), 1).astype(np.int64)
    line = np.repeat(np.arange(len(lines)), cuts)
    place = np.arange(len(line)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    parts = np.stack([place, place + 1], 1)[:, :, None] / cuts[line, None, None]
    pieces = lines[line, :1] * (1 - parts) + lines[line, 1:] * parts
    return pieces.astype(np.float32), stroke[line]


def _bend(
    pieces: np.ndarray, stroke: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A glyph by `_DRAWERS_AT_ONCE`: `[drawers, pieces, 2, 2]` in [0, 1], and their pens' radii."""
    n = _DRAWERS_AT_ONCE
    normal = random.standard_normal((n, 4 * _WAVES + 3), np.float32)
    uniform = random.random((n, _WAVES + 4), np.float32)
    shake = random.standard_normal((n, int(stroke[-1]) + 1, 1, 2), np.float32)
    # The displacement field: waves of random direction and phase, about half a period a glyph.
    waves = normal[:, : 2 * _WAVES].reshape(n, 2, _WAVES) * 1.5
    amplitudes = normal[:, 2 * _WAVES : 4 * _WAVES].reshape(n, _WAVES, 2) * _BEND
    flat = pieces.reshape(-1, 2)
    phases = 2 * math.pi * uniform[:, None, :_WAVES]
    moved = (flat + np.sin(flat @ waves + phases) @ amplitudes).reshape(n, -1, 2, 2)
    moved += _SHAKE * shake[:, stroke]
    turn, shear, stretch = (normal[:, -3:] * np.array([_TURN, _SHEAR, _STRETCH], np.float32)).T
    cos, sin, wide = np.cos(turn), np.sin(turn), np.exp(stretch / 2)
    skew = np.stack([np.stack([wide, shear], -1), np.stack([np.zeros(n), 1 / wide], -1)], 1)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    placed = moved @ (rotation @ skew).astype(np.float32).swapaxes(1, 2)[:, None]
    # Scale the larger side to its fraction of the frame and put the box somewhere near the middle.
    pens = _PEN[0] + (_PEN[1] - _PEN[0]) * uniform[:, -1]
    low, high = placed.min((1, 2)), placed.max((1, 2))
    side = _SIDE[0] + (_SIDE[1] - _SIDE[0]) * uniform[:, -2]
    scale = (side / (high - low).max(1))[:, None]
    corner = (1 - (high - low) * scale) * (0.5 + _SHIFT * (uniform[:, -4:-2] - 0.5))
    return (placed - low[:, None, None]) * scale[:, None, None] + corner[:, None, None], pens


def _ink(pieces: np.ndarray, pens: np.ndarray, size: int, count: int) -> np.ndarray:
    """Images `[count, size, size]` uint8 of pieces `[drawers, pieces, 2, 2]`, in pixels.

    Each piece is evaluated only on the window of pixels that it can reach, the same size for all.
    Coverage falls from 1 to 0 over one pixel around the distance of the pen's radius.
    """
    # The window is that of all drawers: its origin enters the rounding, which `count` must not.
    reach = float(np.abs(pieces[:, :, 1] - pieces[:, :, 0]).max()) / 2 + float(pens.max()) + 0.5
    width = math.ceil(2 * reach) + 1
    pieces, pens = pieces[:count], pens[:count]
    middle, along = pieces.mean(2), pieces[:, :, 1] - pieces[:, :, 0]
    first = np.floor(middle - reach - 0.5).astype(np.int32) + 1  # pixel i has its centre at i + 1/2
    window = np.arange(width, dtype=np.int32)
    start = pieces[:, :, 0] - first - 0.5
    dx, dy = (window - start[..., axis, None] for axis in (0, 1))
    ax, ay = along[..., 0, None, None], along[..., 1, None, None]
    dx, dy = dx[:, :, None, :], dy[:, :, :, None]
    part = np.clip((dx * ax + dy * ay) / np.maximum(ax * ax + ay * ay, 1e-12), 0, 1)
    distance = np.hypot(dx - part * ax, dy - part * ay)
    cover = np.clip(pens[:, None, None, None] + 0.5 - distance, 0, 1)
    # A margin as wide as a window, cut off at the end, saves testing the windows against the frame.
    frame = size + 2 * width
    image = np.arange(count)[:, None] * frame**2
    target = image + (first[..., 1] + width) * frame + first[..., 0] + width
    target = target[..., None, None] + window[:, None] * frame + window
    canvas = np.zeros(count * frame * frame, np.float32)
    inked = np.flatnonzero(cover)  # A small part of the windows.
    np.maximum.at(canvas, target.ravel()[inked], cover.ravel()[inked])
    inside = canvas.reshape(count, frame, frame)[:, width:-width, width:-width]
    return np.rint(inside * 255).astype(np.uint8)
