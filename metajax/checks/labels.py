"""Labels that are known, that is outside a compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metajax.types import Examples


def known_labels(examples: Examples) -> np.ndarray | None:
    """The integer labels of the items that count, or None where they are not known yet."""
    targets, weights = examples.targets, examples.weights
    if isinstance(targets, Tracer) or not is_labels(targets):
        return None
    if weights is None:
        return np.asarray(targets)
    if isinstance(weights, Tracer):
        return None
    return np.asarray(targets)[np.asarray(weights) > 0]


def is_labels(targets: Any) -> bool:
    """Whether they are `[items]` integers."""
    dtype = getattr(targets, "dtype", None)
    return dtype is not None and targets.ndim == 1 and jnp.issubdtype(dtype, jnp.integer)


def check_labels(examples: Examples, outputs: int, name: str) -> None:
    """Raises if a known label of the set called `name` lies outside `[0, outputs)`."""
    labels = known_labels(examples)
    if labels is None:
        return
    outside = labels[(labels < 0) | (labels >= outputs)]
    if outside.size:
        raise ValueError(
            f"{name} has the label {outside[0]} but the model has {outputs} outputs; expected "
            f"labels in [0, {outputs}): relabel the classes of each episode from 0, or give the "
            "model one output a way"
        )


def check_classes(
    support: Examples, query: Examples | None = None, *, ways: int | None = None
) -> None:
    """Raises unless labels are integers and, where known, of classes that can be compared with.

    Those of the support set have to lie in `[0, ways)`, without `ways` in `[0, support items)`;
    those of the query set have to be among them.
    """
    for name, examples in (("support", support), ("query", query)):
        if examples is not None and not is_labels(examples.targets):
            targets = examples.targets
            shown = f"{targets.dtype} targets of shape {targets.shape}"
            if not isinstance(targets, jax.Array | np.ndarray):
                shown = f"targets that are a {type(targets).__name__}"
            raise ValueError(
                f"{name} has {shown}; expected [items] integer labels: a learner that compares "
                "classifies"
            )
    labels = known_labels(support)
    if labels is None:
        return
    classes = np.unique(labels)
    most = support.targets.shape[0] if ways is None else ways
    if (outside := classes[(classes < 0) | (classes >= most)]).size:
        room = f"there are {most} support items" if ways is None else f"the learner has ways={ways}"
        raise ValueError(
            f"support has the label {outside[0]} but {room}; expected labels in [0, {most}): "
            "relabel the classes of each episode from 0, or make the learner with more ways"
        )
    asked = None if query is None else known_labels(query)
    if asked is not None and (strangers := sorted(set(asked.tolist()) - set(classes.tolist()))):
        raise ValueError(
            f"query has the labels {strangers} but no support item has; expected at least one "
            "support item of every class"
        )
