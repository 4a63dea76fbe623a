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
    weights = [_weights(examples, f"episode {i}: {name}") for i, examples in enumerate(sets)]
    kinds = [{"inputs": examples.inputs, "targets": examples.targets} for examples in sets]
    for index, kind in enumerate(kinds):
        _check_alike(kinds[0], kind, f"episode {index}: {name}")
    items = _room([len(row) for row in weights], name, room)

    def stack(*arrays: np.ndarray) -> np.ndarray:
        dtype = functools.reduce(jnp.promote_types, [array.dtype for array in arrays])
        dtype = jax.dtypes.canonicalize_dtype(dtype)  # int32 and uint32 make an int64.
        rows = np.zeros((len(arrays), items, *arrays[0].shape[1:]), dtype)
        for row, array in zip(rows, arrays, strict=True):
            row[: len(array)] = array
        return rows

    whole: dict[str, Any] = {**jax.tree.map(stack, *kinds), "weights": stack(*weights)}
    return Examples(**whole)


def _weights(examples: Examples, name: str) -> np.ndarray:
    """`[items]` floats."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    if examples.weights is None:
        return np.ones(count(examples.inputs), dtype)
    weights = np.asarray(examples.weights, dtype)
    if not ((weights >= 0) & np.isfinite(weights)).all() or not weights.any():
        raise ValueError(
            f"{name} has the weights {weights.tolist()[:10]}; expected finite numbers of 0 or "
            "more, at least one above 0"
        )
    return weights


def _check_alike(first: Any, other: Any, name: str) -> None:
    """Raises unless `other` has items like those of the first episode."""
    ours, theirs = jax.tree.structure(other), jax.tree.structure(first)
    if ours != theirs:
        raise ValueError(
            f"{name} has the structure {ours} and that of episode 0 {theirs}; expected the same in "
            "all episodes"
        )
    leaves = zip(jax.tree_util.tree_leaves_with_path(other), jax.tree.leaves(first), strict=True)
    for (path, array), known in leaves:
        if _kind_of(array) != _kind_of(known):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{name} has {place} {_shown(array)}, and that of episode 0 {_shown(known)}; "
                "expected items of one shape and kind of number in all episodes: bring them to "
                "that before"
            )


def _kind_of(array: np.ndarray) -> tuple[Any, ...]:
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    return array.shape[1:], *(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def _shown(array: np.ndarray) -> str:
    return f"{array.dtype}[items{''.join(f', {length}' for length in array.shape[1:])}]"


def _room(counts: list[int], name: str, room: int | Sequence[int] | None) -> int:
    """The number of items that all sets get."""
    most = max(counts)
    if room is None:
        return 1 << (most - 1).bit_length()
    sizes: list[Any] = list(room) if isinstance(room, Sequence) else [room]
    for size in sizes:
        check_integers(1, **{name: size})
    fitting = [size for size in sizes if size >= most]
    if not fitting:
        raise ValueError(
            f"episode {counts.index(most)} has {most} {name} items but {name}={room}; expected "
            f"room for all: {name}={most} or more, or None for the next power of two"
        )
    return int(min(fitting))
