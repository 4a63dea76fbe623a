"""Whether an optimiser's state is its own: another's would be read as something else."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.types import Params


def check_opt_state(optimizer: optax.GradientTransformation, params: Params, state: Any) -> None:
    """Raises unless a state is one that the optimiser would begin with, by structure and shapes.

    Args:
      optimizer: the optimiser.
      params: the parameters that it moves.
      state: what it is to be given.

    Raises:
      ValueError: it is the state of another optimiser, or of other parameters.
    """
    try:
        expected = jax.eval_shape(optimizer.init, params)
    except jax.errors.JAXTypeError:
        return  # It looks at values, which a program does not know.
    wants, has = _shapes(expected), _shapes(state)
    differs = next((path for path in [*wants, *has] if wants.get(path) != has.get(path)), None)
    if differs is not None:
        got, wanted = (f"{differs} {each.get(differs, 'nothing')}" for each in (has, wants))
    else:
        got, wanted = _classes(jax.tree.structure(state)), _classes(jax.tree.structure(expected))
    if got != wanted:
        raise ValueError(
            f"the optimiser state is another optimiser's: it has {got}, where this optimiser has "
            f"{wanted}; expected state = metajax.init_state(params, optimizer, key) of this "
            "optimiser"
        )


def _shapes(tree: Any) -> dict[str, str]:
    """The shapes of all leaves, by the names of their places."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"of shape {jnp.shape(leaf)}" for path, leaf in leaves}


def _classes(structure: Any) -> str:
    """The classes of a structure's nodes: what else they hold, functions too, may be built anew."""
    node = structure.node_data()
    if node is None:
        return "*"
    inner = ", ".join(map(_classes, structure.children()))
    return f"{node[0].__name__}({inner})"
