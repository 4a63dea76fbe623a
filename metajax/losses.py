"""Losses and scores of one set of items. All of them are means that leave out items of weight 0."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from metajax.checks.episodes import check_items, check_weights
from metajax.checks.metrics import check_score_names
from metajax.checks.settings import check_mappings, check_names
from metajax.items import count
from metajax.kinds import arrays_of, as_array
from metajax.signatures import called_by_name, takes
from metajax.types import Array, Examples, LossFn, Outputs, Targets

Score = Callable[[Outputs, Targets, Array | None], Array]


def cross_entropy(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean cross-entropy of logits, `-1/n sum_i log softmax(outputs_i)[targets_i]`, in nats.

    The mean over items is this library's convention. The MAML authors' code sums the loss of
    `N`-way `K`-shot support items divided by `K`: their inner rates are `N` times as large here.

    Args:
      outputs: `[items, ways]` logits.
      targets: `[items]` integer labels in `[0, ways)`. A label outside makes the loss NaN, and its
        gradient, since inside a compiled program nothing can be raised.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.

    Raises:
      TypeError: an argument is no array of numbers.
      ValueError: the shapes or the dtype of the labels do not fit, or for the weights see
        `weighted_mean`.
    """
    outputs, targets = _labelled("cross_entropy", outputs, targets)
    ways = outputs.shape[-1]
    valid = (targets >= 0) & (targets < ways)
    log_probabilities = jax.nn.log_softmax(outputs)
    index = jnp.where(valid, targets, 0)[:, None]
    picked = jnp.take_along_axis(log_probabilities, index, axis=-1)[:, 0]
    value = weighted_mean(-jnp.where(valid, picked, jnp.nan), weights)
    # A product, so that the gradient is NaN as well: an inner loop sees nothing else.
    known = valid if weights is None else valid | (jnp.asarray(weights) == 0)
    return value * jnp.where(known.all(), 1, jnp.nan).astype(value.dtype)


def squared_error(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean squared error over items and output dimensions.

    Args:
      outputs: `[items, ...]`.
      targets: `[items, ...]` floats, the shape of `outputs`.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.

    Raises:
      TypeError: an argument is no array of numbers.
      ValueError: the shapes differ, the targets are integers, or for the weights see
        `weighted_mean`.
    """
    outputs, targets = arrays_of(outputs=outputs, targets=targets)
    if outputs.shape != targets.shape:
        raise ValueError(
            f"squared_error got outputs of shape {outputs.shape} and targets of shape "
            f"{targets.shape}; expected the same shape"
        )
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(
            f"squared_error got {targets.dtype} targets; expected floats "
            "(for classification pass loss_fn=metajax.cross_entropy)"
        )
    return weighted_mean((outputs - targets) ** 2, weights)


def match_error(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean squared error of scores to 1 for the labelled class and 0 for the others.

    The loss of Sung et al. (2018, eq. 2), as a mean over items and classes.

    Args:
      outputs: `[items, ways]` scores in `[0, 1]`, or `-inf` for classes that do not count.
      targets: `[items]` integer labels in `[0, ways)`. A label outside, or of a class that does
        not count, makes the loss NaN.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.

    Raises:
      TypeError: an argument is no array of numbers.
      ValueError: the shapes or the dtype of the labels do not fit, or for the weights see
        `weighted_mean`.
    """
    outputs, targets = _labelled("match_error", outputs, targets)
    counts = outputs != -jnp.inf  # NaN counts.
    matches = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    errors = jnp.where(counts, jnp.where(counts, outputs, 0) - matches, 0) ** 2
    means = errors.sum(axis=-1) / counts.sum(axis=-1)
    # A label without a score would only lose the term that it should match.
    return weighted_mean(jnp.where((counts & (matches > 0)).any(axis=-1), means, jnp.nan), weights)


def accuracy(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Share of items whose largest output is the labelled one, in `[0, 1]`.

    Args:
      outputs: `[items, ways]`, or `[items, ..., ways]` where an item has several labels.
      targets: `[items]` or `[items, ...]` integer labels in `[0, ways)`.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0, or an output of an item that counts is NaN: the largest
      would be that one, and the accuracy that of chance.

    Raises:
      TypeError, ValueError: see `cross_entropy`.
    """
    outputs, targets = _labelled("accuracy", outputs, targets, several=True)
    precision = jnp.promote_types(outputs.dtype, jnp.float32)
    correct = (jnp.argmax(outputs, axis=-1) == targets).astype(precision)
    return weighted_mean(jnp.where(jnp.isnan(outputs).any(axis=-1), jnp.nan, correct), weights)


def _labelled(
    score: str, outputs: Array, targets: Array, *, several: bool = False
) -> tuple[Array, Array]:
    """Outputs and labels of a score as arrays; `several` labels an item where it takes them."""
    outputs, targets = arrays_of(outputs=outputs, targets=targets)
    axes = outputs.ndim if several and outputs.ndim > 2 else 2
    if outputs.ndim != axes or targets.shape != outputs.shape[:-1]:
        raise ValueError(
            f"{score} got outputs of shape {outputs.shape} and targets of shape {targets.shape}; "
            "expected [items, ways] outputs and [items] labels"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"{score} got {targets.dtype} targets; expected integer labels "
            "(for regression pass loss_fn=metajax.squared_error)"
        )
    return outputs, targets


def weighted_mean(values: Array, weights: Array | None = None) -> Array:
    """Mean over items, weighted; over the other axes, where there are any, plain.

    >>> import jax.numpy as jnp, metajax
    >>> float(metajax.weighted_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0])))
    2.0

    Args:
      values: `[items, ...]`; what stands in a row of weight 0 does not count, NaN neither.
      weights: `[items]` finite numbers of 0 or more, or None for the plain mean.

    Returns:
      `[]`; NaN when every weight is 0 and, in a compiled program, where a weight is negative or not
      finite.

    Raises:
      TypeError: values or weights are no array of numbers.
      ValueError: there is not one weight an item, no item, or a known weight is negative or not
        finite.
    """
    values = as_array(values, "values")
    items = check_items(values, "values")
    values = values.reshape(values.shape[0], -1).mean(axis=-1) if values.ndim > 1 else values
    if weights is None:
        return values.mean()
    weights = as_array(weights, "weights")
    check_weights(weights, (items,), "weights", some=False)
    # Not in the weights' own type: halves lose ones of their sum, integers overflow.
    precision = jnp.promote_types(jnp.promote_types(values.dtype, weights.dtype), jnp.float32)
    kind = jnp.result_type(values, weights, 1.0)
    values, weights = values.astype(precision), weights.astype(precision)
    # `where`, not a product: whatever stands in a padded row must not reach the sum.
    counted = jnp.where(weights > 0, weights * values, 0.0)
    valid = (weights >= 0) & (weights < jnp.inf)
    return (counted.sum() / jnp.where(valid, weights, jnp.nan).sum()).astype(kind)


def nan_unless_labelled(value: Array, classes: Array, *sets: Examples) -> Array:
    """`value`, or NaN where an item that counts is of another class; the same of its gradient.

    Args:
      value: `[]`.
      classes: `[ways]` booleans, those that there may be.
      *sets: of `[items]` integer labels.
    """
    known = jnp.array(True)
    for _, targets, weights in sets:
        ways = jnp.arange(classes.shape[0])
        labelled = ((targets[:, None] == ways[None]) & classes[None]).any(axis=1)
        known &= (labelled if weights is None else labelled | (weights == 0)).all()
    # A product, so that the gradient is NaN as well.
    return value * jnp.where(known, 1, jnp.nan)


def is_classification(loss_fn: LossFn) -> bool:
    """Whether it is a loss of logits and integer labels that the library knows."""
    known = (cross_entropy, optax.softmax_cross_entropy_with_integer_labels)
    return any(loss_fn is loss for loss in known)


def as_loss(loss_fn: LossFn) -> Score:
    """A loss as people have it, as the function of outputs, targets and weights to `[]`.

    Args:
      loss_fn: `(outputs, targets) -> [items, ...]`, one value an item as optax's losses give, of
        which the weighted mean is taken; or `-> []` of sets without weights; or, where it has a
        parameter `weights`, `(outputs, targets, weights) -> []`.

    Raises:
      TypeError: it cannot be called so. From the loss: a result that is no array.
      ValueError: from the loss: a result of another shape.
    """
    return _averaged(loss_fn, "loss_fn", scalar=True)


def as_scores(
    metrics: Mapping[str, LossFn] | None, own: Mapping[str, LossFn]
) -> Callable[[Outputs, Targets, Array | None], dict[str, Array]]:
    """All scores of a set, each a function like a loss, as one function to their values.

    Args:
      metrics: the user's, or None.
      own: the library's beside them; the user's win where names are the same.

    Raises:
      TypeError: one is no function, or cannot be called so.
      ValueError: a metric has a name of the library's own.
    """
    if metrics is not None:
        check_mappings(metrics=metrics)
        check_names(metrics=[*metrics])
        check_score_names(metrics)
    functions = {
        name: _averaged(score, f"the metric {name!r}", scalar=False)
        for name, score in {**own, **(metrics or {})}.items()
    }
    return lambda *items: {name: score(*items) for name, score in functions.items()}


def _averaged(function: LossFn, what: str, *, scalar: bool) -> Score:
    call = called_by_name(function, what, ("outputs", "targets"), ("weights",))
    weighs = takes(function, "weights")

    def score(outputs: Outputs, targets: Targets, weights: Array | None) -> Array:
        value = call(outputs, targets, weights=weights)
        shape, items = jnp.shape(value), count(outputs)
        if shape == () and weights is not None and not weighs:
            raise ValueError(
                f"{what} returned a scalar and takes no weights, but items of the episode have "
                "some (padding has 0); expected one value an item, [items], or a parameter weights"
            )
        if weighs or shape == ():
            if scalar and shape != ():
                raise ValueError(
                    f"{what} takes weights and returned the shape {shape}; expected a scalar, such "
                    "as metajax.weighted_mean(values, weights)"
                )
            return value
        if shape[:1] != (items,):
            raise ValueError(
                f"{what} returned the shape {shape} for {items} items; expected a scalar, or one "
                "value an item, [items, ...]"
            )
        given = [jnp.shape(leaf) for leaf in jax.tree.leaves((outputs, targets))]
        if shape[:2] == (items, items) and not any(x[:2] == shape[:2] for x in given):
            raise ValueError(
                f"{what} returned the shape {shape} for {items} items, each against every other, "
                f"of outputs and targets {', '.join(map(str, given))}; expected both of one shape: "
                "targets[:, None], or outputs[:, 0] in the model"
            )
        return weighted_mean(value, weights)

    return score
