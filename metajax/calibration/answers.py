"""What a learner answers in many episodes, as it would in deployment."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.labels import is_labels
from metajax.checks.objects import check_instance, check_learner
from metajax.evaluated_episodes import Question, each_episode
from metajax.given_data import as_episode
from metajax.sample_checks import check_sample
from metajax.stacked_runs import count_runs
from metajax.training.feed import Sample
from metajax.training_step import TrainState
from metajax.types import Adapt, Array, Episode, Key, Learner, Params, Predict


class Answers(NamedTuple):
    """The answers to the queries of many episodes.

    Attributes:
      outputs: `[episodes, queries, ways]` scores; -inf of classes that the support set has not.
      targets: `[episodes, queries]` labels in `[0, ways)`, -1 of strangers: queries of no class of
        the support set.
      weights: `[episodes, queries]`, 0 of padding.
    """

    outputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def collect(
    learner: Learner,
    params: Params | TrainState,
    sample: Sample,
    *,
    episodes: int | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Answers:
    """What a learner answers: each episode's task is adapted to, and its queries are predicted.

    A query is answered on its own, as by `learner.predict`. The episodes and what is drawn in
    adaptation are those of `metajax.evaluate`: where that scores queries as `predict` answers them
    (any `query_batching` without batch statistics, or `"support"`), the accuracy is the same.

    Args:
      learner: any learner that classifies.
      params: its meta-parameters, or the `TrainState` of one run.
      sample: see `metajax.evaluate`; query targets may be -1, see `metajax.data.with_strangers`.
      episodes: how many, 2 or more; None is the whole list or iterable, or else 600.
      seed: 0 or more; the same seed draws the same episodes from a sampler.
      chunk_size: see `metajax.evaluate`.

    Raises:
      TypeError: a number is no integer, `learner` no `Learner`, or `sample` is no sampler.
      ValueError: see `metajax.evaluate`; targets are no labels, outputs no scores `[items, ways]`
        or not finite, labels lie outside of `[0, ways)`, the outputs of some ways are of no label,
        or the parameters are of a stack of runs.
    """
    check_learner(learner)
    if isinstance(params, TrainState):
        if (runs := count_runs(params)) is not None:
            raise ValueError(
                f"params is a stack of {runs} runs; expected those of one: "
                "jax.tree.map(lambda x: x[0], states)"
            )
        params = params.params
    asked = _Asked(learner.adapt, learner.predict)
    found, _ = each_episode(
        Question(asked, _check_source_of(learner), "answers"),
        learner,
        params,
        sample,
        runs=None,
        episodes=episodes,
        seed=seed,
        chunk_size=chunk_size,
    )
    answers = Answers(found["outputs"], found["targets"], found["weights"].astype(np.float64))
    checked_answers(answers)
    if not found["padded"].any():
        _check_outputs_are_used(answers)
    return answers


@dataclasses.dataclass(frozen=True)  # Equal where its fields are: compiled once.
class _Asked:
    """The answers to the queries of an episode."""

    adapt: Adapt
    predict: Predict

    def __call__(self, params: Params, episode: Episode, key: Key) -> dict[str, Array]:
        support, (inputs, targets, weights) = as_episode(episode)
        outputs = self.predict(params, self.adapt(params, support, key), inputs)
        return {
            "outputs": outputs,
            "targets": targets,
            "weights": jnp.ones(targets.shape) if weights is None else weights,
            "padded": jnp.array(weights is not None),
        }


def _check_source_of(learner: Learner) -> Any:
    """The check of a source of episodes: a learner classifies their queries."""

    def fits(params: Params, episode: Any) -> None:
        support, query = as_episode(episode)
        if not is_labels(query.targets):
            shown = jax.tree.map(lambda x: f"{x.dtype}{[*x.shape]}", query.targets)
            raise ValueError(
                f"query targets are {shown}; expected [items] integer labels: what is calibrated "
                "classifies"
            )
        # The support set is no argument of what is traced, so that checks can read its labels.
        outputs = jax.eval_shape(
            lambda params, inputs: learner.predict(
                params, learner.adapt(params, support, jax.random.key(0)), inputs
            ),
            params,
            query.inputs,
        )
        shape = getattr(outputs, "shape", None)
        if shape is None or len(shape) != 2 or not jnp.issubdtype(outputs.dtype, jnp.floating):
            raise ValueError(
                f"predict of {learner.title} gave {jax.tree.map(lambda x: x.shape, outputs)}; "
                "expected scores [items, ways] of a learner that classifies"
            )

    return lambda params, source: check_sample(source, lambda episode: fits(params, episode))


def checked_answers(answers: Any, *, known: bool = False, strangers: bool = False) -> Answers:
    """Answers in float64, of queries that count and are labelled.

    Args:
      answers: the argument of a public function.
      known: whether there have to be queries that are no strangers.
      strangers: whether there have to be strangers, and others.

    Raises:
      TypeError: it is no `Answers`.
      ValueError: shapes that do not fit, fewer than 2 episodes, labels outside, or outputs that are
        not finite.
    """
    check_instance(answers, Answers, "answers", "metajax.calibration.collect(learner, ...)")
    outputs, targets, weights = map(np.asarray, answers)
    if outputs.ndim != 3 or targets.shape != outputs.shape[:2] or weights.shape != targets.shape:
        raise ValueError(
            f"answers have outputs {outputs.shape}, targets {targets.shape} and weights "
            f"{weights.shape}; expected [episodes, queries, ways], and [episodes, queries] twice"
        )
    if targets.dtype.kind not in "iu" or outputs.dtype.kind not in "fiuV":  # V is bfloat16's.
        raise ValueError(
            f"answers have {outputs.dtype} outputs and {targets.dtype} targets; expected floats "
            "and integer labels"
        )
    if len(outputs) < 2:
        raise ValueError(
            f"answers are of {len(outputs)} episodes; expected those of 2 validation episodes or "
            "more"
        )
    outputs, weights = outputs.astype(np.float64), weights.astype(np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("answers have weights below 0 or not finite; expected 0 or more")
    counts, ways = weights > 0, outputs.shape[2]
    if (outside := targets[counts & ((targets < -1) | (targets >= ways))]).size:
        raise ValueError(
            f"answers have the label {outside[0]} and {ways} ways; expected labels in [0, {ways}), "
            "or -1 of strangers"
        )
    good = (np.isfinite(outputs) | (outputs == -np.inf)).all(-1) & (outputs > -np.inf).any(-1)
    labels = np.where(counts, np.maximum(targets, 0), 0)
    picked = np.take_along_axis(outputs, labels[..., None], 2)[..., 0]
    spoilt = counts & (~good | ((targets >= 0) & (picked == -np.inf)))
    if spoilt.any():
        place = tuple(map(int, np.argwhere(spoilt)[0]))
        raise ValueError(
            f"answers have outputs that are not finite, of {spoilt.sum()} queries: those of query "
            f"{place[1]} of episode {place[0]} are {outputs[place]} with the target "
            f"{targets[place]}; expected finite scores, or -inf of classes that are not in the "
            "support set"
        )
    if (known or strangers) and not (counts & (targets >= 0)).any():
        raise ValueError(
            "answers have no known query, with a label in [0, ways); expected validation episodes "
            "that have some"
        )
    if strangers and not (counts & (targets == -1)).any():
        raise ValueError(
            "answers have no stranger, a query with the target -1; expected those of validation "
            "episodes that metajax.data.with_strangers makes"
        )
    # What does not count may hold anything.
    clean = np.where(counts[..., None], outputs, 0.0)
    return Answers(clean, np.where(counts, targets, 0), weights)


def count_classes(answers: Answers) -> int | None:
    """How many classes queries are told apart from; None where that differs."""
    counted = answers.outputs[answers.weights > 0]
    classes = np.unique((counted > -np.inf).sum(-1))
    return int(classes[0]) if len(classes) == 1 else None


def known_queries(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs `[n, ways]`, targets and weights `[n]` of all queries that are no strangers."""
    known = (answers.weights > 0) & (answers.targets >= 0)
    outputs, targets, weights = (x[known] for x in answers)
    return outputs, targets, weights


def _check_outputs_are_used(answers: Answers) -> None:
    """Raises where a model has outputs that are the label of no query, and no others do."""
    ways = answers.outputs.shape[2]
    labels = np.unique(answers.targets[answers.targets >= 0])
    scored = answers.outputs.min((0, 1)) > -np.inf
    if len(labels) and labels[-1] < ways - 1 and scored[labels[-1] + 1 :].any():
        raise ValueError(
            f"there are outputs for {ways} ways, but the queries of {len(answers.outputs)} "
            f"episodes have the labels {labels.tolist()} alone; expected a learner with one "
            "output a way of the support set"
        )
