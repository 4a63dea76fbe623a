"""Writes the checkpoints of a run in the background, and keeps the newest and the best."""

import contextlib
import os
import shutil
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from metajax.checkpoint.arrays import named_leaves
from metajax.checkpoint.keeping import Kept
from metajax.checkpoint.lock import FolderLock, lock_folder
from metajax.checkpoint.orbax_log import orbax_at_debug
from metajax.checkpoint.reading import agreed_steps, everywhere, read_good, stored_steps
from metajax.checkpoint.record import Mode, as_json, checked_options, describe, save_args
from metajax.checkpoint.record_file import short
from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.settings import check_paths
from metajax.kinds import check_words
from metajax.stacked_runs import newest_step
from metajax.training_step import TrainState, check_state
from metajax.user_warnings import warn_user

# What a killed or failed write leaves has this in its name, and so has what is being deleted.
_CUT_OFF = ocp.utils.TMP_DIR_SUFFIX
_DELETED = f"deleted{_CUT_OFF}"


class Checkpoints:
    """The checkpoints of one training run, in a folder of their own.

    A checkpoint is the folder `folder/<step>`. It appears when it is complete, and only then are
    older ones deleted. A disk that is full costs a checkpoint and a `RuntimeWarning`, never the
    run. Where a run has several processes, all of them make the same calls.

    From `begin` to `close` the folder is the run's, and any other that begins there is refused; who
    only reads is not. The file `writer.lock` in it names the process. Where the file system has no
    locks nobody is refused, and a `RuntimeWarning` says so.

    A checkpoint of another run is refused as far as it tells: by the names, shapes and types of its
    arrays, the classes of the optimiser's state, and `options`. `optax.adam` and `optax.nadam` have
    the same state, and rates are in none: put into `options` what tells such runs apart.

    In a loop of one's own::

        with Checkpoints("runs/maml", options={"algorithm": "maml"}) as checkpoints:
            state = checkpoints.restore(state)
            checkpoints.begin(state)
            for step in range(int(state.step), iterations):
                state, metrics = train_step(state, episodes)
                if checkpoints.due(step + 1):
                    checkpoints.save(state)
            checkpoints.save(state)

    Attributes:
      position: what `save` was given as `position` by this process, of as many, with the state that
        `restore` returned, or that was saved since; else None.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        options: Mapping[str, Any],
        every: int = 500,
        keep: int = 2,
        best: int = 1,
        mode: Mode = "max",
    ) -> None:
        """Reads and writes nothing yet.

        Args:
          folder: made if it does not exist.
          options: what makes the run what it is, such as the algorithm and its rates: all that JSON
            can hold. A run with other options is refused.
          every: steps between two checkpoints, see `due`.
          keep: how many of the newest checkpoints stay, 1 or more.
          best: how many of those with the best scores stay too.
          mode: whether the best score is the highest or the lowest.

        Raises:
          TypeError: JSON cannot hold an option, or a number is not an integer.
          ValueError: `every` or `keep` is below 1, `best` below 0, or `mode` is another word.
        """
        check_integers(1, every=every, keep=keep)
        check_integers(0, best=best)
        check_words(("max", "min"), mode=mode)
        check_paths(folder=folder)
        self._folder = Path(folder).absolute()
        self._options = checked_options(options)
        self._every = every
        self._kept = Kept(keep, best, mode)
        self._lock: FolderLock | None = None
        self._manager: ocp.CheckpointManager | None = None
        self._begun = False
        self._process = os.getpid()
        self.position: Any = None
        self._newest: int | None = None  # The newest good step that this run read or wrote.
        self._last = 0  # The step that `due` counts from.
        self._writing: int | None = None
        self._error: Exception | None = None
        self._while_writing = contextlib.ExitStack()

    @property
    def newest(self) -> int | None:
        """The step of the newest good checkpoint that was restored or written; None before."""
        return self._newest

    def restore(self, like: TrainState) -> TrainState:
        """The newest good state in the folder, or `like` itself where there is none yet.

        Damaged checkpoints that are newer are passed over, with a `RuntimeWarning`. Nothing is
        changed in the folder.

        Args:
          like: a state of the same model and optimiser, such as a run starts from, or a stack of as
            many runs. It says on which devices the arrays go.

        Raises:
          ValueError: the checkpoint is of another model, optimiser (as far as its state tells),
            precision, key or options, or of a format that this version does not know.
          OSError: every checkpoint in the folder is damaged, or the processes see different ones.
        """
        check_state(like, "like")
        self.close()
        if not agreed_steps(self._folder):
            return like
        state, record = read_good(self._folder, like, "newest", self._options)
        self._newest = self._last = record["step"]
        self._kept.scores = {record["step"]: record["score"]}
        positions = record["positions"]
        alike = len(positions) == jax.process_count()
        self.position = positions[jax.process_index()] if alike else None
        return state

    def begin(self, state: TrainState) -> None:
        """Takes the folder for a run that goes on from `state`; called before the first step.

        The other checkpoints in it are read, to know which are good. Damaged ones that are newer
        than `state` are renamed to `<step>.damaged`.

        Args:
          state: the state from which the run goes on.

        Raises:
          FileExistsError: another run writes in the folder, or it holds checkpoints that `state`
            does not come from.
          OSError: the folder cannot be made, or the processes see different ones.
          ValueError: two leaves of the state have one name.
        """
        check_state(state)
        self.wait()
        step = newest_step(state)
        named_leaves(state)  # A name used twice is found here, not after hours.
        if self._begun:
            self._take(step)
            return
        self._lock = lock_folder(self._folder)
        try:
            self._take(step)
        except BaseException:
            self._unlock()
            raise
        self._begun, self._process = True, os.getpid()
        _all.add(self)

    def _take(self, step: int) -> None:
        """Makes the folder one that a run may go on in from a step; what is in it is read."""
        steps = agreed_steps(self._folder)
        damaged = self._kept.read(self._folder)
        newest = max(set(steps) - damaged, default=max(steps, default=None))
        if not everywhere(newest is None or (newest == self._newest and newest <= step)):
            raise FileExistsError(
                f"{self._folder} holds a checkpoint of step {newest}, and this run begins at step "
                f"{step} without it: go on from what Checkpoints.restore returns, or give every "
                "run a folder of its own"
            )
        if newest is not None and jax.process_index() == 0:
            for later in damaged:
                if later > newest:
                    _move_aside(self._folder / str(later))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("metajax.Checkpoints.begin")
        self._last = step
        self._open()

    def due(self, step: int) -> bool:
        """Whether a multiple of `every` lies after the step saved last, up to `step`."""
        check_integers(0, step=step)
        return step // self._every > self._last // self._every

    def save(self, state: TrainState, *, score: float | None = None, position: Any = None) -> None:
        """Copies the state and starts writing it; saving the newest state again does nothing.

        The copy on the host and its digests are made before this returns, by every process.

        Args:
          state: its step names the checkpoint, the largest one of a stack of runs.
          score: how good it is. Without one, or with one that is not finite, it never counts as one
            of the best. A state that is the newest already keeps the score it was saved with.
          position: where this process stands in its data, as JSON can hold it, for a run that goes
            on from here.

        Raises:
          FileExistsError: as `begin` does, or the state is older than the newest checkpoint.
          TypeError: JSON cannot hold `position`.
          ValueError: the record would be too large, by `position` or the options.
        """
        check_state(state)
        if score is not None:
            check_numbers(lambda x: True, "a number, or None", score=score)
        position = as_json(position, "position")
        self.wait()
        step = newest_step(state)
        if not self._begun or step < (self._newest or 0):
            self.begin(state)
        self._last = step
        if step == self._newest:
            return
        self.position = position
        arrays, record = describe(state, self._options, score, self._kept.mode, position)
        self._while_writing.enter_context(orbax_at_debug())
        try:
            manager = self._open()
            self._kept.scores[step] = record["score"]
            manager.save(step, args=save_args(arrays, record), force=True)
        except Exception as error:
            # Where a disk is full orbax raises OSError, ValueError or RuntimeError, here or in
            # its thread. The processes of a run learn of it together, in `wait`.
            self._error = error
        except BaseException:  # Ctrl-C: the next save has to find out what there is.
            self._shut()
            if step in stored_steps(self._folder):
                self._newest = step
            raise
        self._writing = step

    def wait(self) -> None:
        """Waits for the write in progress; one that failed gives a `RuntimeWarning`."""
        if self._writing is None:
            return
        step, self._writing = self._writing, None
        error, self._error = self._error, None
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
        except Exception as late:
            error = error or late
        if everywhere(error is None):
            self._while_writing.close()
            self._newest = step
            if jax.process_index() == 0:
                shutil.rmtree(self._folder / _DELETED, ignore_errors=True)
            return
        # After a failure orbax's manager no longer knows which checkpoints there are.
        self._kept.scores.pop(step, None)
        self._shut()
        with contextlib.suppress(OSError, RuntimeError):  # While Python ends it has no new threads.
            self._open()
        reason = "another process failed" if error is None else short(error)
        newest = "there is none yet" if self._newest is None else f"it is of step {self._newest}"
        warn_user(
            f"the checkpoint of step {step} could not be written: {reason}; the newest good one: "
            f"{newest}"
        )

    def close(self) -> None:
        """Waits for the write in progress, ends orbax's threads and leaves the folder to others."""
        try:
            self.wait()
        finally:
            self._shut()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and jax.process_count() > 1:
            # The others may know of no exception: waiting for them would hang, or hide it.
            self._manager = self._writing = None
            self._while_writing.close()
        else:
            self.close()

    def __del__(self) -> None:
        """Else the next to begin here would clear a write in progress."""
        self._finish()

    def _finish(self) -> None:
        """Closes what nobody closed; several processes would have to do so together."""
        begun = getattr(self, "_begun", False)  # It is not there where `__init__` raised.
        if begun and self._process == os.getpid() and jax.process_count() == 1:
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        """The manager; making one clears what was cut off."""
        if self._manager is None:
            if jax.process_index() == 0:
                # Not left to orbax: threads of a write that failed may still put files there, and
                # orbax would fail the next save for it.
                for path in self._folder.glob(f"*{_CUT_OFF}*"):
                    shutil.rmtree(path, ignore_errors=True)
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept,
                    todelete_subdir=_DELETED,  # A run killed meanwhile leaves no half a checkpoint.
                    save_root_metadata=False,
                    lightweight_initialize=True,
                ),
            )
        return self._manager

    def _shut(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            # `wait` has told of a write that failed; orbax may tell of it once more.
            with contextlib.suppress(Exception):
                manager.close()
        self._while_writing.close()

    def _unlock(self) -> None:
        lock, self._lock, self._begun = self._lock, None, False
        if lock is not None:
            lock.release()


_all: weakref.WeakSet[Checkpoints] = weakref.WeakSet()


def _finish_all() -> None:
    for checkpoints in list(_all):
        checkpoints._finish()


# Python ends its pools of threads before `atexit`, and with them orbax's write in progress. What
# they are ended by is called last first, and orbax has imported them. From Python 3.12 on no thread
# can be started by then: the write fails, and a warning says so.
threading._register_atexit(_finish_all)  # pyright: ignore[reportAttributeAccessIssue]


def _move_aside(path: Path) -> None:
    aside, count = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.damaged-{count}")
    path.rename(aside)
