"""What is given to `train` and `evaluate` as a sampler, found to be one before anything runs."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.labels import known_labels
from metajax.given_data import as_episode
from metajax.iterable_episodes import Fits, IterableEpisodes
from metajax.kinds import in_brief
from metajax.signatures import check_takes
from metajax.streaming import HostSample
from metajax.types import AdaptedTask, Episode, Learner, Params

# So many keys that give one episode are no chance.
_KEYS = 8

# In so many, a class of one in twenty items comes up.
_EPISODES = 16


def as_sample(sample: Any) -> Any:
    """The sampler, or `IterableEpisodes` of an iterator or iterable.

    Raises:
      TypeError: it is neither.
    """
    if inspect.isgeneratorfunction(sample):
        name = getattr(sample, "__name__", "sample")  # A functools.partial has none.
        raise TypeError(
            f"sample is the generator function {name}; expected the generator that it returns: "
            f"{name}(...)"
        )
    if isinstance(sample, IterableEpisodes):
        return sample
    if callable(sample):
        check_takes(sample, "sample", "key")
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
        # JAX's arrays, whose labels can be read while the rest is traced: NumPy's become tracers.
        sample.check_first(lambda episode: fits(jax.device_put(episode)))
        return
    episode = sample(jax.random.key(0))
    fits(episode)
    _check_draws(sample, episode)
    if not isinstance(sample, HostSample):
        _check_traceable(sample)


def check_sample_of(learner: Learner, params: Params, sample: Any) -> None:
    """The same for a learner, whose model's outputs have to be the ways of some episode.

    Raises:
      TypeError, ValueError: see `check_sample`.
    """
    shapes = []

    def fits(episode: Episode) -> None:
        # The episode is not an argument of what is traced, so that checks can read its labels.
        key = jax.random.key(0)
        _, aux = jax.eval_shape(lambda params: learner.loss(params, episode, key), params)
        shapes[:] = [getattr(aux.outputs, "shape", ())] if "accuracy" in aux.metrics else [()]

    check_sample(sample, fits)
    if len(shapes[0]) == 2:
        _check_outputs_are_used(learner, params, _several(sample), shapes[0][1])


def _several(sample: Any) -> Iterator[Episode]:
    for number in range(_EPISODES):
        if isinstance(sample, IterableEpisodes):
            yield from sample.ahead(number + 1)[number:]
        else:
            yield as_episode(sample(jax.random.key(number)))


def _check_outputs_are_used(
    learner: Learner, params: Params, episodes: Iterator[Episode], outputs: int
) -> None:
    """Raises where a model has more outputs than labels that come up in several episodes.

    One of them may lack classes. Labels with a gap are those of classes that all episodes share.
    """
    first = next(episodes)
    labels = _unpadded_labels(first)
    if labels is None or len(labels) >= outputs:
        return
    key = jax.random.key(0)
    task = jax.eval_shape(lambda params: learner.adapt(params, first.support, key), params)
    # A learner that compares has room for more ways. So has a head that is made from the support
    # set: of its parameters the learner has none.
    if not isinstance(task, AdaptedTask):
        return
    if len(jax.tree.leaves(task.params)) > len(jax.tree.leaves(params)):
        return
    for episode in episodes:
        labels |= _unpadded_labels(episode) or set()
        if len(labels) >= outputs:
            return
    if labels == set(range(len(labels))):
        raise ValueError(
            f"the model has {outputs} outputs but {_EPISODES} episodes have the labels "
            f"{sorted(labels)} alone; expected a model with one output a way: where the others are "
            "only rare, give the episodes weights of 1"
        )


def _unpadded_labels(episode: Episode) -> set[int] | None:
    """The integer labels of both sets, or None where there are none, or items may be padding."""
    labels: set[int] = set()
    for examples in episode:
        known = None if examples.weights is not None else known_labels(examples)
        if known is None:
            return None
        labels |= set(known.tolist())
    return labels


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
    leaves, others = ([*map(_numbers, jax.tree.leaves(tree))] for tree in (one, other))
    return len(leaves) == len(others) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(leaves, others, strict=True)
    )


def _numbers(leaf: Any) -> np.ndarray:
    """The numbers of an array, on the host: of random keys those that they are made of."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


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
