"""Metrics of a step or a task: their names, and what they are."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def check_metric_names(names: Iterable[str], *own: str) -> None:
    """Raises where metrics have names of a training record's own fields, or of `own`."""
    fields = {"finite", "seconds", "skipped", "step", "tasks_per_second", "validation", *own}
    if reserved := sorted(fields & set(names)):
        raise ValueError(
            f"metrics has the names {reserved}, which the library reports itself; rename them"
        )


def check_score_names(names: Iterable[str]) -> None:
    """Raises where scores of a task have names of what a learner or a step reports beside them."""
    check_metric_names(names, "loss", "query_loss", "grad_norm")
    if curves := [name for name in names if name.endswith("_per_step")]:
        raise ValueError(
            f"metrics has the names {curves}; those that end in _per_step are the library's own, "
            "of scores after every step: rename them"
        )


def check_metrics(metrics: Mapping[str, Any], *own: str) -> None:
    """Raises where metrics of a step cannot be in a record: their names, or what they are.

    Args:
      metrics: arrays, or their shapes and dtypes.
      *own: further names that are taken.

    Raises:
      TypeError: a metric is no array of real numbers.
      ValueError: one has a name of the library's own.
    """
    check_metric_names(metrics, *own)
    for name, value in metrics.items():
        dtype = getattr(value, "dtype", None)
        real = (bool, np.integer, np.floating)
        if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in real):
            shown = f"a {type(value).__name__}" if dtype is None else f"of {dtype}"
            raise TypeError(
                f"the metric {name!r} is {shown}; expected an array of real numbers, which a "
                "record can hold"
            )
