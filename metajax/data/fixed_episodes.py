"""One episode, on purpose."""

from typing import Any, ClassVar

import jax

from metajax.given_data import as_episode
from metajax.kinds import check_key
from metajax.types import Episode, Key


class FixedEpisode:
    """The sampler that gives one episode whatever the key, to see whether a learner can learn it.

    Any other sampler that ignores its key is an error in `train` and `evaluate`. It is a pytree
    whose leaves are the data.

    Attributes:
      episode: the episode.
      fixed: True: that every key gives the same is meant.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, episode: Any) -> None:
        """Takes an episode, see `as_episode` for its errors."""
        self.episode: Episode = as_episode(episode)

    def __call__(self, key: Key) -> Episode:
        """The episode."""
        check_key(key)
        return self.episode


def _of_leaves(_: None, leaves: tuple[Episode]) -> FixedEpisode:
    sample = object.__new__(FixedEpisode)  # JAX puts other things than arrays in their place.
    sample.episode = leaves[0]
    return sample


jax.tree_util.register_pytree_node(FixedEpisode, lambda x: ((x.episode,), None), _of_leaves)
