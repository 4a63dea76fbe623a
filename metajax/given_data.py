"""What users give, as the library's types: sets, episodes and parameters of JAX arrays.

Arguments become JAX arrays before anything is computed: of NumPy arrays, a task read from a file
say, Python's operators would compute by NumPy, which rounds differently on some processors.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks import check_episode, check_examples, in_brief
from metajax.types import Episode, Examples


def as_arrays(tree: Any, name: str, *, lists: bool = False) -> Any:
    """The same pytree of JAX arrays; with `lists`, those of numbers are one.

    Raises:
      TypeError: what is called `name` holds something else, a function or a text say.
    """

    def convert(path: Any, leaf: Any) -> Any:
        try:
            if isinstance(leaf, str | bytes):  # Which JAX would read as the name of a dtype.
                raise TypeError("a text is no array")
            return jnp.asarray(leaf)
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


def as_examples(given: Any, name: str) -> Examples:
    """A set, whole and of JAX arrays; `(inputs, targets)` and `(inputs, targets, weights)` are one.

    Raises:
      TypeError: it is something else.
      ValueError: its arrays do not count the same items.
    """
    pair = isinstance(given, tuple | list) and len(given) in (2, 3)
    if isinstance(given, Episode) or not pair:
        raise TypeError(
            f"{name} is a {type(given).__name__}; expected metajax.Examples(inputs, targets), or "
            "a tuple of them" + (": episode.support" if isinstance(given, Episode) else "")
        )
    fields = zip(Examples._fields, given, strict=False)
    examples = Examples(*(as_arrays(x, f"{name} {field}", lists=True) for field, x in fields))
    check_examples(examples, name)
    return examples


def as_episode(given: Any) -> Episode:
    """An episode of two whole sets; a tuple of two is one.

    Raises:
      TypeError: it is something else.
      ValueError: the sets' arrays do not count the same items, or their items are not alike.
    """
    if isinstance(given, Examples) or not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(
            f"the episode is a {type(given).__name__}; expected metajax.Episode(support, query)"
        )
    episode = Episode(as_examples(given[0], "support"), as_examples(given[1], "query"))
    check_episode(episode)
    return episode


def _is_of_numbers(tree: Any) -> bool:
    if not isinstance(tree, list | tuple) or not tree:
        return False
    return all(isinstance(leaf, numbers.Number | np.generic) for leaf in jax.tree.leaves(tree))
