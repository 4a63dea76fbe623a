"""What users give, as the library's types: sets, episodes and parameters of JAX arrays.

Arguments become JAX arrays before anything is computed: of NumPy arrays, a task read from a file
say, Python's operators would compute by NumPy, which rounds differently on some processors. What
only passes through the host becomes NumPy arrays, of the dtypes that JAX would give them.
"""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.episodes import check_episode, check_examples, check_weights
from metajax.kinds import in_brief, is_array
from metajax.types import Episode, Examples


def as_arrays(
    tree: Any, name: str, *, lists: bool = False, asarray: Callable[[Any], Any] = jnp.asarray
) -> Any:
    """The same pytree of JAX arrays, or those of `asarray`; with `lists`, those of numbers are one.

    Raises:
      TypeError: what is called `name` holds something else, a function or a text say.
    """

    def convert(path: Any, leaf: Any) -> Any:
        try:
            if isinstance(leaf, str | bytes):  # Which JAX would read as the name of a dtype.
                raise TypeError("a text is no array")
            return asarray(leaf)
        except (TypeError, ValueError) as error:
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            at = f"{name} at {place!r}" if place else name
            raise TypeError(
                f"{at} is {in_brief(leaf)}; expected arrays alone: a module of Equinox becomes a "
                "model by metajax.models.from_equinox, which takes the rest out"
            ) from error

    return jax.tree_util.tree_map_with_path(
        convert, tree, is_leaf=_is_of_numbers if lists else None
    )


def as_examples(
    given: Any,
    name: str,
    *,
    asarray: Callable[[Any], Any] = jnp.asarray,
    batched: bool = False,
) -> Examples:
    """A set, whole and of JAX arrays, or those of `asarray`; its weights, if it has any, floats.

    `(inputs, targets)` and `(inputs, targets, weights)` are one.

    Raises:
      TypeError: it is something else.
      ValueError: its arrays do not count the same items, or a known weight is negative or not
        finite, or all are 0.
    """
    pair = isinstance(given, tuple | list) and len(given) in (2, 3)
    if isinstance(given, Episode) or not pair:
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected metajax.Examples(inputs, targets), or "
            "a tuple of them" + (": episode.support" if isinstance(given, Episode) else "")
        )
    fields = zip(Examples._fields, given, strict=False)
    examples = Examples(
        *(as_arrays(x, f"{name} {field}", lists=True, asarray=asarray) for field, x in fields)
    )
    weights = examples.weights
    if not batched:
        check_examples(examples, name)
    elif weights is not None:
        check_weights(weights, weights.shape, f"{name} weights", some=False)
    if weights is None or jnp.issubdtype(weights.dtype, jnp.floating):
        return examples
    return examples._replace(weights=weights.astype(jax.dtypes.canonicalize_dtype(np.float64)))


def as_episode(given: Any) -> Episode:
    """An episode of two whole sets; a tuple of two is one.

    Raises:
      TypeError: it is something else.
      ValueError: of a set, see `as_examples`, or the items of the two are not alike.
    """
    return _episode(given, "the episode", "", jnp.asarray)


def as_episodes(given: Any) -> Episode:
    """A meta-batch, arrays `[tasks, ...]` of any library, as they are; a tuple of two sets is one.

    Raises:
      TypeError: it is something else.
    """
    return _episode(given, "episodes", "", _as_it_is, batched=True)


def as_host_episode(given: Any, name: str, *, batched: bool = False) -> Episode:
    """The same of NumPy arrays, of the dtypes that JAX would give them. Nothing is computed by JAX.

    Args:
      given: the episode; its arrays may be of other libraries, if `numpy.asarray` takes them.
      name: what it is called in errors, such as `"episode 3"`.
      batched: whether it is a meta-batch, its arrays `[tasks, ...]`, of whose tasks the values of
        weights alone are looked at: one that does not count may have weights of 0 alone.

    Raises:
      TypeError: see `as_episode`.
      ValueError: see `as_episode`.
    """
    return _episode(given, name, f"{name}: ", _on_host, batched=batched)


def _episode(
    given: Any,
    name: str,
    within: str,
    asarray: Callable[[Any], Any],
    *,
    batched: bool = False,
) -> Episode:
    if isinstance(given, Examples) or not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected metajax.Episode(support, query)"
        )
    support, query = given
    episode = Episode(
        as_examples(support, f"{within}support", asarray=asarray, batched=batched),
        as_examples(query, f"{within}query", asarray=asarray, batched=batched),
    )
    if not batched:
        check_episode(episode, within)
    return episode


def _as_it_is(leaf: Any) -> Any:
    return leaf if is_array(leaf) else jnp.asarray(leaf)


def _on_host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if not (array.dtype == bool or jnp.issubdtype(array.dtype, np.number)):
        raise TypeError(f"an array of {array.dtype} is none of JAX")
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _is_of_numbers(tree: Any) -> bool:
    if not isinstance(tree, list | tuple) or not tree:
        return False
    return all(isinstance(leaf, numbers.Number | np.generic) for leaf in jax.tree.leaves(tree))
