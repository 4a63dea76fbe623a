"""Computation in half precision, with parameters, gradients and updates in single."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.objects import check_model
from metajax.types import Array, Inputs, Key, Model, Outputs, Params


def computing_in(model: Model, dtype: Any) -> Model:
    """The same model, its arithmetic in `dtype`: parameters and inputs are cast on the way in.

    Outputs, and so losses, come back in the precision of parameters and inputs, and so do
    gradients, inner updates and meta-gradients, of either order. Batch statistics are taken in
    float32 whatever the dtype.

    >>> import jax.numpy as jnp, metajax
    >>> model = metajax.models.computing_in(metajax.models.strided_conv_net(5), jnp.bfloat16)

    Args:
      model: a model whose computation follows the types of its parameters and inputs, as Flax's
        layers do unless they are given a `dtype`.
      dtype: a floating type, `jnp.bfloat16` most of all.

    Raises:
      TypeError: `model` is not a `Model`, or `dtype` not a floating type.
    """
    check_model(model, "model")
    if not isinstance(dtype, type | np.dtype) or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype is {dtype!r}; expected a floating type, such as jnp.bfloat16")

    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def apply(params: Params, inputs: Inputs, weights: Array | None, key: Key | None) -> Outputs:
        outputs = model.apply(jax.tree.map(cast, params), jax.tree.map(cast, inputs), weights, key)
        kinds = [leaf.dtype for leaf in jax.tree.leaves((params, inputs))]
        floats = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
        if not floats:
            return outputs
        wide = jnp.result_type(*floats)
        return jax.tree.map(
            lambda x: x.astype(wide) if jnp.issubdtype(x.dtype, jnp.floating) else x, outputs
        )

    return Model(model.init, apply, sharing=model.sharing, statistics=model.statistics)
