"""What is told of a dispatch: its record, and a warning of steps that were not finite."""

from collections.abc import Mapping

import numpy as np

from metajax.progress import Record
from metajax.training_program import NonFinite
from metajax.training_step import TrainState
from metajax.types import Array
from metajax.user_warnings import warn_user


def warn_of_non_finite(
    done: int, finite: np.ndarray, state: TrainState, non_finite: NonFinite
) -> None:
    """Warns of the meta-steps that were not finite, and says what was done.

    Args:
      done: the step at which the dispatch began.
      finite: `[length]` which of its steps were.
      state: the state after it.
      non_finite: see `train`.
    """
    bad = (done + np.flatnonzero(~finite)).tolist()
    what = "the meta-loss, its gradient or the update was not finite at step "
    if non_finite == "stop":
        what += f"{bad[0]}; stopped, keeping the parameters of step {int(state.step)}"
    else:
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        what += f"{named}; went on without {len(bad)} of {len(finite)} updates"
        if len(bad) == len(finite):
            what += ", and stopped, since none was left"
    warn_user(
        f"{what}. A smaller inner or outer rate, or clipping, may help. An inner optax.adam or its "
        "kin needs eps_root=1e-8"
    )


def warn_of_no_steps(done: int, iterations: int) -> None:
    """Warns that a state is at the last iteration already.

    Args:
      done: its step.
      iterations: see `train`.
    """
    warn_user(
        f"the state is at step {done} and iterations={iterations}: nothing was trained; iterations "
        f"counts from the run's beginning, so iterations={done + iterations} trains {iterations} "
        "more"
    )


def record_of(
    step: int, seconds: float, tasks_per_second: float, metrics: Mapping[str, Array]
) -> Record:
    """What is reported of a dispatch: the metrics' means over its steps, in Python's numbers.

    Args:
      step: the step at which it ended.
      seconds: of training so far.
      tasks_per_second: its own.
      metrics: `[length, ...]`, `finite` among them.
    """
    finite = np.asarray(metrics["finite"])
    means = {
        name: np.mean(np.asarray(values)[finite], axis=0).tolist()
        for name, values in metrics.items()
        if name != "finite"
    }
    skipped = {} if finite.all() else {"skipped": int((~finite).sum())}
    return {
        "step": step,
        "seconds": seconds,
        "tasks_per_second": tasks_per_second,
        **means,
        **skipped,
    }
