"""`metajax evaluate`: how well a run does on classes that it has not seen."""

import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import arg

from metajax.command_line import exit_codes
from metajax.command_line.output import Output
from metajax.runs import load_run
from metajax.runs.evaluating import tested


@dataclass(frozen=True)
class Evaluate:
    """Test a run on episodes of classes that it has not seen.

    Attributes:
      folder: The folder of a run of `metajax train`.
      episodes: Test episodes, 2 or more.
      seed: Which episodes are drawn.
      which: The checkpoint: the newest, or the best at validation.
      data_dir: The folder of the data sets.
      pictures: Where the pictures are that the run was trained on, if they were moved.
    """

    folder: str
    episodes: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: the recipe's)")
    ] = None
    seed: int = 0
    which: Annotated[
        Literal["best", "newest"] | None,
        arg(
            metavar="{best,newest}",
            help_behavior_hint="(default: the best, or the newest where nothing was validated)",
        ),
    ] = None
    data_dir: Annotated[
        str | None,
        arg(metavar="FOLDER", help_behavior_hint="(default: as in training, or METAJAX_DATA_DIR)"),
    ] = None
    pictures: Annotated[
        str | None, arg(metavar="FOLDER", help_behavior_hint="(default: as in training)")
    ] = None


def run(args: Evaluate, out: Output) -> int:
    """Tests, and tells the scores."""
    loaded = load_run(args.folder)
    _, record = tested(
        loaded,
        episodes=args.episodes,
        seed=args.seed,
        which=args.which,
        data_dir=args.data_dir,
        pictures=args.pictures,
        place="device",
    )
    published = loaded.recipe.published
    record |= {"run": args.folder, "published": published and published.value}
    out.say(
        f"{record['recipe']} after {record['step']} iterations: {record['episodes']} test "
        f"episodes, seed {record['seed']}, means with 95 % intervals."
    )
    out.table(_rows(record))
    if published is not None:
        out.say(f"Published: {published}, {published.source}.")
    out.say(f"Next: metajax report {shlex.quote(args.folder)}")
    out.result(record)
    return exit_codes.WELL


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every inner step that was scored, or one."""
    mean, interval = record["mean"], record["interval"]
    titles = {"accuracy": ("accuracy %", 100), "query_loss": ("query loss", 1)}
    steps = record["inner_steps"]
    rows: list[dict[str, Any]] = [{"inner steps": step} for step in steps] or [{}]
    for name, (title, scale) in titles.items():
        full = f"{name}_per_step" if steps else name
        if full not in mean:
            continue
        means, halves = (each[full] if steps else [each[full]] for each in (mean, interval))
        for row, centre, half in zip(rows, means, halves, strict=True):
            row[title] = _shown(centre, half, scale)
    return rows


def _shown(mean: float | None, half: float | None, scale: float) -> str | None:
    """None of scores that are not finite."""
    if mean is None or half is None:
        return None
    return f"{scale * mean:.4g} ± {scale * half:.2g}"
