"""Losses and scores, as people have them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metajax as mj
from metajax.types import Array, LossFn, Targets


class LossTrial(NamedTuple):
    """A loss of somebody's.

    Attributes:
      name: in the table of the documentation, as are `how` and `notes`.
      loss_fn: as it is.
      by_hand: `(outputs, targets) -> [items]`, of which the mean is taken.
      how: how it gets in.
      notes: what else is to be known.
      targets: `(labels, inputs) -> targets`; None leaves the labels as they are.
      metrics: scores beside it.
      weighs: whether it can do with padding.
      fast: whether it is among the tests that run by default.
    """

    name: str
    loss_fn: LossFn
    by_hand: Callable[[Array, Any], Array]
    how: str = "`loss_fn=`"
    notes: str = ""
    targets: Callable[[Array, Array], Targets] | None = None
    metrics: Mapping[str, LossFn] = MappingProxyType({})
    weighs: bool = True
    fast: bool = False


def one_hot(labels: Array, inputs: Array) -> Array:
    return jnp.eye(3)[labels]


def several_labels(labels: Array, inputs: Array) -> Array:
    return (inputs > 0).astype(inputs.dtype)


def numbers(labels: Array, inputs: Array) -> Array:
    return jnp.sin(3 * inputs)


def log_softmax(logits: Array) -> Array:
    return logits - jnp.log(jnp.exp(logits).sum(axis=1, keepdims=True))


def labelled(outputs: Array, labels: Array) -> Array:
    return -(log_softmax(outputs) * jnp.eye(3)[labels]).sum(axis=1)


def binary(outputs: Array, targets: Array) -> Array:
    right, wrong = (jnp.log(1 + jnp.exp(sign * outputs)) for sign in (-1, 1))
    return (targets * right + (1 - targets) * wrong).mean(axis=1)


def huber(outputs: Array, targets: Array) -> Array:
    error = jnp.abs(outputs - targets)
    return jnp.where(error < 1, error**2 / 2, error - 0.5).mean(axis=1)


def scalar(outputs: Array, targets: Array) -> Array:
    return jnp.mean((outputs - targets) ** 2)


def counted_twice(outputs: Array, targets: Array, weights: Array | None) -> Array:
    return 2 * mj.weighted_mean(jnp.abs(outputs - targets), weights)


def focal(outputs: Array, targets: Array) -> Array:
    right = jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1)[:, 0]
    return -((1 - jnp.exp(right)) ** 2) * right


def focal_by_hand(outputs: Array, labels: Array) -> Array:
    loss = labelled(outputs, labels)
    return (1 - jnp.exp(-loss)) ** 2 * loss


def margin(outputs: Array, targets: Array) -> Array:
    return (outputs * jax.nn.one_hot(targets, 3)).sum(axis=1)


TRIALS = (
    LossTrial(
        "optax, cross-entropy of labels",
        optax.softmax_cross_entropy_with_integer_labels,
        labelled,
        notes="`accuracy` is among the metrics",
    ),
    LossTrial(
        "optax, cross-entropy of one-hot targets",
        optax.softmax_cross_entropy,
        lambda outputs, targets: -(log_softmax(outputs) * targets).sum(axis=1),
        targets=one_hot,
    ),
    LossTrial(
        "optax, several labels an item",
        optax.sigmoid_binary_cross_entropy,
        binary,
        notes="`[items, labels]`, their mean",
        targets=several_labels,
    ),
    LossTrial(
        "optax, `l2_loss`",
        optax.l2_loss,
        lambda outputs, targets: ((outputs - targets) ** 2).mean(axis=1) / 2,
        targets=numbers,
        fast=True,
    ),
    LossTrial("optax, `huber_loss`", optax.huber_loss, huber, targets=numbers),
    LossTrial(
        "a mean over everything",
        scalar,
        lambda outputs, targets: ((outputs - targets) ** 2).mean(axis=1),
        notes="refused where items have weights",
        targets=numbers,
        weighs=False,
    ),
    LossTrial(
        "a loss that names `weights`",
        counted_twice,
        lambda outputs, targets: 2 * jnp.abs(outputs - targets).mean(axis=1),
        notes="takes the mean itself",
        targets=numbers,
    ),
    LossTrial("a focal loss", focal, focal_by_hand),
    LossTrial(
        "scores of one's own",
        optax.softmax_cross_entropy_with_integer_labels,
        labelled,
        how='`metrics={"margin": margin}`',
        notes="beside `accuracy`",
        metrics={"margin": margin},
    ),
)
