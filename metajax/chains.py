"""Two models one after the other, so that a task may adapt one of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks import check_model
from metajax.types import Array, Key, Model, Params


class ChainParams(NamedTuple):
    """The parameters of two models one after the other."""

    body: Params
    head: Params


def chain(body: Model, head: Model) -> Model:
    """The model `head(body(inputs))`; its parameters are `ChainParams`.

    >>> import metajax
    >>> model = metajax.models.chain(
    ...     metajax.models.embedding_net(), metajax.models.mlp((5,)))

    Args:
      body: from inputs `[items, ...]` to features `[items, ...]`.
      head: from those features to outputs `[items, ...]`. Both get the items' weights.

    Raises:
      TypeError: one of them is not a `Model`.
    """
    check_model(body, "body")
    check_model(head, "head")

    def init(key: Key, inputs: Array) -> ChainParams:
        first, second = jax.random.split(key)
        params = body.init(first, inputs)
        features = jax.eval_shape(body.apply, params, inputs, None)
        return ChainParams(params, head.init(second, jnp.zeros(features.shape, features.dtype)))

    def apply(params: ChainParams, inputs: Array, weights: Array | None = None) -> Array:
        features = body.apply(params.body, inputs, weights)
        return head.apply(params.head, features, weights)

    return Model(init, apply)
