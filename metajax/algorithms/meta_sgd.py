r"""Meta-SGD: Li, Zhou, Chen, Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017,
arXiv 1707.09835.

.. math::

  \phi_0 = \theta, \quad \phi_{i+1} = \phi_i - \alpha \circ \nabla L_S(\phi_i), \quad
  \text{meta-loss} = L_Q(\phi_n)

(algorithm 1): MAML whose rates, one a parameter, are meta-learned beside the initial
parameters. One rate a leaf and a step is the "per-layer per-step learning rates" of MAML++
(Antoniou, Edwards, Storkey, "How to train your MAML", ICLR 2019, arXiv 1810.09502, section 4).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.checks.numbers import check_numbers
from metajax.checks.settings import check_flags
from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection, select
from metajax.kinds import check_words
from metajax.losses import cross_entropy
from metajax.query_batching import Batching
from metajax.task_objectives import as_objective
from metajax.types import Array, Examples, Key, Learner, LossFn, Model, Objective, Params


class MetaSGDParams(NamedTuple):
    """What Meta-SGD learns.

    Attributes:
      model: the model's parameters.
      rates: a rate for each of them, of its shape (or `[]`, by leaf), with a leading axis
        `[num_steps, ...]` where every step has its own; None where a parameter is not adapted.
    """

    model: Params
    rates: Params


def meta_sgd(
    model: Model | Objective,
    *,
    num_steps: int,
    rate: float | tuple[float, float] = (0.005, 0.1),
    granularity: Literal["parameter", "leaf"] = "parameter",
    per_step: bool = False,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    ways: int | None = None,
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """Meta-SGD (Li et al. 2017, algorithm 1): inner rates that are learned.

    The learner's parameters are `MetaSGDParams`. Published: one inner step, rates that start
    between 0.005 and 0.1.

    A rate may become negative, as in the paper. An outer Adam moves a rate of 0.01 by its whole
    step like every other parameter, and weight decay pulls rates to 0 too; to give them a rate of
    their own, cut the outer optimiser in two:

    >>> import optax
    >>> from metajax import MetaSGDParams
    >>> optimizer = optax.partition(
    ...     {"model": optax.adam(1e-3), "rates": optax.adam(1e-4)},
    ...     MetaSGDParams("model", "rates"),
    ... )

    Args:
      model: a `Model`, or an `Objective` that brings its own loss.
      num_steps: inner steps, see `InnerLoop`.
      rate: where the rates start: a number, or the range that they are drawn from, uniformly.
      granularity: one rate a `"parameter"`, as published, or a `"leaf"` (a layer's kernel, say);
        static.
      per_step: rates of their own for every step; static.
      first_order: stop the inner gradients, see `InnerLoop`. The rates have their gradient all the
        same.
      backward: how the exact meta-gradient is computed, see `Backward`.
      adapt: which parameters a task adapts, see `maml`; the others have no rate.
      loss_fn: loss of the support and of the query set, see `supervised`.
      metrics: scores on the query set, see `supervised`.
      query_batching: which items share a batch with a query, see `apply_queries`.
      ways: number of classes, checked in compiled programs too, see `supervised`; static. None
        leaves it to the model.
      record_steps: report the metrics after every step, or after those named, see `maml`.

    Returns:
      A `Learner`.

    Raises:
      TypeError: `model` is neither a `Model` nor an `Objective`, `rate` no number, or `per_step` no
        bool; see `InnerLoop`.
      ValueError: `rate` is not finite or no range, or `granularity` unknown; see `InnerLoop`. From
        the learner's functions: an episode or parameters that do not fit the model.
    """
    objective = as_objective(model, loss_fn, metrics, query_batching, ways)
    low, high = rate if isinstance(rate, tuple) and len(rate) == 2 else (rate, rate)
    check_numbers(math.isfinite, "a finite number, or the range (low, high)", rate=low)
    check_numbers(lambda x: low <= x < math.inf, f"the end of the range from {low}", rate=high)
    check_words(("parameter", "leaf"), granularity=granularity)
    check_flags(per_step=per_step)
    # Its optimiser comes with the parameters.
    loop = InnerLoop(optax.set_to_zero(), num_steps, first_order, backward, adapt)

    def init(key: Key, inputs: Array) -> MetaSGDParams:
        of_model, of_rates = jax.random.split(key)
        params = objective.init(of_model, inputs)
        leaves, structure = jax.tree.flatten(params if adapt is None else select(params, adapt)[0])
        steps = (num_steps,) if per_step else ()
        rates = [
            jax.random.uniform(
                rate_key,
                steps + (jnp.shape(leaf) if granularity == "parameter" else ()),
                jnp.result_type(leaf),
                low,
                high,
            )
            for rate_key, leaf in zip(jax.random.split(of_rates, len(leaves)), leaves, strict=True)
        ]
        return MetaSGDParams(params, jax.tree.unflatten(structure, rates))

    def fit(
        params: MetaSGDParams,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        descent = _descent(params.rates, per_step)
        learned = dataclasses.replace(loop, inner=descent)
        return support_fit(objective, learned)(params.model, support, key, training, observe)

    return gradient_learner(
        objective,
        fit,
        init=init,
        record_steps=record_steps,
        title=f"meta_sgd({loop}, {granularity=}, {per_step=})".replace("inner=..., ", ""),
    )


def _descent(rates: Params, per_step: bool) -> optax.GradientTransformation:
    """Steps against the gradient, each entry at its own rate."""

    def init(params: Params) -> Any:
        del params
        return jnp.zeros((), jnp.int32)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        del params
        now = jax.tree.map(lambda rate: rate[state], rates) if per_step else rates
        return jax.tree.map(lambda rate, slope: -rate * slope, now, updates), state + 1

    return optax.GradientTransformation(init, update)
