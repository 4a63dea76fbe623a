r"""Reptile: Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms", 2018,
arXiv 1803.02999.

.. math::

  \phi = k \text{ inner steps on mini-batches of the task}, \quad
  \theta \leftarrow \theta + \epsilon \frac{1}{T} \sum_t (\phi_t - \theta)

(algorithm 2). As a gradient: :math:`\frac{1}{2} \|\theta - \text{stop\_gradient}(\phi)\|^2` has the
gradient :math:`\theta - \phi`, so the outer optimiser `optax.sgd(epsilon)` is Reptile exactly.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.adaptation import gradient_learner
from metajax.batching import Batching
from metajax.checks import check_num_steps, check_optimizer
from metajax.inner import inner_loop
from metajax.losses import cross_entropy
from metajax.objectives import LossFn, as_objective
from metajax.types import Array, Examples, Key, Learner, Model, Objective, Params


def reptile(
    model: Model | Objective,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    batch_size: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "single",
    record_steps: bool = False,
) -> Learner:
    """Reptile (Nichol et al. 2018, algorithm 2), as a loss with the right gradient.

    The learner's parameters are the model's parameters. The meta-loss is not a task loss: read
    `query_loss` among the metrics. Reptile makes no use of the query set; train it on more shots
    than it is tested with (the paper: 10, mini-ImageNet 15).

    The authors' inner optimiser is `optax.adam(1e-3, b1=0.0)`; their code carries its second moment
    from one task to the next, while here every task starts with a fresh state, as a pure function
    must. The outer step falls linearly from 1 to 0:
    `optax.sgd(optax.linear_schedule(1.0, 0.0, iterations))`.

    Args:
      model: a `Model`, or an `Objective` that brings its own loss.
      inner: the inner optimiser.
      num_steps: inner steps, 0 or more; static.
      batch_size: support items in an inner mini-batch, drawn with the key without replacement until
        all have been seen, as in the authors' code. None takes the whole support set every step.
        Static.
      loss_fn: loss of a mini-batch and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`: `"single"` is
        the paper's evaluation, `"separate"` its transductive one (table 2 has both).
      record_steps: report the metrics before adaptation and after every step, see `maml`.

    Returns:
      A `Learner`. With a `batch_size` its functions need a key.

    Raises:
      TypeError: `inner` is not an optax transformation, or `model` neither a `Model` nor an
        `Objective`.
      ValueError: `num_steps` is negative or `batch_size` below 1. From the learner's functions: no
        key, or an episode or parameters that do not fit the model.
    """
    objective = as_objective(model, loss_fn, metrics, query_batching, default_batching="single")
    check_num_steps(num_steps)
    check_optimizer(inner, "inner")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more support items, or None")

    def fit(
        params: Params,
        support: Examples,
        key: Key | None,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        if key is None and batch_size is not None:
            raise ValueError(
                f"reptile with batch_size={batch_size} draws mini-batches; pass a key, or "
                "batch_size=None"
            )
        rows = None
        step_keys = None
        if key is not None:
            step_keys = jax.random.split(jax.random.fold_in(key, 0), num_steps)
            if batch_size is not None:
                order_key = jax.random.fold_in(key, 1)
                rows = mini_batches(order_key, support, num_steps=num_steps, size=batch_size)

        def step_loss(phi: Params, step: tuple[Array | None, Key | None]) -> Array:
            chosen, step_key = step
            batch = support if chosen is None else jax.tree.map(lambda x: x[chosen], support)
            return objective.loss(phi, batch, step_key, None)[0]

        return inner_loop(
            step_loss,
            jax.lax.stop_gradient(params),
            inner,
            num_steps=num_steps,
            per_step=(rows, step_keys),
            observe=observe,
        )

    def meta_loss(params: Params, phi: Params, query_loss: Array) -> Array:
        del query_loss
        gap = optax.tree.sub(params, jax.lax.stop_gradient(phi))
        return 0.5 * optax.tree.norm(gap, squared=True)

    return gradient_learner(objective, fit, record_steps=record_steps, meta_loss=meta_loss)


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
    items = len(support.inputs)
    padding = jnp.zeros(items, bool) if support.weights is None else support.weights == 0
    count = items - padding.sum()

    def row(position: Array) -> Array:
        noise = jax.random.uniform(jax.random.fold_in(key, position // count), (items,))
        return jnp.argsort(noise + padding)[position % count]

    return jax.vmap(row)(jnp.arange(num_steps * size)).reshape(num_steps, size)
