"""Checkpoints of a training run, written by orbax: atomic, the newest few kept."""

from pathlib import Path

import orbax.checkpoint as ocp

from metajax.checks import check_parameters
from metajax.training import TrainState


def save_state(folder: str | Path, state: TrainState, *, keep: int = 2) -> None:
    """Writes a state to `folder/<step>`; a write that is cut off leaves the earlier ones good.

    Args:
      folder: made if it does not exist.
      state: the state; its step names the checkpoint. A step already there is left as it is.
      keep: how many of the newest checkpoints stay, 1 or more.

    Raises:
      ValueError: `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}; expected to keep 1 checkpoint or more")
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:
        if int(state.step) not in manager.all_steps():
            manager.save(int(state.step), args=ocp.args.StandardSave(state))


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
