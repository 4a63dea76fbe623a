"""What the truth tests of the metric learners share: episodes, padding, encoders, complex steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import metajax as mj

Array = jax.Array
# Three shots of class 0, one of class 1, two of class 2.
SUPPORT_LABELS = np.array([2, 0, 1, 0, 2, 0])
QUERY_LABELS = np.array([1, 0, 2, 0])


def start(starter: mj.Model | mj.Learner, *shape: int) -> tuple[Any, mj.Episode]:
    """Parameters, none of them zero, and an episode of items of `shape`."""
    support, query = oracles.normals(0, (len(SUPPORT_LABELS), *shape), (len(QUERY_LABELS), *shape))
    shapes = jax.eval_shape(starter.init, jax.random.key(0), support)
    episode = mj.Episode(
        mj.Examples(support, jnp.asarray(SUPPORT_LABELS)),
        mj.Examples(query, jnp.asarray(QUERY_LABELS)),
    )
    return oracles.normal_like(1, shapes, 0.5), episode


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

    return mj.Model(init, apply)


def complex_step(function: Callable[[Any], Any], params: Any, direction: Any) -> float:
    """The derivative along `direction` to rounding: nothing is subtracted."""
    moved = jax.tree.map(lambda p, d: np.asarray(p) + 1e-30j * np.asarray(d), params, direction)
    return float(np.imag(function(moved)) / 1e-30)
