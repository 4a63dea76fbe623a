"""Why accuracy is at chance: what happens within the tasks of a learner, and what looks wrong."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks import check_integers
from metajax.findings import find
from metajax.inspections import by_path, classifies
from metajax.items import take
from metajax.keys import evaluation_keys
from metajax.losses import accuracy
from metajax.metric import present_classes, prototypes, squared_distances
from metajax.parallel.placement import to_host
from metajax.streaming import HostSample, keys_on_host
from metajax.training_program import as_pytree
from metajax.types import Array, Episode, Examples, Key, Learner, Params

# Shuffles of the labels of an episode, by which renumbered accuracies are judged.
_SHUFFLES = 8


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
            "zero gradient": _percent(self.zero_gradient),
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
    params: Params,
    sample: Callable[[Key], Episode],
    *,
    episodes: int = 32,
    seed: int = 0,
) -> Diagnosis:
    """Looks into the tasks of a learner for what keeps its accuracy at chance.

    It costs about ten evaluations of as many episodes, which run one at a time, and holds the
    adapted parameters of every inner step of one. A learner made by hand, without `inspect`, gets
    what can be had from outside. Models are not in training mode.

    Dead units are those of a maximum with 0, `jax.nn.relu` or `jnp.maximum(x, 0)`, along the last
    axis; of a ReLU that is written otherwise nothing is said. The findings are judgements by rules
    of thumb, made of the figures: read both.

    Args:
      learner: any learner.
      params: its meta-parameters.
      sample: as for `evaluate`; with the same seed the episodes are the same.
      episodes: how many, 2 or more.
      seed: 0 or more.

    Returns:
      A `Diagnosis`, to be printed.

    Raises:
      TypeError: a number is no integer.
      ValueError: a number is out of range, or an episode does not fit the learner.
    """
    check_integers(2, episodes=episodes)
    check_integers(0, seed=seed)
    keys, learner_keys = evaluation_keys(seed, episodes)
    drawn = _drawn(sample, keys)
    first = take(drawn, 0)
    # The episode is not an argument of what is traced, so that checks can read its labels.
    jax.eval_shape(lambda params: learner.loss(params, first, learner_keys[0], False), params)
    if not all(x.is_fully_addressable for x in jax.tree.leaves(params) if isinstance(x, jax.Array)):
        params = to_host(params)
    seen = jax.tree.map(np.asarray, _seen(learner, params, drawn, learner_keys))
    report, scores = _report(params, drawn, seen, seed)
    return report._replace(findings=find(report._asdict(), scores))


def _drawn(sample: Any, keys: Key) -> Episode:
    """The episodes of the keys, or the first of a list; one stack of them."""
    episodes = len(keys)
    listed: int | None = getattr(sample, "listed", None)
    if listed is not None and episodes > listed:
        raise ValueError(f"episodes={episodes} of a list of {listed}; expected no more than those")
    indices = None if listed is None else np.arange(episodes)
    if isinstance(sample, HostSample):
        fetched = jax.device_put(sample.fetch(keys_on_host(keys), indices))
        return jax.jit(jax.vmap(sample.finish))(keys, fetched)
    return _episodes(as_pytree(sample), keys, indices)


@jax.jit
def _episodes(sample: Any, keys: Key, indices: Any) -> Episode:
    def one(each: tuple[Key, Any]) -> Episode:
        key, index = each
        return sample(key) if index is None else sample.at(key, index)

    return jax.lax.map(one, (keys, indices))


@partial(jax.jit, static_argnums=0)
def _seen(learner: Learner, params: Params, episodes: Episode, keys: Key) -> dict[str, Any]:
    """What is seen in each episode, `[episodes, ...]`."""

    def one(each: tuple[Episode, Key]) -> dict[str, Any]:
        episode, key = each
        support, query = episode
        value, aux = learner.loss(params, episode, key, False)
        seen = {"query_loss": aux.metrics.get("query_loss", value)[None]}
        if learner.inspect is not None:
            seen |= learner.inspect(params, episode, key)
        inputs = [x for x in jax.tree.leaves((support.inputs, query.inputs)) if _is_float(x)]
        seen["bad_inputs"] = ~jnp.array([jnp.isfinite(x).all() for x in inputs], bool).all()
        outputs: Any = aux.outputs
        if outputs is None:
            return seen
        leaves = jax.tree.leaves(outputs)
        seen["bad_outputs"] = jnp.array([jnp.isnan(x).any() for x in leaves]).any()
        seen["constant_outputs"] = jnp.array([_is_constant(x) for x in leaves]).all()
        if not classifies(outputs, query):
            return seen
        task = learner.adapt(params, support, key, False)
        predicted = learner.predict(params, task, query.inputs)
        seen["answers"] = jnp.argmax(outputs, axis=-1)
        seen["accuracy"] = accuracy(outputs, query.targets, query.weights)
        seen["predicted_accuracy"] = accuracy(predicted, query.targets, query.weights)
        if (raw := _by_raw_means(support, query, outputs.shape[-1])) is not None:
            seen["raw_answers"] = jnp.argmax(raw, axis=-1)
            seen["raw_accuracy"] = accuracy(raw, query.targets, query.weights)
        return seen

    return jax.lax.map(one, (episodes, keys))


def _is_float(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _is_constant(outputs: Array) -> Array:
    """Whether all items have the same outputs, but for rounding; never of a single item."""
    if outputs.shape[0] < 2 or not _is_float(outputs):
        return jnp.array(False)
    finite = jnp.where(jnp.isfinite(outputs), outputs, 0)
    spread = jnp.ptp(finite, axis=0).max()
    return spread <= 4 * jnp.finfo(outputs.dtype).eps * jnp.abs(finite).max()


def _by_raw_means(support: Examples, query: Examples, ways: int) -> Array | None:
    """Scores `[queries, ways]` of the nearest class mean of the inputs, where they are floats."""
    sets = [jax.tree.leaves(examples.inputs) for examples in (support, query)]
    if not all(_is_float(x) or x.dtype == jnp.uint8 for x in sets[0]):
        return None  # Numbers of tokens or of nodes are no places.
    known, asked = (
        jnp.concatenate([x.reshape(x.shape[0], -1).astype(jnp.float32) for x in leaves], axis=1)
        for leaves in sets
    )
    centres = prototypes(known, support.targets, ways, support.weights)
    present = present_classes(support, ways)
    return jnp.where(present[None], -squared_distances(asked, centres), -jnp.inf)


def _report(
    params: Params, episodes: Episode, seen: Mapping[str, Any], seed: int
) -> tuple[Diagnosis, dict[str, np.ndarray]]:
    """The figures without findings, and the scores `[episodes]` that they are means of."""
    names = ("accuracy", "predicted_accuracy", "raw_accuracy", "constant_outputs", "zero_gradient")
    scores = {name: seen[name] for name in names if name in seen}
    curves = ("query_loss", "query_accuracy", "support_loss", "support_accuracy")
    figures: dict[str, Any] = {name: seen[name].mean(axis=0) for name in curves if name in seen}
    if "accuracy" in seen:
        labels = np.asarray(episodes.query.targets)
        weights = episodes.query.weights
        weights = np.ones(labels.shape) if weights is None else np.asarray(weights)
        scores["chance"] = np.array(
            [np.bincount(y, w).max() / w.sum() for y, w in zip(labels, weights, strict=True)]
        )
        given = (labels, weights, seed)
        renumbered = _renumbered(seen["answers"], *given)
        scores["renumbered_accuracy"], scores["renumbered_chance"] = renumbered
        if "raw_answers" in seen:
            renumbered = _renumbered(seen["raw_answers"], *given)
            scores["raw_renumbered"], scores["raw_renumbered_chance"] = renumbered
    if "gradient_norm" in seen:
        norms, moved = seen["gradient_norm"], seen["moved"]
        if seen["support_loss"].shape[1] > 1:
            figures["unmoved"] = {
                path: "left out" if norms[path][:, :-1].any() else "zero gradient"
                for path in moved
                if not moved[path].any()
            }
        out = [path for path, why in figures.get("unmoved", {}).items() if why == "left out"]
        inside = [norms[path] for path in norms if path not in out]
        total = np.linalg.norm(inside, axis=0) if inside else np.zeros_like(seen["support_loss"])
        figures["gradient_norm"] = total.mean(axis=0)
        scores["gradient_norms"] = total
        scores["uphill"] = seen["uphill"]
    if "active_units" in seen:
        figures["dead_units"] = np.array([1 - units.mean() for units in seen["active_units"]])
    if "batchings" in seen:
        scores |= {f"batching {name}": x for name, x in seen["batchings"].items()}
        figures["batchings"] = {name: float(x.mean()) for name, x in seen["batchings"].items()}
    scores |= {f"{name} of each": seen[name] for name in curves if name in seen}
    means = {name: float(x.mean()) for name, x in scores.items() if name in Diagnosis._fields}
    figures["non_finite"] = _non_finite(params, seen, scores)
    count = len(seen["query_loss"])
    return Diagnosis((), count, seed, **{**means, **figures}), scores


def _renumbered(
    answers: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[episodes]` accuracies under the best renumbering of the answers, of labels and of noise."""
    from scipy.optimize import linear_sum_assignment  # Half a second, for nobody else.

    random = np.random.default_rng(seed)

    def best(answers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
        ways = 1 + max(answers.max(), labels.max())
        counts = np.zeros((ways, ways))
        np.add.at(counts, (answers, labels), weights)
        return counts[linear_sum_assignment(counts, maximize=True)].sum() / weights.sum()

    found, noise = [], []
    for answer, label, weight in zip(answers, labels, weights, strict=True):
        kept = weight > 0
        answer, label, weight = answer[kept], label[kept], weight[kept]
        found.append(best(answer, label, weight))
        shuffled = [best(answer, random.permutation(label), weight) for _ in range(_SHUFFLES)]
        noise.append(np.mean(shuffled))
    return np.array(found), np.array(noise)


def _non_finite(
    params: Params, seen: Mapping[str, Any], scores: Mapping[str, np.ndarray]
) -> str | None:
    """What is the first not to be finite, in the order in which it is computed."""
    for path, leaf in by_path(params).items():
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            return f"the meta-parameters, {path or 'the only leaf'}"
    places = [("the inputs", seen["bad_inputs"])]
    if "support_loss" in seen:
        steps = seen["support_loss"].shape[1]
        for step in range(steps):
            when = f"after {step} of {steps - 1} inner steps" if step else "before adaptation"
            places.append((f"the support loss {when}", ~np.isfinite(seen["support_loss"][:, step])))
            if step < steps - 1:
                norms = scores["gradient_norms"][:, step]
                places.append((f"the inner gradient {when}", ~np.isfinite(norms)))
    places.append(("the query loss after adaptation", ~np.isfinite(seen["query_loss"][:, -1])))
    places.append(("the outputs for the queries", seen.get("bad_outputs", np.array(False))))
    for place, bad in places:
        if bad.any():
            return f"{place}, in {bad.sum()} of {len(bad)} episodes"
    return None


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
