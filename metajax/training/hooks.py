"""A user's own functions in a run: when they are called, and what they answer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from metajax.kinds import check_optional_functions, in_brief
from metajax.stacked_runs import count_runs
from metajax.training.progress import Record
from metajax.training_step import TrainState


@dataclasses.dataclass(frozen=True)
class Hooks:
    """`validate` and `on_dispatch` of one run.

    Attributes:
      validate: see `train`.
      validate_every: see `train`.
      on_dispatch: see `train`.
      saves: whether there are checkpoints.
      iterations: the run's last step.
    """

    validate: Callable[[TrainState], Any] | None
    validate_every: int | None
    on_dispatch: Callable[[TrainState, Record], object] | None
    saves: bool
    iterations: int

    def __post_init__(self) -> None:
        check_optional_functions(validate=self.validate, on_dispatch=self.on_dispatch)
        if self.validate_every is not None and self.validate is None:
            raise ValueError(
                f"validate_every={self.validate_every} and no validate; expected a function from "
                "the state to its score beside it"
            )

    def validation(
        self, state: TrainState, done: int, length: int, *, due: bool
    ) -> dict[str, float | list[float]]:
        """The state's score as a field of its record, or none where it is not to be scored.

        Args:
          state: of step `done`.
          done: the step at which a dispatch ended.
          length: the dispatch's meta-steps.
          due: whether a checkpoint is due.
        """
        every = self.validate_every
        if every is None:
            wanted = due or not self.saves
        else:
            wanted = done // every > (done - length) // every
        if self.validate is None or not (wanted or done == self.iterations):
            return {}
        returned, runs = self.validate(state), count_runs(state)
        expected = 'a float, such as metajax.evaluate(...).mean("accuracy")'
        if runs is not None:
            expected = f"one number, or one for each of {runs} runs, as that gives of a stack"
        try:
            scores = np.asarray([] if returned is None else returned, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"validate returned {in_brief(returned)}; expected {expected}"
            ) from error
        if scores.shape not in ((), (runs,)):
            raise TypeError(f"validate returned {in_brief(returned)}; expected {expected}")
        return {"validation": scores.tolist()}

    def asks_to_stop(self, state: TrainState, record: Record) -> bool:
        """Whether `on_dispatch` returns True; what is no `bool` was returned by accident."""
        if self.on_dispatch is None:
            return False
        answer = self.on_dispatch(state, record)
        return isinstance(answer, bool | np.bool_) and bool(answer)
