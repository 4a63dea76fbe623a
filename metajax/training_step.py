"""Meta-training steps: pure functions for a user's own loop, `jit`, `lax.scan` or `pmap`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms.maml import maml
from metajax.checks.metrics import check_metrics
from metajax.checks.numbers import check_optional_integers, check_scalar, is_integer
from metajax.checks.objects import (
    check_instance,
    check_learner,
    check_optimizer,
    check_optional_optimizer,
)
from metajax.checks.parameters import check_floats, check_shared
from metajax.checks.settings import check_texts
from metajax.inner.backward import Backward
from metajax.inner.selection import Selection
from metajax.inner.update_traits import accepting
from metajax.keys import learner_keys
from metajax.kinds import (
    check_arrays,
    check_key,
    check_keys,
    check_optional_functions,
    in_brief,
    is_array,
)
from metajax.losses import cross_entropy
from metajax.meta_gradients import count_tasks, meta_gradient
from metajax.optimizer_states import check_opt_state
from metajax.query_batching import Batching
from metajax.types import Array, Episode, Key, Learner, LossFn, Model, Objective, Params


class TrainState(NamedTuple):
    """Everything that a training run carries from step to step.

    Attributes:
      params: the meta-parameters.
      opt_state: the outer optimiser's state.
      step: `[]` integer, meta-steps taken.
      key: the run's key. It never changes: what a step draws is a function of it and `step`.
    """

    params: Params
    opt_state: optax.OptState
    step: Array
    key: Key


TrainStep = Callable[[TrainState, Episode], tuple[TrainState, Mapping[str, Array]]]


def init_state(params: Params, optimizer: optax.GradientTransformation, key: Key) -> TrainState:
    """The state before the first step.

    Args:
      params: initial meta-parameters, from `learner.init` or the user's own.
      optimizer: the outer optimiser.
      key: random key of the run.

    Returns:
      A `TrainState`.

    Raises:
      TypeError: `optimizer` is not an optax transformation, the parameters are no floats, or `key`
        is none.
      ValueError: `key` is several, or the optimiser needs parameters in pairs (`optax.lookahead`).
    """
    check_optimizer(optimizer, "optimizer")
    check_floats(params)
    check_key(key)
    opt_state = optimizer.init(params)
    if any(map(_in_pairs, jax.tree.leaves(opt_state, is_leaf=_in_pairs))):
        raise ValueError(
            "optax.lookahead needs parameters in pairs, fast and slow, and a learner takes one set "
            "of them; expected the optimiser within it"
        )
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32), key)


def check_state(state: Any, name: str = "state") -> None:
    """Raises unless what is called `name` is a `TrainState`, or a stack of them, with a key a run.

    Raises:
      TypeError: it is something else.
      ValueError: there is not one key a run.
    """
    result = getattr(state, "state", None)
    made = "a metajax.TrainState, from metajax.init_state(params, optimizer, key)"
    if isinstance(result, TrainState):
        made += f": {name}.state"
    check_instance(state, TrainState, name, made)
    step = state.step
    whole = is_integer(step, 0) or (is_array(step) and jnp.issubdtype(step.dtype, jnp.integer))
    if not whole:
        raise TypeError(f"{name}.step is {in_brief(step)}; expected an integer array []")
    if jnp.shape(step):
        check_keys(state.key, None, f"{name}.key")
    else:
        check_key(state.key, f"{name}.key")


def _in_pairs(state: Any) -> bool:
    return isinstance(state, optax.LookaheadState)


def train_step(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    *,
    chunk_size: int | None = None,
    task_transform: optax.GradientTransformation | None = None,
    task_weight: Callable[[Episode], Array] | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """One meta-step: the mean meta-gradient over a batch of tasks, then the outer optimiser.

    Args:
      learner: any learner.
      optimizer: the outer optimiser.
      chunk_size: tasks run at once, see `meta_gradient`; static.
      task_transform: applied to each task's gradient before they are averaged, see `meta_gradient`.
      task_weight: the pure function from an episode to its task's weight `[]` in the means over
        tasks, see `meta_gradient`: `lambda episode: episode.query.weights.sum()` counts every query
        once, and not every task (of padded episodes; `weights` is None without padding). None
        counts every task once.
      axis_name: inside `jax.pmap(step, axis_name=...)`, `mesh_step` and `pmap_step` the axis over
        which gradients and metrics are averaged. Each device gets a slice of the tasks.

    Returns:
      The pure function `(state, episodes) -> (state, metrics)`, where the episodes' arrays have a
      leading axis `[tasks, ...]`. The metrics are `loss` (the meta-loss), `grad_norm` and the
      learner's own, averaged over tasks.

    Raises:
      TypeError: `learner` is no `Learner`, `optimizer` or `task_transform` not an optax
        transformation, `chunk_size` no integer, `task_weight` no function or `axis_name` no string;
        from the step: the state is no `TrainState`, the episodes are none, `optimizer` searches
        along a line, or a metric is no array of real numbers.
      ValueError: from the step: the state is another optimiser's, which its structure and shapes
        tell (those of `optax.sgd` with one rate and another do not differ), `chunk_size` does not
        divide the tasks, there are no parameters, a weight is no scalar or negative, all are 0, a
        metric has a name of the library's own, it is under `jax.shard_map` with its check on, or
        the learner's errors.
    """
    check_learner(learner)
    check_optimizer(optimizer, "optimizer")
    check_optional_integers(1, chunk_size=chunk_size)
    check_optional_optimizer(task_transform, "task_transform", "optax.clip(10.0)")
    check_optional_functions(task_weight=task_weight)
    if axis_name is not None:
        check_texts(axis_name=axis_name)
    update = outer_update(optimizer)

    def step(state: TrainState, episodes: Episode) -> tuple[TrainState, Mapping[str, Array]]:
        check_state(state)
        _check_learns(state.params)
        check_arrays(episodes, "episodes")
        check_shared(state.params, episodes)
        check_opt_state(optimizer, state.params, state.opt_state)
        tasks = count_tasks(episodes)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * tasks
        keys = learner_keys(state.key, state.step, tasks, first=first)
        weights = None if task_weight is None else _weigh(task_weight, episodes)
        gradient, (loss, metrics) = meta_gradient(
            learner.loss,
            state.params,
            episodes,
            keys,
            chunk_size=chunk_size,
            task_transform=task_transform,
            task_weights=weights,
            axis_name=axis_name,
        )
        check_metrics(metrics, "loss", "grad_norm")
        params, opt_state = update(gradient, state.opt_state, state.params, loss)
        metrics = {**metrics, "loss": loss, "grad_norm": gradient_norm(gradient)}
        return TrainState(params, opt_state, state.step + 1, state.key), metrics

    return step


def _check_learns(params: Params) -> None:
    """Raises where there is nothing that a meta-step could change."""
    if not jax.tree.leaves(params):
        raise ValueError(
            "the learner has no parameters, so that there is nothing to train; expected one that "
            "has some, frozen(model, params, learn=...) or a head after the frozen model say, or "
            "its evaluation as it is: metajax.evaluate(learner, {}, sample)"
        )


def outer_update(
    optimizer: optax.GradientTransformation,
) -> Callable[[Params, optax.OptState, Params, Array], tuple[Params, optax.OptState]]:
    """An outer optimiser as `(gradient, opt_state, params, meta-loss) -> (params, opt_state)`.

    What it gives raises a TypeError of one that searches along a line.
    """
    update = accepting(optimizer)

    def moved(
        gradient: Params, opt_state: optax.OptState, params: Params, loss: Array
    ) -> tuple[Params, optax.OptState]:
        try:
            updates, opt_state = update(gradient, opt_state, params, value=loss, grad=gradient)
        except TypeError as error:
            if "'value_fn'" not in str(error):
                raise
            raise TypeError(
                "the outer optimiser searches along a line and asks for value_fn, the meta-loss as "
                "a function, which a meta-step does not give; expected one without a search, such "
                "as optax.lbfgs(rate, scale_init_precond=False, linesearch=None)"
            ) from error
        return optax.apply_updates(params, updates), opt_state

    return moved


def _weigh(task_weight: Callable[[Episode], Array], episodes: Episode) -> Array:
    def weigh(episode: Episode) -> Array:
        weight = task_weight(episode)
        check_scalar(weight, "the task_weight of an episode")
        return weight

    return jax.vmap(weigh)(episodes)


def gradient_norm(tree: Params) -> Array:
    """The norm in single precision at least: half precision would overflow."""
    leaves = jax.tree.leaves(tree)
    return optax.tree.norm([x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves])


def maml_step(
    model: Model | Objective,
    optimizer: optax.GradientTransformation,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    ways: int | None = None,
    chunk_size: int | None = None,
    task_transform: optax.GradientTransformation | None = None,
    task_weight: Callable[[Episode], Array] | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """`train_step(maml(model, ...), optimizer, ...)`, the step to compose into a loop of one's own.

    >>> import jax, optax, metajax
    >>> model = metajax.models.mlp((40, 40, 1))
    >>> optimizer = optax.adam(1e-3)
    >>> step = jax.jit(metajax.maml_step(
    ...     model, optimizer, inner=optax.sgd(0.01), num_steps=1, loss_fn=metajax.squared_error))
    >>> sample = jax.vmap(metajax.data.sinusoid_episodes(shots=10, queries=10))
    >>> episodes = sample(jax.random.split(jax.random.key(0), 25))
    >>> params = model.init(jax.random.key(1), episodes.support.inputs[0])
    >>> state = metajax.init_state(params, optimizer, jax.random.key(2))
    >>> state, metrics = step(state, episodes)

    Args:
      model: see `maml`.
      optimizer: the outer optimiser.
      inner: the inner optimiser, see `maml`.
      num_steps: inner steps; static.
      first_order: FOMAML; static.
      backward: see `maml`.
      adapt: see `maml`.
      loss_fn: see `maml`.
      metrics: see `maml`.
      query_batching: see `maml`.
      ways: see `maml`: in a compiled loop of one's own it is how a model of another number of
        outputs is found.
      chunk_size: see `train_step`.
      task_transform: see `train_step`.
      task_weight: see `train_step`.
      axis_name: see `train_step`.

    Returns:
      The pure function `(state, episodes) -> (state, metrics)`.

    Raises:
      TypeError, ValueError: as `maml` and `train_step` do.
    """
    learner = maml(
        model,
        inner=inner,
        num_steps=num_steps,
        first_order=first_order,
        backward=backward,
        adapt=adapt,
        loss_fn=loss_fn,
        metrics=metrics,
        query_batching=query_batching,
        ways=ways,
    )
    return train_step(
        learner,
        optimizer,
        chunk_size=chunk_size,
        task_transform=task_transform,
        task_weight=task_weight,
        axis_name=axis_name,
    )
