"""Pictures that a verb went on without."""

import itertools
from collections.abc import Mapping

from metajax.command_line.output import Output

_MOST_NAMED = 10


def warn_of_unread(unread: Mapping[str, str], what: str, out: Output) -> None:
    """Says of each why it could not be read, and of many how many there are.

    Args:
      unread: why, by path.
      what: that became of it: `"was left out"`.
      out: where it is said.
    """
    for path, why in itertools.islice(unread.items(), _MOST_NAMED):
        out.warn(f"{path!r} {what}: {why}")
    if (more := len(unread) - _MOST_NAMED) > 0:
        out.warn(f"and {more} more; --json names all of them")
