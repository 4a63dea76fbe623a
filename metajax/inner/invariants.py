"""Loop-invariant code, taken out of a function before it is run in a loop.

XLA takes little of it out of the loops that a derivative is made of. JAX's own partial evaluation
is private, and drops the derivative rules of functions that are known in part; here equations are
taken whole, so that every `custom_jvp` and `custom_vjp` stays what it is.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

# They repeat what they are given, or make something of nothing: sooner done again than kept.
_CHEAP = ("broadcast_in_dim", "iota", "reshape", "squeeze")


def hoist(fun: Callable, *args: Any) -> Callable:
    """`fun`, with what does not depend on its arguments computed now, once.

    Exact, and so are the derivatives of what `fun` closes over. It looks into functions under
    `jax.jit`, and takes loops, branches and functions with derivative rules of their own as a
    whole. What has an effect, printing say, stays in the function.

    Args:
      fun: a pure function of pytrees.
      *args: what it will be called with, or the like of it in shapes and dtypes.

    Returns:
      The function of such arguments.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
    kinds = [var.aval for var in closed.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *leaves: _inlined(closed, leaves))(*kinds)
    jaxpr = flat.jaxpr
    fixed, outside = set(jaxpr.constvars), []
    for eqn in jaxpr.eqns:
        if _is_pure(eqn) and fixed.issuperset(_variables(eqn.invars)):
            outside.append(eqn)
            fixed.update(eqn.outvars)
    # Backwards from what is returned: what stays inside, and what it is to be given.
    needed, inside, given = set(_variables(jaxpr.outvars)), [], []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            if eqn.effects or eqn.primitive.name in _CHEAP or not fixed.issuperset(eqn.outvars):
                inside.append(eqn)
                needed.update(_variables(eqn.invars))
            else:
                given += [var for var in eqn.outvars if var in needed]
    given += [var for var in jaxpr.constvars if var in needed]
    values = _program(jaxpr, jaxpr.constvars, outside, given)(*flat.consts)
    rest = _program(jaxpr, [*given, *jaxpr.invars], inside[::-1], jaxpr.outvars)

    def hoisted(*args: Any) -> Any:
        results = rest(*values, *jax.tree.leaves(args))
        # A number that the program holds is no array yet.
        return jax.tree.unflatten(jax.tree.structure(shapes), map(jnp.asarray, results))

    return hoisted


def _inlined(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """The results of a program, without the boundaries of the compiled functions it calls."""
    jaxpr = closed.jaxpr
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(atoms: Iterable[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else known[atom] for atom in atoms]

    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("jit", "pjit"):
            outputs = _inlined(eqn.params["jaxpr"], read(eqn.invars))
        else:
            given = _variables(eqn.invars)
            outputs = _program(jaxpr, given, [eqn], eqn.outvars)(*read(given))
        known.update(zip(eqn.outvars, outputs, strict=True))
    return read(jaxpr.outvars)


def _program(
    jaxpr: Jaxpr, given: Sequence[Var], eqns: Sequence[JaxprEqn], wanted: Sequence[Any]
) -> Callable[..., list[Any]]:
    """The function that some equations of a program are, of the values that are given."""
    effects = set().union(*(eqn.effects for eqn in eqns))
    part = jaxpr.replace(constvars=[], invars=given, eqns=eqns, outvars=wanted, effects=effects)
    return jaxpr_as_fun(ClosedJaxpr(part, []))


def _is_pure(eqn: JaxprEqn) -> bool:
    # What refers to memory that changes has no effect where it is made.
    return not eqn.effects and all(isinstance(var.aval, ShapedArray) for var in eqn.outvars)


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]
