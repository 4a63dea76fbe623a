"""What is given to `train` and `evaluate` as a sampler, found to be one before anything runs."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from metajax.checks import in_brief
from metajax.iterable_episodes import Fits, IterableEpisodes
from metajax.streaming import HostSample
from metajax.types import Episode, Learner, Params

# So many keys that give one episode are no chance.
_KEYS = 8


def as_sample(sample: Any) -> Any:
    """The sampler, or `IterableEpisodes` of an iterator or iterable.

    Raises:
      TypeError: it is neither.
    """
    if inspect.isgeneratorfunction(sample):
        raise TypeError(
            f"sample is the generator function {sample.__name__}; expected the generator that it "
            f"returns: {sample.__name__}(...)"
        )
    if callable(sample) or isinstance(sample, IterableEpisodes):
        return sample
    return IterableEpisodes(sample)


def check_sample(sample: Any, fits: Fits) -> None:
    """Raises unless it gives episodes for the learner, which follow from the key.

    Args:
      sample: from `as_sample`.
      fits: raises unless an episode is one for the learner.

    Raises:
      TypeError: it cannot be part of a compiled program.
      ValueError: an episode does not fit, or what is drawn does not follow from the key.
    """
    if isinstance(sample, IterableEpisodes):
        sample.first(fits)
        return
    episode = sample(jax.random.key(0))
    fits(episode)
    _check_draws(sample, episode)
    if not isinstance(sample, HostSample):
        _check_traceable(sample)


def fits_learner(learner: Learner, params: Params) -> Fits:
    """Raises unless an episode fits a learner, its number of ways included."""

    def fits(episode: Episode) -> None:
        # The episode is not an argument of what is traced, so that checks can read its labels.
        key = jax.random.key(0)
        jax.eval_shape(lambda params: learner.loss(params, episode, key), params)

    return fits


def _check_draws(sample: Callable[..., Any], episode: Any) -> None:
    if not _same(episode, sample(jax.random.key(0))):
        raise ValueError(
            "sample gave two episodes for one key: it draws from something else, as np.random "
            "does, and a compiled program would draw once and train on that for ever. Expected a "
            "pure function of the key, drawing with jax.random, or an iterator of episodes: a "
            "generator that yields what it draws"
        )
    if getattr(sample, "fixed", False) or getattr(sample, "listed", None) is not None:
        return
    others = (sample(jax.random.key(number)) for number in range(1, _KEYS))
    if all(_same(episode, other) for other in others):
        raise ValueError(
            f"sample gave one episode for {_KEYS} keys: it ignores its key, and every task would "
            "be that one. Expected a function that draws with the key, or an iterator of episodes; "
            "if one episode is meant, metajax.data.FixedEpisode(episode)"
        )


def _same(one: Any, other: Any) -> bool:
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in zip(leaves, others, strict=True)
    )


def _check_traceable(sample: Callable[..., Any]) -> None:
    try:
        jax.eval_shape(sample, jax.random.key(0))
    except (
        jax.errors.TracerArrayConversionError,
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            f"sample is {in_brief(sample)}, which cannot be compiled: it computes with the key on "
            "the host, by NumPy say. Expected jax.numpy and jax.random within it, an iterator of "
            "episodes, or an object with fetch and finish (metajax.streaming.HostSample)"
        ) from error
