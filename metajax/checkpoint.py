"""Checkpoints of a training run, written by orbax: atomic, the newest few kept."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from metajax.checks import check_parameters
from metajax.training import TrainState


def save_state(folder: str | Path, state: TrainState, *, keep: int = 2) -> None:
    """Writes a state to `folder/<step>`; a write that is cut off leaves the earlier ones good.

    Args:
      folder: made if it does not exist.
      state: the state; its step names the checkpoint. Saving the newest state again does nothing.
      keep: how many of the newest checkpoints stay, 1 or more.

    Raises:
      ValueError: `keep` is below 1.
      FileExistsError: the folder holds the checkpoints of another run.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}; expected to keep 1 checkpoint or more")
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        step, newest = int(state.step), manager.latest_step()
        if newest is None or step > newest:
            manager.save(step, args=ocp.args.StandardSave(state))
            return
    if step < newest or not _same(restore_state(folder, state), state):
        raise FileExistsError(
            f"{folder} holds another run's checkpoint of step {newest}, and this state is of step "
            f"{step}; it was not saved: expected a folder of its own for every run"
        )


def restore_state(folder: str | Path, like: TrainState) -> TrainState:
    """Reads the newest state that `save_state` wrote to `folder`.

    Args:
      folder: the folder given to `save_state`.
      like: a state of the same model and optimiser, such as a run starts from.

    Raises:
      FileNotFoundError: there is no checkpoint in `folder`.
      ValueError: the checkpoint is of another model or optimiser.
    """
    path = Path(folder).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; expected a folder that save_state wrote")
    with ocp.CheckpointManager(path, item_handlers=ocp.StandardCheckpointHandler()) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{path} holds no checkpoint; expected one of save_state")
        stored = manager.item_metadata(step)
        for part, expected in (("params", like.params), ("opt_state", like.opt_state)):
            check_parameters(expected, stored[part])
        return manager.restore(step, args=ocp.args.StandardRestore(like))


def _same(one: TrainState, other: TrainState) -> bool:
    """Whether two states of one structure have the same parameters and optimiser state."""
    pairs = zip(jax.tree.leaves(one[:2]), jax.tree.leaves(other[:2]), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
