"""Which checkpoints stay: the newest and the best of those that are good."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metajax.checkpoint.arrays import read_arrays
from metajax.checkpoint.reading import ranked, stored_steps
from metajax.checkpoint.record import Mode
from metajax.checkpoint.record_file import DamagedError, read_record


@dataclasses.dataclass
class Kept:
    """The policy by which orbax deletes, once a new checkpoint is complete.

    What is not known to be good counts for nothing, and is never deleted.

    Attributes:
      scores: those of the checkpoints that are good, by step: read by this run, or written.
    """

    keep: int
    best: int
    mode: Mode
    scores: dict[int, float | None] = dataclasses.field(default_factory=dict)

    def read(self, folder: Path) -> set[int]:
        """Learns what is good in a folder: all is read that is not known already.

        Returns:
          The steps of those that are damaged.
        """
        known, self.scores = self.scores, {}
        damaged = set()
        for step in stored_steps(folder):
            try:
                self.scores[step] = known[step] if step in known else _score(folder / str(step))
            except DamagedError:
                damaged.add(step)
            except ValueError:  # It is of another format.
                continue
        return damaged

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which stay, as orbax asks."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        good = {step: self.scores[step] for step in sorted(steps) if step in self.scores}
        stay = {*list(good)[-self.keep :], *ranked(good, self.mode)[: self.best]}
        return [step in stay or step not in good for step in steps]


def _score(path: Path) -> float | None:
    record = read_record(path)
    read_arrays(path, record)
    return record["score"]
