"""The temperature of the least negative log-likelihood."""

import numpy as np
import pytest
from calibration.answering import answers_of, random_answers
from scipy import special

from metajax import calibration


def _loss(answers: calibration.Answers, temperature: float) -> float:
    """The mean negative log-likelihood, written out."""
    total, weighed = 0.0, 0.0
    for outputs, targets, weights in zip(*answers, strict=True):
        for scores, label, weight in zip(outputs, targets, weights, strict=True):
            if label >= 0 and weight > 0:
                chances = np.exp(scores / temperature)
                total -= weight * np.log(chances[label] / chances.sum())
                weighed += weight
    return total / weighed


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_a_grid(seed: int) -> None:
    answers = random_answers(seed)
    best = calibration.fit_temperature(answers)
    grid = np.exp(np.linspace(-3, 3, 601))
    losses = [_loss(answers, temperature) for temperature in grid]
    step = grid[1] / grid[0]
    assert grid[np.argmin(losses)] / step <= best <= grid[np.argmin(losses)] * step
    assert _loss(answers, best) <= min(losses)
    # The derivative is 0: left and right of it are alike, to the fourth order.
    near = [_loss(answers, best * (1 + by)) for by in (-1e-4, 1e-4)]
    np.testing.assert_allclose(near[0] - near[1], 0, atol=1e-11)


def test_the_closed_case_of_one_gap() -> None:
    """Two classes, scores always `gap` apart, right 7 times of 10: sigmoid(gap / T) = 0.7."""
    gap, targets = 3.0, np.array([[0] * 7 + [1] * 3] * 2)
    answers = answers_of(np.broadcast_to([gap, 0.0], (2, 10, 2)), targets)
    expected = gap / np.log(0.7 / 0.3)
    np.testing.assert_allclose(calibration.fit_temperature(answers), expected, rtol=1e-12)


def test_calibrated_logits_times_a_number_have_it_as_temperature() -> None:
    """A distribution of labels that is the softmax itself: each label by its share, as a weight."""
    logits = np.random.default_rng(0).normal(size=(40, 3)) * 2
    shares = special.softmax(logits, axis=1)
    outputs = np.repeat(logits, 3, axis=0).reshape(2, 60, 3) * 5
    answers = answers_of(outputs, np.tile([0, 1, 2], 40).reshape(2, 60), shares.reshape(2, 60))
    np.testing.assert_allclose(calibration.fit_temperature(answers), 5, rtol=1e-12)
    shifted = answers._replace(outputs=outputs + 1e3)
    np.testing.assert_allclose(calibration.fit_temperature(shifted), 5, rtol=1e-9)
    # The scale of the scores is the unit of the temperature.
    for scale in (1e-30, 1e30):
        scaled = answers._replace(outputs=outputs * scale)
        np.testing.assert_allclose(calibration.fit_temperature(scaled), 5 * scale, rtol=1e-12)


def test_absent_classes_padding_and_strangers_do_not_count() -> None:
    answers = random_answers(3, strangers=False)
    best = calibration.fit_temperature(answers)
    outputs, targets, weights = answers
    absent = np.concatenate([outputs, np.full((4, 30, 2), -np.inf)], axis=2)
    np.testing.assert_allclose(
        calibration.fit_temperature(answers._replace(outputs=absent)), best, rtol=1e-12
    )
    junk = np.concatenate([outputs, np.full((4, 5, 4), np.nan)], axis=1)
    padded = answers_of(
        junk,
        np.concatenate([targets, np.full((4, 5), 77)], axis=1),
        np.concatenate([weights, np.zeros((4, 5))], axis=1),
    )
    np.testing.assert_allclose(calibration.fit_temperature(padded), best, rtol=1e-12)
    strange = answers_of(
        np.concatenate([outputs, np.full((4, 5, 4), 9.0)], axis=1),
        np.concatenate([targets, np.full((4, 5), -1)], axis=1),
        np.concatenate([weights, np.ones((4, 5))], axis=1),
    )
    np.testing.assert_allclose(calibration.fit_temperature(strange), best, rtol=1e-12)


def test_all_right_is_as_if_one_more_were_wrong() -> None:
    """Of two classes 20 right answers and a wrong one: sigmoid(gap / T) = 20 / 21."""
    answers = answers_of(np.broadcast_to([3.0, 0.0], (2, 10, 2)), np.zeros((2, 10), int))
    with pytest.warns(RuntimeWarning, match="all 20 known queries have the right answer") as said:
        temperature = calibration.fit_temperature(answers)
    assert said[0].filename == __file__
    np.testing.assert_allclose(temperature, 3 / np.log(20), rtol=1e-12)


def test_scores_that_say_nothing_have_no_temperature() -> None:
    targets = np.array([[0, 1, 2], [2, 1, 0]])
    right = np.eye(3)[targets]
    for useless in (np.zeros((2, 3, 3)), -right, np.ones((2, 3, 1))):
        labels = targets if useless.shape[2] == 3 else np.zeros_like(targets)
        with pytest.raises(ValueError, match="the scores of 6 queries say nothing of their labels"):
            calibration.fit_temperature(answers_of(useless, labels))


def test_too_little() -> None:
    few = answers_of(np.zeros((2, 1, 2)), [[0], [-1]])
    with pytest.raises(ValueError, match="answers have 1 known query; expected two or more"):
        calibration.fit_temperature(few)
    with pytest.raises(ValueError, match="answers have no known query"):
        calibration.fit_temperature(few._replace(targets=np.array([[-1], [-1]])))
    with pytest.raises(ValueError, match="answers are of 1 episodes; expected those of 2 valid"):
        calibration.fit_temperature(answers_of(np.zeros((1, 2, 2)), [[0, 1]]))
