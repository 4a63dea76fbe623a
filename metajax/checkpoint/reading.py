"""Finds the checkpoint to go on from, and passes over damaged ones with a warning."""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from metajax.checkpoint.arrays import placed, read_arrays
from metajax.checkpoint.record import Mode, checked_options, differences
from metajax.checkpoint.record_file import DamagedError, read_record
from metajax.checks.numbers import is_integer
from metajax.checks.settings import check_paths
from metajax.kinds import check_words
from metajax.training_step import TrainState, check_state
from metajax.user_warnings import warn_user


def restore_state(
    folder: str | Path,
    like: TrainState,
    *,
    which: Literal["newest", "best"] | int = "newest",
    options: Mapping[str, Any] | None = None,
) -> TrainState:
    """Reads a state that `Checkpoints` wrote, and changes nothing in the folder.

    Where it is damaged the next newest, or next best, is read, with a `RuntimeWarning`. A run
    may be writing in the folder meanwhile.

    Args:
      folder: the folder given to `Checkpoints`.
      like: a state of the same model and optimiser, such as a run starts from. It says on which
        devices the arrays go.
      which: the newest checkpoint, the one with the best score, or that of a step.
      options: the options given to `Checkpoints`, to be sure of them; None compares none.

    Raises:
      FileNotFoundError: there is no such checkpoint in `folder`.
      OSError: there are, but all are damaged, or the processes see different ones.
      TypeError: JSON cannot hold an option.
      ValueError: the checkpoint is of another model, optimiser (as far as its state tells, see
        `Checkpoints`), precision, key or options, or of a format that this version does not know;
        or `which` is another word.
    """
    check_paths(folder=folder)
    check_state(like, "like")
    if not is_integer(which, 0):
        check_words(("newest", "best"), which=which)
    checked = None if options is None else checked_options(options)
    return read_good(Path(folder).absolute(), like, which, checked)[0]


def read_good(
    folder: Path, like: TrainState, which: str | int, options: Mapping[str, Any] | None
) -> tuple[TrainState, dict[str, Any]]:
    """The state of the first checkpoint that is not damaged, and its record.

    Args:
      folder: holds the checkpoints.
      like: see `restore_state`.
      which: see `restore_state`.
      options: from `checked_options`, or None.

    Raises:
      OSError, ValueError: as `restore_state` does.
    """
    while True:
        order = _in_order(folder, agreed_steps(folder), which)
        found = _first_good(folder, order, like, options)
        if found is not None:
            return found


def _in_order(path: Path, there: Sequence[int], which: str | int) -> list[int]:
    """Where to look, in this order."""
    steps = list(there)[::-1]
    if not steps:
        raise FileNotFoundError(
            f"{path} holds no checkpoint; expected a folder that metajax.Checkpoints wrote"
        )
    if which == "best":
        return _best_first(path, steps)
    if not isinstance(which, str):
        if which not in steps:
            raise FileNotFoundError(
                f"{path} holds no checkpoint of step {which}, but of {steps}; expected which=... "
                "to be one of these"
            )
        return [which]
    return steps


def _first_good(
    folder: Path, steps: Sequence[int], like: TrainState, options: Mapping[str, Any] | None
) -> tuple[TrainState, dict[str, Any]] | None:
    """The first good one; None where a run that writes there has deleted what was being read."""
    damaged: dict[int, str] = {}
    for step in steps:
        state, record, other, damage = _read(folder / str(step), like, options)
        if not everywhere(not damage):
            if step not in agreed_steps(folder):
                return None
            damaged[step] = damage or "another process could not read it"
            continue
        if state is None:
            raise ValueError(
                f"the checkpoint of step {step} in {folder} is of another run. {other}. Give the "
                "model, optimiser, precision and options it was saved with, or another folder"
            )
        if damaged:
            warn_user(f"{_listed(folder, damaged)}; restored step {step} instead")
        return state, record
    raise OSError(
        f"no good checkpoint: {_listed(folder, damaged)}. Restore the files from a copy, or start "
        "anew in another folder"
    )


def stored_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in rising order; none if it does not exist."""
    if not folder.is_dir():
        return []
    names = re.compile("0|[1-9][0-9]{0,18}")  # No "007", and nothing that only reads as a number.
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if names.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def agreed_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder that all processes of the run share.

    Raises:
      OSError: the processes see different checkpoints.
    """
    steps = stored_steps(folder)
    if jax.process_count() > 1:
        seen = multihost_utils.process_allgather(np.uint32(zlib.crc32(repr(steps).encode())))
        if np.unique(seen).size > 1:
            raise OSError(
                f"process {jax.process_index()} sees the checkpoints {steps} in {folder} and "
                "another process sees others; expected a folder that all processes share"
            )
    return steps


def ranked(scores: Mapping[int, float | None], mode: Mode) -> list[int]:
    """The steps that have a score, the best first; of equals the newest first."""
    sign = 1 if mode == "max" else -1
    keys = {
        step: (sign * score, step)
        for step, score in scores.items()
        if score is not None and not np.isnan(score)
    }
    return sorted(keys, key=keys.__getitem__, reverse=True)


def everywhere(flag: bool) -> bool:
    """Whether `flag` is true in all processes of the run."""
    if jax.process_count() == 1:
        return flag
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def _read(
    path: Path, like: TrainState, options: Mapping[str, Any] | None
) -> tuple[TrainState | None, dict[str, Any], str, str]:
    """The state and the record, or what differs, or how it is damaged."""
    try:
        record = read_record(path)
        other = differences(record, like, options)
        state = None if other else placed(read_arrays(path, record), like)
        return state, record, other, ""
    except DamagedError as error:
        return None, {}, "", str(error)


def _best_first(folder: Path, steps: Sequence[int]) -> list[int]:
    """The best first, after those whose record, and so their score, cannot be read."""
    records, unread = {}, []
    for step in steps:
        try:
            records[step] = read_record(folder / str(step))
        except DamagedError:
            unread.append(step)
    mode = records[max(records)]["mode"] if records else "max"
    best = ranked({step: record["score"] for step, record in records.items()}, mode)
    if records and not best:
        raise FileNotFoundError(
            f'{folder} holds no checkpoint with a score; restore the "newest", or one by its step'
        )
    return [*unread, *best]


def _listed(folder: Path, damaged: Mapping[int, str]) -> str:
    each = (f"that of step {step} is damaged: {damage}" for step, damage in damaged.items())
    return f"of the checkpoints in {folder}, {'; '.join(each)}"
