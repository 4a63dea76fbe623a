"""Figures of a run: how it trained, how it was tested, and what it makes of an episode."""

import os
from pathlib import Path

from metajax.checks.numbers import check_seeds
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_optional_paths
from metajax.kinds import check_words
from metajax.runs.episodes import episodes_of
from metajax.runs.evaluating import FILE as EVALUATION
from metajax.runs.evaluating import classes_now, data_now, read_evaluation
from metajax.runs.figures import draw_episode, draw_test, draw_training, read_records
from metajax.runs.run import Run, Which
from metajax.user_warnings import warn_user


def report_run(
    run: Run,
    folder: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    which: Which | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Draws the figures of a run with Matplotlib, the extra `metajax[pictures]`.

    These are `training.png`, the curves of `metrics.jsonl`; `test.png`, what `evaluate_run` said
    last: the scores after each inner step, or how those of the episodes spread; and `episode.png`,
    a test episode with what the learner makes of it. What there is nothing for is left out, with a
    `RuntimeWarning` that says why.

    Args:
      run: from `train_run` or `load_run`.
      folder: where they are drawn, made if it does not exist; None is the run's own folder.
      seed: of the test episode, 0 or more.
      which: the checkpoint, see `Run.state`.
      data_dir: where the data sets are now; None is where they were in training, or the folder of
        `METAJAX_DATA_DIR`.
      pictures: where the run's own pictures are now, alike.

    Returns:
      The files that were drawn.

    Raises:
      ImportError: Matplotlib is not installed.
      OSError: the folder cannot be written, or all checkpoints are damaged.
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, or there are pictures and the run has none of its own.
    """
    check_instance(run, Run, "run", "a metajax.runs.Run, from train_run or load_run")
    check_optional_paths(folder=folder, data_dir=data_dir, pictures=pictures)
    check_seeds(seed=seed)
    if which is not None:
        check_words(Which.__args__, which=which)
    classes = classes_now(run, pictures)
    out = run.folder if folder is None else Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    if records := read_records(run.metrics):
        drawn.append(draw_training(records, out / "training.png"))
    else:
        warn_user(f"no training.png: {run.metrics} has no record; train the run first")
    if tested := read_evaluation(run.folder):
        drawn.append(draw_test(tested, out / "test.png"))
    else:
        there = (run.folder / EVALUATION).exists()
        why = f"{EVALUATION} is damaged" if there else "the run was not tested"
        warn_user(f"no test.png: {why}; expected `metajax evaluate` before")
    try:
        sample = episodes_of(run.recipe, "test", classes=classes, data_dir=data_now(run, data_dir))
        params = run.params(which)
    except FileNotFoundError as error:
        warn_user(f"no episode.png: {error}")
        return drawn
    tester, path = run.built().tester, out / "episode.png"
    drawn.append(draw_episode(tester, params, sample, seed, path, ink=classes is None))
    return drawn
