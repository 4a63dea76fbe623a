"""The test of a run: its learner, rebuilt from its folder, on classes that it has not seen."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from metajax.checks.numbers import check_optional_integers, check_seeds, is_integer
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_optional_paths
from metajax.data.samplers import Place
from metajax.evaluation import Evaluation, evaluate
from metajax.kinds import check_words
from metajax.recipes.records import Recipe
from metajax.recipes.settings import LARGEST_COUNT
from metajax.regular_files import read_regular
from metajax.runs.episodes import episodes_of
from metajax.runs.folder import write_whole
from metajax.runs.own_classes import OwnClasses
from metajax.runs.run import Run, Which
from metajax.user_warnings import warn_user

FILE = "evaluation.json"
_MOST_BYTES = 2**28


def evaluate_run(
    run: Run,
    *,
    episodes: int | None = None,
    seed: int = 0,
    which: Which | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    place: Place = "device",
) -> Evaluation:
    """Scores a run as its recipe is tested, and writes what came out to its `evaluation.json`.

    Args:
      run: from `train_run` or `load_run`.
      episodes: how many, 2 or more; None is the recipe's number.
      seed: of the test episodes, 0 or more.
      which: the checkpoint, see `Run.state`.
      data_dir: where the data sets are now; None is where they were in training, or the folder of
        `METAJAX_DATA_DIR`.
      pictures: where the run's own pictures are now, alike.
      place: where images are, see `metajax.data.image_episodes`.

    Returns:
      An `Evaluation`; of learners that take inner steps with the scores after each as well, such as
      `accuracy_per_step`, or of more than ten steps after each tenth.

    Raises:
      FileNotFoundError: the data are not there, or nothing is saved yet.
      OSError: all checkpoints are damaged.
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, own classes are missing, or there are pictures and the
        run has none of its own.
    """
    check_instance(run, Run, "run", "a metajax.runs.Run, from train_run or load_run")
    check_optional_integers(2, episodes=episodes)
    check_seeds(seed=seed)
    check_optional_paths(data_dir=data_dir, pictures=pictures)
    check_words(Place.__args__, place=place)
    if which is not None:
        check_words(Which.__args__, which=which)
    return tested(
        run,
        episodes=episodes,
        seed=seed,
        which=which,
        data_dir=data_dir,
        pictures=pictures,
        place=place,
    )[0]


def tested(
    run: Run,
    *,
    episodes: int | None,
    seed: int,
    which: Which | None,
    data_dir: str | os.PathLike[str] | None,
    pictures: str | os.PathLike[str] | None,
    place: Place,
) -> tuple[Evaluation, dict[str, Any]]:
    """The scores of a run, see `evaluate_run`, and what its `evaluation.json` says of them."""
    sample = episodes_of(
        run.recipe,
        "test",
        classes=classes_now(run, pictures),
        data_dir=data_now(run, data_dir),
        place=place,
    )
    state, steps = run.state(which), scored_steps(run.recipe)
    scores = evaluate(
        run.built(steps or False).tester,
        state,
        sample,
        episodes=run.recipe.testing.episodes if episodes is None else episodes,
        seed=seed,
    )
    record = _record(run, int(state.step), scores)
    path = run.folder / FILE
    try:
        write_whole(path, json.dumps(record))
    except OSError as error:
        warn_user(f"{path} could not be written: {error}; the scores are not kept")
    return scores, record


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """What the test of a run said last; None where there was none, or its file is damaged."""
    try:
        record = json.loads(read_regular(folder / FILE, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if _is_whole(record) else None


def _is_whole(record: Any) -> bool:
    """Whether there is all that is drawn of it."""
    if not isinstance(record, dict) or not is_integer(record.get("episodes"), 2):
        return False
    mean, interval = record.get("mean"), record.get("interval")
    steps, accuracies = record.get("inner_steps"), record.get("accuracies")
    if not isinstance(mean, dict) or not isinstance(interval, dict) or not _are_numbers(accuracies):
        return False
    most = LARGEST_COUNT
    if not isinstance(steps, list) or not all(is_integer(n, 0) and n <= most for n in steps):
        return False
    name = "accuracy" if "accuracy" in mean else "query_loss"
    if not _are_numbers([mean.get(name, ""), interval.get(name, "")]):
        return False
    if not steps:
        return True
    per_step = [part.get(f"{name}_per_step") for part in (mean, interval)]
    return all(_are_numbers(each) and len(each or ()) == len(steps) for each in per_step)


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of numbers as `_numbers` writes them."""
    return isinstance(values, list) and all(
        each is None or isinstance(each, float) for each in values
    )


def classes_now(run: Run, pictures: str | os.PathLike[str] | None) -> OwnClasses | None:
    """The own classes of a run, in the folder where they are now.

    Raises:
      ValueError: there are pictures, and the run has none of its own.
    """
    if pictures is None or run.classes is not None:
        moved = {} if pictures is None else {"folder": os.path.abspath(pictures)}
        return run.classes and run.classes._replace(**moved)
    raise ValueError(
        f"pictures={os.fspath(pictures)!r} and a run of {run.recipe.training.data!r}; expected "
        "None: it was not trained on pictures of one's own"
    )


def data_now(run: Run, data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The folder of the data sets: the one given, or that of the training where it is there."""
    if data_dir is None and run.data_dir is not None and os.path.isdir(run.data_dir):
        return run.data_dir
    return data_dir


def scored_steps(recipe: Recipe) -> list[int]:
    """The inner steps at test after which there is a score: of more than ten each tenth."""
    if recipe.training.inner is None:
        return []
    steps = recipe.testing.steps
    return [n for n in range(steps + 1) if steps <= 10 or n in (1, 5, steps) or n % 10 == 0]


def _record(run: Run, step: int, scores: Evaluation) -> dict[str, Any]:
    """What `evaluation.json` holds: means, half-widths of their 95 % intervals, each accuracy."""
    names = sorted(scores.scores)
    return {
        "recipe": run.recipe.name,
        "step": step,
        "episodes": scores.episodes,
        "seed": scores.seed,
        "inner_steps": scored_steps(run.recipe),
        "mean": {name: _numbers(scores.mean(name)) for name in names},
        "interval": {name: _numbers(scores.interval(name)) for name in names},
        "accuracies": _numbers(scores.scores.get("accuracy", np.zeros(0))),
    }


def _numbers(scores: np.ndarray) -> Any:
    """As JSON holds them: what is not finite is None."""
    if scores.ndim:
        return [_numbers(each) for each in scores]
    number = float(scores)
    return number if math.isfinite(number) else None
