"""`metajax report`: the figures of a run."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from metajax.command_line import exit_codes
from metajax.command_line.output import Output
from metajax.runs import load_run, report_run


@dataclass(frozen=True)
class Report:
    """Draw the figures of a run: its training, its last test, and a test episode.

    Attributes:
      folder: The folder of a run of `metajax train`.
      out: Where the figures are written.
      seed: Which test episode is drawn.
      which: The checkpoint: the newest, or the best at validation.
      data_dir: The folder of the data sets.
      pictures: Where the pictures are that the run was trained on, if they were moved.
    """

    folder: str
    out: Annotated[
        str | None,
        arg(aliases=("-o",), metavar="FOLDER", help_behavior_hint="(default: the run's folder)"),
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


def run(args: Report, out: Output) -> int:
    """Draws, and tells the files."""
    drawn = report_run(
        load_run(args.folder),
        args.out,
        seed=args.seed,
        which=args.which,
        data_dir=args.data_dir,
        pictures=args.pictures,
    )
    for path in drawn:
        out.say(f"Wrote {path}")
    if not drawn:
        out.say("There is nothing to draw yet.")
    out.result({"run": args.folder, "figures": [str(path) for path in drawn]})
    return exit_codes.WELL
