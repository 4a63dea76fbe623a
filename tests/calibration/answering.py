"""Answers made up: of scores, and of chance."""

import numpy as np

from metajax.calibration import Answers


def answers_of(outputs: object, targets: object, weights: object = None) -> Answers:
    """Answers of `[episodes, queries, ways]` scores; None weighs all alike."""
    labels = np.asarray(targets)
    weighed = np.ones(labels.shape) if weights is None else np.asarray(weights, float)
    return Answers(np.asarray(outputs, float), labels, weighed)


def random_answers(
    seed: int, *, episodes: int = 4, queries: int = 30, ways: int = 4, strangers: bool = True
) -> Answers:
    """Scores that know something; every tenth label is a stranger's, and weights differ."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, ways, (episodes, queries))
    outputs = rng.normal(size=(episodes, queries, ways)) * 2
    outputs += 3 * np.eye(ways)[targets]
    weights = rng.choice([0.0, 1.0, 2.5], (episodes, queries), p=[0.1, 0.6, 0.3])
    if strangers:
        strange = rng.random((episodes, queries)) < 0.3
        outputs[strange] -= 3 * np.eye(ways)[targets[strange]]
        targets[strange] = -1
    return answers_of(outputs, targets, weights)
