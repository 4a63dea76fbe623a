"""Errors for a user's slips, raised before anything is computed.

Each check says what was got, what was expected and what to do. Checks of values (labels) run only
where the values are known, that is outside a compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from metajax.types import Array, Episode, Examples, Params


def check_num_steps(num_steps: int) -> None:
    """Raises unless `num_steps` is a Python integer of 0 or more."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, int):
        raise TypeError(
            f"num_steps is {num_steps!r}; expected a Python integer: it is part of the program, "
            "so it cannot be an array"
        )
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps}; expected 0 or more inner steps")


def check_optimizer(optimizer: object, name: str) -> None:
    """Raises unless `optimizer`, an argument called `name`, is an optax transformation."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{name} is {optimizer!r}; expected an optax.GradientTransformation, "
            "such as optax.sgd(0.4)"
        )


def check_examples(examples: Examples, name: str) -> None:
    """Raises unless inputs, targets and weights of the set called `name` count the same items."""
    inputs, targets, weights = examples
    if inputs.ndim == 0 or inputs.shape[0] == 0:
        raise ValueError(
            f"{name} inputs have shape {inputs.shape}; expected [items, ...], items > 0"
        )
    if targets.shape[:1] != inputs.shape[:1]:
        raise ValueError(
            f"{name} has {inputs.shape[0]} inputs but targets of shape {targets.shape}; "
            "expected one target an item"
        )
    if weights is not None and weights.shape != inputs.shape[:1]:
        raise ValueError(
            f"{name} has {inputs.shape[0]} inputs but weights of shape {weights.shape}; "
            "expected [items], 0 for padding"
        )


def check_episode(episode: Episode) -> None:
    """Raises unless both sets are whole and their items alike."""
    check_examples(episode.support, "support")
    check_examples(episode.query, "query")
    support, query = episode.support.inputs, episode.query.inputs
    if support.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"support items have shape {support.shape[1:]} but query items {query.shape[1:]}; "
            "expected the same item shape in both"
        )


def check_labels(examples: Examples, ways: int, name: str) -> None:
    """Raises if a known integer label lies outside `[0, ways)`, `ways` being the output width."""
    targets = examples.targets
    if isinstance(targets, Tracer) or not np.issubdtype(targets.dtype, np.integer):
        return
    labels = np.asarray(targets)
    if examples.weights is not None:
        if isinstance(examples.weights, Tracer):
            return
        labels = labels[np.asarray(examples.weights) > 0]
    outside = labels[(labels < 0) | (labels >= ways)]
    if outside.size:
        raise ValueError(
            f"{name} has the label {outside[0]} but the model has {ways} outputs; expected labels "
            f"in [0, {ways}): relabel the classes of each episode from 0, or give the model one "
            "output a way"
        )


def check_ways(episode: Episode, width: int) -> None:
    """Raises if a known, unpadded episode has fewer ways than the model has outputs."""
    check_labels(episode.support, width, "support")
    check_labels(episode.query, width, "query")
    ways = len(np.unique(np.asarray(episode.support.targets)))
    if episode.support.weights is None and ways != width:
        raise ValueError(
            f"the model has {width} outputs but the episode has {ways} ways; expected a model with "
            "one output a way"
        )


def check_parameters(expected: Params, params: Params) -> None:
    """Raises unless `params` has the structure and the shapes of `expected`."""
    want = _shapes(expected)
    got = _shapes(params)
    for path in sorted(want.keys() | got.keys()):
        if path not in got:
            raise ValueError(f"the parameters lack {path or 'a leaf'}, which the model has")
        if path not in want:
            raise ValueError(f"the parameters hold {path or 'a leaf'}, which the model has not")
        if want[path] != got[path]:
            raise ValueError(
                f"the parameter {path or '(the only leaf)'} has shape {got[path]}; the model "
                f"expects {want[path]}: were these parameters made for another model or input?"
            )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def check_floating(inputs: Array, model: str) -> None:
    """Raises unless `inputs` are floats; `model` names who needs them."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{model} got {inputs.dtype} inputs; expected floats: convert them first, for example "
            "images.astype(jnp.float32) / 255"
        )
