"""What a calibration does to episodes that it was not made of."""

from typing import NamedTuple

import numpy as np

from metajax.calibration.answers import Answers, checked_answers
from metajax.calibration.deployed import Calibration, check_ways_of, checked_calibration
from metajax.calibration.rejection import episode_areas, score_of


class Estimate(NamedTuple):
    """A mean over episodes.

    Attributes:
      mean: of the episodes that have it.
      interval: half-width of its 95 % interval, `1.96 s / sqrt(episodes)`; NaN of fewer than 2.
    """

    mean: float
    interval: float

    def __repr__(self) -> str:
        return f"{self.mean:.4f} ± {self.interval:.4f}"


class RejectionReport(NamedTuple):
    """How a calibration tells known queries from strangers.

    Attributes:
      auroc: see `metajax.calibration.auroc`.
      known_kept: share of known queries that are answered.
      strangers_rejected: share of strangers that are not.
      accuracy: share of right answers, of all known queries, if all were answered.
      accuracy_kept: the same, of the known queries that are answered.
    """

    auroc: Estimate
    known_kept: Estimate
    strangers_rejected: Estimate
    accuracy: Estimate
    accuracy_kept: Estimate


def rejection_report(answers: Answers, calibration: Calibration) -> RejectionReport:
    """How a calibration tells known queries from strangers, in other episodes than it was made of.

    Each figure is of each episode, with the mean over those that have it, and its interval.

    Args:
      answers: from `collect`, of *test* episodes with strangers.
      calibration: from `calibrate` with strangers.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: the calibration has no threshold or is of another number of ways, there are no
        known queries or no strangers, or see `collect`.
    """
    checked_calibration(calibration)
    temperature, threshold, kind = calibration[:3]
    if threshold is None:
        raise ValueError(
            "calibration has no threshold, since it was made without strangers; expected "
            "calibrate(..., strangers=metajax.data.with_strangers(...))"
        )
    answers = checked_answers(answers, strangers=True)
    check_ways_of(answers, calibration.ways)
    outputs, targets, weights = answers
    kept = score_of(outputs / temperature, kind) >= threshold
    right = outputs.argmax(-1) == targets
    known, strange = weights * (targets >= 0), weights * (targets == -1)
    return RejectionReport(
        auroc=_over(episode_areas(answers, kind, temperature)),
        known_kept=_over(_share(kept, known)),
        strangers_rejected=_over(_share(~kept, strange)),
        accuracy=_over(_share(right, known)),
        accuracy_kept=_over(_share(right, known * kept)),
    )


def _share(of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`[episodes]` the weighted mean over queries; NaN of none."""
    total = weights.sum(1)
    return (of * weights).sum(1) / np.where(total > 0, total, np.nan)


def _over(figures: np.ndarray) -> Estimate:
    some = figures[~np.isnan(figures)]
    if len(some) < 2:
        return Estimate(float(some.mean()) if some.size else np.nan, np.nan)
    return Estimate(float(some.mean()), float(1.96 * some.std(ddof=1) / np.sqrt(len(some))))
