"""None of these: scores, areas, thresholds and reports."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibration.answering import answers_of, random_answers

from metajax import calibration
from metajax.calibration.rejection import Kind

KINDS = ("probability", "logit", "energy")


def _score(scores: np.ndarray, kind: str) -> float:
    if kind == "logit":
        return scores.max()
    total = np.exp(scores).sum()
    return np.log(total) if kind == "energy" else np.exp(scores.max()) / total


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_their_formulas(kind: Kind, float64: None) -> None:
    del float64
    outputs = random_answers(0).outputs
    expected = [[_score(scores, kind) for scores in episode] for episode in outputs]
    scored = jax.jit(lambda x: calibration.rejection_score(x, kind))
    np.testing.assert_allclose(scored(outputs), expected, rtol=1e-12)
    absent = jnp.concatenate([outputs, jnp.full((4, 30, 1), -jnp.inf)], axis=-1)
    np.testing.assert_allclose(scored(absent), expected, rtol=1e-12)
    far = calibration.rejection_score(jnp.array([-1e4, -1e4]), kind)
    expected_far = {"probability": 0.5, "logit": -1e4, "energy": -1e4 + np.log(2)}[kind]
    np.testing.assert_allclose(far, expected_far, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_areas_by_pairs(kind: Kind) -> None:
    answers = random_answers(2)
    coarse = answers._replace(outputs=np.round(answers.outputs))  # With ties.
    areas = []
    for outputs, targets, weights in zip(*coarse, strict=True):
        scores = [_score(each / 2, kind) for each in outputs]
        won = total = 0.0
        for known, label, weight in zip(scores, targets, weights, strict=True):
            for other, strange, also in zip(scores, targets, weights, strict=True):
                if label >= 0 and strange == -1:
                    alike = np.isclose(known, other, rtol=1e-12, atol=0)
                    won += weight * also * (0.5 if alike else known > other)
                    total += weight * also
        areas.append(won / total)
    rounded = calibration.auroc(coarse, kind, 2.0)
    # Ties that are none but for rounding are broken by it.
    np.testing.assert_allclose(rounded, np.mean(areas), atol=1e-12 if kind == "logit" else 2e-3)


def test_thresholds_keep_what_they_are_to_keep() -> None:
    answers = random_answers(4, episodes=6)
    known = (answers.targets >= 0) & (answers.weights > 0)
    weights = answers.weights[known]
    for kind in KINDS:
        scores = np.array([_score(each / 2, kind) for each in answers.outputs[known]])
        for kept in (0.5, 0.95, 0.999):
            threshold = calibration.choose_threshold(answers, kind, kept, 2.0)
            share = weights[scores > threshold - 1e-12].sum() / weights.sum()
            assert share >= kept
            lowest = scores[scores > threshold - 1e-12].min()
            assert weights[scores > lowest].sum() / weights.sum() < kept  # One less, too few.


def test_a_threshold_by_hand() -> None:
    outputs = [[[4.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [2.0, 0.0]]]
    answers = answers_of(outputs, [[0, 0], [-1, 1]])
    assert calibration.choose_threshold(answers, "logit", 0.5) == 2.5
    assert calibration.choose_threshold(answers, "logit", 2 / 3) == 2.5
    assert calibration.choose_threshold(answers, "logit", 0.7) == 1.5
    assert calibration.choose_threshold(answers, "logit", 0.7, 2.0) == 0.75


def test_a_report_by_hand() -> None:
    outputs = [
        [[4.0, 0.0], [0.0, 3.0], [1.0, 0.0], [9.0, 0.0]],
        [[0.0, 2.0], [6.0, 0.0], [5.0, 0.0], [0.0, 1.0]],
    ]
    answers = answers_of(outputs, [[0, 0, -1, -1], [0, 0, 1, -1]])
    report = calibration.rejection_report(
        answers, calibration.Calibration(2.0, threshold=1.25, kind="logit", ways=2)
    )
    expected = {
        "auroc": (0.5, 1.0),
        "known_kept": (1.0, 2 / 3),
        "strangers_rejected": (0.5, 1.0),
        "accuracy": (0.5, 1 / 3),
        "accuracy_kept": (0.5, 0.5),
    }
    for name, (one, other) in expected.items():
        mean, interval = getattr(report, name)
        np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-12)
        np.testing.assert_allclose(interval, 1.96 * abs(one - other) / 2, rtol=1e-12, atol=1e-15)
    assert "auroc=0.7500 ± 0.4900" in repr(report)


def test_episodes_that_lack_a_figure_are_left_out_of_it() -> None:
    outputs = np.broadcast_to([2.0, 0.0], (3, 2, 2))
    answers = answers_of(outputs, [[0, -1], [0, 1], [0, -1]])
    report = calibration.rejection_report(answers, calibration.Calibration(1.0, 0.1, ways=2))
    assert report.auroc == (0.5, 0.0)
    np.testing.assert_allclose(report.accuracy.mean, (1 + 0.5 + 1) / 3)
    rejecting = calibration.Calibration(1.0, 5.0, "logit", ways=2)
    nothing = calibration.rejection_report(answers, rejecting)
    assert nothing.known_kept == (0.0, 0.0)
    assert np.isnan(nothing.accuracy_kept).all()


def test_what_is_refused() -> None:
    answers = random_answers(0)
    closed = random_answers(0, strangers=False)
    made = calibration.Calibration(1.0, 0.5, ways=4)
    for call in (
        lambda: calibration.auroc(closed),
        lambda: calibration.choose_threshold(closed),
        lambda: calibration.rejection_report(closed, made),
    ):
        with pytest.raises(ValueError, match="answers have no stranger, a query with the target"):
            call()
    with pytest.raises(ValueError, match="answers have no known query"):
        calibration.choose_threshold(answers._replace(targets=np.full((4, 30), -1)))
    for kept in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            calibration.choose_threshold(answers, kept=kept)
    with pytest.raises(ValueError, match='kind=\'margin\'; expected "probability", "logit" or'):
        calibration.auroc(answers, "margin")
    with pytest.raises(ValueError, match="answers are of 4 classes and the calibration of 3"):
        calibration.rejection_report(answers, made._replace(ways=3))
    with pytest.raises(ValueError, match="calibration has no threshold"):
        calibration.rejection_report(answers, calibration.Calibration(1.0))
    apart = answers_of(np.zeros((2, 2, 2)), [[0, 1], [-1, -1]])
    with pytest.raises(ValueError, match="no episode of the answers has both"):
        calibration.auroc(apart)
    with pytest.raises(ValueError, match=r"outputs are int32\[2\]; expected scores"):
        calibration.rejection_score(jnp.ones(2, int))


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_outputs_that_are_not_finite(spoilt: float) -> None:
    answers = random_answers(0)
    outputs = answers.outputs.copy()
    place = tuple(np.argwhere(answers.weights > 0)[3])
    outputs[place] = spoilt
    with pytest.raises(ValueError, match=f"those of query {place[1]} of episode {place[0]} are"):
        calibration.choose_threshold(answers._replace(outputs=outputs))
    with pytest.raises(ValueError, match="label 4 and 4 ways"):
        calibration.fit_temperature(
            answers._replace(targets=np.full((4, 30), 4), weights=np.ones((4, 30)))
        )


def test_absent_classes_of_labels_and_in_some_episodes() -> None:
    answers = random_answers(4)
    outputs = answers.outputs.copy()
    outputs[0, :, 2] = -np.inf
    with pytest.raises(ValueError, match=r"are .*-inf.* with the target 2; expected finite scores"):
        calibration.fit_temperature(answers._replace(outputs=outputs))
    varying = answers._replace(
        outputs=outputs, targets=np.where(answers.targets == 2, -1, answers.targets)
    )
    made = calibration.Calibration(1.0, 0.5, ways=3)
    with pytest.raises(ValueError, match="answers are of a varying number of classes"):
        calibration.rejection_report(varying, made)
    assert calibration.rejection_report(varying, made._replace(ways=None)).auroc.mean > 0.5
