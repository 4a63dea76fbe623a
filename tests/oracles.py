"""What the library computes, written out in plain loops from the update rules, with none of it.

Each rule is a closed sum over all the gradients so far, so it carries no state. Parameters are
flattened to one vector, on which every rule works entry by entry.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

Array = jax.Array
Params = Any
Rule = Callable[[Sequence[Array]], Array]
StepLoss = Callable[[Params, int], Array]
TaskLoss = Callable[[Params], Array]


def _decayed_sum(values: Sequence[Array], decay: float) -> Array:
    """`sum_i decay^(t - i) values_i`, `t` being the last."""
    last = len(values) - 1
    return jnp.stack([decay ** (last - i) * value for i, value in enumerate(values)]).sum(axis=0)


def sgd(rate: float | Array) -> Rule:
    """`-rate g`."""
    return lambda gradients: -rate * gradients[-1]


def scheduled_sgd(rates: Sequence[float]) -> Rule:
    """`-rates[t] g_t`."""
    return lambda gradients: -rates[len(gradients) - 1] * gradients[-1]


def momentum(rate: float, decay: float) -> Rule:
    """Heavy ball: `-rate v_t`, `v_t = sum_i decay^(t - i) g_i`."""
    return lambda gradients: -rate * _decayed_sum(gradients, decay)


def nesterov(rate: float, decay: float) -> Rule:
    """`-rate (g_t + decay v_t)`."""
    return lambda gradients: -rate * (gradients[-1] + decay * _decayed_sum(gradients, decay))


def rmsprop(rate: float, decay: float, eps: float) -> Rule:
    """`-rate g_t / sqrt(nu_t + eps)`, `nu_t = (1 - decay) sum_i decay^(t - i) g_i^2`."""

    def rule(gradients: Sequence[Array]) -> Array:
        second = (1 - decay) * _decayed_sum([g**2 for g in gradients], decay)
        return -rate * gradients[-1] / jnp.sqrt(second + eps)

    return rule


def adagrad(rate: float, start: float, eps: float) -> Rule:
    """`-rate g_t / sqrt(start + sum_i g_i^2 + eps)`."""

    def rule(gradients: Sequence[Array]) -> Array:
        total = start + _decayed_sum([g**2 for g in gradients], 1.0)
        return -rate * gradients[-1] / jnp.sqrt(total + eps)

    return rule


def adam(
    rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0
) -> Rule:
    """`-rate m / (sqrt(v + eps_root) + eps)`, both moments corrected for their bias."""

    def rule(gradients: Sequence[Array]) -> Array:
        steps = len(gradients)
        first = (1 - b1) / (1 - b1**steps) * _decayed_sum(gradients, b1)
        second = (1 - b2) / (1 - b2**steps) * _decayed_sum([g**2 for g in gradients], b2)
        return -rate * first / (jnp.sqrt(second + eps_root) + eps)

    return rule


def clipped(rule: Rule, bound: float) -> Rule:
    """`rule` on gradients cut to `[-bound, bound]`."""
    return lambda gradients: rule(
        [jnp.where(g > bound, bound, jnp.where(g < -bound, -bound, g)) for g in gradients]
    )


def norm_clipped(rule: Rule, bound: float) -> Rule:
    """`rule` on gradients scaled down to the Euclidean norm `bound` where they exceed it."""

    def cut(gradient: Array) -> Array:
        norm = jnp.sqrt((gradient**2).sum())
        return jnp.where(norm > bound, gradient * bound / norm, gradient)

    return lambda gradients: rule([cut(g) for g in gradients])


def frozen(rule: Rule, moving: Params) -> Rule:
    """`rule` where the tree `moving` is 1, no movement where it is 0."""
    return lambda gradients: ravel_pytree(moving)[0] * rule(gradients)


def inner_path(loss: StepLoss, theta: Params, rule: Rule, num_steps: int) -> list[Params]:
    """`[phi_0, ..., phi_n]`, differentiable through every step."""
    start, unravel = ravel_pytree(theta)
    path, gradients = [start], []
    for step in range(num_steps):
        gradients.append(jax.grad(lambda flat, step=step: loss(unravel(flat), step))(path[-1]))
        path.append(path[-1] + rule(gradients))
    return [unravel(phi) for phi in path]


def maml_loss(
    support: StepLoss, query: TaskLoss, theta: Params, rule: Rule, num_steps: int
) -> Array:
    """The query loss after `num_steps` steps on the support loss."""
    return query(inner_path(support, theta, rule, num_steps)[-1])


def fomaml_gradient(
    support: StepLoss, query: TaskLoss, theta: Params, rule: Rule, num_steps: int
) -> Params:
    """The query loss's gradient at the adapted parameters."""
    return jax.grad(query)(inner_path(support, theta, rule, num_steps)[-1])


def reptile_phi(
    loss: Callable[[Params, Array, Array], Array],
    theta: Params,
    inputs: Array,
    targets: Array,
    rows: Sequence[Sequence[int]],
    rule: Rule,
) -> Params:
    """The adapted parameters of Reptile, step `i` being on the items `rows[i]`."""

    def batch_loss(phi: Params, step: int) -> Array:
        return loss(
            phi,
            jnp.stack([inputs[row] for row in rows[step]]),
            jnp.stack([targets[row] for row in rows[step]]),
        )

    return inner_path(batch_loss, theta, rule, len(rows))[-1]


def perceptron(params: Params, inputs: Array) -> Array:
    """A two-layer ReLU perceptron, by the parameters of `metajax.models.mlp((hidden, outputs))`."""
    first, second = params["Dense_0"], params["Dense_1"]
    hidden = inputs @ first["kernel"] + first["bias"][None]
    hidden = jnp.where(hidden > 0, hidden, 0)
    return hidden @ second["kernel"] + second["bias"][None]


def mean_cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over items of `-log softmax(logits)[label]`."""
    # Any number will do; with the derivative of a largest of two alike, compiled programs compare
    # what they rounded twice, find it nowhere, and divide by 0.
    shifted = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    chosen = jnp.eye(logits.shape[-1])[labels]
    return (jnp.log(jnp.exp(shifted).sum(axis=-1)) - (shifted * chosen).sum(axis=-1)).mean()


def mean_squared_error(outputs: Array, targets: Array) -> Array:
    """Mean over items and output dimensions."""
    return ((outputs - targets) ** 2).sum() / outputs.size


def central_difference(
    function: Callable[[Params], Array], params: Params, direction: Params
) -> float:
    """The derivative of `function` at `params` along `direction`, to about 1e-8 in float64."""
    step = 1e-5

    def at(distance: float) -> float:
        moved = jax.tree.map(
            lambda p, d: np.asarray(p) + distance * np.asarray(d), params, direction
        )
        return float(function(moved))

    return (at(step) - at(-step)) / (2 * step)


def dot(first: Params, second: Params) -> float:
    """Inner product of two trees."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return sum(float(np.vdot(a, b)) for a, b in pairs)


def normals(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """One array of standard normals for each shape, in the default float."""
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.normal(size=shape)) for shape in shapes]


def normal_like(seed: int, tree: Params, scale: float = 1.0) -> Params:
    """A tree of normals of standard deviation `scale`, of the shapes of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    generator = np.random.default_rng(seed)
    return structure.unflatten(
        [jnp.asarray(scale * generator.normal(size=leaf.shape)) for leaf in leaves]
    )


def assert_close(actual: Params, expected: Params, tolerance: float = 1e-12) -> None:
    """Same structure, and every leaf within `tolerance` of its own largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape, name
        assert np.isfinite(theirs).all(), name
        error, bound = np.abs(ours - theirs).max(), tolerance * np.abs(theirs).max()
        assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"
