r"""Reptile: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018,
arXiv 1803.02999.

.. math::

  \phi = k \text{ inner steps on mini-batches of the task}, \quad
  \theta \leftarrow \theta + \epsilon \frac{1}{T} \sum_t (\phi_t - \theta)

(algorithm 2). As a gradient: :math:`\frac{1}{2} \|\theta - \text{stop\_gradient}(\phi)\|^2` has the
gradient :math:`\theta - \phi`, so the outer optimiser `optax.sgd(epsilon)` is Reptile exactly.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.checks.numbers import check_optional_integers
from metajax.checks.settings import check_flags
from metajax.gradient_learners import gradient_learner
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection, select, selects
from metajax.items import count, take
from metajax.keys import batches_key, step_keys
from metajax.losses import cross_entropy
from metajax.query_batching import Batching
from metajax.task_objectives import as_objective
from metajax.types import (
    Array,
    Examples,
    Key,
    Learner,
    LossFn,
    Model,
    Objective,
    ObjectiveAux,
    Params,
)


class ReptileParams(NamedTuple):
    """Parameters of a Reptile that carries its inner optimiser's state from task to task.

    Attributes:
      model: the model's.
      inner_state: the state every task starts from.
    """

    model: Params
    inner_state: optax.OptState


def reptile(
    model: Model | Objective,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    adapt: Selection | None = None,
    batch_size: int | None = None,
    carry_state: bool = False,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "single",
    ways: int | None = None,
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """Reptile (Nichol et al. 2018, algorithm 2), as a loss with the right gradient.

    The learner's parameters are the model's parameters, or `ReptileParams` with `carry_state`. The
    meta-loss is not a task loss: read `query_loss` among the metrics. Reptile makes no use of the
    query set; train it on more shots than it is tested with (the paper: 10, mini-ImageNet 15).

    The outer step falls linearly from 1 to 0:
    `optax.sgd(optax.linear_schedule(1.0, 0.0, iterations))`. The authors' inner optimiser is Adam
    at 1e-3 with beta1 = 0. As that forgets its bias correction (it is within 1 % of 1 after 4,000
    inner steps), it is
    `optax.rmsprop(1e-3, decay=0.999, eps=1e-8, eps_in_sqrt=False, initial_scale=1e-3)`.

    In their code its second moment is a variable like any other: every inner step of every task
    updates it, no outer step touches it, and a test starts from it. A fresh one makes the first
    steps of every task as long for parameters without a signal as for those with one. `carry_state`
    puts it among the learner's parameters, with the gradient of Reptile: all tasks of a meta-step
    start from it, and it moves towards the mean of their final ones as far as the outer optimiser
    says. `optax.sgd(epsilon)` moves it by the epsilon of the model, so that it comes to rest as
    that falls, a learned initial state; the authors' is replaced whatever epsilon is:

    >>> import optax, metajax
    >>> labels = metajax.ReptileParams("model", "state")
    >>> epsilon = optax.linear_schedule(1.0, 0.0, 100_000)
    >>> optimizer = optax.partition({"model": optax.sgd(epsilon), "state": optax.sgd(1.0)}, labels)

    With one task a meta-step that is the authors' loop, to rounding. With several theirs come one
    after the other, each from the second moment that the one before left, where those of
    `train_step` run at once, and the mean is taken. The old moment then weighs `decay**num_steps`
    after a meta-step and not `decay**(num_steps * tasks)`: `decay=0.999**5` for their 5 tasks keeps
    their memory of 1,000 inner steps, or 40 meta-steps. A meta-step that hands the state on, and is
    their loop for any number of tasks, is written out in the guide "Meta-steps".

    Args:
      model: a `Model`, or an `Objective` that brings its own loss.
      inner: the inner optimiser, see `InnerLoop`.
      num_steps: inner steps, see `InnerLoop`.
      adapt: which parameters a task adapts, by path or predicate, see `InnerLoop`; the others have
        the gradient 0 here and stay as they are. None adapts all.
      batch_size: support items in an inner mini-batch, drawn with the key without replacement until
        all have been seen, as in the authors' code. None takes the whole support set every step.
        Static.
      carry_state: the inner optimiser's state, from which every task starts, is a parameter of the
        learner too; static.
      loss_fn: loss of a mini-batch and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`: `"single"` is
        the paper's evaluation, `"separate"` its transductive one (table 2 has both). The queries
        are only reported, so train with the cheaper `"separate"`.
      ways: number of classes, checked in compiled programs too, see `supervised`; static. None
        leaves it to the model.
      record_steps: report the metrics after every step, or after those named, see `maml`.

    Returns:
      A `Learner`. With a `batch_size` its functions need a key.

    Raises:
      TypeError: `model` is neither a `Model` nor an `Objective`, or `batch_size` not an integer;
        see `InnerLoop`.
      ValueError: `batch_size` is below 1; see `InnerLoop`. From the learner's functions: no key, an
        episode or parameters that do not fit the model, or with `carry_state` an inner optimiser
        that counts its steps.
    """
    objective = as_objective(
        model, loss_fn, metrics, query_batching, ways, default_batching="single"
    )
    check_optional_integers(1, batch_size=batch_size)
    check_flags(carry_state=carry_state)
    # No derivative is taken of the loop.
    loop = InnerLoop(inner, num_steps, first_order=True, adapt=adapt)
    part = loop.part
    if carry_state:
        objective, loop = _with_state(objective, loop)

    def fit(
        params: Params,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        if key is None and batch_size is not None:
            raise ValueError(
                f"reptile with batch_size={batch_size} draws mini-batches; pass a key, or "
                "batch_size=None"
            )
        rows = None
        if key is not None and batch_size is not None:
            rows = mini_batches(batches_key(key), support, num_steps=num_steps, size=batch_size)
            # The labels of a mini-batch are never known; those of the whole set may be.
            jax.eval_shape(
                lambda phi: objective.loss(phi, support, key, None, training=training), params
            )

        def step_loss(phi: Params, step: tuple[Array | None, Key | None]) -> Array:
            chosen, step_key = step
            batch = support if chosen is None else take(support, chosen)
            return objective.loss(phi, batch, step_key, None, training=training)[0]

        return loop.run(
            step_loss,
            jax.lax.stop_gradient(params),
            per_step=(rows, step_keys(key, num_steps, batches=True)),
            observe=observe,
        )

    def meta_loss(params: Params, phi: Params, seen: Mapping[str, Array]) -> Array:
        del seen
        gap = optax.tree.sub(params, jax.lax.stop_gradient(phi))
        return 0.5 * optax.tree.norm(gap, squared=True)

    carried = ", carry_state" if carry_state else ""
    return gradient_learner(
        objective,
        fit,
        record_steps=record_steps,
        meta_loss=meta_loss,
        title=f"reptile(num_steps={num_steps}, inner=..., batch_size={batch_size}{part}{carried})",
    )


def _with_state(objective: Objective, loop: InnerLoop) -> tuple[Objective, InnerLoop]:
    """The same objective and inner loop, with the optimiser's state among the parameters."""
    inner, adapt = loop.inner, loop.adapt

    def init(key: Key, inputs: Array) -> ReptileParams:
        params = objective.init(key, inputs)
        state = inner.init(params if adapt is None else select(params, adapt)[0])
        for leaf in jax.tree.leaves(state):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"carry_state averages the inner optimiser's state over tasks, but it holds "
                    f"{leaf.dtype} numbers (a step count); expected floats only, as in optax.sgd, "
                    "or optax.rmsprop(rate, decay=0.999) in place of optax.adam(rate, b1=0.0)"
                )
        return ReptileParams(params, state)

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        assert isinstance(updates, ReptileParams)
        assert isinstance(params, ReptileParams)
        change, after = inner.update(updates.model, params.inner_state, params.model)
        return ReptileParams(change, optax.tree.sub(after, params.inner_state)), state

    def moved(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
        of_model = path.removeprefix("model/")
        return of_model == path or (adapt is not None and selects(adapt, of_model, leaf))

    def lifted(objective: Objective) -> Objective:
        def loss(
            phi: ReptileParams,
            examples: Examples,
            key: Key | None,
            context: Examples | None,
            training: bool = False,
        ) -> tuple[Array, ObjectiveAux]:
            return objective.loss(phi.model, examples, key, context, training=training)

        batched = objective.batched
        return Objective(
            init,
            loss,
            lambda phi, inputs, kept: objective.predict(phi.model, inputs, kept),
            lambda phi, support: objective.keep(phi.model, support),
            batched=None if batched is None else lambda batching: lifted(batched(batching)),
        )

    carrying = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    part = None if adapt is None else moved
    return lifted(objective), dataclasses.replace(loop, inner=carrying, adapt=part)


def mini_batches(key: Key, support: Examples, *, num_steps: int, size: int) -> Array:
    """Rows of the support set for each inner step: shuffled passes over it, cut into batches.

    Args:
      key: random key; every pass shuffles anew.
      support: the support set; items of weight 0 are not drawn.
      num_steps: number of batches; static.
      size: rows in a batch; static.

    Returns:
      `[num_steps, size]` integers.
    """
    items = count(support.inputs)
    padding = jnp.zeros(items, bool) if support.weights is None else support.weights == 0
    left = items - padding.sum()

    def row(position: Array) -> Array:
        noise = jax.random.uniform(jax.random.fold_in(key, position // left), (items,))
        return jnp.argsort(noise + padding)[position % left]

    return jax.vmap(row)(jnp.arange(num_steps * size)).reshape(num_steps, size)
