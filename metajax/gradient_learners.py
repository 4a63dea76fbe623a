"""What learners that adapt by gradient share: from an inner fit to a whole learner."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from metajax.checks import check_episode, check_examples, check_parameters, check_shared
from metajax.query_batching import without_padding
from metajax.types import (
    AdaptedTask,
    Array,
    Aux,
    Episode,
    Examples,
    Key,
    Learner,
    Objective,
    Params,
)


class Fit(Protocol):
    """One task's optimisation, from the meta-parameters to the task's own."""

    def __call__(
        self,
        params: Params,
        support: Examples,
        key: Key | None,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        """Returns the adapted parameters and what `observe` saw, as `inner_loop` does."""
        ...


def gradient_learner(
    objective: Objective,
    fit: Fit,
    *,
    record_steps: bool,
    meta_loss: Callable[[Params, Params, Array], Array] = lambda params, phi, query_loss: (
        query_loss
    ),
) -> Learner:
    """Builds a learner that fits the support set and is judged on the query set.

    Args:
      objective: the task's loss.
      fit: the inner optimisation.
      record_steps: report every metric before adaptation and after every step.
      meta_loss: `(params, adapted params, query loss) -> []`; its gradient is the meta-gradient.

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
        return fit(params, support, None if key is None else jax.random.fold_in(key, 0), observe)

    def loss(params: Params, episode: Episode, key: Key | None = None) -> tuple[Array, Aux]:
        check_episode(episode)
        support, query = (without_padding(examples) for examples in episode)
        # The same draws at every step, so that a curve over the steps compares like with like.
        query_key = None if key is None else jax.random.fold_in(key, 1)

        def report(phi: Params) -> tuple[Array | None, dict[str, Array]]:
            value, aux = objective.loss(phi, query, query_key, support)
            return aux.outputs, {**aux.metrics, "query_loss": value}

        observe = (lambda phi: report(phi)[1]) if record_steps else None
        phi, seen = checked_fit(params, support, key, observe)
        outputs, metrics = report(phi)
        value = meta_loss(params, phi, metrics["query_loss"])
        per_step: Mapping[str, Array] = seen or {}
        return value, Aux(
            outputs, metrics | {f"{name}_per_step": steps for name, steps in per_step.items()}
        )

    def adapt(params: Params, support: Examples, key: Key | None = None) -> AdaptedTask:
        check_examples(support, "support")
        return AdaptedTask(checked_fit(params, support, key)[0], without_padding(support))

    def predict(params: Params, task: AdaptedTask, inputs: Array) -> Array:
        del params
        return objective.predict(task.params, inputs, task.support)

    return Learner(objective.init, loss, adapt, predict)
