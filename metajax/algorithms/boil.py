r"""BOIL: Oh, Yoo, Kim, Yun, "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021,
arXiv 2008.08882.

.. math::

  \theta = (b, h), \quad b_0 = b, \quad b_{i+1} = b_i - \alpha \nabla_b L_S(b_i, h), \quad
  \text{meta-loss} = L_Q(b_n, h)

(section 3, "body only update in inner loop"): MAML whose tasks leave the head alone, so that the
representation has to change. Body and head are meta-learned.
"""

from collections.abc import Mapping, Sequence

import optax

from metajax.chains import in_body, in_parts
from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.losses import cross_entropy
from metajax.query_batching import Batching
from metajax.task_objectives import as_objective
from metajax.types import Learner, LossFn, Model, Objective


def boil(
    body: Model | Objective,
    head: Model | None = None,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    ways: int | None = None,
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """Body only update in inner loop (Oh et al. 2021, section 3): a task adapts the body alone.

    The learner's parameters are `metajax.models.ChainParams`, and it is
    `maml(metajax.models.chain(body, head), adapt="body", ...)`, which serves where a model is not
    made of two.

    The authors' code, on mini-ImageNet: one inner step at rate 0.5, Adam at 1e-3, four tasks a
    meta-step, 30,000 of them, four blocks of 64 filters, 15 queries a class, classified in one
    batch.

    >>> import metajax, optax
    >>> learner = metajax.boil(
    ...     metajax.models.embedding_net(),
    ...     metajax.models.mlp((5,), stddev=0.1),
    ...     inner=optax.sgd(0.5),
    ...     num_steps=1,
    ... )

    Args:
      body: from inputs to features. Or an `Objective` of a model with both parts, a policy say,
        of which all is adapted but what a part named `head` holds: of
        `metajax.rl.gaussian_policy(metajax.models.chain(body, head))` the standard deviations too.
      head: from features to outputs; None with an `Objective`. A head of zeros passes no gradient
        on to the body, and a small one little.
      inner: the inner optimiser of the body, see `InnerLoop`.
      num_steps: inner steps, see `InnerLoop`.
      first_order: stop the inner gradients, see `InnerLoop`.
      backward: how the exact meta-gradient is computed, see `Backward`.
      loss_fn: loss of the support and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`. The default is
        the authors'.
      ways: number of classes, checked in compiled programs too, see `supervised`; static. None
        leaves it to the model.
      record_steps: report the metrics after every step, or after those named, see `maml`.

    Returns:
      A `Learner`.

    Raises:
      TypeError: `body` is neither a `Model` nor an `Objective`, or `head` not a `Model` beside a
        `Model`; see `InnerLoop`.
      ValueError: a `head` or the options of a `Model` come with an `Objective`; see `InnerLoop`.
        From the learner's functions: an episode or parameters that do not fit the models, or
        parameters of an `Objective` of which none, or all, are the head's.
    """
    model = in_parts(body, head)
    objective = as_objective(model, loss_fn, metrics, query_batching, ways)
    loop = InnerLoop(inner, num_steps, first_order, backward, adapt=in_body)
    fit = support_fit(objective, loop)
    return gradient_learner(objective, fit, record_steps=record_steps, title=f"boil({loop})")
