"""How many episodes an evaluation runs at once, where nothing says so."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray

from metajax.inner.zero_gradient import equations
from metajax.meta_gradients import one_at_a_time
from metajax.types import Array, Episode, Key, Params

# No array of the episodes that run at once is larger: of an accelerator's memory a part, of a CPU's
# cache. On two AVX-512 cores MAML on glyphs is 2.5 times as fast an episode one by one as 128 at
# once, for a strided net of 7,269 parameters, whose largest array of an episode is of 0.9 MB; for a
# perceptron of 1,761, of 6 KB, it is 5 times as slow.
_BYTES, _CPU_BYTES = 2**29, 2**19

# More than so many are hardly faster an episode, and a last chunk that is not full wastes them.
_MOST = 128


# The pure function of parameters, an episode and a learner's key to named arrays.
Score = Callable[[Params, Episode, Key], dict[str, Array]]


def episode_bytes(score: Score, params: Params, episode: Callable[[], Episode]) -> int | None:
    """Bytes of the largest array in scoring an episode.

    None where episodes are run one by one whatever it is, by the rule of `meta_gradient`.

    Args:
      score: what it is scored by.
      params: of one run, or shapes of them.
      episode: gives an episode, or shapes of one.
    """
    if one_at_a_time(sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))):
        return None

    program = jax.make_jaxpr(score)(params, episode(), jax.random.key(0))
    kinds: list[Any] = [
        var.aval for equation in equations(program.jaxpr) for var in equation.outvars
    ]
    sizes = (kind.size * kind.dtype.itemsize for kind in kinds if isinstance(kind, ShapedArray))
    return max(1, *sizes)


def episodes_at_once(largest: int | None, runs: int | None) -> int:
    """A power of two, up to 128: as many as fit.

    Args:
      largest: from `episode_bytes`.
      runs: of a stack, which are all run at once; None where there is none.
    """
    if largest is None:
        return 1
    most = _CPU_BYTES if jax.default_backend() == "cpu" else _BYTES
    fitting = max(1, most // (largest * (runs or 1)))
    return min(_MOST, 1 << (fitting.bit_length() - 1))


def up_to(size: int, episodes: int) -> int:
    """`size`, or the next power of two where there are fewer episodes.

    So there is one program for nearly any number of them, and no more than twice as many as asked
    for are computed.
    """
    return min(size, 1 << (episodes - 1).bit_length())
