"""A user's own meta-step in `train`: what it returns is checked before anything is compiled."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from metajax.checks.metrics import check_metrics
from metajax.checks.numbers import check_scalar
from metajax.parallel.placement import TASKS
from metajax.parallel.steps import check_averages
from metajax.training_step import TrainState, TrainStep
from metajax.types import Episode


def check_step(
    step: TrainStep, state: TrainState, episode: Episode, *, tasks: int, mesh: Mesh | None
) -> None:
    """Raises unless a step can be one of a training loop.

    Args:
      step: the step.
      state: the state that it will be given.
      episode: a drawn episode, of the shapes of all.
      tasks: tasks in the whole meta-batch.
      mesh: the devices, or None for one.

    Raises:
      TypeError: it does not return a `TrainState` and a mapping of metrics, each an array of real
        numbers.
      ValueError: the state's structure, shapes or dtypes are not those that it was given, the
        metrics lack `loss` or have a name of the record's own fields, one that is to be checked is
        no scalar, or over devices the step does not average.
    """
    episodes = jax.eval_shape(
        partial(jax.tree.map, lambda x: jnp.broadcast_to(x, (tasks, *jnp.shape(x)))), episode
    )
    if mesh is None:
        try:
            returned = jax.eval_shape(step, state, episodes)
        except NameError as error:
            if "unbound axis name" not in str(error):
                raise
            raise ValueError(
                f"the step averages over devices, and there is no mesh ({error}); expected "
                "mesh=metajax.parallel.task_mesh(), or a step without an axis_name"
            ) from error
    else:
        returned = check_averages(step, state, episodes, mesh, TASKS)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"the step returned {_kind(returned)}; expected a pair (state, metrics)")
    stepped, metrics = returned
    if not isinstance(stepped, TrainState):
        raise TypeError(
            f"the step returned {_kind(stepped)} as its state; expected a metajax.TrainState, such "
            "as state._replace(params=..., opt_state=..., step=state.step + 1)"
        )
    _check_same(state, stepped)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"the step returned {_kind(metrics)} as its metrics; expected a mapping")
    if "loss" not in metrics:
        raise ValueError(
            f"the step's metrics are {sorted(metrics)}; expected the meta-loss among them, as "
            "'loss': training stops where it is not finite"
        )
    check_metrics(metrics)
    for name in {"loss", "grad_norm"} & set(metrics):
        check_scalar(metrics[name], f"the step's metric {name!r}")


def _check_same(given: TrainState, got: TrainState) -> None:
    before, after = (dict(jax.tree_util.tree_leaves_with_path(state)) for state in (given, got))
    for path in [*before, *after]:
        was, became = (_array(state.get(path)) for state in (before, after))
        if was != became:
            raise ValueError(
                f"the step was given state{jax.tree_util.keystr(path)} as {was} and returned "
                f"{became}; expected a state of the same structure, shapes and dtypes"
            )
    if jax.tree.structure(given) != jax.tree.structure(got):
        raise ValueError(
            f"the step was given a state of the structure {jax.tree.structure(given)} and returned "
            f"{jax.tree.structure(got)}; expected the same"
        )


def _array(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _kind(returned: Any) -> str:
    return "an array" if hasattr(returned, "dtype") else f"a {type(returned).__name__}"
