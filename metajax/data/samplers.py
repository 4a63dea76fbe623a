"""Few-shot classification episodes of images: the samplers, built from checked arguments."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_flags
from metajax.data.across_sources import across_sources_draws
from metajax.data.device_episodes import ImageEpisodes, on_device
from metajax.data.episode_draws import Drawn, FixedDraws, Groups, Rotations
from metajax.data.episode_lists import ListedDraws, checked_places
from metajax.data.episode_pixels import Augment
from metajax.data.host_episodes import HostEpisodes
from metajax.data.labelled_images import ImageClasses
from metajax.data.meta_dataset_draws import LARGEST_CLASS, VaryingDraws
from metajax.data.sampler_checks import check_rotations, checked_classes, checked_table
from metajax.kinds import check_optional_functions, check_words
from metajax.streaming import on_cpu
from metajax.types import Key

Place = Literal["device", "host"]
_READERS = 8


def image_episodes(
    images: ArrayLike | ImageClasses,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: Rotations = "none",
    groups: Groups = False,
    same_items: bool = False,
    across_sources: bool = False,
    augment: Augment | None = None,
    place: Place = "device",
) -> ImageEpisodes | HostEpisodes:
    """Sampler of few-shot classification episodes of fixed ways and shots.

    Classes are drawn without replacement, and so are the items of a class: support and query never
    share an item of a class. Integer images are scaled to `[0, 1]` by 1/255.

    >>> import jax, metajax
    >>> images = metajax.data.glyphs("test", drawers=6)
    >>> sample = metajax.data.image_episodes(images, ways=5, shots=1, queries=5)
    >>> sample(jax.random.key(0)).query.inputs.shape
    (25, 28, 28, 1)

    Args:
      images: `ImageClasses`, or a class-major array `[classes, items, height, width, channels]`,
        integers in `[0, 255]` or floats; or features, `[classes, items, features]`.
      ways: classes in an episode; static.
      shots: support items of a class; static.
      queries: query items of a class; static.
      rotations: quarter turns. `"classes"` makes the four turns of a class four classes (Vinyals et
        al. 2016 and Snell et al. 2017; the Reptile authors' code in training, none at test);
        `"tasks"` turns each class of an episode by a random quarter of its own (the MAML authors'
        code, at test too); `"episode"` turns the whole episode, support and query, by one random
        quarter (the relation networks authors' code, at test too); `"none"` leaves images as they
        are. Where training and test differ, they are two samplers.
      groups: True draws the classes of an episode from one group of the data set (an alphabet, one
        of `join_classes`), each group as likely; a mapping from group to weight draws from the
        groups in it by their weights.
      same_items: take the same item numbers of every class, as in the one-shot trials of Lake et
        al. (2015), where one drawer drew the support and another the query.
      across_sources: take the support from `shots` sources of the data set (drawers, designers,
        cameras: `ImageClasses.sources`), one item of every class from each, and the queries from
        any others: no query shares its source with a support item of the episode. Drawn are the
        classes that have all of these sources and `queries` items of others; a choice of sources,
        of those that leave enough classes (of the group), is as likely as it leaves classes.
      augment: `augmentation(...)`, or any pure function `(key, images [n, height, width, channels]
        floats) -> images`; support and query go through it together.
      place: `"device"` copies the images there, so that sampling is a part of compiled programs;
        `"host"` leaves them where they are, in a memory-mapped file say, and reads each episode's
        ahead of the computation.

    Returns:
      An `ImageEpisodes` or `HostEpisodes`, functions `key -> Episode`: inputs `[ways * items,
      height, width, channels]` floats, or `[ways * items, features]`, class by class, and targets
      `[ways * items]` labels in `[0, ways)`. The same key draws the same episode with either.

    Raises:
      TypeError: a number is no integer.
      ValueError: the array is not class-major images, there are too few classes, groups, items or
        sources, more than 262,144 choices of sources, or rotations are asked of images that are not
        square.
    """
    check_flags(same_items=same_items, across_sources=across_sources)
    if same_items and across_sources:
        raise ValueError(
            "same_items=True and across_sources=True both say which items are taken; expected one "
            "of them"
        )
    data = checked_classes(images)
    check_rotations(data, rotations)
    check_integers(1, ways=ways, shots=shots, queries=queries)
    if across_sources:
        across = across_sources_draws(
            data, groups, rotations, ways=ways, shots=shots, queries=queries
        )
        return _placed(data, across, augment, place)
    copies = 4 if rotations == "classes" else 1
    table = checked_table(data, groups, ways=ways, copies=copies, items=shots + queries)
    draws = FixedDraws(table, ways, shots, queries, rotations, same_items)
    return _placed(data, draws, augment, place)


def varying_episodes(
    images: ArrayLike | ImageClasses,
    *,
    min_ways: int = 5,
    max_ways: int = 50,
    max_queries: int = 10,
    max_support: int = 500,
    max_class_support: int = 100,
    groups: Groups = False,
    augment: Augment | None = None,
    place: Place = "device",
) -> ImageEpisodes | HostEpisodes:
    """Sampler of episodes of varying ways, shots and imbalance, as Meta-Dataset draws them.

    The number of ways is uniform. Every class has as many queries: `max_queries`, or half of the
    smallest class of the episode. The support set has `min(max_support, sum_c ceil(beta
    min(max_class_support, left_c)))` items, `beta` uniform in (0, 1] and `left_c` the items that
    are no queries. Each class gets one, and of the rest a share in proportion to its number of
    images times `exp(a)`, `a` uniform in `[log 1/2, log 2)`.

    Episodes are padded to one size; padding has weight 0, label 0 and black images. Learners that
    compare need `ways=max_ways`.

    Args:
      images: see `image_episodes`.
      min_ways: the fewest classes in an episode; static.
      max_ways: the most; the data set, or each group, may have fewer, but not than `min_ways`.
      max_queries: the most query items of a class; static.
      max_support: the most support items; static.
      max_class_support: the most items by which a class adds to the size of the support set.
      groups: see `image_episodes`.
      augment: see `image_episodes`.
      place: see `image_episodes`.

    Returns:
      An `ImageEpisodes` or `HostEpisodes`; targets in `[0, max_ways)`, weights 1 or 0.

    Raises:
      TypeError: a number is no integer.
      ValueError: numbers that do not fit, too few classes, or classes of fewer than two images.

    Source: Triantafillou et al. 2020, section 3.2, appendix C and the authors' code.
    """
    data = checked_classes(images)
    check_integers(
        1, min_ways=min_ways, max_queries=max_queries, max_class_support=max_class_support
    )
    check_integers(1, max_ways=max_ways, max_support=max_support)
    if not min_ways <= max_ways <= max_support < 2**16:
        raise ValueError(
            f"min_ways={min_ways}, max_ways={max_ways}, max_support={max_support}; expected "
            "min_ways <= max_ways <= max_support < 65536"
        )
    if data.counts.max() > LARGEST_CLASS or max_class_support >= 2**15:
        raise ValueError(
            f"max_class_support={max_class_support}, the largest class has {data.counts.max()} "
            f"images; expected less than {2**15} and at most {LARGEST_CLASS}"
        )
    table = checked_table(data, groups, ways=min_ways, copies=1, items=2)
    ways = min(max_ways, len(data.names))
    most = int(np.sort(data.counts)[-ways:].sum()) - ways
    # Slots that no episode could fill would only take memory.
    queries, support = min(max_queries, table.largest // 2), min(max_support, most)
    draws = VaryingDraws(table, min_ways, ways, queries, support, max_class_support)
    return _placed(data, draws, augment, place)


def listed_episodes(
    images: ArrayLike | ImageClasses,
    drawn: Drawn,
    *,
    augment: Augment | None = None,
    place: Place = "device",
) -> ImageEpisodes | HostEpisodes:
    """A fixed list of episodes, for an evaluation that can be repeated anywhere.

    `evaluate` scores each of them once; a key draws one of them. The list is arrays of whole
    numbers: save it with numpy, or make it from a published one.

    >>> import jax, metajax
    >>> images = metajax.data.glyphs("test", drawers=6)
    >>> sample = metajax.data.image_episodes(images, ways=5, shots=1, queries=5)
    >>> drawn = jax.vmap(sample.draw)(jax.random.split(jax.random.key(0), 100))
    >>> metajax.data.listed_episodes(images, drawn).listed
    100

    Args:
      images: see `image_episodes`.
      drawn: places `[episodes, n]`.
      augment: see `image_episodes`.
      place: see `image_episodes`.

    Raises:
      TypeError: `drawn` is no `Drawn`.
      ValueError: places that are not there, an image twice in one episode, a class with two labels
        there, a label of two classes, or turns of images that are not square.
    """
    data = checked_classes(images)
    listed = ListedDraws(jax.tree.map(jnp.asarray, checked_places(data, drawn)))
    return _placed(data, listed, augment, place)


def _placed(
    data: ImageClasses, draw: Callable[[Key], Drawn], augment: Augment | None, place: Place
) -> ImageEpisodes | HostEpisodes:
    check_optional_functions(augment=augment)
    check_words(("device", "host"), place=place)
    if place == "host":
        readers = ThreadPoolExecutor(_READERS, "metajax-reader")
        return HostEpisodes(data, on_cpu(draw), augment, readers)
    if augment is not None and jax.tree_util.all_leaves([augment]):
        augment = jax.tree_util.Partial(augment)  # A leaf would have to be an array.
    return ImageEpisodes(*on_device(data), draw, augment)
