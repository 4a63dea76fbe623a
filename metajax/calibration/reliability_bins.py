"""How often a learner is right where it is so sure: reliability diagrams and their summary.

Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
AAAI 2015, with the equal-width bins of Guo et al. (ICML 2017, arXiv:1706.04599): bin m of M holds
the queries whose confidence lies in ((m - 1) / M, m / M].
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from metajax.calibration.answers import Answers, checked_answers, known_queries
from metajax.checks.numbers import check_integers, check_numbers


class Reliability(NamedTuple):
    """Confidence and accuracy in bins of confidence, all `[bins]`.

    Attributes:
      counts: queries, by their weights.
      confidence: mean of the largest probability; NaN of an empty bin.
      accuracy: share of right answers; NaN of an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(answers: Answers, temperature: float = 1.0, bins: int = 15) -> Reliability:
    """The reliability diagram of the queries that are no strangers.

    Args:
      answers: from `collect`, of other episodes than the temperature is from.
      temperature: what scores are divided by, above 0, see `fit_temperature`.
      bins: of equal width in `[0, 1]`, 1 or more.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, there is no known query, or see `collect`.
    """
    check_finite_temperature(temperature)
    check_integers(1, bins=bins)
    logits, targets, weights = known_queries(checked_answers(answers, known=True))
    chances = special.softmax(logits / temperature, axis=1)
    confidence, right = chances.max(1), logits.argmax(1) == targets
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, sums, rights = (
        np.bincount(index, weights * each, minlength=bins) for each in (1.0, confidence, right)
    )
    some = np.where(counts > 0, counts, np.nan)
    return Reliability(counts, sums / some, rights / some)


def expected_calibration_error(answers: Answers, temperature: float = 1.0, bins: int = 15) -> float:
    """By how much confidence and accuracy differ, on average over the bins of `reliability`.

    `sum_m counts_m / n |accuracy_m - confidence_m|`, in `[0, 1]`. It depends on the number of bins,
    and is above 0 by chance for few queries.

    Args:
      answers: see `reliability`.
      temperature: see `reliability`.
      bins: see `reliability`; 15 are Guo et al.'s.

    Raises:
      TypeError, ValueError: see `reliability`.
    """
    counts, confidence, accuracy = reliability(answers, temperature, bins)
    some = counts > 0
    gaps = np.abs(accuracy[some] - confidence[some])
    return float(counts[some] @ gaps / counts.sum())


def check_finite_temperature(temperature: object) -> None:
    """Raises unless it is a number above 0."""
    check_numbers(lambda x: 0 < x < np.inf, "a number above 0", temperature=temperature)
