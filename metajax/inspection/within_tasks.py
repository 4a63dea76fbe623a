"""What happens within one task, for `diagnose`; see `Inspect` for the names.

Nothing here is part of a learner's loss, of its adaptation or its predictions.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp

from metajax.checks.labels import is_labels
from metajax.inspection.dead_units import active_units, merged
from metajax.items import without_padding
from metajax.keys import query_key
from metajax.losses import accuracy
from metajax.query_batching import Batching
from metajax.types import (
    Array,
    Aux,
    Episode,
    Examples,
    Fit,
    Inspection,
    Key,
    Objective,
    Outputs,
    Params,
)

BATCHINGS: tuple[Batching, ...] = get_args(Batching)


def inspect_fit(
    objective: Objective, fit: Fit
) -> Callable[[Params, Episode, Key | None], Inspection]:
    """The inspection of a learner that adapts by gradient.

    Parameters are held once for each step, and what is asked of them is computed step by step.

    Args:
      objective: the task's loss.
      fit: the inner optimisation, given the learner's key.
    """

    def inspect(params: Params, episode: Episode, key: Key | None) -> Inspection:
        support, query = (without_padding(examples) for examples in episode)
        # The same draws at every step, so that a curve over the steps compares like with like.
        drawn = query_key(key)
        phi, trail = fit(params, support, key, False, lambda phi: phi)
        if trail is None:  # A fit that observes nothing: what it began from is not known.
            trail = jax.tree.map(lambda x: jnp.asarray(x)[None], phi)

        def support_loss(phi: Params) -> tuple[Array, Outputs | None]:
            value, aux = objective.loss(phi, support, drawn, None, training=False)
            return value, aux.outputs

        def query_loss(objective: Objective, phi: Params) -> tuple[Array, Outputs | None]:
            value, aux = objective.loss(phi, query, drawn, support, training=False)
            return value, aux.outputs

        def look(step: tuple[Params, Params]) -> Inspection:
            phi, after = step
            (value, outputs), slope = jax.value_and_grad(support_loss, has_aux=True)(phi)
            asked, answers = query_loss(objective, phi)
            slopes = by_path(slope)
            ahead = jax.tree.map(lambda x, y, z: jnp.vdot(x, y - z), slope, after, phi)
            return {
                "support_loss": value,
                "query_loss": asked,
                "gradient_norm": {path: jnp.linalg.norm(x.ravel()) for path, x in slopes.items()},
                "zeros": {path: (x == 0).sum() for path, x in slopes.items()},
                "uphill": sum(jax.tree.leaves(ahead)) > 0,
                **_scored("support_accuracy", outputs, support),
                **_scored("query_accuracy", answers, query),
            }

        following = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), trail)
        seen = dict(jax.lax.map(look, (trail, following)))
        moved = {path: (x != x[:1]).any() for path, x in by_path(trail).items()}
        sizes = {path: x[0].size for path, x in by_path(trail).items()}
        zeros = {path: count[0] for path, count in seen.pop("zeros").items()}
        # What the inner loop follows: a leaf that has a gradient and stays is left out of it, and
        # one that has none and moves is a state.
        held = {path: moved[path] == (seen["gradient_norm"][path] > 0).any() for path in moved}
        entries = sum(held[path] * sizes[path] for path in moved)
        seen |= {
            "moved": moved,
            "zero_gradient": sum(held[path] * zeros[path] for path in moved)
            / jnp.maximum(entries, 1),
            "uphill": seen["uphill"][0],
            "active_units": merged(
                active_units(support_loss, phi),
                active_units(lambda phi: query_loss(objective, phi), phi),
            ),
        }
        if objective.batched is None:
            return seen
        batchings = BATCHINGS if _keeps_support(objective.keep(phi, support)) else ()
        scores = {name: query_loss(objective.batched(name), phi) for name in batchings}
        return {**seen, "batchings": _scores(scores, query)}

    return inspect


def inspect_comparison(
    loss_under: Callable[[Batching], tuple[Array, Aux]],
    query: Examples,
    query_batching: Batching,
    batchings: Sequence[Batching],
    embed_support: Callable[[], Array] | None,
) -> Inspection:
    """The inspection of a task of a learner that compares.

    Args:
      loss_under: the learner's loss of the task under a query batching.
      query: the query set, of weight 0 cleared.
      query_batching: the learner's own.
      batchings: those to ask of; none, where items do not see each other.
      embed_support: embeds the support set as the loss begins; None where it embeds both sets at
        once.
    """
    value, aux = loss_under(query_batching)
    whole = active_units(lambda: loss_under(query_batching)[0])
    alone = 0 if embed_support is None else len(active_units(embed_support))
    results = {name: loss_under(name) for name in batchings}
    return {
        "query_loss": value[None],
        **{name: x[None] for name, x in _scored("query_accuracy", aux.outputs, query).items()},
        "active_units": merged(whole[:alone], whole[alone:]),
        "batchings": _scores({name: (x, aux.outputs) for name, (x, aux) in results.items()}, query),
    }


def classifies(outputs: Outputs | None, examples: Examples) -> bool:
    """Whether the outputs are scores `[items, ways]` of labels, two ways or more."""
    shape = getattr(outputs, "shape", ())
    return len(shape) == 2 and shape[-1] > 1 and is_labels(examples.targets)


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, such as `"Dense_1/kernel"`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _scored(name: str, outputs: Outputs | None, examples: Examples) -> dict[str, Array]:
    """The accuracy by its name, where there are classes."""
    if not classifies(outputs, examples):
        return {}
    return {name: accuracy(outputs, examples.targets, examples.weights)}  # pyright: ignore


def _scores(results: dict[Any, tuple[Array, Outputs | None]], query: Examples) -> dict[str, Array]:
    """The accuracy, or the loss where there is none, of losses and outputs by their names."""
    return {
        name: _scored("score", outputs, query).get("score", value)
        for name, (value, outputs) in results.items()
    }


def _keeps_support(kept: Any) -> bool:
    leaves = jax.tree.leaves(kept, is_leaf=lambda x: isinstance(x, Examples))
    return any(isinstance(leaf, Examples) for leaf in leaves)
