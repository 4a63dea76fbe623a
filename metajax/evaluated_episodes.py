"""Something of every episode of an evaluation: its scores, say, or its outputs; chunk by chunk."""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.checks.parameters import check_floats
from metajax.evaluation_chunks import Score, episode_bytes, episodes_at_once, up_to
from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import evaluation_keys, evaluation_pair
from metajax.parallel.placement import to_host
from metajax.sample_checks import as_sample
from metajax.stacked_runs import one_run, over_runs
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training.feed import Sample, as_pytree
from metajax.types import Array, Episode, Key, Learner, Params

# What is scored where nothing says how many there are.
_EPISODES = 600

# What passed the checks, the last of it: a learner's functions and a sampler, not kept alive by it.
_MOST_PASSED = 100
_passed: dict[Any, tuple[list[weakref.ref], int | None]] = {}


class Question(NamedTuple):
    """What is asked of every episode.

    Attributes:
      score: the pure function `(params, episode, key) -> named arrays`; equal to another that does
        the same, since a program is compiled for each.
      check: `(params, source)`, raises unless a source of episodes is one for it.
      kind: of the question, apart from the learner: what passed the check passes it for the same
        learner, sampler and kind.
    """

    score: Score
    check: Callable[[Params, Any], None]
    kind: Hashable


@functools.partial(jax.jit, static_argnums=(0, 1))
def chunk_scores(
    score: Score,
    finish: Callable[[Key, Any], Episode] | None,
    params: Params,
    sample: Any,
    key: Key,
    indices: Array,
    own: Any,
) -> dict[str, Array]:
    """The scores of one chunk of episodes, which are run at once.

    Static and at module level, so that evaluating one learner again and again compiles once, for
    any number of episodes.

    Args:
      score: see `Question`.
      finish: makes an episode of its key and of what is read for it; None where `sample` does.
      params: the meta-parameters, of one run.
      sample: the sampler as a pytree.
      key: of the evaluation.
      indices: `[chunk]` which of its episodes.
      own: `[chunk, ...]` what was read for each where there is `finish`, the indices of listed
        episodes, or None.

    Returns:
      Arrays `[chunk, ...]`.
    """

    def one(index: Array, own: Any) -> dict[str, Array]:
        sample_key, learner_key = evaluation_pair(key, index)
        if finish is not None:
            episode = finish(sample_key, own)
        else:
            episode = sample(sample_key) if own is None else sample.at(sample_key, own)
        return score(params, episode, learner_key)

    if len(indices) > 1:
        return jax.vmap(one)(indices, own)
    # A `vmap` over one episode would still batch its matrix products.
    scores = one(*jax.tree.map(lambda x: x[0], (indices, own)))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], scores)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores_of_runs(
    score: Score, finish: Callable[[Key, Any], Episode] | None, params: Params, *rest: Any
) -> dict[str, Array]:
    def of_run(params: Params) -> dict[str, Array]:
        return chunk_scores(score, finish, params, *rest)

    return over_runs(of_run, params, params)


def each_episode(
    question: Question,
    learner: Learner,
    params: Params,
    sample: Sample,
    *,
    runs: int | None,
    episodes: int | None,
    seed: int,
    chunk_size: int | None,
) -> tuple[dict[str, np.ndarray], int]:
    """What is asked of every episode, and their number.

    Args:
      question: what is asked.
      learner: whom.
      params: its meta-parameters; of a stack of runs with an axis of runs in front.
      sample: see `metajax.evaluate`, as the rest.
      runs: of a stack; None where there is none.
      episodes: how many.
      seed: what draws them.
      chunk_size: how many are run at once.

    Returns:
      Arrays `[episodes, ...]`, of a stack `[runs, episodes, ...]`, and the number of episodes.

    Raises:
      TypeError, ValueError: see `metajax.evaluate`.
    """
    check_optional_integers(2, episodes=episodes)  # An interval needs two.
    check_optional_integers(1, chunk_size=chunk_size)
    check_integers(0, seed=seed)
    # NumPy's overflow, and have no bit_length.
    episodes, chunk_size = (None if x is None else int(x) for x in (episodes, chunk_size))
    check_floats(params)
    of_one = one_run(params, runs)
    source = as_sample(sample)
    if isinstance(source, IterableEpisodes):
        source = source.one_pass()
        question.check(of_one, source)
        largest = episode_bytes(question.score, of_one, lambda: _some_episode(source))
    else:
        largest = _check_once(question, learner, of_one, source)
    size = chunk_size or episodes_at_once(largest, runs)
    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)  # Every process scores the same episodes.
    key = jax.random.key(seed)
    score = chunk_scores if runs is None else _scores_of_runs

    def scores_of(finish: Any, data: Any, indices: np.ndarray, own: Any) -> dict[str, Array]:
        return score(question.score, finish, params, data, key, indices, own)

    if isinstance(source, IterableEpisodes):
        read = functools.partial(scores_of, _as_read, None)
        chunks, episodes = _iterable_scores(read, source, episodes, size=size)
    else:
        listed: int | None = getattr(source, "listed", None)
        episodes = episodes or listed or _EPISODES
        if listed is not None and episodes > listed:
            raise ValueError(
                f"episodes={episodes} of a list of {listed}; expected no more than those"
            )
        indices = _chunks(episodes, size)
        if isinstance(source, HostSample):
            fetched = functools.partial(scores_of, source.finish, None)
            keys = keys_on_host(evaluation_keys(seed, episodes)[0])
            chunks = _host_scores(fetched, source, keys, indices, listed=listed is not None)
        else:
            data = as_pytree(source)
            chunks = _in_turn(
                scores_of(None, data, chunk, None if listed is None else chunk) for chunk in indices
            )
    return _joined(chunks, episodes, 0 if runs is None else 1), episodes


def _chunks(episodes: int, size: int) -> np.ndarray:
    """The indices of episodes `[chunks, size]`; the last is repeated where it takes more."""
    size = up_to(size, episodes)
    return np.minimum(np.arange(-(-episodes // size) * size), episodes - 1).reshape(-1, size)


def _check_once(question: Question, learner: Learner, params: Params, source: Any) -> int | None:
    """The question's check, and the `episode_bytes`; once, as JAX keeps every trace."""
    checked = (learner.loss, learner.adapt, source)
    shapes = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(params)]
    case = (*map(id, checked), question.kind, jax.tree.structure(params), *shapes)
    refs, largest = _passed.get(case, ([], None))
    if refs and all(ref() is one for ref, one in zip(refs, checked, strict=True)):
        return largest
    question.check(params, source)
    largest = episode_bytes(question.score, params, lambda: _some_episode(source))
    with contextlib.suppress(TypeError):  # Not everything can be referred to weakly.
        _passed[case] = [weakref.ref(one) for one in checked], largest
    if len(_passed) > _MOST_PASSED:
        del _passed[next(iter(_passed))]
    return largest


def _some_episode(source: Any) -> Episode:
    """An episode of a source, or the shapes of one."""
    if isinstance(source, IterableEpisodes):
        return source.ahead(1)[0]
    key = jax.random.key(0)
    return source(key) if isinstance(source, HostSample) else jax.eval_shape(source, key)


def _host_scores(
    score: Callable[..., dict[str, Array]],
    sample: HostSample,
    keys: Key,
    indices: np.ndarray,
    *,
    listed: bool,
) -> list[dict[str, Array]]:
    """The scores of episodes from the host, chunk by chunk."""

    def read(chunk: np.ndarray) -> Callable[[], Any]:
        return lambda: jax.device_put(sample.fetch(keys[chunk], chunk if listed else None))

    return _in_turn(
        score(chunk, fetched)
        for chunk, fetched in zip(indices, run_ahead(map(read, indices)), strict=True)
    )


def _iterable_scores(
    score: Callable[[np.ndarray, Any], dict[str, Array]],
    sample: IterableEpisodes,
    episodes: int | None,
    *,
    size: int,
) -> tuple[list[dict[str, Array]], int]:
    """The scores of the episodes that an iterator yields, chunk by chunk, and their number."""
    most = episodes or (None if sample.sized else _EPISODES)
    begins = itertools.count(0, size) if most is None else range(0, most, size)
    asked = (size if most is None else min(size, most - begin) for begin in begins)
    done = 0

    def scored() -> Iterator[dict[str, Array]]:
        nonlocal done
        for chunk in chunks:
            if not chunk:
                return
            filled = size if done else up_to(size, len(chunk))
            surplus = [chunk[-1]] * (filled - len(chunk))
            yield score(done + np.arange(filled), sample.stack([*chunk, *surplus]))
            done += len(chunk)

    with contextlib.closing(run_ahead(functools.partial(sample.read, n) for n in asked)) as chunks:
        scores = _in_turn(scored())
    if done < (episodes or 2):
        raise ValueError(
            f"the iterator ended after {done} episodes; expected {episodes or 'two or more'}"
        )
    return scores, done


def _in_turn(chunks: Iterable[dict[str, Array]]) -> list[dict[str, Array]]:
    """The scores of chunks, of which no more than two are begun, so that memory stays theirs."""
    begun: list[dict[str, Array]] = []
    for scores in chunks:
        if begun:
            jax.block_until_ready(begun[-1])
        begun.append(scores)
    return begun


def _joined(chunks: list[dict[str, Array]], episodes: int, axis: int) -> dict[str, np.ndarray]:
    """The scores of all chunks, of which the last may hold more than its episodes."""
    near = jax.device_get(chunks)
    return {
        name: np.concatenate([chunk[name] for chunk in near], axis).take(range(episodes), axis)
        for name in near[0]
    }


def _as_read(key: Key, episode: Episode) -> Episode:
    del key
    return episode
