"""The inner loop: a task's own optimisation, differentiated through."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.checks import check_count, check_optimizer
from metajax.inner.mixed_mode import mixed_value_and_grad
from metajax.types import Array, Params


class Backward(NamedTuple):
    """How an inner loop and its derivative are computed. Only `last_steps` changes the derivative.

    Attributes:
      mixed: take the derivative of each inner gradient forward over reverse, which keeps a step's
        parameters and none of its intermediates, and computes them again. Rules out forward mode
        through the loop. Static.
      checkpoint: what is kept for the backward pass: with `"none"` everything; with `"steps"` the
        parameters and the optimiser's state of every step, which is then run again; with `"nested"`
        those of every `sqrt(num_steps)`-th step, so that memory grows as the square root of their
        number, and the loop is run twice more. Static.
      last_steps: truncated back-propagation: exact through the last so many steps, first-order
        through the ones before. None is exact through all; 0 is first-order. Static.
      unroll: write the steps out one after another in place of a `lax.scan`. A few steps are
        faster so, since nothing is copied from step to step; tracing, compiling and the program
        grow with their number. Static.
    """

    mixed: bool = False
    checkpoint: Literal["none", "steps", "nested"] = "none"
    last_steps: int | None = None
    unroll: bool = False


def inner_loop(
    loss: Callable[[Params, Any], Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    per_step: Any = None,
    observe: Callable[[Params], Any] | None = None,
) -> tuple[Params, Any]:
    r"""Runs `num_steps` steps of `optimizer` on `loss`, by default as one `jax.lax.scan`.

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
      backward: how the loop and its derivative are computed, see `Backward`.
      per_step: pytree of `[num_steps, ...]` arrays (keys, mini-batches), or None.
      observe: function of the parameters, evaluated before the first and after every step.

    Returns:
      The adapted parameters, and what `observe` saw stacked to `[num_steps + 1, ...]` (None
      without `observe`).

    Raises:
      TypeError: `optimizer` is not an optax transformation, or `num_steps` is not an integer.
      ValueError: `num_steps` or `backward.last_steps` is negative, or `backward.checkpoint` is
        unknown, or an array of `per_step` has not one slice a step.
    """
    check_count(num_steps=num_steps)
    check_optimizer(optimizer, "inner")
    check_backward(backward)
    check_per_step(per_step, num_steps)
    update = optax.with_extra_args_support(optimizer).update

    def step(
        carry: tuple[Params, Any], data: Any, *, first_order: bool
    ) -> tuple[tuple[Params, Any], Any]:
        phi, opt_state = carry
        seen = None if observe is None else observe(phi)
        if backward.mixed and not first_order:
            value, gradient = mixed_value_and_grad(loss, phi, data)
        else:
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

    carry = (params, optimizer.init(params))
    exact = num_steps if backward.last_steps is None else min(num_steps, backward.last_steps)
    exact = 0 if first_order else exact
    early, late = _split(per_step, num_steps - exact)
    seen = []
    if exact < num_steps:
        first = partial(step, first_order=True)
        carry, before = _scan(first, carry, early, num_steps - exact, backward.unroll)
        seen.append(before)
    if exact or not num_steps:
        whole = partial(step, first_order=False)
        scan = _SCANS[backward.checkpoint]
        carry, before = scan(whole, carry, late, exact, backward.unroll)
        seen.append(before)
    phi = carry[0]
    if observe is None:
        return phi, None
    last = jax.tree.map(lambda x: x[None], observe(phi))
    return phi, _join(*seen, last)


def check_per_step(per_step: Any, num_steps: int) -> None:
    """Raises unless every array has one slice a step."""
    for leaf in jax.tree.leaves(per_step):
        if jnp.shape(leaf)[:1] != (num_steps,):
            raise ValueError(
                f"per_step holds an array of shape {jnp.shape(leaf)} but num_steps={num_steps}; "
                "expected [num_steps, ...], one slice a step"
            )


def check_backward(backward: Backward) -> None:
    """Raises unless the options are known."""
    if not isinstance(backward, Backward):
        raise TypeError(f"backward is {backward!r}; expected a metajax.Backward(...)")
    if not isinstance(backward.unroll, bool):
        raise TypeError(f"unroll={backward.unroll!r}; expected True or False")
    if backward.checkpoint not in tuple(_SCANS):
        raise ValueError(
            f'checkpoint={backward.checkpoint!r}; expected "none", "steps" or "nested"'
        )
    if backward.last_steps is not None:
        check_count(last_steps=backward.last_steps)


def _scan(step: Callable, carry: Any, xs: Any, length: int, unroll: bool) -> tuple[Any, Any]:
    if not unroll or not length:
        return jax.lax.scan(step, carry, xs, length=length)
    outs = []
    for index in range(length):
        carry, out = step(carry, jax.tree.map(lambda x, index=index: x[index], xs))
        outs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outs)


def _checkpointed_scan(
    step: Callable, carry: Any, xs: Any, length: int, unroll: bool
) -> tuple[Any, Any]:
    # Inside a `lax.scan` nothing is shared between the passes, so there is nothing to prevent.
    return _scan(jax.checkpoint(step, prevent_cse=unroll), carry, xs, length, unroll)


def _nested_scan(step: Callable, carry: Any, xs: Any, length: int, unroll: bool) -> tuple[Any, Any]:
    """Segments of about `sqrt(length)` steps, each run again in the backward pass."""
    size = math.isqrt(length)
    if size < 2:
        return _checkpointed_scan(step, carry, xs, length, unroll)
    segments = length // size
    whole, rest = _split(xs, segments * size)

    def segment(carry: Any, xs: Any) -> tuple[Any, Any]:
        return _checkpointed_scan(step, carry, xs, size, unroll)

    cut = jax.tree.map(lambda x: x.reshape(segments, size, *x.shape[1:]), whole)
    carry, seen = _checkpointed_scan(segment, carry, cut, segments, unroll)
    seen = jax.tree.map(lambda x: x.reshape(segments * size, *x.shape[2:]), seen)
    if segments * size == length:
        return carry, seen
    carry, after = _checkpointed_scan(step, carry, rest, length - segments * size, unroll)
    return carry, _join(seen, after)


_SCANS = {"none": _scan, "steps": _checkpointed_scan, "nested": _nested_scan}


def _split(tree: Any, at: int) -> tuple[Any, Any]:
    return jax.tree.map(lambda x: x[:at], tree), jax.tree.map(lambda x: x[at:], tree)


def _join(*trees: Any) -> Any:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *trees)
