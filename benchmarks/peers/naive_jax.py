"""MAML as one writes it first in JAX: stock convolutions and pooling, a Python loop over the inner
steps, `grad` of `grad`, `vmap` over the tasks.

Weights and episodes are named as in `workloads.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Arrays = dict[str, jax.Array]


def forward(network: str, params: Arrays, inputs: jax.Array) -> jax.Array:
    """`[items, ...] -> [items, outputs]` of a workload's network."""
    hidden, pooled = inputs, network == "max"
    for block in range(sum(name.endswith("scale") for name in params)):
        hidden = lax.conv_general_dilated(
            hidden,
            params[f"conv{block}/kernel"],
            window_strides=(1, 1) if pooled else (2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean = hidden.mean(axis=(0, 1, 2))
        variance = hidden.var(axis=(0, 1, 2))
        hidden = (hidden - mean) * lax.rsqrt(variance + 1e-5)
        hidden = jax.nn.relu(hidden * params[f"norm{block}/scale"] + params[f"norm{block}/bias"])
        if pooled:
            window = (1, 2, 2, 1)
            hidden = lax.reduce_window(hidden, -jnp.inf, lax.max, window, window, "VALID")
    if network == "stride":
        hidden = hidden.mean(axis=(1, 2))
    hidden = hidden.reshape(hidden.shape[0], -1)
    layers = sum(name.startswith("dense") for name in params) // 2
    for layer in range(layers):
        hidden = hidden @ params[f"dense{layer}/kernel"] + params[f"dense{layer}/bias"]
        hidden = hidden if layer == layers - 1 else jax.nn.relu(hidden)
    return hidden


def loss(network: str, params: Arrays, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error for float targets, mean cross-entropy for labels."""
    outputs = forward(network, params, inputs)
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return ((outputs - targets) ** 2).mean()
    log_probabilities = jax.nn.log_softmax(outputs)
    return -jnp.take_along_axis(log_probabilities, targets[:, None], axis=-1).mean()


def meta_gradient(
    network: str, rate: float, steps: int, *, first_order: bool
) -> Callable[[Arrays, Arrays], Arrays]:
    """`(params, episodes) -> gradient` of the mean query loss over the tasks."""

    def task_loss(params: Arrays, episode: Arrays) -> jax.Array:
        for _ in range(steps):
            gradient = jax.grad(loss, argnums=1)(network, params, episode["xs"], episode["ys"])
            if first_order:
                gradient = lax.stop_gradient(gradient)
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        return loss(network, params, episode["xq"], episode["yq"])

    def mean_loss(params: Arrays, episodes: Arrays) -> jax.Array:
        return jax.vmap(task_loss, in_axes=(None, 0))(params, episodes).mean()

    return jax.grad(mean_loss)
