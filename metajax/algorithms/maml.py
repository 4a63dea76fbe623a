r"""MAML and FOMAML: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv 1703.03400.

.. math::

  \phi_0 = \theta, \quad \phi_{i+1} = \phi_i - \alpha \nabla L_S(\phi_i), \quad
  \text{meta-loss} = L_Q(\phi_n)

Its gradient with respect to theta is the product of :math:`I - \alpha \nabla^2 L_S(\phi_i)` over
the steps times :math:`\nabla L_Q(\phi_n)` (section 2.2). FOMAML (section 5.2) takes every factor of
that product as the identity.
"""

from collections.abc import Mapping, Sequence

import optax

from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection
from metajax.losses import cross_entropy
from metajax.query_batching import Batching
from metajax.task_objectives import as_objective
from metajax.types import Learner, LossFn, Model, Objective


def maml(
    model: Model | Objective,
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
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """Model-agnostic meta-learning (Finn et al. 2017, algorithm 1).

    The learner's parameters *are* the model's parameters.

    The published inner rates belong to a summed loss: with this library's mean cross-entropy they
    become 2.0 for Omniglot (published as 0.4 for 5 ways, 0.1 for 20) and 0.05 for mini-ImageNet
    (0.01). To meta-learn a parameter without adapting it, as the authors' code does with the
    offsets of batch normalisation, leave it out of `adapt`.

    >>> import jax, optax, metajax
    >>> sample = metajax.data.sinusoid_episodes(shots=10, queries=10)
    >>> learner = metajax.maml(
    ...     metajax.models.mlp((40, 40, 1)),
    ...     inner=optax.sgd(0.01),
    ...     num_steps=1,
    ...     loss_fn=metajax.squared_error,
    ... )
    >>> episode = sample(jax.random.key(0))
    >>> params = learner.init(jax.random.key(1), episode.support.inputs)
    >>> meta_gradient, aux = jax.grad(learner.loss, has_aux=True)(params, episode)

    Args:
      model: a `Model`, or an `Objective` that brings its own loss.
      inner: the inner optimiser, see `InnerLoop`.
      num_steps: inner steps, see `InnerLoop`.
      first_order: FOMAML, see `InnerLoop`.
      backward: how the exact meta-gradient is computed, see `Backward`: what is kept in memory and
        what is computed again.
      adapt: which parameters a task adapts, by path or predicate, see `InnerLoop`: the last layer
        alone (ANIL), scales and offsets, LoRA factors; None adapts all. All of them are
        meta-learned.
      loss_fn: loss of the support and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`. The default is
        the authors': all the queries together, transductive.
      ways: number of classes, checked in compiled programs too, see `supervised`; static. None
        leaves it to the model.
      record_steps: report the query loss and metrics before adaptation and after every step, as
        `query_loss_per_step` and `<metric>_per_step`, each `[num_steps + 1]`; or after the steps
        that are named alone, rising, `(0, 1, 5)` say, each `[steps]`. Static.

    Returns:
      A `Learner`.

    Raises:
      TypeError: `model` is neither a `Model` nor an `Objective`; see `InnerLoop`.
      ValueError: see `InnerLoop`. From the learner's functions: an episode or parameters that do
        not fit the model.
    """
    objective = as_objective(model, loss_fn, metrics, query_batching, ways)
    loop = InnerLoop(inner, num_steps, first_order, backward, adapt)

    return gradient_learner(
        objective,
        support_fit(objective, loop),
        record_steps=record_steps,
        title=f"maml({loop})",
    )


def fomaml(
    model: Model | Objective,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    adapt: Selection | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    ways: int | None = None,
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """First-order MAML (Finn et al. 2017, section 5.2): `maml` with `first_order=True`."""
    return maml(
        model,
        inner=inner,
        num_steps=num_steps,
        first_order=True,
        adapt=adapt,
        loss_fn=loss_fn,
        metrics=metrics,
        query_batching=query_batching,
        ways=ways,
        record_steps=record_steps,
    )
