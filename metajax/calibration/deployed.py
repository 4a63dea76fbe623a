"""What deployment keeps of a calibration: a temperature and a threshold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from metajax.calibration.answers import Answers, checked_answers, collect, count_classes
from metajax.calibration.rejection import (
    KINDS,
    Kind,
    check_kept,
    check_kind,
    check_scores,
    choose_threshold,
    score_of,
)
from metajax.calibration.temperatures import fit_temperature
from metajax.checks.numbers import check_numbers, check_optional_integers
from metajax.checks.objects import check_instance
from metajax.kinds import as_array, check_words
from metajax.training.feed import Sample
from metajax.training_step import TrainState
from metajax.types import Array, Learner, Params


class Answered(NamedTuple):
    """The calibrated answers to queries.

    Attributes:
      labels: `[...]` integers, the most likely class, or -1 for none of these.
      probabilities: `[..., ways]`, calibrated: given that the query is of one of the classes.
      accepted: `[...]` booleans, whether it is taken to be of one of them.
    """

    labels: Array
    probabilities: Array
    accepted: Array


class Calibration(NamedTuple):
    """How sure a learner's answers are, and which it withholds.

    It is numbers and words: `json.dumps(calibration._asdict())` saves it, and
    `Calibration(**json.loads(text))` is it again. It is of one learner, of its parameters, and of
    tasks like the validation episodes: of as many ways and shots.

    Attributes:
      temperature: what scores are divided by, above 0.
      threshold: the `rejection_score` of the divided scores from which on a query is answered; None
        answers all.
      kind: of that score, see `rejection_score`.
      kept: the share of known queries that the threshold kept in the validation episodes.
      ways: the classes of a task that it is for; None where they varied.
    """

    temperature: float
    threshold: float | None = None
    kind: Kind = "probability"
    kept: float | None = None
    ways: int | None = None

    def answer(self, outputs: ArrayLike) -> Answered:
        """The calibrated answers, a pure function that can be compiled.

        Args:
          outputs: `[..., ways]` what `learner.predict` gave; -inf of classes that there are not. An
            item of which a score is NaN is not accepted.

        Raises:
          TypeError: outputs are no array.
          ValueError: outputs are no scores or, where they are known, of another number of classes
            than the calibration, or its own numbers are out of range.
        """
        checked_calibration(self)
        scores = as_array(outputs, "outputs")
        check_scores(scores)
        if self.ways is not None:
            _check_ways(scores, self.ways)
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) / self.temperature
        known = score_of(scores, self.kind)
        accepted = known >= (-jnp.inf if self.threshold is None else self.threshold)
        labels = jnp.where(accepted, jnp.argmax(scores, axis=-1), -1)
        return Answered(labels, jax.nn.softmax(scores), accepted)


def calibrate(
    learner: Learner,
    params: Params | TrainState,
    sample: Sample,
    *,
    strangers: Sample | None = None,
    kept: float = 0.95,
    kind: Kind = "probability",
    episodes: int | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Calibration:
    """Fits a temperature, and a threshold below which a query is of none of the classes.

    Episodes are to be of *validation* classes, which are neither the ones that trained the learner
    nor those that test it, and of as many ways and shots as the tasks that it will be used for.

    Args:
      learner: any learner that classifies.
      params: its meta-parameters, or the `TrainState` of one run.
      sample: the sampler of validation episodes, for `fit_temperature`.
      strangers: one of validation episodes with strangers and as many known classes, see
        `metajax.data.with_strangers`, for `choose_threshold`; None rejects nothing.
      kept: the share of known queries that are to be answered, between 0 and 1.
      kind: of the score by which queries are rejected, see `rejection_score`.
      episodes: how many of each, 2 or more; None is the whole list, or else 600.
      seed: 0 or more; the same seed draws the same episodes from a sampler.
      chunk_size: see `metajax.evaluate`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, the two samplers are of another number of classes, or
        see `collect`, `fit_temperature` and `choose_threshold`.
    """
    check_kept(kept)
    check_kind(kind)

    def asked(sample: Sample) -> Answers:
        return collect(learner, params, sample, episodes=episodes, seed=seed, chunk_size=chunk_size)

    answers = asked(sample)
    temperature, ways = fit_temperature(answers), count_classes(answers)
    if strangers is None:
        return Calibration(temperature, None, kind, None, ways)
    try:
        others = checked_answers(asked(strangers), strangers=True)
        check_ways_of(others, ways)
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"strangers: {error}") from error
    threshold = choose_threshold(others, kind, kept, temperature)
    return Calibration(temperature, threshold, kind, float(kept), ways)


def checked_calibration(calibration: Any) -> None:
    """Raises unless it is a `Calibration` whose numbers are in range."""
    check_instance(
        calibration, Calibration, "calibration", "metajax.calibration.calibrate(learner, ...)"
    )
    temperature, threshold, kind, kept, ways = (
        {f"calibration.{name}": value} for name, value in calibration._asdict().items()
    )
    check_numbers(lambda x: 0 < x < np.inf, "a number above 0", **temperature)
    check_words(KINDS, **kind)
    check_optional_integers(1, **ways)
    if calibration.threshold is not None:
        check_numbers(np.isfinite, "a finite number, or None", **threshold)
    if calibration.kept is not None:
        check_numbers(lambda x: 0 < x < 1, "a number between 0 and 1, or None", **kept)


def check_ways_of(answers: Answers, ways: int | None) -> None:
    """Raises unless answers are of that many classes, or of any where it is None."""
    found = count_classes(answers)
    if ways is not None and found != ways:
        shown = "a varying number of" if found is None else found
        raise ValueError(
            f"answers are of {shown} classes and the calibration of {ways}; expected episodes of "
            f"{ways} known classes, as metajax.data.with_strangers(sample, {ways}) draws"
        )


def _check_ways(outputs: Array, ways: int) -> None:
    """Raises unless outputs are of that many classes, as far as that is known."""
    found = {outputs.shape[-1]}
    if not isinstance(outputs, Tracer) and outputs.size:
        numbers = np.asarray(outputs)
        found = {*(numbers != -np.inf).sum(-1).ravel().tolist()}
    elif outputs.shape[-1] >= ways:
        return
    if found != {ways}:
        raise ValueError(
            f"outputs are of {min(found)} classes and the calibration is of {ways}; expected tasks "
            "of as many classes as the validation episodes: calibrate for each number of them"
        )
