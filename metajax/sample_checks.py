"""A sampler given to `train` or `evaluate`, found to fit the learner before anything runs."""

from typing import Any

import jax

from metajax.training_feed import Sample
from metajax.types import Learner


def check_sample(learner: Learner, params: Any, sample: Sample) -> None:
    """Raises unless one drawn episode fits the learner, its number of ways included."""
    key = jax.random.key(0)
    episode = sample(key)
    # The episode is not an argument of what is traced, so that checks can read its labels.
    jax.eval_shape(lambda params: learner.loss(params, episode, key), params)
