"""Arrays of episodes: their items, and weights, those of tasks too."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metajax.checks.parameters import shapes_by_path
from metajax.types import Array, Episode, Examples


def check_weights(
    weights: Any, shape: tuple[int, ...], name: str, of: str = "an item", *, some: bool = True
) -> None:
    """Raises unless weights are real numbers and, where known, finite and none below 0.

    Args:
      weights: an array.
      shape: the shape to have.
      name: what they are called, such as "support weights".
      of: what one of them is for.
      some: whether, where they are known, one has to be above 0.

    Raises:
      TypeError: they are no real numbers.
      ValueError: their shape, or one of them.
    """
    dtype = weights.dtype if hasattr(weights, "dtype") else np.asarray(weights).dtype
    if not any(jnp.issubdtype(dtype, kind) for kind in (bool, np.integer, np.floating)):
        raise TypeError(f"{name} are {dtype}; expected real numbers")
    if np.shape(weights) != shape:
        raise ValueError(
            f"{name} have shape {np.shape(weights)}; expected {shape}, one number {of}, 0 where "
            "it does not count"
        )
    if isinstance(weights, Tracer):
        return
    known = np.asarray(weights)
    good = np.isfinite(known) & (known >= 0)
    if not good.all():
        raise ValueError(f"{name} hold {known[~good][0]}; expected finite numbers of 0 or more")
    if some and not known.any():
        raise ValueError(
            f"{name} are all 0, so that nothing is left to average; expected one above 0"
        )


def check_batched_weights(episodes: Any) -> None:
    """Raises where a known weight of an item in a meta-batch is negative or not finite.

    A task may have weights of 0 alone: it may not count itself.
    """
    sets = episodes._asdict() if isinstance(episodes, Episode) else {}
    for name, examples in sets.items():
        if isinstance(examples, Examples) and examples.weights is not None:
            shape = np.shape(examples.weights)
            check_weights(examples.weights, shape, f"{name} weights", some=False)


def check_items(items: Any, name: str) -> int:
    """The number of items that all arrays of what is called `name` have.

    Raises:
      ValueError: they have none, or differ in it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(items)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) != 1 or counts & {(), (0,)}:
        one = len(shapes) == 1
        shown = next(iter(shapes.values())) if one else shapes
        raise ValueError(
            f"{name} have {'shape' if one else 'the shapes'} {shown}; expected [items, ...], "
            "items > 0" + ("" if one else ", the same number of them everywhere")
        )
    return counts.pop()[0]


def check_examples(examples: Examples, name: str) -> None:
    """Raises unless inputs, targets and weights of the set called `name` count the same items.

    See `check_weights` for what weights may be.
    """
    inputs, targets, weights = examples
    items = check_items(inputs, f"{name} inputs")
    for target in jax.tree.leaves(targets) or [np.zeros(())]:
        if target.shape[:1] != (items,):
            raise ValueError(
                f"{name} has {items} inputs but targets of shape {target.shape}; expected one "
                "target an item: is it one item without an axis of items, inputs[None]?"
            )
    if weights is not None:
        check_weights(weights, (items,), f"{name} weights")


def check_episode(episode: Episode, within: str = "") -> None:
    """Raises unless the items of both whole sets are alike; `within` begins the message."""
    support, query = (_items_of(examples.inputs) for examples in episode)
    if support != query:
        raise ValueError(
            f"{within}support items have shape {support} but query items {query}; "
            "expected the same item shape in both"
        )


def _items_of(inputs: Any) -> Any:
    """The shape of an item, by path where there are several arrays."""
    shapes = shapes_by_path(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
    )
    return shapes[""] if [*shapes] == [""] else shapes


def check_embeddings(embeddings: Array, algorithm: str) -> None:
    """Raises unless the embeddings have one feature axis."""
    if embeddings.ndim != 2:
        raise ValueError(
            f"{algorithm} got embeddings of shape {embeddings.shape}; expected [items, features]: "
            "let the encoder flatten its maps or take their mean"
        )


def check_floating(inputs: Array, model: str) -> None:
    """Raises unless `inputs` are floats; `model` names who needs them."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{model} got {inputs.dtype} inputs; expected floats: convert them first, for example "
            "images.astype(jnp.float32) / 255"
        )
