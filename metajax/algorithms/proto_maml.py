r"""Proto-MAML: Triantafillou et al., "Meta-Dataset: A Dataset of Datasets for Learning to Learn
from Few Examples", ICLR 2020, arXiv 1903.03096, section 3.

MAML whose linear head starts from the prototypes of the support set under the current parameters,

.. math::  W_k = 2 c_k, \quad b_k = -\|c_k\|^2,

so that with no inner step it is the prototypical network. Body and head are adapted, and the
meta-gradient flows back through that initial head into the parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from metajax.checks.episodes import check_embeddings
from metajax.checks.labels import check_classes
from metajax.checks.numbers import check_optional_integers
from metajax.checks.objects import check_model
from metajax.gradient_learners import gradient_learner
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection
from metajax.keys import start_key, step_keys
from metajax.losses import accuracy, as_loss, as_scores, cross_entropy, nan_unless_labelled
from metajax.metric import count_ways, linear_reading, present_classes, prototypes
from metajax.query_batching import Batching, apply_queries, check_batching, kept_support
from metajax.types import (
    Array,
    Examples,
    Inputs,
    Key,
    Learner,
    LossFn,
    Model,
    Objective,
    ObjectiveAux,
    Params,
)


class ProtoMAMLParams(NamedTuple):
    """What an inner step adapts.

    Attributes:
      body: the encoder's parameters.
      weights: `[features, ways]` of the head.
      biases: `[ways]` of the head.
    """

    body: Params
    weights: Array
    biases: Array


def proto_maml(
    encoder: Model,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """Proto-MAML (Triantafillou et al. 2020).

    The learner's parameters are the encoder's. Inner rates and steps of the authors' best
    configurations: 0.00544 with 6 steps (trained on ImageNet alone), and 0.0199 with 1 step in
    training and 6 at test (on all data sets), both from pretrained weights; 0.311 with 6 steps in
    training and 11 at test (ImageNet, from scratch).

    Their code normalises the queries by the statistics of the support set under the adapted
    parameters, in training too and with the gradient through them, leaves scale and offset of batch
    normalisation as they are within a task, and by default is first order. With an encoder of
    `metajax.models.embedding_net` that is

    >>> import optax, metajax
    >>> learner = metajax.fo_proto_maml(
    ...     metajax.models.embedding_net(), inner=optax.sgd(0.311), num_steps=6,
    ...     query_batching="support", adapt=("body/Conv_*", "weights", "biases"))

    Args:
      encoder: a model with outputs `[items, features]`.
      inner: the inner optimiser of body and head, see `InnerLoop`.
      num_steps: inner steps, see `InnerLoop`.
      first_order: stop the gradients of the steps; the gradient still reaches the parameters
        through the initial head, as in the authors' code. See `InnerLoop`.
      backward: how the exact meta-gradient is computed, see `Backward`.
      adapt: which of `ProtoMAMLParams` a task adapts, by path or predicate, see `InnerLoop`:
        `("weights", "biases")` is the head alone, `lambda path, leaf: "BatchStatistics" not in
        path` all but the scales and offsets of the library's networks. None adapts all.
      ways: the most classes there may be; static. None takes as many as there are support items.
        Labels lie below that; classes without a support item have the logit `-inf`, and no query
        may be of one: an error where labels are known. In compiled programs the loss is not finite
        there; with `ways`, it and its gradient are NaN, also where a label of the support lies
        outside.
      loss_fn: loss of the logits, of support and query set, see `metajax.supervised`.
      metrics: scores reported beside the loss and the accuracy, see `metajax.supervised`.
      query_batching: which items share a batch with a query; see `metajax.apply_queries`.
      record_steps: report the metrics after every step, or after those named, see `metajax.maml`.

    Returns:
      A `Learner`. Its outputs are logits `[queries, ways]`.

    Raises:
      TypeError: `encoder` is not a `Model`, or `ways` not an integer; see `InnerLoop`.
      ValueError: `ways` is below 1 or `query_batching` unknown; see `InnerLoop`. From the learner's
        functions: embeddings with more than one feature axis, labels outside `[0, ways)`, a query
        of a class without support items, or an episode or parameters that do not fit the encoder.
    """
    check_model(encoder, "encoder")
    loop = InnerLoop(inner, num_steps, first_order, backward, adapt)
    check_batching(query_batching)
    check_optional_integers(1, ways=ways)

    loss_of = as_loss(loss_fn)
    scores_of = as_scores(metrics, {"accuracy": accuracy})

    def classify(phi: ProtoMAMLParams, features: Array, present: Array) -> Array:
        logits = features @ phi.weights + phi.biases[None]
        return jnp.where(present[None], logits, -jnp.inf)

    def keep(phi: ProtoMAMLParams, support: Examples) -> tuple[Array, Examples | None]:
        present = present_classes(support, phi.biases.shape[0])
        return present, kept_support(encoder, phi.body, support)

    def predict(phi: ProtoMAMLParams, inputs: Inputs, kept: tuple[Array, Examples | None]) -> Array:
        present, support = kept
        features = apply_queries(encoder, phi.body, inputs, None, support, "support")
        return classify(phi, features, present)

    def under(batching: Batching) -> Objective:
        def loss(
            phi: ProtoMAMLParams,
            examples: Examples,
            key: Key | None,
            context: Examples | None,
            training: bool = False,
        ) -> tuple[Array, ObjectiveAux]:
            inputs, targets, weights = examples
            if context is not None:
                check_classes(context, examples, ways=ways)
            drawn = key if training else None
            features = apply_queries(encoder, phi.body, inputs, weights, context, batching, drawn)
            support = examples if context is None else context
            present = present_classes(support, phi.biases.shape[0])
            outputs = classify(phi, features, present)
            value = loss_of(outputs, targets, weights)
            if ways is not None and context is not None:
                value = nan_unless_labelled(value, present, context, examples)
            return value, ObjectiveAux(outputs, scores_of(outputs, targets, weights))

        return Objective(encoder.init, loss, predict, keep, batched=under)

    objective = under(query_batching)

    def fit(
        params: Params,
        support: Examples,
        key: Key | None,
        training: bool,
        observe: Callable[[Params], Any] | None,
    ) -> tuple[Params, Any]:
        check_classes(support, ways=ways)
        drawn = start_key(key) if training else None
        features = encoder.apply(params, support.inputs, support.weights, drawn)
        check_embeddings(features, "proto_maml")
        centres = prototypes(features, support.targets, count_ways(support, ways), support.weights)
        return loop.run(
            lambda phi, step_key: objective.loss(phi, support, step_key, None, training=training)[
                0
            ],
            ProtoMAMLParams(params, *linear_reading(centres)),
            per_step=step_keys(key, num_steps),
            observe=observe,
        )

    return gradient_learner(
        objective,
        fit,
        record_steps=record_steps,
        title=f"proto_maml({loop}, ways={ways})",
    )


def fo_proto_maml(
    encoder: Model,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    adapt: Selection | None = None,
    ways: int | None = None,
    loss_fn: LossFn = cross_entropy,
    metrics: Mapping[str, LossFn] | None = None,
    query_batching: Batching = "separate",
    record_steps: bool | Sequence[int] = False,
) -> Learner:
    """First-order Proto-MAML (Triantafillou et al. 2020): `proto_maml` with `first_order=True`."""
    return proto_maml(
        encoder,
        inner=inner,
        num_steps=num_steps,
        first_order=True,
        adapt=adapt,
        ways=ways,
        loss_fn=loss_fn,
        metrics=metrics,
        query_batching=query_batching,
        record_steps=record_steps,
    )
