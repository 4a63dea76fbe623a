"""Arrays of episodes: their items, and the weights of tasks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metajax.checks.parameters import shapes_by_path
from metajax.types import Array, Episode, Examples


def check_task_weights(weights: Any, tasks: int) -> None:
    """Raises unless there is one weight a task and, where known, none is negative and one not 0."""
    if np.shape(weights) != (tasks,):
        raise ValueError(
            f"task_weights have shape {np.shape(weights)} with {tasks} tasks; expected ({tasks},), "
            "one weight a task"
        )
    if isinstance(weights, Tracer):
        return
    known = np.asarray(weights)
    good = np.isfinite(known) & (known >= 0)
    if not good.all():
        raise ValueError(
            f"task_weights hold {known[~good][0]}; expected finite numbers of 0 or more"
        )
    if not known.any():
        raise ValueError(
            "task_weights are all 0, so that no task is left to average; expected one above 0"
        )


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
    """Raises unless inputs, targets and weights of the set called `name` count the same items."""
    inputs, targets, weights = examples
    items = check_items(inputs, f"{name} inputs")
    for target in jax.tree.leaves(targets) or [np.zeros(())]:
        if target.shape[:1] != (items,):
            raise ValueError(
                f"{name} has {items} inputs but targets of shape {target.shape}; expected one "
                "target an item: is it one item without an axis of items, inputs[None]?"
            )
    if weights is not None and weights.shape != (items,):
        raise ValueError(
            f"{name} has {items} inputs but weights of shape {weights.shape}; "
            "expected [items], 0 for padding"
        )


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
