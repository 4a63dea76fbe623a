"""What a verb tells: results on standard output, everything else on standard error.

Text is plain, with no colour and no box, on a terminal and in a pipe alike. With `--json` the
results are exactly one JSON object, and text for people is left out.
"""

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

# Signs that turn others around: a name that ends in `gpj.exe` reads as if it ended in `exe.jpg`.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class UnwrittenError(Exception):
    """What is told cannot be written: who reads it went away, or a disk is full."""


class Output:
    """Where a verb's results and warnings go.

    Args:
      as_json: results are one JSON object, the one of `result`; `say` and `table` are silent.
      quiet: no progress bar; warnings and errors are told all the same.
      stdout: where results go; None is standard output.
      stderr: where warnings go; None is standard error.
    """

    def __init__(
        self,
        as_json: bool = False,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ):
        self.as_json = as_json
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._told = False
        self.progress = not quiet and self._stderr.isatty()
        """Whether a bar may be shown on standard error: on a terminal, unless told to be quiet."""

    def say(self, text: str) -> None:
        """A line of the results, for people."""
        if not self.as_json:
            _write(self._stdout, text)

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the same keys in aligned columns under their names, for people.

        Numbers have at most four digits, None is a dash. No row is no table.
        """
        if not self.as_json and rows:
            for line in _aligned(rows):
                _write(self._stdout, line)

    def result(self, record: Mapping[str, Any]) -> None:
        """The results, for programs: the one JSON object of `--json`, silent without it.

        Characters beyond ASCII are escaped, so that no terminal's encoding stands in the way.

        Args:
          record: what `json` can write: NumPy's numbers and arrays have to be Python's.

        Raises:
          ValueError: a number is not finite; JSON has None for that.
          RuntimeError: there was a result before.
        """
        if self._told:
            raise RuntimeError("result() was called twice; expected one JSON object a command")
        text = json.dumps(record, allow_nan=False)
        self._told = True
        if self.as_json:
            _write(self._stdout, text)

    def end(self, why: str) -> None:
        """Says that there is no result, if there was none: `{"error": why}` is it."""
        if not self._told:
            self.result({"error": why})

    def warn(self, text: str) -> None:
        """A line `warning: ...` on standard error."""
        _write(self._stderr, f"warning: {text}")

    def fail(self, text: str) -> None:
        """A line `error: ...` on standard error, and the `end` of the results."""
        self.end(text)
        _write(self._stderr, f"error: {text}")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(printable(text) + "\n")
        stream.flush()  # In order with the other stream, and at once in a pipe.
    except OSError as error:
        raise UnwrittenError(f"the results could not be written: {error}") from error


def printable(text: str) -> str:
    """The text without what would steer a terminal: names of files and classes may hold it."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if each in _TURNS or (unicodedata.category(each) == "Cc" and each != "\n")
        else each
        for each in text
    )


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])
    cells = [names] + [[_cell(row[name]) for name in names] for row in rows]
    numeric = [all(_is_number(row[name]) for row in rows) for name in names]
    widths = [max(_width(row[at]) for row in cells) for at in range(len(names))]
    lines = []
    for row in cells:
        padded = []
        for text, width, right in zip(row, widths, numeric, strict=True):
            gap = " " * (width - _width(text))
            padded.append(gap + text if right else text + gap)
        lines.append("  ".join(padded).rstrip())
    return lines


def one_line(text: str) -> str:
    """A name, which may have line ends in it, for a line of its own."""
    return " ".join(text.splitlines())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return one_line(text)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _width(text: str) -> int:
    """Columns on a terminal: East Asian characters and pictographs are two wide."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)
