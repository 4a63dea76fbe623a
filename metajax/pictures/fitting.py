"""From items with labels to a task, and to how sure its answers are by items that were held out.

An item is held out by its weight, 0, so that one program fits every fold. What is of weight 0 has
no influence, on a mean of the items neither.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import optimize, special

from metajax.calibration.deployed import Calibration
from metajax.calibration.rejection import score_of
from metajax.pictures.batches import filled, in_batches
from metajax.pictures.heads import Head, Temperatures
from metajax.types import Array, Examples, Learner, Params, Task

_MOST_FOLDS = 10
_FARTHEST = 7.0  # A temperature is a thousandth to a thousand times what it is beforehand.
_FEWEST_KNOWN = 20  # Items that were held out, of which a share can be left out by a threshold.


class HeldOut(NamedTuple):
    """How often fitted pictures were named right by the others alone.

    Attributes:
      accuracy: share of right answers, between 0 and 1.
      items: how many were held out, each once; those of classes of one picture never are.
    """

    accuracy: float
    items: int


class Fitted(NamedTuple):
    """What the functions of a learner take and return.

    Attributes:
      params: its meta-parameters, with the mean of the items where the head takes it away.
      task: from `learner.adapt`.
    """

    params: Params
    task: Task


@dataclasses.dataclass(frozen=True, eq=False)
class FittedTask:
    """What tells the classes of some items apart.

    Attributes:
      head: for as many classes or more.
      arrays: what was fitted.
      ways: classes.
    """

    head: Head
    arrays: Fitted
    ways: int

    def apply(self, arrays: Any, items: Array) -> Array:
        """`[n, ways]` scores of items as the learner sees them; it can be traced."""
        params, task = arrays
        return self.head.learner.predict(params, task, items)[:, : self.ways]

    def scores(self, items: np.ndarray) -> np.ndarray:
        """`[n, ways]` scores of items `[n, ...]`, of each as if it were asked alone."""
        learner, named = self.head.learner, self.head.named

        def compute(batch: Array) -> Array:
            if named:
                return _predicted(learner, *self.arrays, batch)
            return learner.predict(*self.arrays, batch)  # It tries whether items see each other.

        return in_batches(compute, as_seen(items), one_size=named)[:, : self.ways]


class Folds(NamedTuple):
    """Which items are held out together.

    Attributes:
      weights: `[folds, items]` float32, 0 of what is held out.
      asked: `[folds, most]` rows of the items that are held out, then others.
      counted: `[folds, most]` whether a row of `asked` is one that is held out.
    """

    weights: np.ndarray
    asked: np.ndarray
    counted: np.ndarray


def fit_items(head: Head, items: np.ndarray, rows: np.ndarray, ways: int) -> FittedTask:
    """The task of items `[n, ...]` with labels `[n]` in `[0, ways)`.

    Raises:
      ValueError: the head has not as many outputs as there are classes.
    """
    weights = None
    if head.named:  # So that a few more ask for no other program.
        items, rows, weights = _padded(items, rows)
    else:
        check_ways(head, items, ways)
    fitted = _fitted(head.learner, head.few, head.params, as_seen(items), rows, weights)
    return FittedTask(head, fitted, ways)


def calibrate_items(
    head: Head, items: np.ndarray, rows: np.ndarray, ways: int, kept: float | None
) -> tuple[Calibration, HeldOut | None]:
    """How sure answers are, by items that are held out in turn, and how many of those are right.

    Args:
      head: for that many ways.
      items: `[n, ...]`.
      rows: `[n]` labels in `[0, ways)`.
      ways: classes.
      kept: the share of known items that are to be answered; None answers all.
    """
    folds = folds_of(items, rows)
    if folds is None:
        return Calibration(head.temperatures.one, None, head.kind, None, ways), None
    outputs = held_out_scores(head, items, rows, folds)[..., :ways]
    outputs = outputs[folds.counted].astype(np.float64)
    targets = rows[folds.asked][folds.counted]
    right = outputs.argmax(axis=1) == targets
    temperature = _temperature(outputs, targets, head.temperatures)
    threshold = None
    if kept is not None and len(right) >= _FEWEST_KNOWN:
        threshold = keeping_threshold(score_of(outputs / temperature, head.kind), kept)
    share = None if threshold is None else kept
    calibration = Calibration(temperature, threshold, head.kind, share, ways)
    return calibration, HeldOut(float(right.mean()), len(right))


def keeping_threshold(scores: np.ndarray, kept: float) -> float:
    """The highest one that at least `kept` of `[n]` scores reach, halfway to the next lower one."""
    ordered = np.sort(scores)[::-1]
    last = int(np.ceil(kept * len(ordered) * (1 - 1e-12))) - 1
    threshold, lower = ordered[last], ordered[ordered < ordered[last]]
    return float((threshold + lower[0]) / 2 if lower.size else threshold)


def folds_of(items: np.ndarray, rows: np.ndarray) -> Folds | None:
    """Of every class with two items or more about as many in every fold, never all of them.

    Which items share a fold depends on what they are, and not on their order. Copies of an item
    do, so that none is named by its twin, and count as one.

    Returns:
      None where every class has one item.
    """
    known = [(int(row), item.tobytes()) for row, item in zip(rows, items, strict=True)]
    counts = np.bincount([row for row, _ in {*known}])
    count = min(int(counts.max()), _MOST_FOLDS)
    if count < 2:
        return None
    starts = counts.cumsum() - counts
    fold_of = {each: (rank - starts[each[0]]) % count for rank, each in enumerate(sorted({*known}))}
    fold = np.array([fold_of[each] for each in known])
    held = (fold == np.arange(count)[:, None]) & (counts[rows] > 1)
    asked = np.argsort(~held, axis=1, kind="stable")[:, : held.sum(axis=1).max()]
    counted = np.take_along_axis(held, asked, axis=1)
    return Folds((~held).astype(np.float32), asked, counted)


def held_out_scores(head: Head, items: np.ndarray, rows: np.ndarray, folds: Folds) -> np.ndarray:
    """`[folds, most, outputs]` what is said of the items that are held out, without them."""
    weights = folds.weights
    if head.named:
        items, rows, _ = _padded(items, rows)
        weights = np.zeros((len(weights), len(rows)), np.float32)
        weights[:, : folds.weights.shape[1]] = folds.weights
    found = _held_out(
        head.learner, head.few, head.params, as_seen(items), rows, weights, folds.asked
    )
    return np.asarray(found)


def check_ways(head: Head, items: np.ndarray, ways: int) -> None:
    """Raises unless the learner has an output for every class."""
    inputs = jax.ShapeDtypeStruct(items.shape, jnp.float32)
    labels = jax.ShapeDtypeStruct(items.shape[:1], jnp.int32)

    def outputs(params: Params, inputs: Array, labels: Array) -> Array:
        _, task = _fit(head.learner, head.few, params, inputs, labels, None)
        return head.learner.predict(params, task, inputs[:1])

    found = jax.eval_shape(outputs, head.params, inputs, labels)
    if len(found.shape) != 2:
        raise ValueError(
            f"predict of the head's learner {head.learner.title} gave an array of shape "
            f"{found.shape} for one item; expected scores [items, classes] of a learner that "
            "classifies"
        )
    if found.shape[1] < ways:
        raise ValueError(
            f"y has {ways} classes, and {head.learner.title} tells {found.shape[1]} apart; "
            f"expected {found.shape[1]} classes or fewer, or a head for any number of them"
        )


def as_seen(items: np.ndarray) -> np.ndarray:
    """Items as learners take them: pictures become floats in `[0, 1]`."""
    return items.astype(np.float32) / np.float32(255) if items.dtype == np.uint8 else items


def mean_of(items: Array, weights: Array | None, few: float) -> Array:
    """`[features]`, of items of a weight above 0 alone, and of `few` more that are 0."""
    if weights is None:
        weights = jnp.ones(len(items))
    weights = weights.astype(items.dtype)
    counted = jnp.where((weights > 0)[:, None], items, 0)
    return jnp.sum(weights[:, None] * counted, axis=0) / (jnp.sum(weights) + few)


def _fit(
    learner: Learner,
    few: float | None,
    params: Params,
    items: Array,
    rows: Array,
    weights: Array | None,
) -> Fitted:
    if few is not None:
        params = jax.tree.map(lambda _: mean_of(items, weights, few), params)
    return Fitted(params, learner.adapt(params, Examples(items, rows, weights)))


_fitted = jax.jit(_fit, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _predicted(learner: Learner, params: Params, task: Task, items: Array) -> Array:
    return learner.predict(params, task, items)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _held_out(
    learner: Learner,
    few: float | None,
    params: Params,
    items: Array,
    rows: Array,
    weights: Array,
    asked: Array,
) -> Array:
    def one(fold: tuple[Array, Array]) -> Any:
        weights, asked = fold
        own, task = _fit(learner, few, params, items, rows, weights)
        return learner.predict(own, task, items[asked])

    return lax.map(one, (weights, asked))


def _temperature(outputs: np.ndarray, targets: np.ndarray, before: Temperatures) -> float:
    """The likeliest one, after what was held out: few items that are all right do not make it 0.

    Its logarithm is normal beforehand, around what was measured for the head.

    Args:
      outputs: `[n, ways]` scores of what was held out.
      targets: `[n]` labels.
      before: what is known of the head.
    """
    if not np.isfinite(outputs).all():
        return before.several
    picked = outputs[np.arange(len(targets)), targets]

    def surprise(shift: float) -> float:
        scale = np.exp(-shift) / before.several
        lost = special.logsumexp(outputs * scale, axis=1) - picked * scale
        return float(lost.sum() + (shift / before.spread) ** 2 / 2)

    found = optimize.minimize_scalar(surprise, bounds=(-_FARTHEST, _FARTHEST), method="bounded")
    return float(before.several * np.exp(found.x))


def _padded(items: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a power of two, with weights: what is added has none."""
    size = 1 << (len(rows) - 1).bit_length()
    weights = filled(np.ones(len(rows), np.float32), size)
    return filled(items, size), filled(rows, size), weights
