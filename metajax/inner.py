"""The inner loop: a task's own optimisation, differentiated through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.checks import check_count, check_optimizer
from metajax.types import Array, Params


def inner_loop(
    loss: Callable[[Params, Any], Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    first_order: bool = False,
    per_step: Any = None,
    observe: Callable[[Params], Any] | None = None,
) -> tuple[Params, Any]:
    r"""Runs `num_steps` steps of `optimizer` on `loss`, as one `jax.lax.scan`.

    .. math:: \phi_0 = \theta, \quad \phi_{i+1} = \phi_i - \alpha \nabla L(\phi_i)

    (for `optax.sgd(alpha)`; Finn et al. 2017, eq. 1). The result is differentiable with respect to
    `params`, to whatever `loss` closes over, and to any array inside `optimizer` (learned rates).

    With `first_order` the inner *gradients* pass through `stop_gradient`, not the parameters, so
    that the derivative of the result with respect to `params` is the identity (where the optimiser
    does not read the parameters, as weight decay does) while learned rates still receive theirs
    (Finn et al. 2017, section 5.2).

    `optax.adam` divides by a square root whose derivative is infinite at 0, so a single dead unit
    makes exact meta-gradients NaN: pass `eps_root=1e-8`.

    Args:
      loss: `(params, step) -> []`, where `step` is one slice of `per_step`.
      params: pytree of float arrays, theta.
      optimizer: any optax transformation; its state is differentiated through as well. Those that
        search along a line (`optax.lbfgs`) run, but JAX cannot differentiate their search.
      num_steps: number of steps, 0 or more; static.
      first_order: stop the inner gradients; static.
      per_step: pytree of `[num_steps, ...]` arrays (keys, mini-batches), or None.
      observe: function of the parameters, evaluated before the first and after every step.

    Returns:
      The adapted parameters, and what `observe` saw stacked to `[num_steps + 1, ...]` (None
      without `observe`).

    Raises:
      TypeError: `optimizer` is not an optax transformation, or `num_steps` is not an integer.
      ValueError: `num_steps` is negative.
    """
    check_count(num_steps=num_steps)
    check_optimizer(optimizer, "inner")
    update = optax.with_extra_args_support(optimizer).update

    def step(carry: tuple[Params, Any], data: Any) -> tuple[tuple[Params, Any], Any]:
        phi, opt_state = carry
        seen = None if observe is None else observe(phi)
        value, gradient = jax.value_and_grad(loss)(phi, data)
        if first_order:
            value, gradient = jax.lax.stop_gradient((value, gradient))
        updates, opt_state = update(
            gradient,
            opt_state,
            phi,
            value=value,
            grad=gradient,
            value_fn=lambda params: loss(params, data),
        )
        return (optax.apply_updates(phi, updates), opt_state), seen

    start = (params, optimizer.init(params))
    (phi, _), seen = jax.lax.scan(step, start, per_step, length=num_steps)
    if observe is None:
        return phi, None
    stacked = jax.tree.map(
        lambda before, last: jnp.concatenate([before, last[None]]), seen, observe(phi)
    )
    return phi, stacked
