"""Whether a model's outputs depend on state that nobody gave."""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from metajax.types import State


def depends_on(function: Callable[..., Any], state: State, *rest: Any) -> list[str]:
    """The paths of those arrays of `state` on which the outputs depend.

    What a computation reads and only writes back, as batch normalisation does in training with its
    running averages, is eliminated first.

    Args:
      function: `(state, *rest) -> outputs`.
      state: a pytree of arrays, or of their shapes and dtypes.
      *rest: pytrees like it.
    """
    jaxpr = jax.make_jaxpr(function)(state, *rest).jaxpr
    _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    return [path for path, needed in zip(paths, used, strict=False) if needed]
