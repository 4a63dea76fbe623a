"""Episodes whose support and queries come from different sources: drawers, designers, cameras.

Where one person drew support and query, the hand is a hint to the class. In the one-shot trials of
Lake et al. (2015) one person therefore drew the whole support set, and another the queries.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.data.episode_draws import Drawn, Groups, Rotations, by_class, turned
from metajax.data.labelled_images import ImageClasses
from metajax.data.sampler_checks import checked_weights, group_codes, upper_bounds
from metajax.types import Array, Key

_MOST_CHOICES = 2**18
_BLOCK = 2**22  # Numbers that are compared at once where choices are counted.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AcrossSourcesDraws:
    """Episodes of `shots` sources for the support, others for the queries: `key -> Drawn`.

    Attributes:
      choices: `[choices, shots]` sources that may draw a support set.
      bounds: `[choices - 1]` unsigned; choice `i` is drawn where random bits are in
        `[bounds[i - 1], bounds[i])`.
      choice_groups: `[choices]` the group that the classes of each are drawn from, or None.
      groups: `[classes]` the group of each, or None.
      made: `[classes, sources]` items of each class by each source.
      sources: `[classes, items]` the source of each item, -1 for what is none.
    """

    choices: Array
    bounds: Array
    choice_groups: Array | None
    groups: Array | None
    made: Array
    sources: Array
    ways: int = dataclasses.field(metadata={"static": True})
    queries: int = dataclasses.field(metadata={"static": True})
    rotations: Rotations = dataclasses.field(metadata={"static": True})

    def __call__(self, key: Key) -> Drawn:
        """Draws an episode; the order of the classes, and so their labels, is random."""
        class_key, item_key, rotation_key = jax.random.split(key, 3)
        choice_key, class_key = jax.random.split(class_key)
        bits = jax.random.bits(choice_key, dtype=jnp.uint32)
        choice = jnp.searchsorted(self.bounds, bits, side="right")
        asked = self.choices[choice]
        usable = _usable(self.made, asked[None], self.queries)[:, 0]
        if self.groups is not None and self.choice_groups is not None:
            usable &= self.groups == self.choice_groups[choice]
        usable = jnp.tile(usable, 4 if self.rotations == "classes" else 1)
        order = jax.random.uniform(class_key, usable.shape, jnp.float32)
        chosen = jax.lax.top_k(jnp.where(usable, order, -1), self.ways)[1]
        classes, turns = turned(rotation_key, chosen, len(self.made), self.rotations)

        sources = self.sources[classes]
        order = jax.random.uniform(item_key, sources.shape, jnp.float32)
        by_asked = sources[:, None] == asked[None, :, None]  # [ways, shots, items]
        support = jnp.where(by_asked, order[:, None], -1).argmax(axis=2)
        others = (sources >= 0) & ~by_asked.any(axis=1)
        query = jax.lax.top_k(jnp.where(others, order, -1), self.queries)[1]
        return Drawn(by_class(classes, support, turns), by_class(classes, query, turns))


def across_sources_draws(
    data: ImageClasses, groups: Groups, rotations: Rotations, *, ways: int, shots: int, queries: int
) -> AcrossSourcesDraws:
    """What draws them, once the data set is found to be enough.

    Raises:
      TypeError: the groups are of another type, or a weight is no number.
      ValueError: the data set has no sources, too many choices of them, or for none of them enough
        classes, in a group where there are some; groups that there are not.
    """
    if data.sources is None:
        raise ValueError(
            "across_sources=True but the data set does not say who made its images; expected "
            "ImageClasses with sources"
        )
    copies = 4 if rotations == "classes" else 1
    weights = checked_weights(data, groups, ways=ways, copies=copies)
    names = None if weights is None else [*weights]
    of_group = None if weights is None else group_codes(data, weights)
    sources, number = _sources(data)
    made = np.stack([np.bincount(row[row >= 0], minlength=number) for row in sources])
    choices = _choices(number, shots)
    parts, found = [], []
    for group, weight in enumerate([1.0] if weights is None else weights.values()):
        here = made if of_group is None else made[of_group == group]
        classes = _count_usable(here, choices, queries)
        enough = classes * copies >= ways
        if not enough.any():
            where = "" if names is None else f"of the group {names[group]!r} "
            raise ValueError(
                f"ways={ways} with shots={shots} and queries={queries} across sources, but at most "
                f"{classes.max(initial=0) * copies} classes {where}have items by the same "
                f"{shots} of the {number} sources and {queries} by others; lower ways, shots or "
                "queries"
            )
        found.append(np.flatnonzero(enough))
        parts.append(weight * classes[enough] / classes[enough].sum())
    chosen = np.concatenate(found)
    of_choice = np.repeat(np.arange(len(found)), [*map(len, found)])
    return AcrossSourcesDraws(
        choices=jnp.asarray(choices[chosen], jnp.int32),
        bounds=jnp.asarray(upper_bounds(np.concatenate(parts))),
        choice_groups=None if names is None else jnp.asarray(of_choice, jnp.int32),
        groups=None if of_group is None else jnp.asarray(of_group),
        made=jnp.asarray(made, jnp.int32),
        sources=jnp.asarray(sources, jnp.int32),
        ways=ways,
        queries=queries,
        rotations=rotations,
    )


def _usable(made: Any, choices: Any, queries: int) -> Any:
    """Of NumPy's arrays or JAX's, `[classes, choices]` whether a class can be drawn.

    It needs an item by each source of a choice, `[choices, shots]`, and `queries` by others.
    """
    theirs = made[:, choices]
    return (theirs > 0).all(-1) & (made.sum(-1)[:, None] - theirs.sum(-1) >= queries)


def _count_usable(made: np.ndarray, choices: np.ndarray, queries: int) -> np.ndarray:
    """`[choices]` how many classes of `made`, `[classes, sources]`, can be drawn."""
    kinds, classes = np.unique(made, axis=0, return_counts=True)  # Most classes are alike.
    size = max(1, _BLOCK // (len(kinds) * choices.shape[1]))
    blocks = (choices[first : first + size] for first in range(0, len(choices), size))
    counts = [classes @ _usable(kinds, block, queries) for block in blocks]
    return np.concatenate([np.zeros(0, int), *counts])


def _sources(data: ImageClasses) -> tuple[np.ndarray, int]:
    """`[classes, items]` the source of each item, by number, -1 for padding; how many there are."""
    rows = data.starts[:, None] + np.arange(data.counts.max())
    real = np.arange(data.counts.max()) < data.counts[:, None]
    known, codes = np.unique(np.asarray(data.sources)[rows[real]], return_inverse=True)
    sources = np.full(real.shape, -1)
    sources[real] = codes.reshape(-1)
    return sources, len(known)


def _choices(sources: int, shots: int) -> np.ndarray:
    """`[choices, shots]` every set of so many sources."""
    if (number := math.comb(sources, shots)) > _MOST_CHOICES:
        raise ValueError(
            f"shots={shots} of {sources} sources can be chosen in {number} ways; expected at most "
            f"{_MOST_CHOICES}: lower shots, or give sources that are alike one name"
        )
    every = itertools.chain.from_iterable(itertools.combinations(range(sources), shots))
    return np.fromiter(every, np.int64).reshape(number, shots)
