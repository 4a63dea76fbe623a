r"""ANIL: Raghu, Raghu, Bengio, Vinyals, "Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML", ICLR 2020, arXiv 1909.09157.

.. math::

  \theta = (b, h), \quad h_0 = h, \quad h_{i+1} = h_i - \alpha \nabla_h L_S(b, h_i), \quad
  \text{meta-loss} = L_Q(b, h_n)

(section 4, "almost no inner loop"): MAML whose tasks adapt the head alone. Body and head are
meta-learned, and the meta-gradient of the body goes through the adapted heads.
"""

from collections.abc import Mapping, Sequence

import optax

from metajax.chains import in_head, in_parts
from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.losses import cross_entropy
from metajax.query_batching import Batching
from metajax.task_objectives import as_objective
from metajax.types import Learner, LossFn, Model, Objective


def anil(
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
    """Almost no inner loop (Raghu et al. 2020, section 4): a task adapts the head alone.

    The learner's parameters are `metajax.models.ChainParams`, and it is
    `maml(metajax.models.chain(body, head), adapt="head", ...)`, which serves where a model is not
    made of two. The body sees each set once, however many inner steps there are, unless they draw
    anew, as those of an `Objective` may.

    The paper gives MAML's settings. Its other finding, that at test time the head may go too (NIL),
    is `matching_network(body)` with the learned body.

    >>> import metajax, optax
    >>> learner = metajax.anil(
    ...     metajax.models.embedding_net(),
    ...     metajax.models.mlp((5,)),
    ...     inner=optax.sgd(0.05),
    ...     num_steps=5,
    ... )

    Args:
      body: from inputs to features. Or an `Objective` of a model with both parts, a policy say:
        its head is what a part of that name holds, `model/head/...` of
        `metajax.rl.gaussian_policy(metajax.models.chain(body, head))`.
      head: from features to outputs; None with an `Objective`. Slots of a head are memorised unless
        each episode shuffles its labels, as the library's samplers do.
      inner: the inner optimiser of the head, see `InnerLoop`.
      num_steps: inner steps, see `InnerLoop`.
      first_order: stop the inner gradients, see `InnerLoop`.
      backward: how the exact meta-gradient is computed, see `Backward`.
      loss_fn: loss of the support and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`.
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
    loop = InnerLoop(inner, num_steps, first_order, backward, adapt=in_head)
    fit = support_fit(objective, loop)
    return gradient_learner(objective, fit, record_steps=record_steps, title=f"anil({loop})")
