"""The inner loop: a task's own optimisation, differentiated through."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance, check_optimizer
from metajax.checks.parameters import check_floats
from metajax.checks.settings import check_flags
from metajax.inner.backward import Backward, join_steps, split_steps
from metajax.inner.invariants import hoist
from metajax.inner.mixed_mode import mixed_value_and_grad
from metajax.inner.observation import all_seen, asked_steps, mapped, seen_at
from metajax.inner.selection import Selection, check_selection, select
from metajax.inner.update_traits import checked_update
from metajax.kinds import check_arrays, check_functions, check_optional_functions
from metajax.types import Array, Params


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    r"""What a gradient learner's `inner`, `num_steps`, `first_order`, `backward`, `adapt` become.

    .. math:: \phi_0 = \theta, \quad \phi_{i+1} = \phi_i - \alpha \nabla L(\phi_i)

    (for `optax.sgd(alpha)`; Finn et al. 2017, eq. 1). The result is differentiable with respect to
    the parameters, to whatever the loss closes over, and to any array inside the optimiser (learned
    rates).

    In first order the inner *gradients* pass through `stop_gradient`, not the parameters, so that
    the derivative of the result with respect to the parameters is the identity (where the optimiser
    does not read them, as weight decay does) while learned rates still receive theirs (Finn et al.
    2017, section 5.2).

    Before the first step the optimiser's `update` is looked at, and a `RuntimeWarning` given where

    - it would *add* the gradient to some parameters (`optax.masked` passes on the gradient of what
      it masks out);
    - exact steps have an infinite slope at a zero gradient, such as the square root in `optax.adam`
      without `eps_root`: a single dead unit then makes exact meta-gradients NaN. Of optimisers that
      decompose or gather (`optax.lbfgs`, `optax.contrib.galore`) this is not known.

    Attributes:
      inner: any optax transformation whose iterates are its result; its state is differentiated
        through as well, and its numbers may be traced arrays. `update` is given the keywords
        `value`, `grad`, `value_fn` and `grad_fn` (as `optax.contrib.sam` has it). Those that search
        along a line (`optax.lbfgs`) adapt, and train in first order, where their updates have no
        derivative; differentiating exact steps of theirs is a `ValueError`.
      num_steps: number of steps, 0 or more; static.
      first_order: stop the inner gradients; static.
      backward: how the loop and its exact derivative are computed, see `Backward`. First order has
        nothing to keep or to truncate: of `Backward` it takes `unroll` alone.
      adapt: which parameters are adapted, see `Selection`; None adapts all. The others are constant
        inside, neither differentiated nor carried, and the meta-gradient with respect to them is
        exact all the same. What the loss computes from them and the task alone, and from no step's
        mini-batch or key, is computed once in place of `num_steps` times: with `adapt="head"` the
        features of the support set. Dropout and mini-batches are drawn anew at every step, and so
        is all that follows them. The optimiser sees None in the place of what is not adapted.
        Static.

    Raises:
      TypeError: `inner` is not an optax transformation, `num_steps` not an integer, `first_order`
        not a bool, `backward` not a `Backward`, or `adapt` no `Selection`.
      ValueError: `num_steps` is negative, `backward` says how to differentiate what `first_order`
        does not, or `adapt` names nothing.
    """

    inner: optax.GradientTransformation
    num_steps: int
    first_order: bool = False
    backward: Backward = Backward()
    adapt: Selection | None = None

    def __post_init__(self) -> None:
        check_optimizer(self.inner, "inner")
        check_integers(0, num_steps=self.num_steps)
        check_flags(first_order=self.first_order)
        check_instance(self.backward, Backward, "backward", "a metajax.Backward(...)")
        check_selection(self.adapt)
        if self.first_order and self.backward != Backward(unroll=self.backward.unroll):
            raise ValueError(
                f"first_order=True with backward={self.backward}, but no derivative goes through "
                "the inner gradients then; expected one of the two, or Backward(unroll=...) alone"
            )

    @property
    def exact_steps(self) -> int:
        """The last steps, through whose gradients the derivative goes; 0 is first order."""
        if self.first_order:
            return 0
        last = self.backward.last_steps
        return self.num_steps if last is None else min(self.num_steps, last)

    def __str__(self) -> str:
        """The settings in short, as the representation of a learner shows them."""
        if self.num_steps and not self.exact_steps:
            order = "first order"
        elif self.exact_steps < self.num_steps:
            order = f"exact through the last {self.exact_steps}"
        else:
            order = "exact"
        return f"num_steps={self.num_steps}, inner=..., {order}{self.part}"

    @property
    def part(self) -> str:
        """The same of `adapt` alone, after a comma; empty where everything is adapted."""
        if self.adapt is None:
            return ""
        return ", adapt=..." if callable(self.adapt) else f", adapt={self.adapt!r}"

    def run(
        self,
        loss: Callable[[Params, Any], Any],
        params: Params,
        *,
        per_step: Any = None,
        observe: Callable[[Params], Any] | None = None,
        has_aux: bool = False,
    ) -> tuple[Any, ...]:
        """Runs the steps on `loss`, by default as one `jax.lax.scan`.

        Args:
          loss: `(params, step) -> []`, where `step` is one slice of `per_step`.
          params: pytree of float arrays, theta.
          per_step: pytree of `[num_steps, ...]` arrays (keys, mini-batches), or None.
          observe: function of the parameters, evaluated before the first and after every step.
          has_aux: `loss` returns a pair, of which the second, a pytree of arrays, leaves the loop:
            what a step drew, say. Its derivative is exact in first order, too. Static.

        Returns:
          The adapted parameters, and what `observe` saw stacked to `[num_steps + 1, ...]` (None
          without `observe`). With `has_aux` a third, the seconds of all steps, `[num_steps, ...]`.

        Raises:
          TypeError: a function is none, the parameters are no floats, or `loss` gives no pair under
            `has_aux`.
          TypeError, ValueError: `adapt` does not fit the parameters, see `select`.
          ValueError: there are no parameters to step with, an array of `per_step` has not one slice
            a step, or the result of `inner` is another point than its iterate (`optax.lookahead`,
            `optax.contrib.schedule_free`).
        """
        check_functions(loss=loss)
        check_optional_functions(observe=observe)
        check_flags(has_aux=has_aux)
        _check_per_step(per_step, self.num_steps)
        if has_aux:
            loss = _of_pairs(loss)
        phi, seen, aux = self._run(loss, params, per_step, observe, has_aux)
        return (phi, seen, aux) if has_aux else (phi, seen)

    def _run(
        self,
        loss: Callable[[Params, Any], Any],
        params: Params,
        per_step: Any,
        observe: Callable[[Params], Any] | None,
        has_aux: bool,
    ) -> tuple[Params, Any, Any]:
        asked = asked_steps(observe, self.num_steps)
        if self.adapt is not None:
            return self._run_part(loss, params, per_step, observe, has_aux)
        check_floats(params)
        if not self.num_steps:
            none = _of_no_step(loss, params, per_step) if has_aux else None
            return params, all_seen(observe, [], params, 0), none
        if not jax.tree.leaves(params):
            raise ValueError(
                f"there are no parameters, which num_steps={self.num_steps} could adapt; expected "
                "a model that has some, such as metajax.models.chain(frozen(body, params), head), "
                "or frozen(model, params, learn=...)"
            )
        update = checked_update(self.inner, params, exact=self.exact_steps > 0)
        value_of = (lambda phi, data: loss(phi, data)[0]) if has_aux else loss

        def step(
            carry: tuple[Params, Any], given: tuple[Any, Any], *, exact: bool
        ) -> tuple[tuple[Params, Any], Any]:
            (phi, opt_state), (data, asked) = carry, given
            seen = seen_at(observe, phi, asked)

            def slope(params: Params) -> tuple[Array, Params, Any]:
                if self.backward.mixed and exact:
                    return mixed_value_and_grad(loss, params, data, has_aux=has_aux)
                given, gradient = jax.value_and_grad(loss, has_aux=has_aux)(params, data)
                value, aux = given if has_aux else (given, None)
                if not exact:
                    value, gradient = jax.lax.stop_gradient((value, gradient))
                return value, gradient, aux

            value, gradient, aux = slope(phi)
            updates, opt_state = update(
                gradient,
                opt_state,
                phi,
                value=value,
                grad=gradient,
                # A line search of optax passes on to it what it does not know itself.
                value_fn=lambda params, grad_fn=None: value_of(params, data),
                grad_fn=lambda params, _: slope(params)[1],
            )
            return (optax.apply_updates(phi, updates), opt_state), (seen, aux)

        carry = (params, self.inner.init(params))
        exact = self.exact_steps
        early, late = split_steps((per_step, asked), self.num_steps - exact)
        seen, auxes = [], []
        if exact < self.num_steps:
            # No derivative goes through the gradients of these, so there is nothing to keep.
            plain = Backward(unroll=self.backward.unroll)
            carry, (before, aux) = plain.scan(
                partial(step, exact=False), carry, early, self.num_steps - exact
            )
            seen.append(before)
            auxes.append(aux)
        if exact:
            carry, (before, aux) = self.backward.scan(partial(step, exact=True), carry, late, exact)
            seen.append(before)
            auxes.append(aux)
        aux = auxes[0] if len(auxes) == 1 else join_steps(*auxes)
        return carry[0], all_seen(observe, seen, carry[0], self.num_steps), aux

    def _run_part(
        self,
        loss: Callable[[Params, Any], Any],
        params: Params,
        per_step: Any,
        observe: Callable[[Params], Any] | None,
        has_aux: bool,
    ) -> tuple[Params, Any, Any]:
        """`_run` on what is adapted, of functions that what is not has been taken out of."""
        assert self.adapt is not None
        part, whole = select(params, self.adapt)
        if not self.num_steps:
            return dataclasses.replace(self, adapt=None)._run(
                loss, params, per_step, observe, has_aux
            )
        one = jax.tree.map(lambda x: x[0], per_step)
        phi, seen, aux = dataclasses.replace(self, adapt=None)._run(
            hoist(lambda phi, step: loss(whole(phi), step), part, one),
            part,
            per_step,
            mapped(observe, lambda see: hoist(lambda phi: see(whole(phi)), part)),
            has_aux,
        )
        return whole(phi), seen, aux


def inner_loop(
    loss: Callable[[Params, Any], Any],
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    per_step: Any = None,
    observe: Callable[[Params], Any] | None = None,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """`InnerLoop(optimizer, num_steps, first_order, backward, adapt)`, made and run at once.

    >>> import jax.numpy as jnp, optax, metajax
    >>> def loss(params, step):
    ...     return jnp.sum((params - 1) ** 2)
    >>> adapted, _ = metajax.inner_loop(loss, jnp.zeros(2), optax.sgd(0.25), num_steps=1)
    >>> adapted.tolist()
    [0.5, 0.5]

    Args:
      loss: see `InnerLoop.run`.
      params: see `InnerLoop.run`.
      optimizer: see `InnerLoop`.
      num_steps: see `InnerLoop`.
      first_order: see `InnerLoop`.
      backward: see `InnerLoop`.
      adapt: see `InnerLoop`.
      per_step: see `InnerLoop.run`.
      observe: see `InnerLoop.run`.
      has_aux: see `InnerLoop.run`.

    Returns:
      The adapted parameters, what `observe` saw, and with `has_aux` what the loss gave beside, see
      `InnerLoop.run`.

    Raises:
      TypeError, ValueError: see `InnerLoop` and `InnerLoop.run`.
    """
    check_optimizer(optimizer, "optimizer")
    loop = InnerLoop(optimizer, num_steps, first_order, backward, adapt)
    return loop.run(loss, params, per_step=per_step, observe=observe, has_aux=has_aux)


def _of_pairs(loss: Callable[[Params, Any], Any]) -> Callable[[Params, Any], Any]:
    """A loss with something beside it, which is looked at."""

    def pair(params: Params, step: Any) -> Any:
        given = loss(params, step)
        if not isinstance(given, tuple) or len(given) != 2:
            kind = f"a tuple of {len(given)}" if isinstance(given, tuple) else "no pair"
            raise TypeError(f"has_aux=True and loss gave {kind}; expected (loss, aux)")
        return given

    return pair


def _of_no_step(loss: Callable, params: Params, per_step: Any) -> Any:
    """What steps would give beside their losses, `[0, ...]`."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), per_step)
    _, aux = jax.eval_shape(loss, params, one)
    return jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), aux)


def _check_per_step(per_step: Any, num_steps: int) -> None:
    if jax.tree.leaves(per_step):
        check_arrays(per_step, "per_step")
    for leaf in jax.tree.leaves(per_step):
        if jnp.shape(leaf)[:1] != (num_steps,):
            raise ValueError(
                f"per_step holds an array of shape {jnp.shape(leaf)} but num_steps={num_steps}; "
                "expected [num_steps, ...], one slice a step"
            )
