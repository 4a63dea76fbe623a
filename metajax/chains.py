"""Two models one after the other, so that a task may adapt one of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_model
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing


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

    def init(key: Key, inputs: Inputs) -> ChainParams:
        first, second = jax.random.split(key)
        params = body.init(first, inputs)
        features = jax.eval_shape(body.apply, params, inputs)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), features)
        return ChainParams(params, head.init(second, zeros))

    def apply(
        params: ChainParams, inputs: Inputs, weights: Array | None, key: Key | None
    ) -> Outputs:
        first, second = (None, None) if key is None else jax.random.split(key)
        features = body.apply(params.body, inputs, weights, first)
        return head.apply(params.head, features, weights, second)

    def sharing(params: ChainParams, inputs: Inputs) -> Sharing:
        features = jax.eval_shape(body.apply, params.body, inputs)
        both = {body.sharing(params.body, inputs), head.sharing(params.head, features)}
        return next(kind for kind in ("batch", "weighted", "none") if kind in both)

    return Model(init, apply, sharing=sharing)
