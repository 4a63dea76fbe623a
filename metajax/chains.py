"""Two models one after the other, so that a task may adapt one of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_model
from metajax.types import Array, Inputs, Key, Model, Objective, Outputs, Params, Sharing


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


def in_parts(body: Model | Objective, head: Model | None) -> Model | Objective:
    """`chain(body, head)`, or an objective of parameters that have both parts.

    Raises:
      TypeError: `body` is neither, or `head` is no `Model` beside one.
      ValueError: there is a `head` beside an `Objective`. From the objective's `init`: none of its
        parameters, or all, are in a head.
    """
    if isinstance(body, Objective):
        if head is not None:
            raise ValueError(
                f"an Objective comes with head={head!r}; expected None: its model has a head of "
                "its own, as that of metajax.models.chain(body, head) has"
            )
        init = _with_both(body.init)
        return Objective(init, body.loss, body.predict, body.keep, batched=body.batched)
    check_model(head, "head")
    assert head is not None
    return chain(body, head)


def in_head(path: str, leaf: Any) -> bool:
    """Whether a parameter is the head's; a `Selection`.

    It is, where its path ("model/head/Dense_0/kernel") names a head, and no body before.
    """
    del leaf
    return next((part for part in path.split("/") if part in ("body", "head")), None) == "head"


def in_body(path: str, leaf: Any) -> bool:
    """Whether a parameter is not the head's; a `Selection`."""
    return not in_head(path, leaf)


def _with_both(init: Callable[[Key, Inputs], Params]) -> Callable[[Key, Inputs], Params]:
    """The same `init`, whose parameters have to have a head, and more than that."""

    def checked(key: Key, inputs: Inputs) -> Params:
        params = init(key, inputs)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        found = {in_head(path, None) for path in paths}
        if found != {True, False}:
            raise ValueError(
                f"{'all' if True in found else 'none'} of the parameters {', '.join(paths[:8])} "
                "are those of a part named head; expected some: a model such as "
                "metajax.models.chain(body, head), or metajax.maml(objective, adapt=...)"
            )
        return params

    return checked
