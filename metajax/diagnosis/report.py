"""Why accuracy is at chance: what happens within the tasks of a learner, and what looks wrong."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_learner
from metajax.checks.parameters import check_floats
from metajax.diagnosis.figures import figures_of, look
from metajax.diagnosis.findings import find
from metajax.given_data import as_episode
from metajax.items import count, take
from metajax.iterable_episodes import IterableEpisodes
from metajax.keys import evaluation_keys
from metajax.parallel.placement import to_host
from metajax.sample_checks import as_sample, check_sample
from metajax.stacked_runs import count_runs
from metajax.streaming import HostSample, keys_on_host
from metajax.training.feed import Sample, as_pytree
from metajax.training_step import TrainState
from metajax.types import Array, Episode, Key, Learner, Params


class Diagnosis(NamedTuple):
    """What happens within the tasks of a learner; means over the episodes.

    What does not apply is None: accuracies where there are no classes, what concerns inner steps of
    a learner that takes none, and all that a learner without `inspect` does not say.

    Attributes:
      findings: a sentence on each thing that looks wrong; empty if nothing does.
      episodes: number of episodes.
      seed: the seed that drew them.
      chance: the share of the most frequent class among the queries; with equal classes 1/ways.
      accuracy: on the queries, as the learner's loss has it.
      predicted_accuracy: the same of `adapt` and `predict`.
      query_loss: `[num_steps + 1]`, before adaptation and after each step; `[1]` without steps.
      query_accuracy: `[num_steps + 1]`.
      support_loss: `[num_steps + 1]`.
      support_accuracy: `[num_steps + 1]`.
      gradient_norm: `[num_steps + 1]`, of the support loss's gradient with respect to all that
        adaptation does not leave out.
      zero_gradient: share of exactly zero entries in the first of those gradients.
      unmoved: parameters that adaptation does not change in any episode, by path: `"left out"`, or
        `"zero gradient"`.
      dead_units: of each ReLU of the adapted model in the order of the program, the share of units
        that are 0 for every item of an episode; see `metajax.diagnose`.
      batchings: by `query_batching`, the accuracy of the adapted task, or its query loss where
        there is none; empty where items do not see each other, so that it does not matter.
      constant_outputs: share of the episodes in which all queries get the same outputs.
      renumbered_accuracy: accuracy under the one-to-one renumbering of the predicted classes that
        is best for the episode.
      renumbered_chance: the same of shuffled labels.
      raw_accuracy: accuracy of the nearest class mean of the raw inputs.
      raw_renumbered: the same, renumbered.
      raw_renumbered_chance: the same of shuffled labels.
      non_finite: what is the first not to be finite, and in how many episodes; None if all is.
    """

    findings: tuple[str, ...]
    episodes: int
    seed: int
    chance: float | None = None
    accuracy: float | None = None
    predicted_accuracy: float | None = None
    query_loss: np.ndarray | None = None
    query_accuracy: np.ndarray | None = None
    support_loss: np.ndarray | None = None
    support_accuracy: np.ndarray | None = None
    gradient_norm: np.ndarray | None = None
    zero_gradient: float | None = None
    unmoved: dict[str, str] | None = None
    dead_units: np.ndarray | None = None
    batchings: dict[str, float] | None = None
    constant_outputs: float | None = None
    renumbered_accuracy: float | None = None
    renumbered_chance: float | None = None
    raw_accuracy: float | None = None
    raw_renumbered: float | None = None
    raw_renumbered_chance: float | None = None
    non_finite: str | None = None

    def __repr__(self) -> str:
        """The figures, then the findings."""
        figures = {
            "accuracy": _numbers(self.accuracy, self.query_accuracy),
            "chance": _numbers(self.chance),
            "accuracy by predict": _numbers(self.predicted_accuracy),
            "by query batching": self._by_batching(),
            "best renumbering": _against(self.renumbered_accuracy, self.renumbered_chance),
            "raw nearest mean": _numbers(self.raw_accuracy),
            "  best renumbering": _against(self.raw_renumbered, self.raw_renumbered_chance),
            "query loss": _numbers(None, self.query_loss),
            "support loss": _numbers(None, self.support_loss),
            "support accuracy": _numbers(None, self.support_accuracy),
            "gradient norm": _numbers(None, self.gradient_norm),
            "gradient zeros": _percent(self.zero_gradient),
            "left out": self._unmoved("left out"),
            "without gradient": self._unmoved("zero gradient"),
            "dead ReLU units": ", ".join(map(_percent, self._dead())),
            "constant outputs": _percent(self.constant_outputs or None),
            "not finite": self.non_finite or "",
        }
        lines = [f"Diagnosis of {self.episodes} episodes, seed {self.seed}:"]
        lines += [f"  {name:19} {text}" for name, text in figures.items() if text]
        if not self.findings:
            return "\n".join([*lines, "Findings: nothing looks wrong"])
        found = [f"  {place}. {text}" for place, text in enumerate(self.findings, 1)]
        return "\n".join([*lines, "Findings:", *found])

    def _by_batching(self) -> str:
        if self.batchings is None:
            return ""
        if not self.batchings:
            return "does not matter, items do not see each other"
        return ", ".join(f"{name} {value:.3f}" for name, value in self.batchings.items())

    def _unmoved(self, why: str) -> str:
        unmoved = (self.unmoved or {}).items()
        return ", ".join(path or "the only leaf" for path, reason in unmoved if reason == why)

    def _dead(self) -> list[float]:
        return [] if self.dead_units is None else [*self.dead_units]


def diagnose(
    learner: Learner,
    params: Params | TrainState,
    sample: Sample,
    *,
    episodes: int = 32,
    seed: int = 0,
) -> Diagnosis:
    """Looks into the tasks of a learner for what keeps its accuracy at chance.

    It costs two to four evaluations of as many episodes, most of it compilation. Episodes run one
    at a time, and of one the parameters of every inner step are held. A learner made by hand,
    without `inspect`, gets what can be had from outside. Models are not in training mode.

    Dead units are those of a maximum with 0, `jax.nn.relu` or `jnp.maximum(x, 0)`, along the last
    axis; of a ReLU that is written otherwise nothing is said. The findings are judgements by rules
    of thumb, made of the figures: read both.

    Args:
      learner: any learner.
      params: its meta-parameters, or a `TrainState` that holds them.
      sample: as for `evaluate`; with the same seed a sampler draws the same episodes.
      episodes: how many, 2 or more; an iterator or iterable has to have as many.
      seed: 0 or more.

    Returns:
      A `Diagnosis`, to be printed.

    Raises:
      TypeError: a number is no integer, or `learner` no `Learner`.
      ValueError: a number is out of range, an episode does not fit the learner, or there are fewer
        than asked for.
    """
    check_learner(learner)
    check_integers(2, episodes=episodes)
    check_integers(0, seed=seed)
    if isinstance(params, TrainState):
        if count_runs(params) is not None:
            raise ValueError(
                "params is a stack of runs; expected one of them: "
                "jax.tree.map(lambda x: x[0], states)"
            )
        params = params.params
    check_floats(params)
    keys, learner_keys = evaluation_keys(seed, episodes)
    source = as_sample(sample)
    if isinstance(source, IterableEpisodes):
        source = source.one_pass()

    def fits(episode: Episode) -> None:
        # The episode is not an argument of what is traced, so that checks can read its labels.
        jax.eval_shape(lambda params: learner.loss(params, episode, learner_keys[0], False), params)

    check_sample(source, fits)
    drawn = _drawn(source, keys)
    episodes = count(drawn)
    fits(take(drawn, 0))
    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)
    seen = jax.tree.map(_on_host, look(learner, params, drawn, learner_keys[:episodes]))
    with np.errstate(all="ignore"):  # What is not finite is reported.
        figures, scores = figures_of(params, drawn, seen, seed)
        report = Diagnosis((), episodes, seed, **figures)
        return report._replace(findings=find(report._asdict(), scores))


def _on_host(x: Array) -> np.ndarray:
    return np.asarray(x, np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else None)


def _drawn(sample: Any, keys: Key) -> Episode:
    """The episodes of the keys, or the first of a list; one stack of them."""
    episodes = len(keys)
    if isinstance(sample, IterableEpisodes):
        read = sample.read(episodes)
        if len(read) < 2:
            raise ValueError(f"the iterator ended after {len(read)} episodes; expected 2 or more")
        return jax.device_put(sample.stack(read))
    listed: int | None = getattr(sample, "listed", None)
    if listed is not None and episodes > listed:
        raise ValueError(f"episodes={episodes} of a list of {listed}; expected no more than those")
    indices = None if listed is None else np.arange(episodes)
    if isinstance(sample, HostSample):
        fetched = jax.device_put(sample.fetch(keys_on_host(keys), indices))
        return jax.jit(jax.vmap(lambda *each: as_episode(sample.finish(*each))))(keys, fetched)
    return _episodes(as_pytree(sample), keys, indices)


@jax.jit
def _episodes(sample: Any, keys: Key, indices: Any) -> Episode:
    def one(each: tuple[Key, Any]) -> Episode:
        key, index = each
        return as_episode(sample(key) if index is None else sample.at(key, index))

    return jax.lax.map(one, (keys, indices))


def _numbers(number: float | None, curve: np.ndarray | None = None) -> str:
    """A number, and those of each step; of a long curve every so many, and the last."""
    shown = [] if number is None else [f"{number:.3f}"]
    if curve is not None and (number is None or len(curve) > 1):
        every = max(1, (len(curve) - 1) // 5)
        steps = [*range(0, len(curve) - 1, every), len(curve) - 1]
        by_step = " ".join(f"{curve[step]:.3g}" for step in steps)
        after = f" (after {', '.join(map(str, steps))} steps)" if len(curve) > 1 else ""
        shown.append((": " if shown else "") + by_step + after)
    return "".join(shown)


def _against(number: float | None, chance: float | None) -> str:
    return "" if number is None else f"{number:.3f} (of shuffled labels {chance:.3f})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
