"""How many episodes an evaluation runs at once, where nothing says so."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr

from metajax.inner.zero_gradient import equations
from metajax.meta_gradients import one_at_a_time
from metajax.types import Episode, Learner, Params

# An array of all episodes that run at once is no larger. A few of them are alive together.
_BYTES = 2**29

# More than so many are hardly faster an episode, and a last chunk that is not full wastes them.
_MOST = 128


def is_alone(params: Params) -> bool:
    """Whether episodes are run one by one, by the rule of `meta_gradient`."""
    return one_at_a_time(sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params)))


def episodes_at_once(
    learner: Learner, params: Params, episode: Episode, *, training: bool, runs: int | None
) -> int:
    """A power of two, up to 128: as many as fit in memory by the largest array of one.

    Args:
      learner: what is scored.
      params: of one run, or shapes of them.
      episode: one, or shapes of one.
      training: whether models are in training mode.
      runs: of a stack, which are all run at once; None where there is none.
    """
    if is_alone(params):
        return 1

    def scores(params: Params, episode: Episode, key: Any) -> Any:
        return dict(learner.loss(params, episode, key, training)[1].metrics)

    program = jax.make_jaxpr(scores)(params, episode, jax.random.key(0))
    fitting = _BYTES // (_largest(program) * (runs or 1))
    return min(_MOST, 1 << max(0, fitting.bit_length() - 1))


def up_to(size: int, episodes: int) -> int:
    """`size`, or the next power of two where there are fewer episodes.

    So there is one program for nearly any number of them, and no more than twice as many as asked
    for are computed.
    """
    return min(size, 1 << (episodes - 1).bit_length())


def _largest(program: ClosedJaxpr) -> int:
    """Bytes of the largest array of a program."""
    kinds: list[Any] = [
        var.aval for equation in equations(program.jaxpr) for var in equation.outvars
    ]
    sizes = (kind.size * kind.dtype.itemsize for kind in kinds if isinstance(kind, ShapedArray))
    return max(1, *sizes)
