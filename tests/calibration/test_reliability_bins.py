"""Reliability diagrams, and the expected calibration error."""

import numpy as np
import pytest
from calibration.answering import answers_of, random_answers

from metajax import calibration


def _by_hand(answers: calibration.Answers, temperature: float, bins: int) -> float:
    queries = []
    for outputs, targets, weights in zip(*answers, strict=True):
        for scores, label, weight in zip(outputs, targets, weights, strict=True):
            if label >= 0 and weight > 0:
                chances = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
                queries.append((chances.max(), float(np.argmax(scores) == label), weight))
    total, error = sum(weight for *_, weight in queries), 0.0
    for index in range(bins):
        inside = [each for each in queries if index / bins < each[0] <= (index + 1) / bins]
        error += abs(sum(weight * (right - sure) for sure, right, weight in inside)) / total
    return error


@pytest.mark.parametrize(("temperature", "bins"), [(1.0, 15), (2.5, 4), (0.3, 1)])
def test_against_the_definition(temperature: float, bins: int) -> None:
    answers = random_answers(1)
    error = calibration.expected_calibration_error(answers, temperature, bins)
    np.testing.assert_allclose(error, _by_hand(answers, temperature, bins), rtol=1e-12)


def test_the_bins_by_hand() -> None:
    """Confidences of 0.5, 0.75, 0.75 and 1; bins end with their upper edge."""
    third = np.log(3)
    outputs = [[[0, 0], [third, 0]], [[0, third], [800, 0]]]
    table = calibration.reliability(answers_of(outputs, [[0, 0], [0, 0]]), bins=4)
    np.testing.assert_array_equal(table.counts, [0, 1, 2, 1])
    np.testing.assert_allclose(table.confidence, [np.nan, 0.5, 0.75, 1], rtol=1e-12)
    np.testing.assert_allclose(table.accuracy, [np.nan, 1, 0.5, 1], rtol=1e-12)
    error = calibration.expected_calibration_error(answers_of(outputs, [[0, 0], [0, 0]]), bins=4)
    np.testing.assert_allclose(error, (0.5 + 2 * 0.25 + 0) / 4, rtol=1e-12)


def test_bad_numbers() -> None:
    answers = random_answers(1)
    for temperature in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="expected a number above 0"):
            calibration.expected_calibration_error(answers, temperature)
    with pytest.raises(ValueError, match="bins=0; expected an integer of 1"):
        calibration.reliability(answers, bins=0)
