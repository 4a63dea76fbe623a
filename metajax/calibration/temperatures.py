"""Temperature scaling: the one number by which logits are divided before the softmax.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017,
arXiv:1706.04599: the confidence max_k softmax(z_i / T)_k, with the T that minimises the negative
log-likelihood of a validation set. It changes no answer, only how sure they are.
"""

from typing import Any

import numpy as np
from scipy import optimize, special

from metajax.calibration.answers import Answers, checked_answers, known_queries
from metajax.user_warnings import warn_user


def fit_temperature(answers: Answers) -> float:
    """The temperature of the least negative log-likelihood of the queries that are no strangers.

    The mean is over all these queries, by their weights. It is convex in `1 / T`, and its one
    minimum is where its derivative, `mean_i (sum_k p_ik z_ik - z_i[y_i])`, is 0; this is found to
    rounding. Classes without a score (-inf) have no share in it.

    Where every query has its largest score right, the lower the temperature the better: then there
    is a RuntimeWarning, and the temperature is that of one query more whose answer is wrong: one of
    two classes, whose scores are as far apart as right scores are from others on average.

    Args:
      answers: from `collect`, of *validation* episodes: a temperature of the test episodes makes
        their likelihood too good.

    Returns:
      `T`, above 0.

    Raises:
      TypeError: it is no `Answers`.
      ValueError: see `collect`; there are fewer than two queries of known classes, or scores are no
        better than none, so that the best temperature is infinite.
    """
    logits, targets, weights = known_queries(checked_answers(answers, known=True))
    if len(targets) < 2:
        raise ValueError(f"answers have {len(targets)} known query; expected two or more")
    present = logits > -np.inf
    picked = np.take_along_axis(logits, targets[:, None], 1)
    gaps = np.where(present, logits - picked, 0.0)  # 0 of the labelled class.
    share = weights / weights.sum()

    def slope(inverse: float) -> float:
        """The derivative with respect to 1 / T, which rises with it."""
        chances = special.softmax(np.where(present, inverse * gaps, -np.inf), axis=1)
        return float(share @ (chances * gaps).sum(1))

    if slope(0.0) >= 0:
        raise ValueError(
            f"the scores of {len(targets)} queries say nothing of their labels: the likelihood is "
            "best at an infinite temperature, where all classes are alike; expected a learner "
            "that is better than chance on these episodes"
        )
    derivative = slope
    if gaps.max() <= 0:
        distance = -float(share @ (gaps.sum(1) / np.maximum(present.sum(1) - 1, 1)))
        warn_user(
            f"all {len(targets)} known queries have the right answer, so that no temperature is "
            "too low; it is taken as if one more were wrong: more or harder validation episodes "
            "would tell"
        )

        def derivative(inverse: float) -> float:
            wrong = distance * special.expit(inverse * distance)
            return len(targets) * slope(inverse) + float(wrong)

    upper = 1.0 / np.abs(gaps).max()  # It has no units then.
    while derivative(upper) <= 0:
        upper *= 2
    lower = upper / 2
    while derivative(lower) > 0:
        lower /= 2
    tiny = np.finfo(float).tiny
    found: Any = optimize.brentq(derivative, lower, upper, xtol=tiny, rtol=np.float64(1e-14))
    return 1.0 / float(found)
