"""None of these: scores of how well a query is known, and from which on it is answered.

- `"probability"`: the largest softmax probability (Hendrycks and Gimpel, "A baseline for detecting
  misclassified and out-of-distribution examples in neural networks", ICLR 2017, arXiv:1610.02136).
- `"logit"`: the largest score itself (Hendrycks et al., "Scaling out-of-distribution detection for
  real-world settings", ICML 2022, arXiv:1911.11132).
- `"energy"`: the log of the sum of their exponentials, the negative of Liu et al.'s free energy at
  temperature 1 ("Energy-based out-of-distribution detection", NeurIPS 2020, arXiv:2010.03759).

The higher, the better known. Distances and their likes (prototypical networks) say by the last two
how near a query is to any class, which a softmax forgets. Which tells strangers best depends on the
learner: compare their `auroc` in validation episodes.
"""

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax.calibration.answers import Answers, checked_answers
from metajax.calibration.reliability_bins import check_finite_temperature
from metajax.checks.numbers import check_numbers
from metajax.kinds import as_array, check_words
from metajax.types import Array

Kind = Literal["probability", "logit", "energy"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def rejection_score(outputs: ArrayLike, kind: Kind = "probability") -> Array:
    """How well items are known, by their scores.

    Args:
      outputs: `[..., ways]` scores, divided by the temperature where there is one; -inf of classes
        that there are not.
      kind: `"probability"`, `"logit"` or `"energy"`.

    Returns:
      `[...]`; NaN where a score is NaN.

    Raises:
      TypeError: `outputs` is no array.
      ValueError: `kind` is unknown, or outputs have no axis of ways.
    """
    check_kind(kind)
    scores = as_array(outputs, "outputs")
    check_scores(scores)
    return score_of(scores, kind)


def auroc(answers: Answers, kind: Kind = "probability", temperature: float = 1.0) -> float:
    """The chance that a known query scores higher than a stranger of its episode; 0.5 is chance.

    The area under the receiver operating characteristic, by ranks (Mann and Whitney), ties as a
    half; the mean over the episodes that have both.

    Args:
      answers: from `collect`, of episodes with strangers.
      kind: see `rejection_score`.
      temperature: what scores are divided by first, above 0.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: `kind` is unknown, the temperature out of range, no episode has both known queries
        and strangers, or see `collect`.
    """
    check_kind(kind)
    check_finite_temperature(temperature)
    answers = checked_answers(answers, strangers=True)
    areas = episode_areas(answers, kind, temperature)
    if np.isnan(areas).all():
        raise ValueError(
            "no episode of the answers has both known queries and strangers; expected some, which "
            "metajax.data.with_strangers makes"
        )
    return float(np.nanmean(areas))


def choose_threshold(
    answers: Answers,
    kind: Kind = "probability",
    kept: float = 0.95,
    temperature: float = 1.0,
) -> float:
    """The score from which on a query is answered, so that at least `kept` of known ones are.

    It is the highest such threshold, halfway to the next lower score, so that rounding changes
    nothing. All queries of all episodes are counted together, by their weights: one threshold is
    for all tasks.

    Args:
      answers: from `collect`, of *validation* episodes with strangers: those of the test episodes
        make its report too good.
      kind: see `rejection_score`.
      kept: the share of known queries, between 0 and 1.
      temperature: what scores are divided by first, above 0.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: `kind` is unknown, a number out of range, there are no known queries or no
        strangers, or see `collect`.
    """
    check_kind(kind)
    check_kept(kept)
    check_finite_temperature(temperature)
    answers = checked_answers(answers, strangers=True)
    scores = score_of(answers.outputs / temperature, kind)
    counts = answers.weights > 0
    known = counts & (answers.targets >= 0)
    order = np.argsort(-scores[known], kind="stable")
    ordered, weights = scores[known][order], answers.weights[known][order]
    total = weights.cumsum()
    # Rounding of the sum may not cost a query.
    last = int(np.searchsorted(total, float(kept) * total[-1] * (1 - 1e-12)))
    threshold = ordered[last]
    lower = scores[counts & (scores < threshold)]
    return float((threshold + lower.max()) / 2 if lower.size else threshold)


def score_of(outputs: Any, kind: Kind) -> Any:
    """`rejection_score` of an array of NumPy or JAX, of which the result is one, too."""
    xp = outputs.__array_namespace__()
    most = outputs.max(axis=-1)
    if kind == "logit":
        return most
    summed = xp.exp(outputs - most[..., None]).sum(axis=-1)
    return 1 / summed if kind == "probability" else most + xp.log(summed)


def episode_areas(answers: Answers, kind: Kind, temperature: float) -> np.ndarray:
    """`[episodes]` the AUROC of each; NaN of one without known queries, or without strangers."""
    scores = score_of(answers.outputs / temperature, kind)
    return np.array([_area(*each) for each in zip(scores, *answers[1:], strict=True)])


def _area(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The AUROC of one episode, `[queries]` each."""
    known, strange = ((weights > 0) & of for of in (targets >= 0, targets == -1))
    if not known.any() or not strange.any():
        return np.nan
    order = np.argsort(scores[strange])
    ordered = scores[strange][order]
    below = np.concatenate([[0.0], weights[strange][order].cumsum()])
    left, right = (np.searchsorted(ordered, scores[known], side) for side in ("left", "right"))
    beaten = (below[left] + below[right]) / 2
    return float(weights[known] @ beaten / (weights[known].sum() * below[-1]))


def check_kind(kind: object) -> None:
    """Raises unless it is one of the three."""
    check_words(KINDS, kind=kind)


def check_kept(kept: object) -> None:
    """Raises unless it is a share of queries that can be kept."""
    check_numbers(lambda x: 0 < x < 1, "a number between 0 and 1", kept=kept)


def check_scores(outputs: Array) -> None:
    """Raises unless there are classes."""
    if not outputs.ndim or not outputs.shape[-1] or not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"outputs are {outputs.dtype}{[*outputs.shape]}; expected scores [..., ways] of a "
            "learner that classifies, floats"
        )
