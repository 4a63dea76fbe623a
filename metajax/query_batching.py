"""Which items share a batch, where a model computes statistics over the batch it is given.

With batch normalisation the outputs of a query item depend on what else is in its batch, so a
reported accuracy means little without this choice. Models whose items do not see each other give
the same outputs under all of them.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metajax.types import Array, Examples, Model, Params

Batching = Literal["separate", "joint", "single"]


def apply_queries(
    model: Model,
    params: Params,
    queries: Array,
    weights: Array | None,
    support: Examples | None,
    batching: Batching,
) -> Array:
    """Applies `model` to query items.

    - `"separate"`: all the queries in one batch, without the support (transductive; MAML's code).
    - `"joint"`: support and queries in one batch (transductive).
    - `"single"`: one query at a time, in a batch with the support (not transductive; the second
      evaluation of Nichol et al. 2018, section 6.1).

    Args:
      model: the model.
      params: its parameters.
      queries: `[items, ...]`.
      weights: `[items]` or None.
      support: the support set; only `"separate"` does without.
      batching: one of the above; static.

    Returns:
      `[items, ...]` outputs.
    """
    if batching == "separate" or support is None:
        return model.apply(params, queries, weights)
    if batching == "joint":
        inputs = jnp.concatenate([support.inputs, queries])
        joined = joined_weights(support, weights, len(queries))
        return model.apply(params, inputs, joined)[len(support.inputs) :]

    def one(query: Array) -> Array:
        inputs = jnp.concatenate([support.inputs, query[None]])
        return model.apply(params, inputs, joined_weights(support, None, 1))[-1]

    return jax.vmap(one)(queries)


def without_padding(examples: Examples) -> Examples:
    """The same set with zeros in the rows of weight 0: no junk in them reaches a gradient."""
    weights = examples.weights
    if weights is None:
        return examples

    def clear(rows: Array) -> Array:
        kept = (weights > 0).reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.where(kept, rows, jnp.zeros_like(rows))

    return Examples(clear(examples.inputs), clear(examples.targets), weights)


def check_batching(batching: str) -> None:
    """Raises unless `batching` is one of the three."""
    if batching not in ("separate", "joint", "single"):
        raise ValueError(f'query_batching={batching!r}; expected "separate", "joint" or "single"')


def joined_weights(support: Examples, weights: Array | None, queries: int) -> Array | None:
    """Weights of the support set followed by those of `queries` items; None where all are 1."""
    if support.weights is None and weights is None:
        return None
    first = jnp.ones(len(support.inputs)) if support.weights is None else support.weights
    second = jnp.ones(queries) if weights is None else weights
    return jnp.concatenate([first, second])
