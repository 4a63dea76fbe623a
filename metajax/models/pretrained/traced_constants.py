"""The arrays that a traced function closes over, those of compiled functions within it, too."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def constants_of(traced: ClosedJaxpr) -> Iterator[Any]:
    """In the order in which the program has them; one that it uses twice may come twice."""
    yield from _arrays(traced.consts)
    yield from _within(traced.jaxpr)


def _within(jaxpr: Jaxpr) -> Iterator[Any]:
    """Those of the programs that a program calls, which JAX may leave there."""
    for equation in jaxpr.eqns:
        yield from _arrays(x.val for x in equation.invars if isinstance(x, Literal))
        for value in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if isinstance(value, ClosedJaxpr):
                yield from constants_of(value)
            elif isinstance(value, Jaxpr):
                yield from _within(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _arrays(values: Any) -> Iterator[Any]:
    for value in values:
        yield value if isinstance(value, jax.Array) else np.asarray(value)
