"""Evaluation on fresh episodes: a score an episode, their mean, its interval, and over runs."""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import special

from metajax.checks.objects import check_learner
from metajax.checks.settings import check_flags, check_texts
from metajax.evaluated_episodes import Question, each_episode
from metajax.sample_checks import check_sample_of
from metajax.stacked_runs import count_runs
from metajax.training.feed import Sample
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


@dataclasses.dataclass(frozen=True)  # Equal where its fields are: compiled once.
class _Metrics:
    """The metrics of an episode, by a learner's loss."""

    loss: MetaLoss
    training: bool

    def __call__(self, params: Params, episode: Episode, key: Key) -> dict[str, Array]:
        return dict(self.loss(params, episode, key, self.training)[1].metrics)


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
    runs = None
    if isinstance(params, TrainState):
        runs, params = count_runs(params), params.params
    question = Question(
        _Metrics(learner.loss, bool(training)),
        lambda params, source: check_sample_of(learner, params, source),
        ("metrics", bool(training)),
    )
    found, count = each_episode(
        question,
        learner,
        params,
        sample,
        runs=runs,
        episodes=episodes,
        seed=seed,
        chunk_size=chunk_size,
    )
    scores = {name: score.astype(np.float64) for name, score in found.items()}
    _warn_of_non_finite(scores, count, 0 if runs is None else 1)
    return Evaluation(scores, count, seed, runs)


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
