"""Parameters: those of the model at hand, floats, and shared as the data are."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.kinds import in_brief, is_array
from metajax.types import Array, Episode, Examples, Params


def check_parameters(expected: Params, params: Params) -> None:
    """Raises unless `params` has the structure and the shapes of `expected`, and holds floats."""
    want = shapes_by_path(expected)
    got = shapes_by_path(params)
    whole = isinstance(params, Mapping) and "params" in params
    if whole and not (isinstance(expected, Mapping) and "params" in expected):
        rest = [name for name in params if name != "params"]
        raise ValueError(
            f"the parameters are the whole variables of a module, {[*params]}; expected those of "
            "'params' alone"
            + (f", and {rest} given to the adapter: from_linen(module, frozen=...)" if rest else "")
        )
    hint = ""
    if type(params).__module__.startswith("flax.nnx"):
        hint = ", nnx.to_pure_dict(nnx.state(module, nnx.Param))"
    for path in sorted(want.keys() | got.keys()):
        if path not in got:
            raise ValueError(
                f"the parameters lack {path or 'a leaf'}, which the model has; expected those of "
                f"init{hint}"
            )
        if path not in want:
            raise ValueError(
                f"the parameters hold {path or 'a leaf'}, which the model has not; expected those "
                f"of init{hint}"
            )
        if want[path] != got[path]:
            raise ValueError(
                f"the parameter {path or '(the only leaf)'} has shape {got[path]}; the model "
                f"expects {want[path]}: were these parameters made for another model or input, is "
                "it one item without an axis of items, or the episode a meta-batch?"
            )
    check_floats(params)


def check_floats(params: Params) -> None:
    """Raises unless parameters are floats, which a gradient can move."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not (is_array(leaf) or isinstance(leaf, float)) or not jnp.issubdtype(
            jnp.result_type(leaf), jnp.floating
        ):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            shown = f"of {jnp.result_type(leaf)}" if is_array(leaf) else in_brief(leaf)
            raise TypeError(
                f"the parameter {place or '(the only leaf)'} is {shown}; expected floats, which "
                "a gradient can move: close over what is constant in apply; a module of Equinox "
                "becomes a model by metajax.models.from_equinox"
            )


def shapes_by_path(tree: Params) -> dict[str, tuple[int, ...]]:
    """The shape of every array, by its path; that of a single one by ""."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in leaves
    }


def check_shared(params: Params, data: Examples | Episode) -> None:
    """Raises where a gradient would be summed over the devices of a `jax.shard_map`, unasked.

    With its check on, the gradient with respect to parameters that the devices share is a sum over
    them, that of an inner loop too.
    """
    shared, own = (
        {axis for leaf in jax.tree.leaves(tree) for axis in varying_axes(leaf)}
        for tree in (params, data)
    )
    if own - shared:
        axis = sorted(own - shared)[0]
        raise ValueError(
            f"under jax.shard_map the data differ along the axis {axis!r} and the parameters do "
            "not, so that its check would sum the inner gradients over the devices; expected "
            "jax.shard_map(..., check_vma=False), or metajax.parallel.mesh_step in its place"
        )


def varying_axes(x: Array) -> frozenset[str]:
    """The axes along which devices hold other values, as the check of `jax.shard_map` knows it."""
    kind: Any = jax.typeof(x)
    varying = getattr(getattr(kind, "manual_axis_type", kind), "varying", None)
    return frozenset(varying or getattr(kind, "vma", None) or ())
