"""A fixed list of episodes: the same ones every time, to be scored one by one or drawn from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metajax.data.episode_draws import Drawn
from metajax.types import Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ListedDraws:
    """One of a list of episodes, each as likely: the pure function `key -> Drawn`.

    Attributes:
      drawn: arrays `[episodes, n]`.
    """

    drawn: Drawn

    @property
    def listed(self) -> int:
        """The number of episodes."""
        return len(self.drawn.support.classes)

    def __call__(self, key: Key) -> Drawn:
        """Draws one at random."""
        return self.at(jax.random.randint(key, (), 0, self.listed, jnp.int32))

    def at(self, index: int | Array) -> Drawn:
        """The episode `index` of the list."""
        return jax.tree.map(lambda x: x[index], self.drawn)


def listed_draws(draw: Any) -> ListedDraws:
    """`draw` itself.

    Raises:
      TypeError: it is no list.
    """
    if not isinstance(draw, ListedDraws):
        raise TypeError(
            f"the episodes are drawn by {type(draw).__name__}, without end; expected a list of "
            "them, made with listed_episodes"
        )
    return draw
