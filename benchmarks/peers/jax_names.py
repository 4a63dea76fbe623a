"""The workloads' names of weights, and the trees of parameters that metajax's networks have."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

LAYERS = {"Conv": "conv", "BatchStatistics": "norm", "Dense": "dense"}


def to_tree(arrays: Mapping[str, Any], template: Any) -> Any:
    """The arrays in a tree of the template's form."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], template)


def from_tree(tree: Any) -> dict[str, np.ndarray]:
    """A tree's leaves by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def _name(path: tuple) -> str:
    """The workloads' name of a leaf: `Conv_0/kernel` is `conv0/kernel`."""
    kind, index = path[0].key.split("_")
    return f"{LAYERS[kind]}{index}/{path[-1].key}"
