"""Episodes of unequal size as one meta-batch of arrays, padded by items of weight 0."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers
from metajax.given_data import as_host_episode
from metajax.items import count
from metajax.kinds import in_brief
from metajax.types import Episode, Examples


def pad_episodes(
    episodes: Iterable[Any],
    *,
    support: int | Sequence[int] | None = None,
    query: int | Sequence[int] | None = None,
) -> Episode:
    """Episodes of any sizes as one meta-batch for `train_step`, padded by items of weight 0.

    Its mean meta-loss and meta-gradient are those of the episodes one by one, to rounding, but for
    what draws items by their place in the set (Reptile with a `batch_size`). Everything is NumPy,
    on the host: it may be the `collate_fn` of a PyTorch `DataLoader`.

    >>> import metajax
    >>> short = (([[0.0], [1.0]], [0, 1]), ([[0.5]], [0]))
    >>> long = (([[0.0], [1.0], [2.0]], [0, 1, 2]), ([[0.5], [1.5]], [0, 1]))
    >>> episodes = metajax.data.pad_episodes([short, long])
    >>> episodes.support.inputs.shape, episodes.query.weights.tolist()
    ((2, 4, 1), [[1.0, 0.0], [1.0, 1.0]])

    Args:
      episodes: the tasks, each an `Episode` or `((inputs, targets), (inputs, targets))`, with
        weights or without: arrays of any library that NumPy takes, lists of numbers, pytrees of
        either. They may differ in the number of items alone, and in the weights of those.
      support: how many support items all of them get: an integer; several, of which the smallest
        that holds the largest support set is taken; or None, which is the next power of two. A
        compiled function is compiled once for each number that comes up.
      query: the same of queries.

    Returns:
      An `Episode` of arrays `[tasks, items, ...]`, of the dtypes that JAX gives them. `weights`,
      `[tasks, items]` floats, are always there: those of the episodes, or 1, and 0 for padding,
      whose inputs and targets are zeros.

    Raises:
      TypeError: one episode in place of several, something that is no episode, or a number of items
        that is no integer.
      ValueError: there is no episode; one has no items, sets that do not fit each other, or weights
        that are negative or all 0; it has other items than the first (their structure, their
        shapes, integers for floats); or more items than there is room for.
    """
    if isinstance(episodes, Episode | Examples):
        raise TypeError(
            f"episodes is one {type(episodes).__name__}; expected several of them: [episode]"
        )
    if not isinstance(episodes, Iterable):
        raise TypeError(f"episodes is {in_brief(episodes)}; expected an iterable of episodes")
    taken = [as_host_episode(given, f"episode {index}") for index, given in enumerate(episodes)]
    if not taken:
        raise ValueError("there are no episodes; expected at least one to pad")
    return Episode(
        _padded([episode.support for episode in taken], "support", support),
        _padded([episode.query for episode in taken], "query", query),
    )


def _padded(sets: list[Examples], name: str, room: int | Sequence[int] | None) -> Examples:
    wholes = [examples._replace(weights=_weights(examples)) for examples in sets]
    kinds = [_kinds(whole) for whole in wholes]
    for index, kind in enumerate(kinds):
        for place in sorted({*kind, *kinds[0]}):
            ours, theirs = kind.get(place, "nothing"), kinds[0].get(place, "nothing")
            if ours != theirs:
                raise ValueError(
                    f"episode {index}: {name} has {place} {ours}, and that of episode 0 {theirs}; "
                    "expected items of one structure, shape and kind of number in all episodes"
                )
    items = _room([count(whole.inputs) for whole in wholes], name, room)

    def stack(*arrays: np.ndarray) -> np.ndarray:
        dtype = functools.reduce(jnp.promote_types, [array.dtype for array in arrays])
        dtype = jax.dtypes.canonicalize_dtype(dtype)  # int32 and uint32 make an int64.
        rows = np.zeros((len(arrays), items, *arrays[0].shape[1:]), dtype)
        for row, array in zip(rows, arrays, strict=True):
            row[: len(array)] = array
        return rows

    leaves = zip(*map(jax.tree.leaves, wholes), strict=True)
    return jax.tree.unflatten(jax.tree.structure(wholes[0]), [stack(*arrays) for arrays in leaves])


def _weights(examples: Examples) -> Any:
    """`[items]` floats."""
    if examples.weights is not None:
        return examples.weights
    return np.ones(count(examples.inputs), jax.dtypes.canonicalize_dtype(np.float64))


def _kinds(examples: Examples) -> dict[str, str]:
    """What every array of a set is, by its place."""
    words = {"booleans": bool, "integers": np.integer, "floats": np.inexact}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): next(
            f"{word} {['items', *x.shape[1:]]}".replace("'", "")
            for word, kind in words.items()
            if jnp.issubdtype(x.dtype, kind)
        )
        for path, x in jax.tree_util.tree_leaves_with_path(examples)
    }


def _room(counts: list[int], name: str, room: int | Sequence[int] | None) -> int:
    """The number of items that all sets get."""
    most = max(counts)
    if room is None:
        return 1 << (most - 1).bit_length()
    sizes: list[Any] = [*room] if isinstance(room, Sequence) else [room]
    for size in sizes:
        check_integers(1, **{name: size})
    if not (fitting := [size for size in sizes if size >= most]):
        raise ValueError(
            f"episode {counts.index(most)} has {most} {name} items but {name}={room}; expected "
            f"room for all: {name}={most} or more, or None for the next power of two"
        )
    return int(min(fitting))
