"""Evaluation on fresh episodes: a score an episode, their mean and its 95 % interval."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from metajax.dispatch import as_pytree, check_sample
from metajax.parallel import to_host
from metajax.tasks import TaskLoss, task_keys
from metajax.types import Array, Episode, Key, Learner, Params


class Evaluation(NamedTuple):
    """Scores on `episodes` fresh episodes.

    Attributes:
      scores: every metric of the learner, `[episodes, ...]`; those that end in `_per_step` are
        `[episodes, num_steps + 1]`.
      episodes: number of episodes.
      seed: the seed that drew them.
    """

    scores: dict[str, np.ndarray]
    episodes: int
    seed: int

    def mean(self, name: str) -> np.ndarray:
        """Mean of the metric `name` over episodes, `[...]`."""
        return self._score(name).mean(axis=0)

    def interval(self, name: str) -> np.ndarray:
        """Half-width of the mean's 95 % interval, `1.96 s / sqrt(episodes)`, `[...]`."""
        return 1.96 * self._score(name).std(axis=0, ddof=1) / np.sqrt(self.episodes)

    def _score(self, name: str) -> np.ndarray:
        if name not in self.scores:
            raise KeyError(
                f"no metric {name!r}; this learner reports {', '.join(sorted(self.scores))} "
                "(those after every step need record_steps=True)"
            )
        return self.scores[name]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(
    loss: TaskLoss, chunk_size: int, params: Params, sample: Callable[[Key], Episode], keys: Key
) -> dict[str, Array]:
    # At module level, so that evaluating one learner again and again compiles once.
    def one(key: Key) -> dict[str, Array]:
        sample_key, learner_key = jax.random.split(key)
        return dict(loss(params, sample(sample_key), learner_key)[1].metrics)

    return jax.lax.map(one, keys, batch_size=None if chunk_size == 1 else chunk_size)


def evaluate(
    learner: Learner,
    params: Params,
    sample: Callable[[Key], Episode],
    *,
    episodes: int = 600,
    seed: int = 0,
    chunk_size: int = 1,
) -> Evaluation:
    """Scores `params` on fresh episodes.

    The learner need not be the one that was trained: build it with more steps, another
    `query_batching`, or `record_steps=True` for the scores after every step.

    Args:
      learner: any learner.
      params: its meta-parameters.
      sample: the pure function `key -> Episode`.
      episodes: how many, 2 or more.
      seed: 0 or more; the same seed draws the same episodes.
      chunk_size: episodes run at once, 1 or more. It does not change the episodes.

    Returns:
      An `Evaluation`.

    Raises:
      ValueError: a number is out of range, or the model's width is not the number of ways.
    """
    if episodes < 2 or chunk_size < 1:
        raise ValueError(
            f"episodes={episodes}, chunk_size={chunk_size}; expected at least 2 episodes (an "
            "interval needs two) and a chunk_size of 1 or more"
        )
    check_sample(learner, params, sample)

    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)  # Every process scores the same episodes.
    keys = task_keys(jax.random.key(seed), episodes)
    scores = _scores(learner.loss, chunk_size, params, as_pytree(sample), keys)
    return Evaluation(
        {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()},
        episodes,
        seed,
    )
