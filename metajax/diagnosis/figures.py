"""What is seen in the episodes of a diagnosis, and the figures that are made of it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.inspection.within_tasks import BATCHINGS, by_path, classifies
from metajax.items import without_padding
from metajax.losses import accuracy
from metajax.metric import present_classes, prototypes, squared_distances
from metajax.types import Array, Episode, Examples, Key, Learner, Params

# Fields of a diagnosis that are means over the episodes, by themselves and at every step.
_MEANS = (
    "chance",
    "accuracy",
    "predicted_accuracy",
    "raw_accuracy",
    "constant_outputs",
    "zero_gradient",
    "renumbered_accuracy",
    "renumbered_chance",
    "raw_renumbered",
    "raw_renumbered_chance",
)
_CURVES = ("query_loss", "query_accuracy", "support_loss", "support_accuracy")
# Shuffles of the labels of an episode, by which renumbered accuracies are judged.
_SHUFFLES = 8


@partial(jax.jit, static_argnums=0)
def look(learner: Learner, params: Params, episodes: Episode, keys: Key) -> dict[str, Any]:
    """What is seen in each episode, `[episodes, ...]`."""

    def one(each: tuple[Episode, Key]) -> dict[str, Any]:
        episode, key = each
        support, query = episode
        value, aux = learner.loss(params, episode, key, False)
        seen = {"query_loss": aux.metrics.get("query_loss", value)[None]}
        if learner.inspect is not None:
            seen |= learner.inspect(params, episode, key)
        whole = [without_padding(examples).inputs for examples in (support, query)]
        inputs = [x for x in jax.tree.leaves(whole) if _is_float(x)]
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
    # One query at a time: differences to all classes are large.
    distances = jax.lax.map(lambda x: squared_distances(x[None], centres)[0], asked)
    return jnp.where(present[None], -distances, -jnp.inf)


def figures_of(
    params: Params, episodes: Episode, seen: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields of a `Diagnosis`, and the scores that they are means of.

    Args:
      params: the meta-parameters.
      episodes: a stack of them.
      seen: from `look`, as numpy arrays.
      seed: of the shuffles.

    Returns:
      The figures, and by name `[episodes]` scores; curves are `[episodes, num_steps + 1]`, named
      `"<name> of each"`, and those under another query batching `"batching <name>"`.
    """
    scores = {name: seen[name] for name in _MEANS if name in seen}
    curves = {name: seen[name] for name in _CURVES if name in seen}
    figures: dict[str, Any] = {name: curve.mean(axis=0) for name, curve in curves.items()}
    scores |= {f"{name} of each": curve for name, curve in curves.items()}
    if "accuracy" in seen:
        labels = np.asarray(episodes.query.targets)
        weights = episodes.query.weights
        weights = np.ones(labels.shape) if weights is None else np.asarray(weights, np.float64)
        weights = np.where(labels < 0, 0, weights)  # Of padding, or the loss is NaN.
        counts = [np.bincount(np.maximum(y, 0), w) for y, w in zip(labels, weights, strict=True)]
        scores["chance"] = np.array([count.max() / count.sum() for count in counts])
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
        figures["batchings"] = {
            name: float(seen["batchings"][name].mean())
            for name in BATCHINGS
            if name in seen["batchings"]
        }
    figures |= {name: float(scores[name].mean()) for name in _MEANS if name in scores}
    return {**figures, "non_finite": _non_finite(params, seen, scores)}, scores


def _renumbered(
    answers: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[episodes]` accuracies under the best renumbering of the answers, of labels and of noise."""
    from scipy.optimize import linear_sum_assignment  # Half a second, for nobody else.

    random = np.random.default_rng(seed)

    def best(answers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
        ways = 1 + max(answers.max(initial=0), labels.max(initial=0))
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
