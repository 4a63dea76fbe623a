"""All trials, and the table of them in the documentation."""

from collections.abc import Iterable

import trials_data
import trials_equinox
import trials_functions
import trials_haiku
import trials_linen
import trials_losses
import trials_nnx
import trials_optimisers
import trials_refusals

MODELS = (
    *trials_functions.TRIALS,
    *trials_linen.TRIALS,
    *trials_nnx.TRIALS,
    *trials_equinox.TRIALS,
    *trials_haiku.TRIALS,
)


def table() -> str:
    """Everything that is brought, how it gets in and what else is to be known."""
    works = {
        "Models": MODELS,
        "Losses and scores": trials_losses.TRIALS,
        "Optimisers": trials_optimisers.TRIALS,
        "Data and loops": trials_data.TRIALS,
    }
    parts = [
        _part(title, "how it gets in | notes", [(x.name, x.how, x.notes) for x in trials])
        for title, trials in works.items()
    ]
    refused = [(x.name, f"`{x.error.__name__}`", x.sentence) for x in trials_refusals.TRIALS]
    parts.append(_part("What cannot work", "error | of its sentence", refused))
    return "\n".join(parts)


def _part(title: str, columns: str, rows: Iterable[tuple[str, str, str]]) -> str:
    lines = [f"**{title}**", "", f"| brought | {columns} |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |".replace("  ", " ") for row in rows]
    return "\n".join([*lines, ""])
