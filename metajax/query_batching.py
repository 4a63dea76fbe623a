"""Which items share a batch, where a model computes statistics over the batch it is given.

With batch normalisation the outputs of a query item depend on what else is in its batch, so a
reported accuracy means little without this choice. Models whose items do not see each other give
the same outputs under all of them.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_instance, check_model
from metajax.items import count, join, take
from metajax.kinds import check_arrays, check_batch, check_words
from metajax.types import Array, Examples, Inputs, Key, Model, Outputs, Params

Batching = Literal["separate", "joint", "single", "support"]


def apply_queries(
    model: Model,
    params: Params,
    queries: Inputs,
    weights: Array | None,
    support: Examples | None,
    batching: Batching,
    key: Key | None = None,
) -> Outputs:
    """Applies `model` to query items.

    - `"separate"`: all the queries in one batch, without the support (transductive; MAML's code).
    - `"joint"`: support and queries in one batch (transductive).
    - `"single"`: one query at a time, in a batch with the support (not transductive; the second
      evaluation of Nichol et al. 2018, section 6.1).
    - `"support"`: support and queries in one batch in which the queries have weight 0, so that the
      statistics are the support's (not transductive; Meta-Dataset's Proto-MAML, in training and at
      test). A model that does not leave out items of weight 0 is applied as under `"single"`.

    Args:
      model: the model.
      params: its parameters.
      queries: `[items, ...]`.
      weights: `[items]` or None.
      support: the support set, of which only inputs and weights matter; `"separate"` does without.
      batching: one of the above; static.
      key: of what the model draws, as dropout does; None draws nothing.

    Returns:
      `[items, ...]` outputs.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: `batching` is unknown.
    """
    check_model(model, "model")
    check_batching(batching, "batching")
    check_batch(key, weights, queries=queries)
    if support is not None:
        check_instance(support, Examples, "support", "metajax.Examples(inputs, targets), or None")
        check_arrays(support.inputs, "support.inputs")
    if batching == "separate" or support is None:
        return model.apply(params, queries, weights, key)
    items = count(support.inputs)
    if batching == "joint":
        joined = joined_weights(support, weights, count(queries))
    elif batching == "support" and model.sharing(params, queries) == "weighted":
        joined = joined_weights(support, jnp.zeros(count(queries)), count(queries))
    else:
        return _one_by_one(model, params, queries, support, key)
    outputs = model.apply(params, join(support.inputs, queries), joined, key)
    return take(outputs, slice(items, None))


def _one_by_one(
    model: Model, params: Params, queries: Inputs, support: Examples, key: Key | None
) -> Outputs:
    """Each query in a batch with the support."""

    def one(query: Inputs, key: Key | None) -> Outputs:
        inputs = join(support.inputs, take(query, None))
        return take(model.apply(params, inputs, joined_weights(support, None, 1), key), -1)

    if key is None:
        return jax.vmap(lambda query: one(query, None))(queries)
    return jax.vmap(one)(queries, jax.random.split(key, count(queries)))


def check_batching(batching: str, name: str = "query_batching") -> None:
    """Raises unless `batching`, an argument called `name`, is one of the four."""
    check_words(("separate", "joint", "single", "support"), **{name: batching})


def joined_weights(support: Examples, weights: Array | None, queries: int) -> Array | None:
    """Weights of the support set followed by those of `queries` items; None where all are 1."""
    if support.weights is None and weights is None:
        return None
    first = jnp.ones(count(support.inputs)) if support.weights is None else support.weights
    second = jnp.ones(queries) if weights is None else weights
    return jnp.concatenate([first, second])


def kept_support(model: Model, params: Params, support: Examples) -> Examples | None:
    """What a task keeps of its support set to answer each query on its own: mostly nothing."""
    if model.sharing(params, support.inputs) == "none":
        return None
    return Examples(support.inputs, None, support.weights)
