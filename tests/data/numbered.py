"""Images that say which class and item they are, and what the samplers' tests count with."""

import jax
import numpy as np

import metajax as mj

SIDE = 4


def numbered(counts: list[int], groups: tuple[str, ...] | None = None) -> mj.data.ImageClasses:
    """Classes "0", "1", ... of so many images; the first pixel is the class, the second the item.

    Counted from 1, so that padding is neither.
    """
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), SIDE, SIDE, 1), np.float32)
    images[:, 0, 0, 0] = labels + 1
    images[:, 0, 1, 0] = np.concatenate([np.arange(count) for count in counts]) + 1
    data = mj.data.group_by_label(images, labels)
    return mj.data.ImageClasses(data.images, data.starts, data.counts, data.names, groups)


def classes_of(examples: mj.Examples) -> np.ndarray:
    return np.asarray(examples.inputs[..., 0, 0, 0]).astype(int) - 1


def items_of(examples: mj.Examples) -> np.ndarray:
    return np.asarray(examples.inputs[..., 0, 1, 0]).astype(int) - 1


def many(sample: mj.data.ImageEpisodes, draws: int, seed: int = 0) -> mj.Episode:
    """`draws` episodes, stacked."""
    return jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(seed), draws))


def assert_uniform(counts: list[int] | np.ndarray, weights: np.ndarray | None = None) -> None:
    """Chi-squared statistic within four standard deviations of its mean."""
    observed = np.array(counts)
    shares = np.ones(len(observed)) if weights is None else weights
    expected = observed.sum() * shares / shares.sum()
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = len(observed) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)
