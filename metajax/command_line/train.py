"""`metajax train`: a recipe, or one's own pictures by it, into a folder that holds the run."""

import shlex
import time
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from metajax.command_line import exit_codes
from metajax.command_line.output import Output
from metajax.recipes import changed, named
from metajax.runs import Run, train_run
from metajax.runs.figures import read_records

_OF_RECIPE = "(default: the recipe's)"
_Integer = Annotated[int | None, arg(metavar="INT", help_behavior_hint=_OF_RECIPE)]
_Rate = Annotated[float | None, arg(metavar="RATE", help_behavior_hint=_OF_RECIPE)]
_SIGNALS = {"interrupted": exit_codes.INTERRUPTED, "terminated": exit_codes.TERMINATED}


@dataclass(frozen=True)
class Train:
    """Train a recipe, of published settings, into a folder.

    The folder holds all that `metajax evaluate`, `report` and `fit` need. A run that was stopped or
    killed goes on by the same command.

    Attributes:
      recipe: The recipe's name, algorithm-data-ways-shots, such as maml-omniglot-20w1s, or a
        beginning that only one has. maml-glyphs and prototypical-glyphs take minutes and need no
        files.
      folder: The run's folder: a new one, or that of the run to go on with.
      pictures: Train on your own classes, in a folder a class: 64 % of them are trained on, 16 %
        are for validation, 20 % for the test. Its episodes of 5 ways ask for 23 classes in all.
      data_dir: The folder of the data sets, in which the recipe's is called as in its name.
      iterations: Meta-steps.
      meta_batch: Tasks a meta-step.
      ways: Classes of an episode.
      shots: Support pictures a class.
      queries: Query pictures a class.
      train_ways: Classes of a training episode, where they are others than at test.
      train_shots: Support pictures a class in training, alike.
      train_queries: Query pictures a class in training, alike.
      filters: Channels of every block of the network.
      outer_rate: The outer optimiser's rate, at the beginning.
      inner_rate: The inner optimiser's rate.
      steps: Inner steps in training.
      test_steps: Inner steps at test.
      pixels: Height and width of the pictures.
      seed: Of the first parameters, the episodes, and the parts of your own classes.
      validate_every: Iterations between two validations, of which the best checkpoint is kept.
      validation_episodes: Episodes of each of them.
      checkpoint_every: Iterations between two checkpoints; what is killed loses no more.
    """

    recipe: str
    folder: str
    pictures: Annotated[
        str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the recipe's data set)")
    ] = None
    data_dir: Annotated[
        str | None, arg(metavar="FOLDER", help_behavior_hint="(default: METAJAX_DATA_DIR)")
    ] = None
    iterations: _Integer = None
    meta_batch: _Integer = None
    ways: _Integer = None
    shots: _Integer = None
    queries: _Integer = None
    train_ways: _Integer = None
    train_shots: _Integer = None
    train_queries: _Integer = None
    filters: _Integer = None
    outer_rate: _Rate = None
    inner_rate: _Rate = None
    steps: _Integer = None
    test_steps: _Integer = None
    pixels: _Integer = None
    seed: int = 0
    validate_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: no validation)")
    ] = None
    validation_episodes: int = 100
    checkpoint_every: int = 250


def run(args: Train, out: Output) -> int:
    """Trains, and says how far it came."""
    started = time.perf_counter()
    recipe = changed(
        named(args.recipe),
        iterations=args.iterations,
        meta_batch=args.meta_batch,
        ways=args.ways,
        shots=args.shots,
        queries=args.queries,
        train_ways=args.train_ways,
        train_shots=args.train_shots,
        train_queries=args.train_queries,
        filters=args.filters,
        outer_rate=args.outer_rate,
        inner_rate=args.inner_rate,
        steps=args.steps,
        test_steps=args.test_steps,
        pixels=args.pixels,
    )
    trained = train_run(
        recipe,
        args.folder,
        data_dir=args.data_dir,
        pictures=args.pictures,
        seed=args.seed,
        validate_every=args.validate_every,
        validation_episodes=args.validation_episodes,
        checkpoint_every=args.checkpoint_every,
        progress=out.progress,
    )
    record = _record(trained, args.folder, time.perf_counter() - started)
    _tell(record, out)
    out.result(record)
    if trained.stopped == "non-finite":
        out.fail(
            f"the loss was not finite after iteration {trained.step}, whose parameters are kept; "
            "in a new folder a smaller --outer-rate or --inner-rate may help"
        )
        return exit_codes.WRONG
    if _is_unsaved(record):
        out.fail(
            f"all {record['of']} iterations are done, and no later one than {trained.step} could "
            "be saved; make room, and the same command goes on from there"
        )
        return exit_codes.WRONG
    return _SIGNALS.get(str(trained.stopped), exit_codes.WELL)


def _record(trained: Run, folder: str, seconds: float) -> dict[str, Any]:
    """What came out, of the last iterations that were reported."""
    reported = read_records(trained.metrics)
    last = reported[-1] if reported else {}
    validations = [each["validation"] for each in reported if "validation" in each]
    best = min if trained.validated_on == "query_loss" else max
    own = trained.classes
    parts = {} if own is None else {part: len(getattr(own, part)) for part in own._fields[1:]}
    return {
        "run": folder,
        "recipe": trained.recipe.name,
        "iterations": trained.step,
        "of": trained.recipe.training.iterations,
        "stopped": trained.stopped,
        "own_classes": parts or None,
        "loss": last.get("loss"),
        "accuracy": last.get("accuracy"),
        "validated_on": trained.validated_on if validations else None,
        "best_validation": best(validations, default=None),
        "seconds": round(seconds, 2),
    }


def _is_unsaved(record: dict[str, Any]) -> bool:
    return record["stopped"] == "finished" and record["iterations"] < record["of"]


def _tell(record: dict[str, Any], out: Output) -> None:
    if record["own_classes"]:
        shown = ", ".join(f"{count} for {part}" for part, count in record["own_classes"].items())
        out.say(f"Own classes: {shown}.")
    told = [f"{record['recipe']}: {record['iterations']} of {record['of']} iterations"]
    if record["loss"] is not None:
        told.append(f"meta-loss {record['loss']:.4g}")
    if record["accuracy"] is not None:
        told.append(f"training accuracy {record['accuracy']:.1%}")
    if (best := record["best_validation"]) is not None:
        shown = f"{best:.1%}" if record["validated_on"] == "accuracy" else f"{best:.4g}"
        told.append(f"best validation {shown}")
    out.say(f"{', '.join(told)}, in {record['seconds']:.1f} s.")
    if record["stopped"] in _SIGNALS:
        out.say(f"Stopped: the same command goes on from iteration {record['iterations']}.")
    elif record["stopped"] == "finished" and not _is_unsaved(record):
        out.say(f"Next: metajax evaluate {shlex.quote(record['run'])}")
