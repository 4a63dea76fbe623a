"""Losses and scores of one set of items. All of them are means that leave out items of weight 0."""

import jax
import jax.numpy as jnp

from metajax.types import Array


def cross_entropy(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean cross-entropy of logits, `-1/n sum_i log softmax(outputs_i)[targets_i]`, in nats.

    The mean over items is this library's convention. The MAML authors' code sums the loss of
    `N`-way `K`-shot support items divided by `K`: their inner rates are `N` times as large here.

    Args:
      outputs: `[items, ways]` logits.
      targets: `[items]` integer labels in `[0, ways)`. A label outside makes the loss NaN, since
        inside a compiled program nothing can be raised.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.

    Raises:
      ValueError: the shapes or the dtype of the labels do not fit.
    """
    _check_labelled("cross_entropy", outputs, targets)
    ways = outputs.shape[-1]
    valid = (targets >= 0) & (targets < ways)
    log_probabilities = jax.nn.log_softmax(outputs)
    index = jnp.where(valid, targets, 0)[:, None]
    picked = jnp.take_along_axis(log_probabilities, index, axis=-1)[:, 0]
    return _mean(-jnp.where(valid, picked, jnp.nan), weights)


def squared_error(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean squared error over items and output dimensions.

    Args:
      outputs: `[items, ...]`.
      targets: `[items, ...]` floats, the shape of `outputs`.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.

    Raises:
      ValueError: the shapes differ, or the targets are integers.
    """
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
    errors = (outputs - targets) ** 2
    return _mean(errors.reshape(errors.shape[0], -1).mean(axis=-1), weights)


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
      ValueError: the shapes or the dtype of the labels do not fit.
    """
    _check_labelled("match_error", outputs, targets)
    counts = outputs > -jnp.inf
    matches = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    errors = jnp.where(counts, jnp.where(counts, outputs, 0) - matches, 0) ** 2
    means = errors.sum(axis=-1) / counts.sum(axis=-1)
    # A label without a score would only lose the term that it should match.
    return _mean(jnp.where((counts & (matches > 0)).any(axis=-1), means, jnp.nan), weights)


def accuracy(outputs: Array, targets: Array, weights: Array | None = None) -> Array:
    """Share of items whose largest output is the labelled one, in `[0, 1]`.

    Args:
      outputs: `[items, ways]`.
      targets: `[items]` integer labels in `[0, ways)`.
      weights: `[items]` or None.

    Returns:
      `[]`; NaN when every weight is 0.
    """
    precision = jnp.promote_types(outputs.dtype, jnp.float32)
    correct = (jnp.argmax(outputs, axis=-1) == targets).astype(precision)
    return _mean(correct, weights)


def _check_labelled(loss: str, outputs: Array, targets: Array) -> None:
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"{loss} got outputs of shape {outputs.shape} and targets of shape {targets.shape}; "
            "expected [items, ways] outputs and [items] labels"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"{loss} got {targets.dtype} targets; expected integer labels "
            "(for regression pass loss_fn=metajax.squared_error)"
        )


def _mean(values: Array, weights: Array | None) -> Array:
    if weights is None:
        return values.mean()
    # `where`, not a product: whatever stands in a padded row must not reach the sum.
    counted = jnp.where(weights > 0, weights * values, 0.0)
    return counted.sum() / weights.sum()
