"""Texts, numbers and thumbnails as HTML, whatever a file system and a person allow in a name."""

import base64
import html
import json
import re
from typing import Any

from metajax.kinds import in_brief

# No characters of HTML, and signs that turn others around: with U+202E, a name that ends in
# `gpj.exe` reads as if it ended in `exe.jpg`.
_NOT_SHOWN = re.compile(
    r"[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
_CONTROLS = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}  # Unicode's pictures.
_KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"))


def text(value: str) -> str:
    """A name or a sentence, escaped; what HTML cannot hold is shown as a sign for it."""
    return html.escape(_NOT_SHOWN.sub("\ufffd", value).translate(_CONTROLS))


def isolated(value: str) -> str:
    """The same in an element of its own, beside which a script's direction changes nothing."""
    return f"<bdi>{text(value)}</bdi>"


def key_of(label: Any) -> str:
    """What a class of the record is called on the page, and where it is a key of JSON."""
    return label if isinstance(label, str) else json.dumps(label)


def percent(probability: float) -> str:
    """In percent, to a tenth. What is not quite none or all of it is not rounded to that.

    >>> [percent(p).replace(chr(160), " ") for p in (0.0, 1e-9, 0.4251, 0.99951, 1.0)]
    ['0 %', '<0.1 %', '42.5 %', '>99.9 %', '100 %']
    """
    if probability <= 0 or probability >= 1:
        shown = "0" if probability <= 0 else "100"
    elif probability < 0.001:
        shown = "<0.1"
    elif probability > 0.999:
        shown = ">99.9"
    else:
        shown = f"{100 * probability:.1f}"
    return f"{shown}\N{NO-BREAK SPACE}%"


def two_digits(value: float) -> str:
    """To two digits after the point.

    >>> [two_digits(value) for value in (0.936, -0.001)]
    ['0.94', '0.00']
    """
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def in_short(value: float) -> str:
    """To three significant digits.

    >>> in_short(0.071234)
    '0.0712'
    """
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def with_value(value: float, shown: str) -> str:
    """A number as it is shown, and as it is, for what reads the page by program."""
    return f'<data value="{json.dumps(value)}">{text(shown)}</data>'


def as_script(record: Any) -> str:
    """JSON that may stand in a script element: ASCII alone, and nothing that could end the element.

    Raises:
      TypeError: it is not made of what JSON has.
      ValueError: a number is not finite.
    """
    written = json.dumps(record, allow_nan=False)
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written


def data_uri(picture: bytes, name: str) -> str:
    """A picture as its own address.

    Raises:
      ValueError: what is called `name` is no JPEG or PNG.
    """
    for begin, kind in _KINDS:
        if isinstance(picture, bytes) and picture.startswith(begin):
            return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    raise ValueError(f"{name} is {in_brief(picture)}; expected the bytes of a JPEG or a PNG")
