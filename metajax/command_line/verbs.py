"""The verbs and the options that all of them have, as tyro reads them from the arguments."""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from metajax.command_line import evaluate, fit, predict, report, train
from metajax.command_line.output import Output
from metajax.version import VERSION

_RUN = {
    fit.Fit: fit.run,
    predict.Predict: predict.run,
    train.Train: train.run,
    evaluate.Evaluate: evaluate.run,
    report.Report: report.run,
}
_MARKERS = (
    tyro.conf.PositionalRequiredArgs,
    tyro.conf.PositionalMetavarFromFieldName,
    tyro.conf.CascadeSubcommandArgs,  # Options of all verbs may come after the verb.
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.OmitArgPrefixes,
    tyro.conf.FlagCreatePairsOff,
)


@dataclass(frozen=True)
class Command:
    """Few-shot classifiers of pictures, and the training of what is behind them.

    Start with a folder of your own pictures, in a folder a class:
        metajax fit efficientnet_lite0 flowers -o flowers.mjx
        metajax predict flowers.mjx new-pictures --html report.html

    More of each verb: metajax VERB --help. Which version this is: metajax --version.
    """

    verb: (
        Annotated[fit.Fit, tyro.conf.subcommand("fit")]
        | Annotated[predict.Predict, tyro.conf.subcommand("predict")]
        | Annotated[train.Train, tyro.conf.subcommand("train")]
        | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[report.Report, tyro.conf.subcommand("report")]
    )
    json: bool = False
    """The results as one JSON object, for programs."""
    quiet: bool = False
    """No progress bar. In a pipe there is none in any case."""
    traceback: bool = False
    """Show where in the library an error was found."""

    def run(self, out: Output) -> int:
        """Runs the verb and returns the exit code."""
        return _RUN[type(self.verb)](self.verb, out)


def parsed(argv: Sequence[str]) -> Command:
    """The command that the arguments are.

    Raises:
      SystemExit: help was asked for, or the version; or the arguments are none.
    """
    if [*argv] == ["--version"]:
        print(f"metajax {VERSION}")
        raise SystemExit
    if sys.stdout.isatty() and sys.stdout.encoding.lower().replace("-", "") == "utf8":
        return _parsed(argv)
    plain = io.StringIO()
    try:
        # tyro draws no box and has no colours for what is no terminal, as it looks for here.
        with contextlib.redirect_stdout(plain):
            return _parsed(argv)
    finally:
        if text := plain.getvalue():
            lines = text.replace("\N{BULLET}", "-").split("\n")
            Output().say("\n".join(line.rstrip() for line in lines[:-1]))


def _parsed(argv: Sequence[str]) -> Command:
    return tyro.cli(Command, prog="metajax", args=[*argv], config=_MARKERS)
