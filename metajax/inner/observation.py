"""What is seen of the parameters on an inner loop's way: at every step, or at some."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Params

Observe = Callable[[Params], Any]


@dataclasses.dataclass(frozen=True)
class AtSteps:
    """`observe` of an inner loop that is computed at some of its steps alone.

    Attributes:
      function: of the parameters.
      steps: rising numbers of steps after which it is computed; 0 is before the first.
    """

    function: Observe
    steps: tuple[int, ...]

    def __call__(self, phi: Params) -> Any:
        """What is seen of the parameters, at whatever step."""
        return self.function(phi)


def mapped(observe: Observe | None, change: Callable[[Observe], Observe]) -> Observe | None:
    """The same observation of a changed function; None of None."""
    if observe is None:
        return None
    if isinstance(observe, AtSteps):
        return AtSteps(change(observe.function), observe.steps)
    return change(observe)


def asked_steps(observe: Observe | None, num_steps: int) -> np.ndarray | None:
    """`[num_steps]`: before which of the steps it is computed; None where before all, or none.

    Raises:
      ValueError: one is asked for that the loop does not take.
    """
    if not isinstance(observe, AtSteps):
        return None
    if observe.steps[-1] > num_steps:
        raise ValueError(
            f"record_steps={observe.steps} with num_steps={num_steps}; expected steps of no more "
            "than those"
        )
    return np.isin(np.arange(num_steps), observe.steps)


def seen_at(observe: Observe | None, phi: Params, asked: Any) -> Any:
    """What is seen before a step, zeros where nothing is asked for.

    Under `vmap` it is computed only where it is asked for, too, as `asked` is the same for all.

    Args:
      observe: of a loop.
      phi: the parameters.
      asked: `[]` whether it is asked for; None is always.
    """
    if observe is None:
        return None
    if asked is None:
        return observe(phi)
    kinds = jax.eval_shape(observe, phi)
    return jax.lax.cond(
        asked,
        lambda phi: jax.tree.map(jnp.asarray, observe(phi)),
        lambda phi: jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), kinds),
        phi,
    )


def all_seen(observe: Observe | None, before: list[Any], phi: Params, num_steps: int) -> Any:
    """What is seen in order, `[num_steps + 1, ...]`, or of what is asked for `[steps, ...]`.

    Args:
      observe: of a loop.
      before: what was seen before each step, arrays `[steps, ...]` one after another.
      phi: the parameters after the last.
      num_steps: of the loop.
    """
    if observe is None:
        return None
    steps = observe.steps if isinstance(observe, AtSteps) else tuple(range(num_steps + 1))
    parts = before
    if steps[-1] == num_steps:
        parts = [*before, jax.tree.map(lambda x: jnp.asarray(x)[None], observe(phi))]
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *parts)
    if len(steps) == num_steps + 1:
        return whole
    return jax.tree.map(lambda x: x[np.array(steps)], whole)
