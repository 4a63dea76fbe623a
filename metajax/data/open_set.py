"""Episodes in which some queries are of none of the classes of the support set."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers
from metajax.data.device_episodes import ImageEpisodes
from metajax.data.episode_draws import Drawn, Places
from metajax.data.episode_lists import ListedDraws
from metajax.data.host_episodes import HostEpisodes
from metajax.kinds import in_brief
from metajax.streaming import keys_on_host, on_cpu
from metajax.types import Array, Key

# In so many, of any number of ways, there are strangers.
_DRAWN = 16


def with_strangers(
    sample: ImageEpisodes | HostEpisodes, known: int
) -> ImageEpisodes | HostEpisodes:
    """Sampler of episodes with queries of classes that the support set does not have.

    Of each episode of `sample` the support set keeps the classes of labels below `known`. The
    query set keeps all its items, those of the other classes, the strangers, with the target -1.
    Which classes are strangers is as random as the labels are.

    Such episodes are for `metajax.calibration`. The loss of a learner, and so `train` and
    `evaluate`, refuse the label -1. What answers them is made for `known` ways.

    >>> import jax, metajax
    >>> images = metajax.data.glyphs("validation", drawers=6)
    >>> sample = metajax.data.image_episodes(images, ways=4, shots=1, queries=2)
    >>> support, query = metajax.data.with_strangers(sample, 3)(jax.random.key(0))
    >>> support.targets.tolist(), query.targets.tolist()
    ([0, 1, 2], [0, 0, 1, 1, 2, 2, -1, -1])

    Args:
      sample: from `image_episodes`, `varying_episodes` or `listed_episodes`, on the device or the
        host, of more ways than `known`. Where ways vary, the support items of strangers become
        padding, and an episode of no more than `known` ways has no strangers.
      known: classes of the support set, 1 or more; static.

    Returns:
      A sampler like `sample`, of the same images: an `ImageEpisodes` or `HostEpisodes`.

    Raises:
      TypeError: `known` is no integer, or `sample` no such sampler.
      ValueError: the episodes do not have more than `known` classes, or without weights not all as
        many support items of them.
    """
    check_integers(1, known=known)
    if not isinstance(sample, ImageEpisodes | HostEpisodes):
        raise TypeError(
            f"sample is {in_brief(sample)}; expected a sampler that image_episodes, "
            "varying_episodes or listed_episodes made"
        )
    draw, on_host = sample.draw, isinstance(sample, HostEpisodes)
    listed = isinstance(draw, ListedDraws)
    key = jax.random.key(0)
    some = draw.drawn if listed else _some(draw, keys_on_host(key) if on_host else key)
    some = jax.tree.map(np.asarray, some)
    items = _count_support(some, known)
    opened: Callable[[Key], Drawn] = (
        ListedDraws(jax.vmap(lambda drawn: _opened(drawn, known, items))(some))
        if listed
        else OpenDraws(draw, int(known), items)
    )
    return dataclasses.replace(sample, draw=on_cpu(opened) if on_host else opened)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OpenDraws:
    """Episodes in which classes are strangers: the pure function `key -> Drawn`.

    Attributes:
      draw: of whole episodes.
      known: labels below are of the support set.
      items: how many items that keeps.
    """

    draw: Callable[[Key], Drawn]
    known: int = dataclasses.field(metadata={"static": True})
    items: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Drawn:
        """Draws an episode."""
        return _opened(self.draw(key), self.known, self.items)


def _opened(drawn: Drawn, known: int, items: int) -> Drawn:
    """The episode with `known` classes in the support set, by `items` places."""
    support, query = (jax.tree.map(jnp.asarray, places) for places in drawn)
    kept = support.targets < known
    if support.weights is None:
        rows = jnp.argsort(~kept, stable=True)[:items]
        support = jax.tree.map(lambda x: x[rows], support)
    else:
        support = jax.tree.map(lambda x: jnp.where(kept, x, jnp.zeros_like(x)), support)
    return Drawn(
        support, query._replace(targets=jnp.where(query.targets < known, query.targets, -1))
    )


def _count_support(some: Drawn, known: int) -> int:
    """The places of a support set without strangers, of episodes `[episodes, n]` that allow it."""
    support, query = some
    asked = query.targets[_counts(query)]
    classes = len(np.unique(asked[asked >= 0]))
    if not known < classes:
        raise ValueError(
            f"known={known} of episodes of {classes} classes; expected fewer known classes than "
            "the sampler has ways, so that the queries of the others are strangers"
        )
    if support.weights is not None:
        return support.targets.shape[1]
    items = np.unique((support.targets < known).sum(axis=1))
    if len(items) > 1:
        raise ValueError(
            f"the episodes have from {items[0]} to {items[-1]} support items of labels below "
            f"{known}; expected as many in all of them, or weights that mark padding"
        )
    return int(items[0])


def _counts(places: Places) -> np.ndarray:
    if places.weights is None:
        return np.ones(places.targets.shape, bool)
    return np.asarray(places.weights) > 0


@jax.jit
def _some(draw: Callable[[Key], Drawn], key: Key | Array) -> Drawn:
    return jax.vmap(draw)(jax.random.split(key, _DRAWN))
