"""Predictions as the command writes them, with the names that people and their enemies give."""

import struct
import zlib
from typing import Any

import numpy as np

HOSTILE_CLASSES = [
    "none",
    "none of these",
    "</script><script>alert(1)</script>",
    "a \"quoted\" & <b>bold</b> 'class'",
    "قطة برية",
    "Überlange-Bezeichnung-" * 10,
    "🦊 fox 👩‍👩‍👧‍👦",
    "a\u202egpj.exe",
    "&lt;&amp;",
]
HOSTILE_FILES = [
    "</script><script>alert(1)</script>.jpg",
    "x" * 251 + ".jpg",
    "quote\"'&amp;<img src=x onerror=alert(1)>.png",
    "صورة ١٢.jpg",
    "🦊 🐈‍⬛.png",
    "line\nbreak\x00\x07.jpg",
    "broken\udcff\udc80.jpg",
    "evil\u202egpj.exe",
    "$code ${style} {{x}}.jpg",
    "<!-- .jpg",
    "]]>.jpg",
    "' onload='alert(1).jpg",
]


def png(red: int, green: int, blue: int, side: int = 8) -> bytes:
    """A square of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes((red, green, blue)) * side) * side
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def predictions(
    classes: list[Any], files: list[str], *, rejected: tuple[int, ...] = (1,), unread: int = 2
) -> tuple[dict[str, Any], list[bytes | None], dict[str, bytes]]:
    """A record, thumbnails by row and thumbnails of known pictures, three a class."""
    rng = np.random.default_rng(len(files))
    keys = [label if isinstance(label, str) else str(label) for label in classes]
    support = {
        f"{key}/{shot}.png": png(*rng.integers(256, size=3).tolist())
        for key in keys
        for shot in range(3)
    }
    pictures, thumbnails = [], []
    for row, name in enumerate(files):
        scores = rng.normal(scale=3, size=len(classes))
        shares = np.exp(scores) / np.exp(scores).sum()
        best = int(shares.argmax())
        near = [(best, 0), (best, 1), (int(rng.integers(len(classes))), 1)]
        picture = {
            "path": name,
            "label": None if row in rejected else classes[best],
            "likeliest": classes[best],
            "probability": float(shares[best]),
            "probabilities": dict(zip(classes, shares.tolist(), strict=True)),
            "accepted": row not in rejected,
            "nearest": [
                {
                    "picture": f"{keys[of]}/{shot}.png",
                    "label": classes[of],
                    "similarity": float(rng.uniform(-0.1, 1)),
                }
                for of, shot in near
            ],
            "error": None,
        }
        if row == unread:
            empty = dict.fromkeys(("label", "likeliest", "probability", "probabilities"))
            picture |= empty | {"accepted": None, "nearest": []}
            picture["error"] = f"{name!r} is no picture: it ends in <the> middle"
        pictures.append(picture)
        colour = png(*rng.integers(256, size=3).tolist())
        thumbnails.append(None if row == unread else colour)
    record = {
        "classifier": "flowers.mjx",
        "classes": classes,
        "network": "efficientnet_lite0",
        "head": "ridge",
        "kept": 0.95,
        "threshold": 0.41372,
        "temperature": 0.071234,
        "pictures": pictures,
    }
    return record, thumbnails, support
