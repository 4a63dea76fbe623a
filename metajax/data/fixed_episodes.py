"""One episode, on purpose."""

import dataclasses
from typing import ClassVar

import jax

from metajax.given_data import as_episode
from metajax.kinds import check_key
from metajax.types import Episode, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FixedEpisode:
    """The sampler that gives one episode whatever the key, to see whether a learner can learn it.

    Any other sampler that ignores its key is an error in `train` and `evaluate`.

    Attributes:
      episode: the episode.
      fixed: True: that every key gives the same is meant.
    """

    episode: Episode
    fixed: ClassVar[bool] = True

    def __call__(self, key: Key) -> Episode:
        """The episode."""
        check_key(key)
        return as_episode(self.episode)
