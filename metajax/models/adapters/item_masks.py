"""Items of weight 0 in the stock batch normalisation of Flax, which takes a mask."""

from typing import Any

import jax.numpy as jnp

from metajax.types import Array


def counted(weights: Array, x: Any, mask: Any, norm: str) -> Array:
    """The mask of batch normalisation: items of weight 0 are left out of its statistics.

    Args:
      weights: `[items]`.
      x: `[items, ..., features]`, what is normalised.
      mask: the module's own, which holds as well, or None.
      norm: its name in messages.

    Returns:
      `[items, 1, ...]` of the rank of `x`, or as large as both masks.

    Raises:
      ValueError: the first axis of `x` is not that of the items.
    """
    if jnp.shape(x)[:1] != weights.shape:
        raise ValueError(
            f"{norm} got an array of shape {jnp.shape(x)}, and {weights.shape[0]} items have "
            "weights; expected [items, ...], so that items of weight 0 can be left out of its "
            "statistics: let the module keep the items in the first axis, give it running averages "
            "(frozen=), or take episodes without padding"
        )
    own = (weights > 0).reshape(-1, *[1] * (jnp.ndim(x) - 1))
    return own if mask is None else jnp.logical_and(own, mask)
