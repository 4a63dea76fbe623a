"""Many runs as one: a `TrainState` whose arrays all begin with an axis of runs, and its program."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metajax.meta_gradients import one_at_a_time
from metajax.training_step import TrainState
from metajax.types import Params

S = TypeVar("S")
T = TypeVar("T")


def count_runs(state: TrainState) -> int | None:
    """How many runs are stacked in a state; None where it is the state of one run.

    Args:
      state: its `step` tells, `[runs]` or `[]`.

    Raises:
      ValueError: `step` is a stack and another array is none, or not of as many runs, or there are
        no parameters.
    """
    shape = jnp.shape(state.step)
    if not len(shape):
        return None
    runs = jnp.size(state.step)
    if len(shape) > 1 or not runs:
        raise ValueError(
            f"state.step has the shape {shape}; expected (), or (runs,) for a stack of runs: "
            "jax.vmap(lambda key: init_state(learner.init(key, example), optimizer, key))(keys)"
        )
    if not jax.tree.leaves(state.params):
        raise ValueError(
            f"state is a stack of {runs} runs of a learner without parameters, which are all one; "
            "expected its evaluation as it is: metajax.evaluate(learner, {}, sample)"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.shape(leaf)[:1] != (runs,):
            raise ValueError(
                f"state.step is a stack of {runs} runs, and state{jax.tree_util.keystr(path)} "
                f"has the shape {jnp.shape(leaf)}; expected ({runs}, ...): all arrays of a "
                "stack begin with the axis of runs"
            )
    return runs


def newest_step(state: TrainState) -> int:
    """The meta-steps taken; in a stack, by the runs that are furthest."""
    return int(np.max(np.asarray(state.step)))


def check_steps(state: TrainState) -> None:
    """Raises where the runs of a stack are not all at one step."""
    steps = np.asarray(state.step)
    if (steps != steps.max()).any():
        raise ValueError(
            f"the runs of the stack are at the steps {steps.tolist()}; expected one step for all: "
            "go on with those that are furthest, states = jax.tree.map(lambda x: "
            "x[states.step == states.step.max()], states)"
        )


def one_run(tree: S, runs: int | None) -> S:
    """The shapes of one run of a stack; the tree itself where there is none."""
    if runs is None:
        return tree
    return jax.eval_shape(lambda stack: jax.tree.map(lambda x: x[0], stack), tree)


def over_runs(function: Callable[[S], T], stack: S, params: Params) -> T:
    """What a pure function gives of every run, stacked; to be compiled.

    All runs are computed at once, under one `vmap`, or one after another where a single CPU device
    has large models: by the rule of `meta_gradient`, and for its reasons. Eight runs of MAML on
    two AVX-512 cores: one after another takes as long and an eighth of the memory for a strided net
    of 28,357 parameters, and 1.1 times as long for a perceptron of 1,761 with 25 tasks.

    Args:
      function: of what `stack` holds of one run.
      stack: arrays `[runs, ...]`.
      params: the meta-parameters `[runs, ...]`, whose number decides.
    """
    size = sum(math.prod(jnp.shape(leaf)[1:]) for leaf in jax.tree.leaves(params))
    if one_at_a_time(size):
        return jax.lax.map(function, stack)
    return jax.vmap(function)(stack)


def kept_by_run(
    before: TrainState, after: TrainState, finite: Any, *, newest: Any, skip: bool
) -> tuple[TrainState, Any]:
    """What a dispatch leaves of one run of a stack, and which of its steps count.

    A run that is behind the others stopped in an earlier dispatch, and stays as it is. Where steps
    are skipped, so does one without a finite step in the whole dispatch: alone it would end there.

    Args:
      before: its state.
      after: its state after the dispatch.
      finite: `[length]` which steps of the dispatch were finite.
      newest: `[]` the step at which the dispatch begins.
      skip: whether the run went on after a step that was not.
    """
    going = before.step == newest
    # With data read ahead, the steps after one that was not finite are not that step again.
    finite = going & (finite if skip else jnp.logical_and.accumulate(finite))
    kept = going & (finite.any() if skip else True)
    params, opt_state, step = jax.tree.map(
        lambda new, old: jnp.where(kept, new, old), after[:3], before[:3]
    )
    return TrainState(params, opt_state, step, before.key), finite
