"""What became of a case: a clear sentence, an obscure error, or a silent wrong result."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jax
from fuzz.table import Case

import metajax

PACKAGE = Path(metajax.__file__).parent
# What messages call an argument, where that is not its name.
ALSO_CALLED = {
    "params": ("parameters?",),
    "metrics": ("the metric",),
    "name": ("metric",),
    "names": ("class",),
    "model": ("module",),
    "batch": ("trajectories",),
    "episode": ("support", "query"),
    "episodes": ("the episode", "meta-batch", "support", "query"),
    "sample": ("source", "iterator", "episode", "support"),
    "optimizer": ("optimiser",),
    "like": ("state",),
    "state": ("parameter",),
    "task_weights": ("weights",),
    "drawn": ("Drawn",),
    "min_ways": ("ways",),
    "support": ("targets",),
}
_EXPECTED = re.compile(r"\bexpect(ed|s)\b|\bExpected\b|\bis called with\b")
Verdict = Literal["clear", "obscure", "silent"]


class Outcome(NamedTuple):
    """A verdict, and what it is of."""

    case: Case
    verdict: Verdict
    said: str


def judge(case: Case) -> Outcome:
    """Tries a case.

    An error is clear whose innermost frame is the library's own, and whose text names the argument
    and what was expected.
    """
    given = {**case.call.right(), case.argument: case.value}
    try:
        with warnings.catch_warnings(), _whole_tracebacks():
            warnings.simplefilter("error")
            case.call.call(**given)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error)
        names = "|".join([case.argument, *ALSO_CALLED.get(case.argument, ())])
        ours = Path(where.filename).is_relative_to(PACKAGE)
        kind = isinstance(error, ValueError | TypeError | OSError | KeyError)
        clear = ours and kind and re.search(rf"\b({names})\b", text) and _EXPECTED.search(text)
        said = f"{type(error).__name__} at {where.filename}:{where.lineno}: {text[:300]}"
        return Outcome(case, "clear" if clear else "obscure", said)
    return Outcome(case, "silent", "accepted")


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """With the frames of JAX, which it would leave out."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)
