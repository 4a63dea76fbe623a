"""What learners that adapt by gradient share: from an inner fit to a whole learner."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checked_learners import make_learner
from metajax.checks.metrics import check_score_names
from metajax.checks.numbers import is_integer
from metajax.checks.objects import check_instance, check_objective
from metajax.checks.parameters import check_parameters, check_shared
from metajax.checks.settings import check_texts
from metajax.inner.loop import InnerLoop
from metajax.inner.observation import AtSteps, Observe
from metajax.inspection.within_tasks import inspect_fit
from metajax.items import without_padding
from metajax.keys import fit_key, query_key, step_keys
from metajax.kinds import check_functions, check_optional_functions, in_brief
from metajax.types import (
    AdaptedTask,
    Array,
    Aux,
    Episode,
    Examples,
    Fit,
    Init,
    Inputs,
    Key,
    Learner,
    Objective,
    Outputs,
    Params,
)


def gradient_learner(
    objective: Objective,
    fit: Fit,
    *,
    record_steps: bool | Sequence[int],
    init: Init | None = None,
    meta_loss: Callable[[Params, Params, Mapping[str, Array]], Array] = lambda params, phi, seen: (
        seen["query_loss"]
    ),
    title: str = "gradient_learner(...)",
) -> Learner:
    """Builds a learner that fits the support set and is judged on the query set.

    Args:
      objective: the task's loss.
      fit: the inner optimisation, such as `support_fit(objective, loop)`.
      record_steps: report every metric before adaptation and after every step, or after the steps
        that are named alone, such as `(0, 1, 5, 50)`, rising: queries are then scored no more
        often. Static.
      init: `(key, inputs) -> params`; None is the objective's. A learner that learns arrays beside
        the model's has parameters of its own: a NamedTuple whose first field is `model`.
      meta_loss: `(params, adapted parameters, seen) -> []`; its gradient is the meta-gradient.
        `seen` is what the learner reports: `query_loss`, the objective's scores and, with
        `record_steps`, each of them at every step as `<name>_per_step`, `[num_steps + 1]`, or at
        the steps that are named, `[steps]`.
      title: what the learner is, with its settings.

    Returns:
      A `Learner` whose tasks are `AdaptedTask`s.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: the steps of `record_steps` do not rise from 0 on; from the learner's functions:
        its inner loop does not take so many.
    """
    check_objective(objective)
    check_functions(fit=fit, meta_loss=meta_loss)
    check_optional_functions(init=init)
    recorded = observation_of(record_steps)
    check_texts(title=title)
    begin = objective.init if init is None else init

    def checked_fit(
        params: Params,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None = None,
    ) -> tuple[Params, Any]:
        expected = jax.eval_shape(begin, jax.random.key(0), support.inputs)
        check_parameters(expected, params)
        check_shared(params, support)
        support = without_padding(support)
        return fit(params, support, fit_key(key), training, observe)

    def loss(
        params: Params, episode: Episode, key: Key | None, training: bool
    ) -> tuple[Array, Aux]:
        support, query = (without_padding(examples) for examples in episode)
        # The same draws at every step, so that a curve over the steps compares like with like.
        drawn = query_key(key)

        def report(phi: Params) -> tuple[Outputs | None, dict[str, Array]]:
            value, aux = objective.loss(phi, query, drawn, support, training=training)
            check_score_names(aux.metrics)
            return aux.outputs, {**aux.metrics, "query_loss": value}

        observe = recorded(lambda phi: report(phi)[1])
        phi, steps = checked_fit(params, support, key, training, observe)
        if isinstance(observe, AtSteps):
            _check_seen(steps, observe.steps)
        outputs, metrics = report(phi)
        metrics |= {f"{name}_per_step": values for name, values in (steps or {}).items()}
        return meta_loss(params, phi, metrics), Aux(outputs, metrics)

    def adapt(params: Params, support: Examples, key: Key | None, training: bool) -> AdaptedTask:
        phi, _ = checked_fit(params, support, key, training)
        return AdaptedTask(phi, objective.keep(phi, without_padding(support)))

    def predict(params: Params, task: AdaptedTask, inputs: Inputs) -> Outputs:
        del params
        return objective.predict(task.params, inputs, task.kept)

    inspect = inspect_fit(objective, checked_fit)
    return make_learner(
        begin, loss, adapt, predict, title=title, task_kind=AdaptedTask, inspect=inspect
    )


def observation_of(steps: bool | Sequence[int]) -> Callable[[Observe], Observe | None]:
    """What an inner loop is to observe, of what is to be seen, for `record_steps`.

    Raises:
      TypeError: they are neither a flag nor integers.
      ValueError: they do not rise from 0 on.
    """
    if isinstance(steps, bool | np.bool_):
        return lambda see: see if steps else None
    several = isinstance(steps, Sequence | np.ndarray) and not isinstance(steps, str | bytes)
    if not several or not all(is_integer(step, -math.inf) for step in steps):
        raise TypeError(
            f"record_steps={in_brief(steps)}; expected True or False, or the steps to record, such "
            "as (0, 1, 5)"
        )
    named = tuple(int(step) for step in steps)
    if not named or named[0] < 0 or any(a >= b for a, b in itertools.pairwise(named)):
        raise ValueError(
            f"record_steps={named}; expected one step or more, rising, of which 0 is before the "
            "first, such as (0, 1, 5)"
        )
    return lambda see: AtSteps(see, named)


def _check_seen(seen: Any, steps: tuple[int, ...]) -> None:
    """Raises where a fit saw something else than what was asked for."""
    shapes = {jnp.shape(x)[:1] for x in jax.tree.leaves(seen)}
    if shapes != {(len(steps),)}:
        raise ValueError(
            f"with record_steps={steps} the fit gave observations of the leading axes "
            f"{sorted(shapes)}; expected ({len(steps)},): a fit that hands its observe on to "
            "InnerLoop.run as it is"
        )


def support_fit(objective: Objective, loop: InnerLoop) -> Fit:
    """The fit of MAML and its kin: every step sees the whole support set, and a key of its own.

    Args:
      objective: the task's loss.
      loop: the inner loop, run from the learner's parameters.

    Raises:
      TypeError: `objective` is no `Objective`, or `loop` no `InnerLoop`.
    """
    check_objective(objective)
    check_instance(loop, InnerLoop, "loop", "a metajax.InnerLoop(inner, num_steps)")

    def fit(
        params: Params,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        return loop.run(
            lambda phi, step_key: objective.loss(phi, support, step_key, None, training=training)[
                0
            ],
            params,
            per_step=step_keys(key, loop.num_steps),
            observe=observe,
        )

    return fit
