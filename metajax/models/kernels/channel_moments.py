"""Mean and variance of each channel, in few passes over the array."""

import jax.numpy as jnp
from jax import lax

from metajax.types import Array


def channel_moments(inputs: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Mean and variance of each channel, relative to an origin.

    The origin is one sample of the channel, see `sample_of`: without it, a mean far from 0 would
    cancel the variance away.

    Args:
      inputs: `[items, ..., channels]`.
      weights: `[items]`; items of weight 0 do not count. None counts everything.

    Returns:
      Origin, mean of `inputs - origin`, and variance, each `[1, ..., channels]`, in float32 at
      least.
    """
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    axes = tuple(range(wide.ndim - 1))
    origin = sample_of(wide, weights)
    counted = None if weights is None else (weights > 0).reshape(-1, *(1 for _ in inputs.shape[1:]))
    wide = wide - origin
    # XLA computes cheap arithmetic of channels anew for every element of the loops it is fused
    # into, and this form's derivatives have much of it. A division by what XLA does not know to be
    # 1 is dear enough to be done beforehand.
    one = 1 + 0 * origin
    mean = wide.mean(axes, where=counted, keepdims=True) / one
    square = (wide * wide).mean(axes, where=counted, keepdims=True) / one
    return origin, mean, square - mean * mean


def sample_of(inputs: Array, weights: Array | None) -> Array:
    """One sample of each channel `[1, ..., channels]`, of an item that counts; not differentiated.

    Args:
      inputs: `[items, ..., channels]`; where there are no samples the result is 0.
      weights: `[items]`; items of weight 0 do not count. None counts everything.
    """
    axes = tuple(range(inputs.ndim - 1))
    if 0 in inputs.shape:
        return jnp.zeros((*(1 for _ in axes), inputs.shape[-1]), inputs.dtype)
    first = 0 if weights is None else jnp.argmax(weights > 0)
    item = lax.dynamic_slice_in_dim(inputs, first, 1)
    return lax.stop_gradient(item[(slice(1),) * len(axes)])
