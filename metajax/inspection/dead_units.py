"""Which ReLU units of a program are ever above 0, found by running its equations one by one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from metajax.types import Array

# Programs in programs that are run as if they were written out.
_CALLED = {"checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"} | {
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
# What is made of zeros by these is zeros.
_REPEATS = {"broadcast_in_dim", "convert_element_type", "copy", "reshape"}


def active_units(function: Callable[..., Any], *arguments: Any) -> list[Array]:
    """Which units of each ReLU are above 0 for any item.

    A ReLU is a maximum with 0, in a `jax.nn.relu` or by itself, under `jit`, `jax.checkpoint`,
    `vmap` and derivative rules too; that of a scan counts once, over all its rounds. One that is
    written otherwise, or stands in a branch or a `while` loop, is not seen. A unit is a place along
    the last axis: a channel, where channels come last.

    Args:
      function: any function of pytrees, a model's loss say.
      *arguments: of it.

    Returns:
      `[units]` booleans for each ReLU, in the order of the program.
    """
    program = jax.make_jaxpr(function)(*arguments)
    runner = _Runner()
    runner.run(program.jaxpr, program.consts, jax.tree.leaves(arguments), set())
    return runner.active


def merged(first: Sequence[Array], second: Sequence[Array]) -> list[Array]:
    """What either of two sets of items activates in the ReLUs that both go through.

    Args:
      first: of a program that is the beginning of the second's, such as the support set's encoder.
      second: of the other set's program.

    Returns:
      As many as `second` has; all of both where their beginnings are not alike.
    """
    shared = len(first)
    if [x.shape for x in first] != [x.shape for x in second[:shared]]:
        return [*first, *second]
    return [*(x | y for x, y in zip(first, second, strict=False)), *second[shared:]]


class _Runner:
    """Runs programs, and keeps what their ReLUs activate."""

    def __init__(self) -> None:
        self.active: list[Array] = []

    def run(
        self,
        program: Jaxpr,
        constants: Sequence[Any],
        arguments: Sequence[Any],
        zero_arguments: set[int],
    ) -> list[Any]:
        """The outputs; of which arguments it is known that they are zeros, by their places."""
        values: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
        values.update(zip(program.invars, arguments, strict=True))
        zeros = {program.invars[place] for place in zero_arguments}
        zeros |= {var for var, x in zip(program.constvars, constants, strict=True) if _is_zero(x)}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        def zero(atom: Any) -> bool:
            return _is_zero(atom.val) if isinstance(atom, Literal) else atom in zeros

        for equation in program.eqns:
            name = equation.primitive.name
            given = [read(atom) for atom in equation.invars]
            of_zeros = {place for place, atom in enumerate(equation.invars) if zero(atom)}
            outputs = self._apply(program, equation, given, of_zeros)
            values.update(zip(equation.outvars, outputs, strict=True))
            if name in _REPEATS and 0 in of_zeros:
                zeros.update(equation.outvars)
            if name == "max" and len(of_zeros) == 1 and _has_items(outputs[0]):
                self.active.append(_ever(outputs[0]))
        return [read(atom) for atom in program.outvars]

    def _apply(
        self, program: Jaxpr, equation: JaxprEqn, given: list[Any], of_zeros: set[int]
    ) -> list[Any]:
        """The outputs of one equation of the program."""
        name, params = equation.primitive.name, equation.params
        if name in _CALLED:
            called = next(x for x in params.values() if isinstance(x, ClosedJaxpr | Jaxpr))
            whole = isinstance(called, ClosedJaxpr)
            inner, constants = (called.jaxpr, called.consts) if whole else (called, ())
            return self.run(inner, constants, given, of_zeros)
        if name == "scan":
            return self._scan(given, params)
        variables = {
            atom: value
            for atom, value in zip(equation.invars, given, strict=True)
            if not isinstance(atom, Literal)
        }
        alone = program.replace(
            constvars=[],
            invars=[*variables],
            eqns=[equation],
            outvars=equation.outvars,
            effects=equation.effects,
        )
        return jaxpr_as_fun(ClosedJaxpr(alone, []))(*variables.values())

    def _scan(self, given: list[Any], params: dict[str, Any]) -> list[Any]:
        body = params["jaxpr"]
        if "num_consts" in params:
            first, carried = params["num_consts"], params["num_carry"]
        else:  # In JAX 0.12.
            first, carried, _ = map(len, params["ft_in"].unpack())
        last = first + carried

        def round_of(carry: list[Any], each: list[Any]) -> tuple[list[Any], Any]:
            runner = _Runner()
            outputs = runner.run(body.jaxpr, body.consts, [*given[:first], *carry, *each], set())
            return outputs[: last - first], (outputs[last - first :], runner.active)

        carry, (stacked, active) = jax.lax.scan(
            round_of,
            given[first:last],
            given[last:],
            length=params["length"],
            reverse=params["reverse"],
        )
        self.active += [units.any(axis=0) for units in active]
        return [*carry, *stacked]


def _has_items(units: Array) -> bool:
    """Not the variance of a batch, which is kept from going below 0."""
    return units.ndim > 1 and units.size > units.shape[-1]


def _ever(units: Array) -> Array:
    """Which places along the last axis are above 0 somewhere."""
    return (units > 0).reshape(-1, units.shape[-1]).any(axis=0)


def _is_zero(number: Any) -> bool:
    """Whether it is known to be the number 0."""
    if isinstance(number, Tracer) or np.size(number) != 1:
        return False
    return not jnp.issubdtype(jnp.result_type(number), jax.dtypes.extended) and not number
