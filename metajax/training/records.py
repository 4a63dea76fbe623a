"""What is told of a dispatch: its record, and a warning of steps that were not finite."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metajax.stacked_runs import newest_step
from metajax.training.program import NonFinite
from metajax.training.progress import Record
from metajax.training_step import TrainState
from metajax.types import Array
from metajax.user_warnings import warn_user


def warn_of_non_finite(
    done: int, finite: np.ndarray, state: TrainState, non_finite: NonFinite
) -> None:
    """Warns of the meta-steps that were not finite, and says what was done.

    Args:
      done: the step at which the dispatch began.
      finite: `[length]` which of its steps were; `[runs, length]` of a stack, of which only the
        runs that went on until now are told.
      state: the state after it.
      non_finite: see `train`.
    """
    if finite.ndim == 1:
        what = _of_one(done, finite, newest_step(state), non_finite)
    else:
        steps = np.asarray(state.step)
        told = [run for run in range(len(steps)) if steps[run] >= done and not finite[run].all()]
        if not told:
            return
        each = (_of_one(done, finite[run], int(steps[run]), non_finite) for run in told)
        what = "; ".join(f"in run {run} {text}" for run, text in zip(told, each, strict=True))
        what += f"; {_left(finite, non_finite).sum()} of {len(finite)} runs go on"
    warn_user(
        f"the meta-loss, its gradient or the update was not finite {what}. A smaller inner or "
        "outer rate, or clipping, may help. An inner optax.adam or its kin needs eps_root=1e-8. A "
        "learner that compares has no finite loss where a query's class has no support item, nor "
        "a policy where a reward is not finite"
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


def goes_on(finite: np.ndarray, non_finite: NonFinite) -> bool:
    """Whether a run goes on after a dispatch, or any run of a stack.

    Args:
      finite: `[length]` or `[runs, length]`, see `warn_of_non_finite`.
      non_finite: see `train`.
    """
    return bool(_left(finite, non_finite).any())


def _left(finite: np.ndarray, non_finite: NonFinite) -> np.ndarray:
    return np.asarray(finite.all(axis=-1) if non_finite == "stop" else finite.any(axis=-1))


def _of_one(done: int, finite: np.ndarray, kept: int, non_finite: NonFinite) -> str:
    bad = (done + np.flatnonzero(~finite)).tolist()
    if non_finite == "stop":
        return f"at step {bad[0]}; stopped, keeping the parameters of step {kept}"
    named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
    what = f"at step {named}; went on without {len(bad)} of {len(finite)} updates"
    if len(bad) == len(finite):
        what += ", and stopped, since none was left"
    return what


def record_of(
    step: int, seconds: float, tasks_per_second: float, metrics: Mapping[str, Array]
) -> Record:
    """What is reported of a dispatch: the metrics' means over its steps, in Python's numbers.

    Of a stack they are lists, a run each: None of a run without a finite step.

    Args:
      step: the step at which it ended.
      seconds: of training so far.
      tasks_per_second: its own.
      metrics: `[length, ...]`, or `[runs, length, ...]` of a stack, `finite` among them.
    """
    finite = np.asarray(metrics["finite"])
    means = {
        name: _means(np.asarray(values), finite)
        for name, values in metrics.items()
        if name != "finite"
    }
    skipped = {} if finite.all() else {"skipped": (~finite).sum(axis=-1).tolist()}
    return {
        "step": step,
        "seconds": seconds,
        "tasks_per_second": tasks_per_second,
        **means,
        **skipped,
    }


def _means(values: np.ndarray, finite: np.ndarray) -> Any:
    if finite.ndim == 2:
        return [_means(*run) for run in zip(values, finite, strict=True)]
    if not finite.any():
        return np.full(values.shape[1:], None).tolist()
    return np.mean(values[finite], axis=0).tolist()
