"""From a recipe to what trains and what is tested."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.nn import initializers

from metajax.algorithms.anil import anil
from metajax.algorithms.boil import boil
from metajax.algorithms.maml import maml
from metajax.algorithms.matching_networks import matching_network
from metajax.algorithms.meta_sgd import meta_sgd
from metajax.algorithms.proto_maml import proto_maml
from metajax.algorithms.prototypical_networks import prototypical_network
from metajax.algorithms.relation_networks import RelationParams, relation_network
from metajax.algorithms.reptile import ReptileParams, reptile
from metajax.algorithms.ridge_head import ridge_head
from metajax.checks.objects import check_instance
from metajax.gradient_learners import observation_of
from metajax.inner.backward import Backward
from metajax.losses import LossFn, cross_entropy, squared_error
from metajax.models.adapters.linen import from_linen
from metajax.models.conv_nets import ConvNet, embedding_net, max_pool_conv_net, strided_conv_net
from metajax.models.full_context_embeddings import full_context
from metajax.models.perceptrons import mlp
from metajax.models.relation_nets import relation_encoder, relation_module
from metajax.query_batching import Batching
from metajax.recipes.records import BY_GRADIENT, Recipe, Training
from metajax.recipes.settings import Inner, Network, Outer
from metajax.types import Learner, Model

_INITIALIZERS = {
    "lecun_normal": initializers.lecun_normal(),
    "normal(0.01)": initializers.normal(0.01),
    "normal(1)": initializers.normal(1.0),
    "ones": initializers.ones,
    "truncated_normal(0.01)": initializers.truncated_normal(0.01),
    "truncated_normal(0.2)": initializers.truncated_normal(0.2),
    "variance_scaling(1/3, fan_in, uniform)": initializers.variance_scaling(
        1 / 3, "fan_in", "uniform"
    ),
    "variance_scaling(2, fan_out, normal)": initializers.variance_scaling(2.0, "fan_out", "normal"),
    "xavier_uniform": initializers.xavier_uniform(),
    "zeros": initializers.zeros,
}


class Built(NamedTuple):
    """What a recipe asks for.

    Attributes:
      learner: to be trained.
      tester: the same as it is tested: with the steps and the batches of the test.
      optimizer: the outer one, for the recipe's number of iterations.
    """

    learner: Learner
    tester: Learner
    optimizer: optax.GradientTransformation


def build(
    recipe: Recipe,
    *,
    record_steps: bool | Sequence[int] = False,
    backward: Backward = Backward(),
) -> Built:
    """The learner, the tester and the optimiser of a recipe.

    >>> import metajax
    >>> recipe = metajax.recipes.find("prototypical", "omniglot", ways=20, shots=1)
    >>> metajax.recipes.build(recipe).learner
    prototypical_network(ways=60, query_batching='joint')

    Args:
      recipe: a recipe; `dataclasses.replace` makes another one of it.
      record_steps: a tester that adapts reports its scores after every inner step, or after these,
        see `metajax.maml`.
      backward: how the learner's exact meta-gradients are computed, see `metajax.Backward`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: the steps of `record_steps` do not rise from 0 on.
    """
    observation_of(record_steps)
    check_instance(backward, Backward, "backward", "a metajax.Backward")
    check_instance(recipe, Recipe, "recipe", "one of metajax.recipes.RECIPES")
    training, testing = recipe.training, recipe.testing
    inner = training.inner
    return Built(
        _learner(
            training,
            ways=training.drawing.ways,
            steps=0 if inner is None else inner.steps,
            batch_size=None if inner is None else inner.batch_size,
            query_batching=training.query_batching,
            backward=backward,
        ),
        _learner(
            training,
            ways=testing.drawing.ways,
            steps=testing.steps,
            batch_size=testing.batch_size,
            query_batching=testing.query_batching,
            record_steps=record_steps,
        ),
        _optimizer(training),
    )


def _learner(
    training: Training,
    *,
    ways: int,
    steps: int,
    batch_size: int | None,
    query_batching: Batching,
    record_steps: bool | Sequence[int] = False,
    backward: Backward = Backward(),
) -> Learner:
    algorithm, network, inner = training.algorithm, training.network, training.inner
    if algorithm not in BY_GRADIENT:
        return _comparing(training, ways, query_batching)
    assert inner is not None
    common: dict[str, Any] = {
        "num_steps": steps,
        "query_batching": query_batching,
        "record_steps": record_steps,
    }
    adapt = None if inner.adapts == "all" else _is_no_statistics
    if algorithm in ("anil", "boil"):
        body = from_linen(
            ConvNet(None, pooling="stride", features=network.features, **_convolutions(network))
        )
        head = mlp((ways,), stddev=_stddev(network))
        return (anil if algorithm == "anil" else boil)(
            body, head, inner=_inner_optimizer(inner), backward=backward, **common
        )
    if algorithm in ("proto_maml", "fo_proto_maml"):
        return proto_maml(
            _encoder(network),
            inner=_inner_optimizer(inner),
            first_order=algorithm == "fo_proto_maml",
            backward=backward,
            adapt=adapt,
            ways=ways,
            **common,
        )
    model = _classifier(network, ways)
    loss_fn: LossFn = squared_error if training.data == "sinusoids" else cross_entropy
    if algorithm == "meta_sgd":
        return meta_sgd(model, rate=inner.rate, backward=backward, loss_fn=loss_fn, **common)
    if algorithm == "reptile":
        return reptile(
            model,
            inner=_inner_optimizer(inner),
            adapt=adapt,
            carry_state=True,
            batch_size=batch_size,
            loss_fn=loss_fn,
            **common,
        )
    return maml(
        model,
        inner=_inner_optimizer(inner),
        first_order=algorithm == "fomaml",
        backward=backward,
        adapt=adapt,
        loss_fn=loss_fn,
        **common,
    )


def _comparing(training: Training, ways: int, query_batching: Batching) -> Learner:
    network = training.network
    if training.algorithm == "relation":
        convolutions = _convolutions(network)
        encoder = relation_encoder(**convolutions)
        relation = relation_module(padding=network.padding, **convolutions, **_dense(network))
        return relation_network(encoder, relation, ways=ways, query_batching=query_batching)
    encoder, context = _encoder(network), None
    if training.full_context != "none":
        context = full_context(_width(training), start=training.full_context)
    if training.algorithm == "prototypical":
        return prototypical_network(encoder, ways=ways, query_batching=query_batching)
    if training.algorithm == "ridge_head":
        return ridge_head(encoder, ways=ways, query_batching=query_batching)
    return matching_network(
        encoder,
        normalize=training.normalize,
        temperature=training.temperature,
        full_context=context,
        ways=ways,
        query_batching=query_batching,
    )


def _classifier(network: Network, ways: int) -> Model:
    if network.architecture == "perceptron":
        return mlp((*network.widths, ways), stddev=_stddev(network))
    convolutions, dense = _convolutions(network), _dense(network)
    if network.architecture == "strided":
        return strided_conv_net(ways, features=network.features, **convolutions, **dense)
    return max_pool_conv_net(
        ways,
        pool_padding=network.pool_padding,
        pool_first=network.pool_first,
        **convolutions,
        **dense,
    )


def _convolutions(network: Network) -> dict[str, Any]:
    return {
        "filters": network.filters,
        "use_scale": network.use_scale,
        "epsilon": network.epsilon,
        "kernel_init": _INITIALIZERS[network.kernel_init],
    }


def _dense(network: Network) -> dict[str, Any]:
    return {
        "head_kernel_init": _INITIALIZERS[network.head_kernel_init],
        "head_bias_init": _INITIALIZERS[network.head_bias_init],
    }


def _stddev(network: Network) -> float:
    """Of a head that is a perceptron's."""
    return float(network.head_kernel_init.removeprefix("truncated_normal(").removesuffix(")"))


def _encoder(network: Network) -> Model:
    return embedding_net(**_convolutions(network))


def _is_no_statistics(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    del leaf
    return "BatchStatistics" not in path


def _inner_optimizer(inner: Inner) -> optax.GradientTransformation:
    if inner.optimizer == "sgd":
        return optax.sgd(inner.rate)
    # The Reptile authors' Adam with beta1 = 0, its second moment carried from task to task.
    return optax.rmsprop(
        inner.rate, decay=inner.decay, eps=1e-8, eps_in_sqrt=False, initial_scale=1e-3
    )


def _optimizer(training: Training) -> optax.GradientTransformation:
    outer, iterations = training.outer, training.iterations
    if outer.clip_modules:
        each: dict[Hashable, optax.GradientTransformation] = {}
        labels = RelationParams("encoder", "relation")
        for label in labels:
            each[label] = _clipped(outer, iterations)
        return optax.partition(each, labels)
    if training.inner is not None and training.inner.carried == "replaced":
        parts: dict[Hashable, optax.GradientTransformation] = {
            "model": _clipped(outer, iterations),
            "state": optax.sgd(1.0),
        }
        labels = ReptileParams("model", "state")  # pyright: ignore[reportArgumentType]
        return optax.partition(parts, labels)
    return _clipped(outer, iterations)


def _clipped(outer: Outer, iterations: int) -> optax.GradientTransformation:
    parts = []
    if outer.clip_values is not None:
        parts.append(optax.clip(outer.clip_values))
    if outer.clip is not None:
        parts.append(optax.clip_by_global_norm(outer.clip))
    if outer.weight_decay:
        parts.append(optax.add_decayed_weights(outer.weight_decay))
    rate = _schedule(outer, iterations)
    parts.append(optax.adam(rate) if outer.optimizer == "adam" else optax.sgd(rate))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _schedule(outer: Outer, iterations: int) -> optax.ScalarOrSchedule:
    if outer.schedule == "cosine":
        return optax.cosine_decay_schedule(outer.rate, iterations)
    if outer.schedule == "linear":
        return optax.linear_schedule(outer.rate, 0.0, iterations)
    if outer.every is not None:
        return optax.exponential_decay(outer.rate, outer.every, outer.factor, staircase=True)
    return outer.rate


def _width(training: Training) -> int:
    """Of the embeddings: four times the image is halved, from 28 px to one."""
    return training.network.filters * ((training.pixels or 28) // 16) ** 2
