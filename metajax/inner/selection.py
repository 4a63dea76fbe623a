"""What of the parameters an inner loop adapts: a part of them, by path or by predicate."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.types import Params

Selection = str | Sequence[str] | Callable[[str, jax.ShapeDtypeStruct], bool]

_NAMED = 30


def check_selection(adapt: Any, *, name: str = "adapt", verb: str = "adapt") -> None:
    """Raises unless `adapt`, an argument called `name`, is a `Selection` or None.

    None does to all parameters what the verb says.

    Raises:
      TypeError: it is neither.
      ValueError: it is an empty pattern, or a sequence without patterns.
    """
    if adapt is None or callable(adapt):
        return
    patterns = _patterns(adapt)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"{name}={adapt!r}; expected a path such as 'head', a list or tuple of paths, or a "
            f"function (path, leaf) -> bool; None to {verb} all"
        )
    if not patterns or not all(patterns):
        raise ValueError(f"{name}={adapt!r} names nothing; expected a path, or None to {verb} all")


def select(
    params: Params, adapt: Selection, *, name: str = "adapt", verb: str = "adapt"
) -> tuple[Params, Callable[[Params], Params]]:
    """The part of `params` that is adapted, and the way back.

    Args:
      params: any pytree.
      adapt: which leaves, by their paths, such as `"Dense_1/kernel"`: patterns in which `*` stands
        for anything, slashes too, and which fit a leaf where they fit its path or a beginning of it
        that ends before a slash, so that `"head"` is all below it; or a predicate of the path and
        the leaf's shape and dtype.
      name: of the argument, in messages.
      verb: what None would do to all, in messages.

    Returns:
      The same pytree with None in the other places, and the function that takes one like it and
      puts the others back.

    Raises:
      TypeError: a predicate returns no bool.
      ValueError: a pattern fits no leaf, nothing is selected, or everything is; or a leaf that is
        selected does not hold floats.
    """
    values, structure = jax.tree.flatten(params)
    paths, chosen = chosen_leaves(params, adapt, name)
    if not any(chosen) or all(chosen):
        much = "every parameter" if any(chosen) else "no parameter"
        raise ValueError(
            f"{name}={adapt!r} selects {much}; expected a part of them, or None to {verb} all: "
            f"there are {named_paths(paths)}"
        )
    for path, leaf, wanted in zip(paths, values, chosen, strict=True):
        if wanted and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name}={adapt!r} selects {path}, which holds {jnp.result_type(leaf)}; expected "
                "floats alone, since a gradient moves them"
            )

    def whole(part: Params) -> Params:
        moved = iter(jax.tree.leaves(part))
        merged = [next(moved) if c else leaf for c, leaf in zip(chosen, values, strict=True)]
        return jax.tree.unflatten(structure, merged)

    part = [leaf if c else None for c, leaf in zip(chosen, values, strict=True)]
    return jax.tree.unflatten(structure, part), whole


def chosen_leaves(params: Params, adapt: Selection, name: str) -> tuple[list[str], list[bool]]:
    """The paths of all leaves, and whether each is selected by the argument called `name`.

    Raises:
      TypeError: a predicate returns no bool.
      ValueError: a pattern fits no leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    for pattern in () if callable(adapt) else _patterns(adapt):
        if not any(_fits(path, pattern) for path in paths):
            raise ValueError(
                f"{name}={pattern!r} fits no parameter; there are {named_paths(paths)}: expected "
                "some of these paths, or beginnings of them"
            )
    pairs = zip(paths, leaves, strict=True)
    return paths, [selects(adapt, path, leaf, name) for path, (_, leaf) in pairs]


def selects(adapt: Selection, path: str, leaf: Any, name: str = "adapt") -> bool:
    """Whether the leaf at `path` is adapted.

    Raises:
      TypeError: a predicate returns no bool.
    """
    if not callable(adapt):
        return any(_fits(path, pattern) for pattern in _patterns(adapt))
    answer = adapt(path, jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)))
    if not isinstance(answer, bool | np.bool_):
        raise TypeError(f"{name}'s function returned {answer!r} for {path}; expected True or False")
    return bool(answer)


def _patterns(adapt: Any) -> tuple:
    if isinstance(adapt, str):
        return (adapt,)
    return tuple(adapt) if isinstance(adapt, Sequence) else (adapt,)


def _fits(path: str, pattern: str) -> bool:
    pattern = pattern.replace("[", "[[]").replace("?", "[?]")  # Only * is special.
    beginnings = accumulate(path.split("/"), "{}/{}".format)
    return any(fnmatchcase(beginning, pattern) for beginning in beginnings)


def named_paths(paths: Sequence[str]) -> str:
    """The paths in a message, the first of them where they are many."""
    if not paths:
        return "none"
    more = f", ... ({len(paths)} in all)" if len(paths) > _NAMED else ""
    return ", ".join(path or "(the only leaf)" for path in paths[:_NAMED]) + more
