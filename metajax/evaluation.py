"""Evaluation on fresh episodes: a score an episode, their mean, its interval, and over runs."""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from metajax.checks.numbers import check_integers, check_optional_integers
from metajax.checks.objects import check_learner
from metajax.checks.parameters import check_floats
from metajax.checks.settings import check_flags, check_texts
from metajax.evaluation_chunks import episode_bytes, episodes_at_once, up_to
from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import evaluation_keys, evaluation_pair
from metajax.parallel.placement import to_host
from metajax.sample_checks import as_sample, check_sample_of
from metajax.stacked_runs import count_runs, one_run, over_runs
from metajax.streaming import HostSample, keys_on_host, run_ahead
from metajax.training.feed import Sample, as_pytree
from metajax.training_step import TrainState
from metajax.types import Array, Episode, Key, Learner, MetaLoss, Params
from metajax.user_warnings import warn_user


class Evaluation(NamedTuple):
    """Scores on `episodes` fresh episodes.

    Those of a stack of runs, on the same episodes, have an axis of runs in front.

    Attributes:
      scores: every metric of the learner, `[episodes, ...]`, of a stack `[runs, episodes, ...]`;
        those that end in `_per_step` are `[episodes, num_steps + 1]`, or one for each step that
        `record_steps` names.
      episodes: number of episodes.
      seed: the seed that drew them.
      runs: number of runs of a stack; None where there is none.
    """

    scores: dict[str, np.ndarray]
    episodes: int
    seed: int
    runs: int | None = None

    def mean(self, name: str) -> np.ndarray:
        """Mean of the metric `name` over episodes, `[...]`; of a stack `[runs, ...]`."""
        return self._score(name).mean(axis=self._axis)

    def interval(self, name: str) -> np.ndarray:
        """Half-width of the mean's 95 % interval, `1.96 s / sqrt(episodes)`, `[...]`.

        It says how well these parameters are known, of a stack those of each run, `[runs, ...]`.
        """
        with np.errstate(invalid="ignore"):  # Of scores that are not finite it is NaN.
            spread = self._score(name).std(axis=self._axis, ddof=1)
        return 1.96 * spread / np.sqrt(self.episodes)

    def over_runs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the metric `name` over the runs of a stack, and its interval's half-width.

        The 95 % interval is Student's, `t s / sqrt(runs)` of the runs' means: it says how well the
        training is known, for the episodes that were drawn. Both are `[...]`.

        Raises:
          ValueError: there are no two runs.
        """
        if self.runs is None or self.runs < 2:
            what = "no stack" if self.runs is None else "a stack of one run"
            raise ValueError(
                f"the scores are of {what}; expected those of 2 runs or more, such as "
                "evaluate(learner, states, ...) of a stack of states"
            )
        means = self.mean(name)
        quantile = special.stdtrit(self.runs - 1, 0.975)
        return means.mean(axis=0), quantile * means.std(axis=0, ddof=1) / np.sqrt(self.runs)

    def __repr__(self) -> str:
        """Mean and 95 % interval of every metric; of those of each step, the first and the last.

        Of a stack these are over the runs.
        """
        of_runs = "" if self.runs is None else f", over {self.runs} runs"
        lines = [f"Evaluation of {self.episodes} episodes, seed {self.seed}{of_runs}:"]
        for name in sorted(self.scores):
            pair = self.mean(name), self.interval(name)
            mean, interval = self.over_runs(name) if self.runs and self.runs > 1 else pair
            mean, interval = np.ravel(mean), np.ravel(interval)
            ends = [0] if mean.size == 1 else [0, -1]
            shown = [f"{mean[end]:.4f} ± {interval[end]:.4f}" for end in ends]
            lines.append(f"  {name} {' ... '.join(shown)}")
        return "\n".join(lines)

    @property
    def _axis(self) -> int:
        return 0 if self.runs is None else 1

    def _score(self, name: str) -> np.ndarray:
        check_texts(name=name)
        if name not in self.scores:
            raise KeyError(
                f"no metric {name!r}; this learner reports {', '.join(sorted(self.scores))} "
                "(those after every step need record_steps); expected one of these names"
            )
        return self.scores[name]


# What is scored where nothing says how many there are.
_EPISODES = 600

# What passed the checks, the last of it: a learner's functions and a sampler, not kept alive by it.
_MOST_PASSED = 100
_passed: dict[Any, tuple[list[weakref.ref], int | None]] = {}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def chunk_scores(
    loss: MetaLoss,
    finish: Callable[[Key, Any], Episode] | None,
    training: bool,
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
      loss: a learner's.
      finish: makes an episode of its key and of what is read for it; None where `sample` does.
      training: whether models are in training mode.
      params: the meta-parameters, of one run.
      sample: the sampler as a pytree.
      key: of the evaluation.
      indices: `[chunk]` which of its episodes.
      own: `[chunk, ...]` what was read for each where there is `finish`, the indices of listed
        episodes, or None.

    Returns:
      Metrics `[chunk, ...]`.
    """

    def one(index: Array, own: Any) -> dict[str, Array]:
        sample_key, learner_key = evaluation_pair(key, index)
        if finish is not None:
            episode = finish(sample_key, own)
        else:
            episode = sample(sample_key) if own is None else sample.at(sample_key, own)
        return dict(loss(params, episode, learner_key, training)[1].metrics)

    if len(indices) > 1:
        return jax.vmap(one)(indices, own)
    # A `vmap` over one episode would still batch its matrix products.
    scores = one(*jax.tree.map(lambda x: x[0], (indices, own)))
    return jax.tree.map(lambda x: jnp.asarray(x)[None], scores)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _scores_of_runs(
    loss: MetaLoss,
    finish: Callable[[Key, Any], Episode] | None,
    training: bool,
    params: Params,
    *rest: Any,
) -> dict[str, Array]:
    def of_run(params: Params) -> dict[str, Array]:
        return chunk_scores(loss, finish, training, params, *rest)

    return over_runs(of_run, params, params)


def evaluate(
    learner: Learner,
    params: Params | TrainState,
    sample: Sample,
    *,
    episodes: int | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    training: bool = False,
) -> Evaluation:
    """Scores `params` on fresh episodes.

    The learner need not be the one that was trained: build it with more steps, another
    `query_batching`, `record_steps=True` for the scores after every step, or with many steps
    `record_steps=(0, 1, 5, 50)` for those alone: scoring queries is most of the cost.

    Args:
      learner: any learner.
      params: its meta-parameters, or a `TrainState` that holds them. Of a stack of states each run
        is scored, all on the same episodes.
      sample: the pure function `key -> Episode`. Of `listed_episodes` each is scored once, in the
        order of the list; of episodes with `place="host"` the images are read ahead. Or an iterator
        or iterable of NumPy episodes, see `metajax.data.from_iterable`: an iterable is begun anew
        and gone through once, an iterator goes on from where it stands.
      episodes: how many, 2 or more; None is the whole list or all of an iterable that has a length,
        or else 600, or as many as an iterator still has.
      seed: 0 or more; the same seed draws the same episodes from a sampler.
      chunk_size: episodes run at once, 1 or more, under one `vmap`; memory is one chunk's. It does
        not change the episodes, and the scores only by rounding. None is 1 where `meta_gradient`
        takes one task after another, for models of 8,000 parameters or more on a single CPU device,
        and else the power of two, up to 128, that keeps the largest array of a chunk within
        512 MiB, on a CPU within 512 KiB of its cache.
      training: leave models in training mode, dropout on, in adaptation and queries.

    Returns:
      An `Evaluation`. Of metrics that are not finite in some episode there is a RuntimeWarning.

    Raises:
      TypeError: a number is no integer, `learner` no `Learner`, or `sample` is no sampler.
      ValueError: a number is out of range, labels do not fit the learner, the model has more
        outputs than there are ways, or there are fewer episodes than asked for.
    """
    check_learner(learner)
    check_flags(training=training)
    check_optional_integers(2, episodes=episodes)  # An interval needs two.
    check_optional_integers(1, chunk_size=chunk_size)
    check_integers(0, seed=seed)
    # NumPy's overflow, and have no bit_length.
    episodes, chunk_size = (None if x is None else int(x) for x in (episodes, chunk_size))
    runs = None
    if isinstance(params, TrainState):
        runs, params = count_runs(params), params.params
    check_floats(params)
    of_one = one_run(params, runs)
    source = as_sample(sample)
    if isinstance(source, IterableEpisodes):
        source = source.one_pass()
        check_sample_of(learner, of_one, source)
        episode = functools.partial(_some_episode, source)
        largest = episode_bytes(learner, of_one, episode, training=training)
    else:
        largest = _check_once(learner, of_one, source, training=training)
    size = chunk_size or episodes_at_once(largest, runs)
    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)  # Every process scores the same episodes.
    key = jax.random.key(seed)
    score = chunk_scores if runs is None else _scores_of_runs

    def scores_of(finish: Any, data: Any, indices: np.ndarray, own: Any) -> dict[str, Array]:
        return score(learner.loss, finish, training, params, data, key, indices, own)

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
    scores = _joined(chunks, episodes, 0 if runs is None else 1)
    _warn_of_non_finite(scores, episodes, 0 if runs is None else 1)
    return Evaluation(scores, episodes, seed, runs)


def _chunks(episodes: int, size: int) -> np.ndarray:
    """The indices of episodes `[chunks, size]`; the last is repeated where it takes more."""
    size = up_to(size, episodes)
    return np.minimum(np.arange(-(-episodes // size) * size), episodes - 1).reshape(-1, size)


def _check_once(learner: Learner, params: Params, source: Any, *, training: bool) -> int | None:
    """`check_sample_of`, and the `episode_bytes`; once, as JAX keeps every trace."""
    checked = (learner.loss, learner.adapt, source)
    shapes = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(params)]
    case = (*map(id, checked), training, jax.tree.structure(params), *shapes)
    refs, largest = _passed.get(case, ([], None))
    if refs and all(ref() is one for ref, one in zip(refs, checked, strict=True)):
        return largest
    check_sample_of(learner, params, source)
    episode = functools.partial(_some_episode, source)
    largest = episode_bytes(learner, params, episode, training=training)
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
        name: np.concatenate([chunk[name] for chunk in near], axis)
        .take(range(episodes), axis)
        .astype(np.float64)
        for name in near[0]
    }


def _warn_of_non_finite(scores: dict[str, np.ndarray], episodes: int, axis: int) -> None:
    """Warns of metrics that are not finite in some episode, of some run of a stack."""
    counts = {}
    for name, score in sorted(scores.items()):
        others = tuple(each for each in range(score.ndim) if each != axis)
        counts[name] = int((~np.isfinite(score)).any(axis=others).sum())
    if named := [f"{name} in {count}" for name, count in counts.items() if count]:
        warn_user(
            f"scores are not finite: {', '.join(named)} of {episodes} episodes; the means are not, "
            "either"
        )


def _as_read(key: Key, episode: Episode) -> Episode:
    del key
    return episode
