"""What the truth tests of the metric learners share: padding, an encoder, complex steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj

Array = jax.Array


def padded(examples: mj.Examples, labels: list[int], seed: int) -> mj.Examples:
    """`examples` in their order, with garbage of weight 0 among them, one row a label."""
    items = len(examples.inputs)
    total = items + len(labels)
    generator = np.random.default_rng(seed)
    place = np.sort(generator.permutation(total)[:items])
    garbage = 100 * generator.normal(size=(total, *examples.inputs.shape[1:]))
    targets = np.empty(total, int)
    targets[np.setdiff1d(np.arange(total), place)] = labels
    return mj.Examples(
        jnp.asarray(garbage).at[place].set(examples.inputs),
        jnp.asarray(targets).at[place].set(examples.targets),
        jnp.zeros(total).at[place].set(1.0),
    )


def tanh_encoder(features: int) -> mj.Model:
    """One layer, so that the oracle's encoder is one line."""

    def init(key: Array, inputs: Array) -> dict[str, Array]:
        kernel = jax.random.normal(key, (inputs.shape[-1], features))
        return {"kernel": kernel, "bias": jnp.zeros(features)}

    def apply(params: dict[str, Array], inputs: Array) -> Array:
        return jnp.tanh(inputs @ params["kernel"] + params["bias"][None])

    return mj.from_functions(init, apply)


def complex_step(function: Callable[[Any], Any], params: Any, direction: Any) -> float:
    """The derivative along `direction` to rounding: nothing is subtracted."""
    moved = jax.tree.map(lambda p, d: np.asarray(p) + 1e-30j * np.asarray(d), params, direction)
    return float(np.imag(function(moved)) / 1e-30)
