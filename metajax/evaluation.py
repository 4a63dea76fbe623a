"""Evaluation on fresh episodes: a score an episode, their mean and its 95 % interval."""

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.checks import check_integers, check_optional_integers
from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import evaluation_keys
from metajax.parallel.placement import to_host
from metajax.sample_checks import as_sample, check_sample_of
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training_feed import Sample, as_pytree
from metajax.types import Array, Episode, Key, Learner, MetaLoss, Params


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

    def __repr__(self) -> str:
        """Mean and 95 % interval of every metric; of those of each step, the first and the last."""
        lines = [f"Evaluation of {self.episodes} episodes, seed {self.seed}:"]
        for name in sorted(self.scores):
            mean, interval = np.ravel(self.mean(name)), np.ravel(self.interval(name))
            ends = [0] if mean.size == 1 else [0, -1]
            shown = [f"{mean[end]:.4f} ± {interval[end]:.4f}" for end in ends]
            lines.append(f"  {name} {' ... '.join(shown)}")
        return "\n".join(lines)

    def _score(self, name: str) -> np.ndarray:
        if name not in self.scores:
            raise KeyError(
                f"no metric {name!r}; this learner reports {', '.join(sorted(self.scores))} "
                "(those after every step need record_steps=True)"
            )
        return self.scores[name]


# Episodes from the host are read so many at a time.
_BLOCK = 16

# What is scored where nothing says how many there are.
_EPISODES = 600


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _scores(
    loss: MetaLoss,
    finish: Callable[[Key, Any], Episode] | None,
    chunk_size: int,
    training: bool,
    params: Params,
    sample: Any,
    keys: tuple[Key, Key],
    own: Any,
) -> dict[str, Array]:
    # At module level, so that evaluating one learner again and again compiles once. `keys` are
    # those of episodes and learner; `own` is what was read for each episode, where there is
    # `finish`, or the indices of listed episodes.
    def one(each: tuple[tuple[Key, Key], Any]) -> dict[str, Array]:
        (sample_key, learner_key), own = each
        if finish is not None:
            episode = finish(sample_key, own)
        else:
            episode = sample(sample_key) if own is None else sample.at(sample_key, own)
        return dict(loss(params, episode, learner_key, training)[1].metrics)

    return jax.lax.map(one, (keys, own), batch_size=None if chunk_size == 1 else chunk_size)


def evaluate(
    learner: Learner,
    params: Params,
    sample: Sample,
    *,
    episodes: int | None = None,
    seed: int = 0,
    chunk_size: int = 1,
    training: bool = False,
) -> Evaluation:
    """Scores `params` on fresh episodes.

    The learner need not be the one that was trained: build it with more steps, another
    `query_batching`, or `record_steps=True` for the scores after every step.

    Args:
      learner: any learner.
      params: its meta-parameters.
      sample: the pure function `key -> Episode`. Of `listed_episodes` each is scored once, in the
        order of the list; of episodes with `place="host"` the images are read ahead. Or an iterator
        or iterable of NumPy episodes, see `metajax.data.from_iterable`: an iterable is begun anew
        and gone through once, an iterator goes on from where it stands.
      episodes: how many, 2 or more; None is the whole list or all of an iterable that has a length,
        or else 600, or as many as an iterator still has.
      seed: 0 or more; the same seed draws the same episodes from a sampler.
      chunk_size: episodes run at once, 1 or more. It does not change the episodes.
      training: leave models in training mode, dropout on, in adaptation and queries.

    Returns:
      An `Evaluation`.

    Raises:
      TypeError: a number is no integer, or `sample` is no sampler.
      ValueError: a number is out of range, labels do not fit the learner, the model has more
        outputs than there are ways, or there are fewer episodes than asked for.
    """
    check_optional_integers(2, episodes=episodes)  # An interval needs two.
    check_integers(1, chunk_size=chunk_size)
    check_integers(0, seed=seed)
    source = as_sample(sample)
    if isinstance(source, IterableEpisodes):
        source = source.one_pass()
    check_sample_of(learner, params, source)
    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)  # Every process scores the same episodes.
    how = (learner.loss, chunk_size, training, params)
    if isinstance(source, IterableEpisodes):
        scores = _iterable_scores(*how, source, seed, episodes)
    else:
        listed: int | None = getattr(source, "listed", None)
        wanted = episodes or listed or _EPISODES
        if listed is not None and wanted > listed:
            raise ValueError(
                f"episodes={wanted} of a list of {listed}; expected no more than those"
            )
        keys = evaluation_keys(seed, wanted)
        indices = None if listed is None else np.arange(wanted)
        if isinstance(source, HostSample):
            scores = _host_scores(*how, source, keys, indices)
        else:
            loss, *rest = how
            scores = _scores(loss, None, *rest, as_pytree(source), keys, indices)
    scored = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    return Evaluation(scored, len(next(iter(scored.values()))), seed)


def _host_scores(
    loss: MetaLoss,
    chunk_size: int,
    training: bool,
    params: Params,
    sample: HostSample,
    keys: tuple[Key, Key],
    indices: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The scores of episodes from the host, block by block, all blocks of one size."""
    sample_keys, learner_keys = keys
    episodes = len(sample_keys)
    size = min(max(chunk_size, _BLOCK), episodes)
    near_keys = keys_on_host(sample_keys)
    blocks = np.minimum(np.arange(-(-episodes // size) * size), episodes - 1).reshape(-1, size)

    def read(block: np.ndarray) -> Callable[[], Any]:
        listed = None if indices is None else indices[block]
        return lambda: jax.device_put(sample.fetch(near_keys[block], listed))

    scores = [
        _scores(
            *(loss, sample.finish, chunk_size, training, params, None),
            (sample_keys[block], learner_keys[block]),
            fetched,
        )
        for block, fetched in zip(blocks, run_ahead(map(read, blocks)), strict=True)
    ]
    return {
        name: np.concatenate([np.asarray(block[name]) for block in scores])[:episodes]
        for name in scores[0]
    }


def _iterable_scores(
    loss: MetaLoss,
    chunk_size: int,
    training: bool,
    params: Params,
    sample: IterableEpisodes,
    seed: int,
    episodes: int | None,
) -> dict[str, np.ndarray]:
    """The scores of the episodes that an iterator yields, block by block, all of one size."""
    most = episodes or (None if sample.sized else _EPISODES)
    size = max(chunk_size, _BLOCK) if most is None else min(max(chunk_size, _BLOCK), most)
    begins = itertools.count(0, size) if most is None else range(0, most, size)
    asked = (size if most is None else min(size, most - begin) for begin in begins)
    scores, done = [], 0
    with contextlib.closing(run_ahead(functools.partial(sample.read, n) for n in asked)) as blocks:
        for block in blocks:
            if not block:
                break
            own = sample.stack([*block, *[block[-1]] * (size - len(block))])
            keys = evaluation_keys(seed, size, first=done)
            got = _scores(loss, _as_read, chunk_size, training, params, None, keys, own)
            scores.append({name: np.asarray(x)[: len(block)] for name, x in got.items()})
            done += len(block)
    if done < (episodes or 2):
        raise ValueError(
            f"the iterator ended after {done} episodes; expected {episodes or 'two or more'}"
        )
    return {name: np.concatenate([each[name] for each in scores]) for name in scores[0]}


def _as_read(key: Key, episode: Episode) -> Episode:
    del key
    return episode
