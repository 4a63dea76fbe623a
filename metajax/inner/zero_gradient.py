"""Whether an optimiser's update has a slope where the gradient is 0.

The update of a whole tree need not be computed to know: where each array of the gradient is one
number all over, so is nearly every array of the update, and one number stands for all its entries.
What comes of anything else (random numbers, decompositions) is unknown.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun

from metajax.types import Array

# The number that an array is all over, or None where that is not known.
Uniform = Array | None
# Where a slope is infinite: at the gradient 0, at any, or at none.
Slope = Literal["nowhere", "at zero", "anywhere"]
# Stands for an array of numbers or a traced one, a learned rate say: rates, decays and bounds are
# like it.
_SOME_NUMBER = 0.5
# The first step of some optimisers only fills their state.
_STEPS = 3

# Primitives whose slope is infinite somewhere.
_STEEP = {"acos", "acosh", "asin", "atan2", "atanh", "cbrt", "div", "erf_inv"} | {
    "integer_pow",
    "log",
    "log1p",
    "pow",
    "rsqrt",
    "sqrt",
}
_ENTRY_BY_ENTRY = (
    _STEEP
    | {"abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy", "cos"}
    | {"eq", "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "is_finite", "le", "logistic"}
    | {"lt", "max", "min", "mul", "ne", "neg", "not", "or", "rem", "round", "select_n", "sign"}
    | {"sin", "square", "stop_gradient", "sub", "tan", "tanh", "xor"}
)
_REARRANGED = {
    "broadcast_in_dim",
    "dynamic_slice",
    "expand_dims",
    "pvary",
    "reshape",
    "rev",
    "slice",
} | {"reduce_and", "reduce_max", "reduce_min", "reduce_or", "squeeze", "transpose"}
_CALLED = {"closed_call", "core_call", "jit", "pjit"}
# What was found, by the text of the program.
_FOUND: dict[str, Slope] = {}


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Those of the program, and of the programs in it."""
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def infinite_slope(
    init: ClosedJaxpr, update: ClosedJaxpr, *, through_gradient: bool = True
) -> Slope:
    """Where the derivative of the first steps is not finite.

    It is the reverse derivative that is taken: it is not finite, either, where `jnp.where` hides
    the infinite slope.

    Args:
      init: `*params -> *state`.
      update: `*gradient, *params, *state -> *updates, *state`.
      through_gradient: whether the gradient is differentiated beside the parameters.

    Returns:
      `"nowhere"` also where it is not known.
    """
    if not any(equation.primitive.name in _STEEP for equation in equations(update.jaxpr)):
        return "nowhere"
    count = len(init.in_avals)

    def moved(gradient: Array, parameter: Array) -> Array:
        calculator = _Calculator()

        def leaves(number: Array) -> list[Uniform]:
            # Of one type, one number, so that the calculator knows it again.
            cast = {kind.dtype: number.astype(kind.dtype) for kind in init.in_avals}
            return [cast[kind.dtype] for kind in init.in_avals]

        seen = gradient if through_gradient else jax.lax.stop_gradient(gradient)
        gradients, params = leaves(seen), leaves(parameter)
        state = calculator.run(init, params)
        total = jnp.zeros_like(gradient)
        for _ in range(_STEPS):
            outputs = calculator.run(update, [*gradients, *params, *state])
            updates, state = outputs[:count], outputs[count:]
            for change in {id(x): x for x in updates if x is not None}.values():
                total += change.astype(total.dtype)
        return total

    program = jax.make_jaxpr(moved)(0.0, 1.0)
    # Of numbers alone, so that its text is the whole of it.
    text = f"{program.jaxpr} {program.consts}"
    if text not in _FOUND:

        def finite(*numbers: Array) -> Array:
            slopes = jax.grad(lambda *numbers: jaxpr_as_fun(program)(*numbers)[0], argnums=(0, 1))
            return jnp.isfinite(jnp.stack(slopes(*numbers))).all()

        # Compiled, it is run here and now, whatever is being traced around this. It gives no NaN
        # that jax.debug_nans would take for the user's.
        at = jax.jit(finite).trace(0.0, 1.0).lower().compile()
        elsewhere = "at zero" if at(1.0, 1.0) else "anywhere"
        _FOUND[text] = "nowhere" if at(0.0, 1.0) else elsewhere
    return _FOUND[text]


class _Calculator:
    """Runs programs on one number an array; leaves that are alike are computed once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def run(self, program: ClosedJaxpr, arguments: Sequence[Uniform]) -> list[Uniform]:
        """The outputs for the arguments."""
        return self._run(program.jaxpr, [self._constant(x) for x in program.consts], arguments)

    def _run(
        self, program: Jaxpr, constants: Sequence[Uniform], arguments: Sequence[Uniform]
    ) -> list[Uniform]:
        values: dict[Any, Uniform] = dict(zip(program.constvars, constants, strict=True))
        values.update(zip(program.invars, arguments, strict=True))

        def read(atom: Any) -> Uniform:
            return self._constant(atom.val) if isinstance(atom, core.Literal) else values[atom]

        for equation in program.eqns:
            outputs = self._apply(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in program.outvars]

    def _constant(self, number: Any) -> Uniform:
        kind = jax.typeof(number)
        if jnp.issubdtype(kind.dtype, jax.dtypes.extended):
            return None  # A random key.
        if isinstance(number, Tracer) or kind.size != 1:
            if not jnp.issubdtype(kind.dtype, jnp.floating):
                return None
            number = _SOME_NUMBER
        value = np.asarray(number).astype(kind.dtype).reshape(())[()]
        return self._once((value.item(), kind.dtype), [], lambda: value)

    def _apply(self, equation: JaxprEqn, arguments: list[Uniform]) -> list[Uniform]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLED:
            return self.run(params["jaxpr" if "jaxpr" in params else "call_jaxpr"], arguments)
        if name == "cond":
            return self._cond(arguments, params["branches"])
        if name == "scan":
            return self._scan(arguments, **params)
        known = [x for x in arguments if x is not None]
        if len(known) < len(arguments) or len(equation.outvars) > 1 or not known:
            return [None] * len(equation.outvars)
        if name in _REARRANGED or (name == "concatenate" and all(x is known[0] for x in known)):
            return [known[0]]
        if name in _ENTRY_BY_ENTRY:
            return [
                self._once(
                    (name, *params.items()),
                    known,
                    lambda: equation.primitive.bind(*known, **params),
                )
            ]
        if name in ("reduce_sum", "dot_general"):
            # Sums of terms that are alike.
            kind: Any = equation.invars[0].aval
            axes = params["axes"] if name == "reduce_sum" else params["dimension_numbers"][0][0]
            terms = math.prod(kind.shape[axis] for axis in axes)
            result: Any = equation.outvars[0].aval
            return [
                self._once(
                    (name, terms, result.dtype),
                    known,
                    lambda: jnp.asarray(math.prod(known) * terms, result.dtype),
                )
            ]
        return [None]

    def _cond(self, arguments: list[Uniform], branches: Sequence[ClosedJaxpr]) -> list[Uniform]:
        """What is known of every branch."""
        index, *operands = arguments
        every = [_Calculator().run(branch, operands) for branch in branches]
        known = [
            index is not None and all(x is not None for x in outputs)
            for outputs in zip(*every, strict=True)
        ]
        ways = [
            lambda branch=branch: list(compress(_Calculator().run(branch, operands), known))
            for branch in branches
        ]
        taken = iter(jax.lax.switch(index, ways) if any(known) else [])
        return [next(taken) if sure else None for sure in known]

    def _scan(
        self,
        arguments: list[Uniform],
        *,
        jaxpr: ClosedJaxpr,
        length: int,
        num_consts: int,
        num_carry: int,
        **others: Any,
    ) -> list[Uniform]:
        """The carry after the last step; what each step gives is unknown."""
        first, last = num_consts, num_consts + num_carry
        carry = arguments[first:last]
        for _ in range(length):
            outputs = self.run(jaxpr, [*arguments[:first], *carry, *arguments[last:]])
            carry = outputs[:num_carry]
        return [*carry, *[None] * (len(jaxpr.out_avals) - num_carry)]

    def _once(self, what: Any, arguments: Sequence[Any], compute: Callable[[], Any]) -> Any:
        key = (what, *map(id, arguments))
        if key not in self._known:
            # The arguments are kept, so that no other gets the id of one.
            self._known[key] = compute(), arguments
        return self._known[key][0]
