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
    loss: Callable[[Params, Any], Any], params: Params, data: Any, *, has_aux: bool = False
) -> tuple[Array, Params, Any]:
    r"""`jax.value_and_grad(loss)(params, data)` that is differentiated in mixed mode.

    With :math:`g = \nabla_\phi L(\phi, x)` and a cotangent v of g,

    .. math:: v^T \frac{\partial g}{\partial (\phi, x)} =
      \frac{d}{d\epsilon} \nabla_{(\phi, x)} L(\phi + \epsilon v, x) \Big|_{\epsilon = 0}

    which is exact for `params`, `data` and whatever `loss` closes over.

    Args:
      loss: `(params, data) -> []`, with `has_aux` a pair with something beside.
      params: pytree of float arrays.
      data: any pytree.
      has_aux: whether there is something beside the loss, a pytree of arrays, whose derivative is
        taken in reverse mode.

    Returns:
      The loss, its gradient with respect to `params`, and what is beside it or None. They can be
      differentiated in reverse mode, to any order, but not in forward mode directly.
    """
    # What the loss closes over becomes an argument, so that it gets its derivative too.
    # (`jax.closure_convert` leaves out what no derivative is being taken of yet, batched arrays
    # among it, and a custom derivative must not close over those either.)
    program, shapes = jax.make_jaxpr(loss, return_shape=True)(params, data)

    def opened(params: Params, data: Any, constants: list) -> tuple[Any, Any]:
        closed = ClosedJaxpr(program.jaxpr, constants)
        outputs = jaxpr_as_fun(closed)(*jax.tree.leaves((params, data)))
        outputs = jax.tree.unflatten(jax.tree.structure(shapes), outputs)
        return outputs if has_aux else (outputs, None)

    def plain(params: Params, rest: tuple) -> tuple[Array, Params, Any]:
        (value, aux), gradient = jax.value_and_grad(opened, has_aux=True)(params, *rest)
        return value, gradient, aux

    def forward(params: Params, rest: tuple) -> tuple[tuple, tuple[Params, tuple]]:
        return plain(params, rest), (params, rest)

    def backward(
        residuals: tuple[Params, tuple], cotangents: tuple[Array, Params, Any]
    ) -> tuple[Params, tuple]:
        params, rest = residuals
        along_value, along_gradient, along_aux = cotangents
        leaves, structure = jax.tree.flatten(rest)
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in map(jnp.asarray, leaves)]

        def whole(params: Params, floats: list) -> tuple[Array, Any]:
            given = iter(floats)
            merged = [next(given) if s else x for s, x in zip(smooth, leaves, strict=True)]
            return opened(params, *jax.tree.unflatten(structure, merged))

        def loss_alone(params: Params, floats: list) -> Array:
            return whole(params, floats)[0]

        floats = [leaf for leaf, s in zip(leaves, smooth, strict=True) if s]
        slopes, bent = jax.jvp(
            lambda params: jax.grad(loss_alone, argnums=(0, 1))(params, floats),
            (params,),
            (along_gradient,),
        )
        bars = jax.tree.map(
            lambda slope, bend: (along_value * slope + bend).astype(slope.dtype), slopes, bent
        )
        if jax.tree.leaves(along_aux):
            _, pull = jax.vjp(lambda params, floats: whole(params, floats)[1], params, floats)
            bars = jax.tree.map(jnp.add, bars, pull(along_aux))
        params_bar, floats_bar = bars
        given = iter(floats_bar)
        rest_bar = [next(given) if s else None for s in smooth]
        return params_bar, jax.tree.unflatten(structure, rest_bar)

    gradient = jax.custom_vjp(plain)
    gradient.defvjp(forward, backward)
    return gradient(params, (data, program.consts))
