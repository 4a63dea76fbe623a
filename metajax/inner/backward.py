"""How an inner loop and its derivative are computed: what is kept, and what is computed again."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_optional_integers
from metajax.checks.settings import check_flags
from metajax.kinds import check_words


@dataclasses.dataclass(frozen=True)
class Backward:
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

    def __post_init__(self) -> None:
        check_flags(mixed=self.mixed, unroll=self.unroll)
        check_words(tuple(_SCANS), checkpoint=self.checkpoint)
        check_optional_integers(0, last_steps=self.last_steps)

    def scan(self, step: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
        """`jax.lax.scan(step, carry, xs, length)`, with what is kept as `checkpoint` says."""
        return _SCANS[self.checkpoint](step, carry, xs, length, self.unroll)


def _scan(step: Callable, carry: Any, xs: Any, length: int, unroll: bool) -> tuple[Any, Any]:
    if not unroll or not length:
        return jax.lax.scan(step, carry, xs, length=length)
    step = jax.jit(step)  # Traced and differentiated once for all of them.
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
    whole, rest = split_steps(xs, segments * size)

    def segment(carry: Any, xs: Any) -> tuple[Any, Any]:
        return _checkpointed_scan(step, carry, xs, size, unroll)

    cut = jax.tree.map(lambda x: x.reshape(segments, size, *x.shape[1:]), whole)
    carry, seen = _checkpointed_scan(segment, carry, cut, segments, unroll)
    seen = jax.tree.map(lambda x: x.reshape(segments * size, *x.shape[2:]), seen)
    if segments * size == length:
        return carry, seen
    carry, after = _checkpointed_scan(step, carry, rest, length - segments * size, unroll)
    return carry, join_steps(seen, after)


_SCANS = {"none": _scan, "steps": _checkpointed_scan, "nested": _nested_scan}


def split_steps(tree: Any, at: int) -> tuple[Any, Any]:
    """The first `at` steps of arrays `[steps, ...]`, and the others."""
    return jax.tree.map(lambda x: x[:at], tree), jax.tree.map(lambda x: x[at:], tree)


def join_steps(*trees: Any) -> Any:
    """Arrays `[steps, ...]` one after another."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *trees)
