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
        wanted, got = (each.get(differs, f"no {differs}") for each in (wants, has))
    else:
        wanted, got = (_classes(jax.tree.structure(each)) for each in (expected, state))
    if got != wanted:
        raise ValueError(
            f"the optimiser's state is another's: it has {got}, and this optimiser's has {wanted}; "
            "expected state = metajax.init_state(params, optimizer, key) of this optimiser and "
            "these parameters"
        )


def _shapes(tree: Any) -> dict[str, str]:
    """All leaves by the names of their places, with their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {f"opt_state{jax.tree_util.keystr(path)}": jnp.shape(leaf) for path, leaf in leaves}
    return {name: f"{name} of shape {shape}" for name, shape in named.items()}


def _classes(structure: Any) -> str:
    """The classes of a structure's nodes: what else they hold, functions too, may be built anew."""
    node = structure.node_data()
    if node is None:
        return "*"
    inner = ", ".join(map(_classes, structure.children()))
    return f"{node[0].__name__}({inner})"
