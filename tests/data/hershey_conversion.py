"""Conversion of the Hershey stroke fonts into the glyph file that metajax ships.

Run as `python tests/data/hershey_conversion.py FOLDER OUTPUT`, with the `.jhf` faces and their
LICENSE in FOLDER; a test holds what is shipped against what it makes. Blank, trivial and repeated
glyphs are dropped, and what is left is divided *by character*: glyphs that look alike always share
a split, so no test character resembles a train character.

The fonts are A. V. Hershey's (U.S. National Bureau of Standards, 1967), in the format of
James Hurt; `metajax/data/HERSHEY_LICENSE` holds the acknowledgement they ask for.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metajax.data.stroke_glyphs import Glyph, segments

# Shares of train, validation and test: close to those of Vinyals et al. (2016) for Omniglot.
SHARES = (0.64, 0.12, 0.24)
# Thresholds on `distances`, set by looking at pairs: below the first the eye sees one drawing (one
# is kept), below the second there are hardly any pairs left that are the same letter restyled.
DUPLICATE = 0.025
LOOK_ALIKE = 0.045
# Faces whose glyph i is the ASCII character 32 + i: one letter in two styles is one character.
LATIN = frozenset(
    f"{family}{style}"
    for family, styles in {
        "cursive": [""],
        "futura": ["l", "m"],
        "goth": ["gbt", "grt", "iceng", "icger", "icita", "itt"],
        "rowman": ["d", "s", "t"],
        "script": ["c", "s"],
        "times": ["i", "ib", "r", "rb"],
    }.items()
    for style in styles
)
MIN_SIDE = 5  # font units, a capital being 21 high: full stops and specks are smaller
MIN_THICKNESS = 0.1  # extent across / along the main axis: dashes, bars and slashes are thinner


def parse_jhf(text: str, face: str) -> list[Glyph]:
    """Glyphs of one `.jhf` face, in file order and blank ones included.

    A glyph is five columns of number, three columns that count the pairs of characters, then the
    pairs: the left and right bearing (dropped here), then vertices, each coordinate being
    `ord(character) - ord("R")`. The pair `" R"` lifts the pen. Long glyphs wrap onto more lines.

    Args:
      text: contents of the file.
      face: name of the face, for `Glyph.name` and messages.

    Returns:
      One `Glyph` per character.

    Raises:
      ValueError: a count that is no number, or a glyph that ends early or runs over its count.
    """
    glyphs, lines = [], iter(text.splitlines())
    for line in lines:
        if not line.strip():
            continue
        where = f"glyph {len(glyphs)} of face {face!r}"
        if not line[5:8].strip().isdigit():
            raise ValueError(
                f"{where}: columns 6-8 are {line[5:8]!r}, expected a count; fix the file"
            )
        length, body = 2 * int(line[5:8]), line[8:]
        while len(body) < length:
            rest = next(lines, None)
            if rest is None:
                raise ValueError(
                    f"{where}: got {len(body)} characters, expected {length}; file cut short?"
                )
            body += rest
        if body[length:].strip():
            raise ValueError(
                f"{where}: got {len(body)} characters, expected {length}; fix the file"
            )
        strokes = []
        for stroke in _pen_lifts([body[i : i + 2] for i in range(2, length, 2)]):
            strokes.append(
                np.array([[ord(c) - ord("R") for c in pair] for pair in stroke], np.int8)
            )
        glyphs.append(Glyph(f"{face}:{len(glyphs)}", tuple(strokes)))
    return glyphs


def _pen_lifts(pairs: list[str]) -> list[list[str]]:
    strokes: list[list[str]] = [[]]
    for pair in pairs:
        if pair == " R":
            strokes.append([])
        else:
            strokes[-1].append(pair)
    return [stroke for stroke in strokes if stroke]


def _dense(lines: np.ndarray, count: int = 128) -> np.ndarray:
    """`count` points at even steps of arc length along `[segments, 2, 2]`, as `[count, 2]`."""
    lengths = np.maximum(np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1), 1e-9)
    ends = np.cumsum(lengths)
    at = (np.arange(count) + 0.5) / count * ends[-1]
    index = np.searchsorted(ends, at)
    part = ((at - ends[index]) / lengths[index] + 1)[:, None]
    return lines[index, 0] * (1 - part) + lines[index, 1] * part


def _trivial(glyph: Glyph) -> bool:
    if not glyph.strokes:
        return True
    vertices = np.concatenate(glyph.strokes).astype(np.int64)
    points = _dense(segments(glyph))
    centred = points - points.mean(0)
    along, across = np.ptp(centred @ np.linalg.svd(centred, full_matrices=False)[2].T, axis=0)
    return bool(np.ptp(vertices, axis=0).max() < MIN_SIDE or across < MIN_THICKNESS * along)


def distances(glyphs: Sequence[Glyph], grid: int = 24) -> np.ndarray:
    """Symmetric root-mean-square chamfer distance between the drawings of glyphs.

    Every glyph is put in a unit box, narrow ones widened somewhat (else all bars, braces and "i"
    would look alike). The distance from a to b is the root mean square, over the ink of a, of the
    distance to the nearest ink of b; the larger of the two directions counts, so that E and
    F differ although F lies within E. Squares, as a missing bar is short but far from the rest.

    Distances to ink are kept on a grid, so all pairs cost one matrix product. In float64: a
    rounding error must not decide on which side of a threshold a pair falls.

    Args:
      glyphs: the glyphs, none of them blank.
      grid: cells along each side of the box.

    Returns:
      `[glyphs, glyphs]`, in units of the box, 0 on the diagonal.
    """
    axis = np.linspace(-0.5, 0.5, grid)
    cells = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    squares = np.empty((len(glyphs), grid * grid))
    ink = np.zeros_like(squares)
    for row, glyph in enumerate(glyphs):
        lines = segments(glyph) / 2
        points = _dense(lines * np.maximum(np.ptp(lines, axis=(0, 1)), 0.1) ** -0.25)
        squares[row] = ((cells[:, None] - points) ** 2).sum(-1).min(1)
        place = (points + 0.5) * (grid - 1)
        cell = np.clip(place.astype(np.int64), 0, grid - 2)
        rest = place - cell
        for step in ((0, 0), (0, 1), (1, 0), (1, 1)):  # bilinear shares among the four corners
            share = np.where(step, rest, 1 - rest).prod(1) / len(points)
            np.add.at(ink[row], (cell + step) @ (grid, 1), share)
    mean = ink @ squares.T
    mean = np.maximum(mean - np.diag(mean)[:, None], 0)  # the grid's own error, a glyph to itself
    return np.sqrt(np.maximum(mean, mean.T))


def _components(linked: np.ndarray) -> np.ndarray:
    """Connected components of a symmetric `[n, n]` bool matrix, as `[n]` lowest member indices."""
    labels = np.arange(len(linked))
    while True:
        lower = np.where(linked, labels, len(labels)).min(1, initial=len(labels))
        lower = np.minimum(lower, labels)
        if (lower == labels).all():
            return labels
        labels = lower


def select(glyphs: Sequence[Glyph], seed: int = 0) -> tuple[list[Glyph], np.ndarray]:
    """The distinct glyphs and their splits.

    Glyphs are grouped where `distances` is below `LOOK_ALIKE` or the Latin letter is the same,
    transitively; the largest groups are placed first, each in the split that is furthest below its
    share. That is what keeps a chain of many look-alikes harmless: it lands in train.

    Args:
      glyphs: parsed glyphs, blank ones included.
      seed: decides the order of groups of equal size.

    Returns:
      The kept glyphs in the order given, and `[glyphs]` uint8 indices into `SPLITS`.

    Raises:
      ValueError: nothing is left, or one group is larger than the share of train.
    """
    glyphs = [glyph for glyph in glyphs if not _trivial(glyph)]
    if not glyphs:
        raise ValueError("got no glyph with a drawing; expected at least one; check the folder")
    apart = distances(glyphs)
    faces, codes = zip(*(glyph.name.split(":") for glyph in glyphs), strict=True)
    letters = np.array([c if f in LATIN else f"{f}:{c}" for f, c in zip(faces, codes, strict=True)])
    groups = _components((apart < LOOK_ALIKE) | (letters[:, None] == letters))
    # The plainest drawing of a character is met first, and is the one that stays.
    kept: list[int] = []
    plain = [np.linalg.norm(np.diff(segments(g), axis=1), axis=-1).sum() for g in glyphs]
    for index in np.argsort(np.round(plain, 6), kind="stable"):
        if not kept or apart[index, kept].min() >= DUPLICATE:
            kept.append(int(index))
    kept.sort()
    members = groups[kept]
    names, sizes = np.unique(members, return_counts=True)
    if sizes.max() > SHARES[0] * len(kept):
        raise ValueError(
            f"one group has {sizes.max()} of {len(kept)} glyphs, more than train may hold; "
            "lower LOOK_ALIKE"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    short = np.array(SHARES) * len(kept)
    split = np.zeros(len(kept), np.uint8)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        code = int(short.argmax())
        short[code] -= sizes[group]
        split[members == names[group]] = code
    return [glyphs[index] for index in kept], split


def convert(folder: Path, output: Path) -> None:
    """Writes the distinct glyphs of the `.jhf` faces in `folder`, with their LICENSE, to `output`.

    The `.npz` holds `coordinates` int8 `[points, 2]`, `points` uint8 `[strokes]`, `strokes` uint8
    `[glyphs]` (numbers of points a stroke and strokes a glyph), `splits` uint8 `[glyphs]`, `names`
    `[glyphs]` and `license`, a string.

    Args:
      folder: where the faces and LICENSE are.
      output: the file to write, ending in `.npz`.

    Raises:
      ValueError: no face or no LICENSE in `folder`, or a malformed face.
    """
    faces = sorted(folder.glob("*.jhf"))
    if not faces:
        raise ValueError(f"{folder} has no .jhf face, expected 32; pass the folder of the fonts")
    if not (folder / "LICENSE").is_file():
        raise ValueError(f"{folder} has no LICENSE, which must go with the fonts; copy it there")
    parsed = [glyph for face in faces for glyph in parse_jhf(face.read_text("ascii"), face.stem)]
    glyphs, splits = select(parsed)
    strokes = [stroke for glyph in glyphs for stroke in glyph.strokes]
    np.savez_compressed(
        output,
        coordinates=np.concatenate(strokes),
        points=np.array([len(stroke) for stroke in strokes], np.uint8),
        strokes=np.array([len(glyph.strokes) for glyph in glyphs], np.uint8),
        splits=splits,
        names=np.array([glyph.name for glyph in glyphs]),
        license=np.array((folder / "LICENSE").read_text("utf-8")),
    )


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description="Convert the Hershey fonts to metajax's file.")
    _parser.add_argument("folder", type=Path, help="folder with the .jhf faces and LICENSE")
    _parser.add_argument("output", type=Path, help="the .npz file to write")
    _arguments = _parser.parse_args()
    convert(_arguments.folder, _arguments.output)
