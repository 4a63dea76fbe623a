"""Gradients whose own derivative is taken forward over reverse (mixed mode).

The derivative of an inner gradient is a Hessian, which is symmetric: its product with a cotangent
from the left is its product with it from the right, and that is one forward derivative of the
gradient. Reverse over reverse would keep every intermediate of loss *and* gradient; this keeps the
arguments alone (Kemaev et al. 2025, "Scalable Meta-Learning via Mixed-Mode Differentiation", arXiv
2505.00793).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from metajax.types import Array, Params


def mixed_value_and_grad(
    loss: Callable[[Params, Any], Array], params: Params, data: Any
) -> tuple[Array, Params]:
    r"""`jax.value_and_grad(loss)(params, data)` that is differentiated in mixed mode.

    With :math:`g = \nabla_\phi L(\phi, x)` and a cotangent v of g,

    .. math:: v^T \frac{\partial g}{\partial (\phi, x)} =
      \frac{d}{d\epsilon} \nabla_{(\phi, x)} L(\phi + \epsilon v, x) \Big|_{\epsilon = 0}

    which is exact for `params`, `data` and whatever `loss` closes over.

    Args:
      loss: `(params, data) -> []`.
      params: pytree of float arrays.
      data: any pytree.

    Returns:
      The loss and its gradient with respect to `params`. They can be differentiated in reverse
      mode, to any order, but not in forward mode directly.
    """
    # What the loss closes over becomes an argument, so that it gets its derivative too.
    # (`jax.closure_convert` leaves out what no derivative is being taken of yet, batched arrays
    # among it, and a custom derivative must not close over those either.)
    program = jax.make_jaxpr(loss)(params, data)

    def opened(params: Params, data: Any, constants: list) -> Any:
        closed = ClosedJaxpr(program.jaxpr, constants)
        outputs = jaxpr_as_fun(closed)(*jax.tree.leaves((params, data)))
        # More than a number, and JAX's error says so, as in plain reverse mode.
        return outputs[0] if len(outputs) == 1 else outputs

    def plain(params: Params, rest: tuple) -> tuple[Array, Params]:
        return jax.value_and_grad(opened)(params, *rest)

    def forward(params: Params, rest: tuple) -> tuple[tuple[Array, Params], tuple[Params, tuple]]:
        return plain(params, rest), (params, rest)

    def backward(
        residuals: tuple[Params, tuple], cotangents: tuple[Array, Params]
    ) -> tuple[Params, tuple]:
        params, rest = residuals
        along_value, along_gradient = cotangents
        leaves, structure = jax.tree.flatten(rest)
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in map(jnp.asarray, leaves)]

        def whole(params: Params, floats: list) -> Array:
            given = iter(floats)
            merged = [next(given) if s else x for s, x in zip(smooth, leaves, strict=True)]
            return opened(params, *jax.tree.unflatten(structure, merged))

        floats = [leaf for leaf, s in zip(leaves, smooth, strict=True) if s]
        slopes, bent = jax.jvp(
            lambda params: jax.grad(whole, argnums=(0, 1))(params, floats),
            (params,),
            (along_gradient,),
        )
        params_bar, floats_bar = jax.tree.map(
            lambda slope, bend: (along_value * slope + bend).astype(slope.dtype), slopes, bent
        )
        given = iter(floats_bar)
        rest_bar = [next(given) if s else None for s in smooth]
        return params_bar, jax.tree.unflatten(structure, rest_bar)

    gradient = jax.custom_vjp(plain)
    gradient.defvjp(forward, backward)
    return gradient(params, (data, program.consts))
