"""What learners that adapt by gradient share: from an inner fit to a whole learner."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from metajax.checked_learners import make_learner
from metajax.checks import check_parameters, check_shared
from metajax.keys import fit_key, query_key
from metajax.query_batching import without_padding
from metajax.types import (
    AdaptedTask,
    Array,
    Aux,
    Episode,
    Examples,
    Fit,
    Key,
    Learner,
    Objective,
    Params,
)


def gradient_learner(
    objective: Objective,
    fit: Fit,
    *,
    record_steps: bool,
    meta_loss: Callable[[Params, Params, Array], Array] = lambda params, phi, query_loss: (
        query_loss
    ),
    title: str = "gradient_learner(...)",
) -> Learner:
    """Builds a learner that fits the support set and is judged on the query set.

    Args:
      objective: the task's loss.
      fit: the inner optimisation.
      record_steps: report every metric before adaptation and after every step.
      meta_loss: `(params, adapted params, query loss) -> []`; its gradient is the meta-gradient.
      title: what the learner is, with its settings.

    Returns:
      A `Learner` whose tasks are `AdaptedTask`s.
    """

    def checked_fit(
        params: Params,
        support: Examples,
        key: Key | None,
        observe: Callable[[Params], Any] | None = None,
    ) -> tuple[Params, Any]:
        expected = jax.eval_shape(objective.init, jax.random.key(0), support.inputs)
        check_parameters(expected, params)
        check_shared(params, support)
        support = without_padding(support)
        return fit(params, support, fit_key(key), observe)

    def loss(params: Params, episode: Episode, key: Key | None) -> tuple[Array, Aux]:
        support, query = (without_padding(examples) for examples in episode)
        # The same draws at every step, so that a curve over the steps compares like with like.
        drawn = query_key(key)

        def report(phi: Params) -> tuple[Array | None, dict[str, Array]]:
            value, aux = objective.loss(phi, query, drawn, support)
            return aux.outputs, {**aux.metrics, "query_loss": value}

        observe = (lambda phi: report(phi)[1]) if record_steps else None
        phi, seen = checked_fit(params, support, key, observe)
        outputs, metrics = report(phi)
        value = meta_loss(params, phi, metrics["query_loss"])
        per_step: Mapping[str, Array] = seen or {}
        return value, Aux(
            outputs, metrics | {f"{name}_per_step": steps for name, steps in per_step.items()}
        )

    def adapt(params: Params, support: Examples, key: Key | None) -> AdaptedTask:
        return AdaptedTask(checked_fit(params, support, key)[0], without_padding(support))

    def predict(params: Params, task: AdaptedTask, inputs: Array) -> Array:
        del params
        return objective.predict(task.params, inputs, task.support)

    return make_learner(objective.init, loss, adapt, predict, title=title)
