"""Proto-MAML: hand-unrolled oracles, the prototypical network at 0 steps, padding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from metric_cases import QUERY_LABELS, SUPPORT_LABELS, padded, start

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
WAYS, INPUTS, FEATURES, RATE, STEPS = 3, 4, 3, 0.3, 2


def tanh_encoder() -> mj.Model:
    """One layer, so that the oracle's encoder is one line."""

    def init(key: Array, inputs: Array) -> dict[str, Array]:
        kernel = jax.random.normal(key, (inputs.shape[-1], FEATURES))
        return {"kernel": kernel, "bias": jnp.zeros(FEATURES)}

    return mj.Model(init, encode)


def encode(params: dict[str, Array], inputs: Array) -> Array:
    return jnp.tanh(inputs @ params["kernel"] + params["bias"][None])


def conv_encoder() -> mj.Model:
    return mj.models.from_linen(mj.models.ConvNet(None, 4, blocks=1))


def learner(encoder: mj.Model, **options: Any) -> mj.Learner:
    defaults = {"inner": optax.sgd(RATE), "num_steps": STEPS, "ways": WAYS}
    return mj.proto_maml(encoder, **(defaults | options))


def slope(learner: mj.Learner) -> Callable[[Any, mj.Episode], tuple[tuple[Array, mj.Aux], Any]]:
    return jax.jit(jax.value_and_grad(learner.loss, has_aux=True))


class Phi(NamedTuple):
    """Body and head."""

    body: Any
    head: Array
    biases: Array


def logits(phi: Phi, inputs: Array, embed: Callable = encode) -> Array:
    features = embed(phi.body, inputs)
    columns = [(features * phi.head[:, k][None]).sum(axis=1) + phi.biases[k] for k in range(WAYS)]
    return jnp.stack(columns, axis=1)


def loss(phi: Phi, examples: mj.Examples, embed: Callable = encode) -> Array:
    return oracles.mean_cross_entropy(logits(phi, examples.inputs, embed), examples.targets)


def unchanged(tree: Any) -> Any:
    return tree


def unrolled(
    theta: Any,
    episode: mj.Episode,
    steps: int,
    *,
    through_steps: Callable = unchanged,
    through_head: Callable = unchanged,
    embed: Callable = encode,
    still: tuple[str, ...] = (),
) -> list[Phi]:
    """`[phi_0, ..., phi_n]`; two functions cut the gradient, or do not. `still` is not adapted."""
    features = embed(theta, episode.support.inputs)
    centres = [
        sum(features[i] for i in np.flatnonzero(k == SUPPORT_LABELS)) / np.sum(k == SUPPORT_LABELS)
        for k in range(WAYS)
    ]
    head = jnp.stack([2 * centre for centre in centres], axis=1)
    biases = jnp.stack([-(centre * centre).sum() for centre in centres])
    path = [Phi(theta, *through_head((head, biases)))]
    for _ in range(steps):
        gradient = through_steps(jax.grad(loss)(path[-1], episode.support, embed))
        gradient.body.update({name: jnp.zeros_like(theta[name]) for name in still})
        path.append(jax.tree.map(lambda p, g: p - RATE * g, path[-1], gradient))
    return path


def adapted_path(theta: Any, episode: mj.Episode) -> list[Phi]:
    return jax.jit(lambda theta: unrolled(theta, episode, STEPS))(theta)


def unrolled_slope(theta: Any, episode: mj.Episode, **cuts: Callable) -> tuple[Array, Any]:
    def meta_loss(theta: Any) -> Array:
        return loss(unrolled(theta, episode, STEPS, **cuts)[-1], episode.query)

    return jax.jit(jax.value_and_grad(meta_loss))(theta)


def gap(first: Any, second: Any) -> float:
    """The smallest over the leaves of the largest difference in a leaf."""
    return min(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), first, second)))


# As Meta-Dataset runs it: batch statistics, those of the support for queries too, and scale and
# offset not adapted.

EPSILON = 0.1
ADAPTED = ("body/kernel", "weights", "biases")


def statistics_encoder() -> mj.Model:
    """One layer with batch normalisation."""

    def init(key: Array, inputs: Array) -> dict[str, Array]:
        kernel = jax.random.normal(key, (inputs.shape[-1], FEATURES))
        return {"kernel": kernel, "scale": jnp.ones(FEATURES), "offset": jnp.zeros(FEATURES)}

    def apply(params: dict[str, Array], inputs: Array, weights: Array | None) -> Array:
        hidden = inputs @ params["kernel"]
        weights = jnp.ones(len(inputs)) if weights is None else weights
        shares = (weights / weights.sum())[:, None]
        mean = (shares * hidden).sum(axis=0, keepdims=True)
        variance = (shares * (hidden - mean) ** 2).sum(axis=0, keepdims=True)
        normal = (hidden - mean) / jnp.sqrt(variance + EPSILON)
        return jnp.tanh(params["scale"][None] * normal + params["offset"][None])

    return mj.Model(init, apply)


def by_moments_of(known: Array, through_moments: Callable = unchanged) -> Callable:
    """The same encoder, whose statistics are those of the items `known`."""

    def embed(params: dict[str, Array], inputs: Array) -> Array:
        features = known @ params["kernel"]
        mean, variance = through_moments((features.mean(axis=0), features.var(axis=0)))
        normal = (inputs @ params["kernel"] - mean[None]) / jnp.sqrt(variance + EPSILON)[None]
        return jnp.tanh(params["scale"][None] * normal + params["offset"][None])

    return embed


@pytest.mark.parametrize("first_order", [False, True], ids=["exact", "first_order"])
def test_moments_of_the_support_normalise_queries_and_gradients_go_through(
    first_order: bool,
) -> None:
    params, episode = start(statistics_encoder(), INPUTS)
    known = episode.support.inputs
    junk = episode._replace(support=padded(episode.support, [0, 2, -1], 0))
    ours = learner(
        statistics_encoder(), adapt=ADAPTED, query_batching="support", first_order=first_order
    )
    (value, aux), gradient = slope(ours)(params, junk)

    def expected(through_moments: Callable) -> tuple[tuple[Array, Phi], Any]:
        embed = by_moments_of(known, through_moments)

        def meta_loss(theta: Any) -> tuple[Array, Phi]:
            last = unrolled(
                theta,
                episode,
                STEPS,
                through_steps=jax.lax.stop_gradient if first_order else unchanged,
                embed=embed,
                still=("scale", "offset"),
            )[-1]
            return loss(last, episode.query, embed), last

        return jax.jit(jax.value_and_grad(meta_loss, has_aux=True))(params)

    (oracle, last), slopes = expected(unchanged)
    oracles.assert_close((value, gradient), (oracle, slopes))
    oracles.assert_close(aux.outputs, logits(last, episode.query.inputs, by_moments_of(known)))
    assert gap(gradient, expected(jax.lax.stop_gradient)[1]) > 1e-3
    # Scale and offset are learned, and no task moves them.
    assert gap(gradient, jax.tree.map(jnp.zeros_like, gradient)) > 1e-3
    task = jax.jit(ours.adapt)(params, junk.support)
    oracles.assert_close(Phi(*task.params), last)
    assert all((task.params.body[name] == params[name]).all() for name in ("scale", "offset"))
    assert gap(task.params.body["kernel"], params["kernel"]) > 1e-3


def test_under_the_support_no_query_sees_another() -> None:
    params, episode = start(conv_encoder(), 6, 6, 1)
    options = {"adapt": ("body/Conv_*", "weights", "biases")}
    ours = learner(conv_encoder(), query_batching="support", **options)
    run = jax.jit(lambda episode: ours.loss(params, episode)[1].outputs)
    outputs = run(episode)
    others = episode.query._replace(inputs=episode.query.inputs.at[1:].multiply(50.0))
    oracles.assert_close(run(episode._replace(query=others))[0], outputs[0])
    task = ours.adapt(params, episode.support)
    for index in range(len(QUERY_LABELS)):
        one = episode.query.inputs[index : index + 1]
        oracles.assert_close(ours.predict(params, task, one)[0], outputs[index])
    statistics = "BatchStatistics_0"
    for name in ("scale", "bias"):
        assert (task.params.body[statistics][name] == params[statistics][name]).all()
    assert gap(task.params.body["Conv_0"], params["Conv_0"]) > 1e-3
    separate = jax.jit(learner(conv_encoder(), **options).loss)(params, episode)[1].outputs
    assert jnp.abs(separate - outputs).max() > 1e-3


def test_meta_gradient_is_the_unrolled_loops() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    stop = jax.lax.stop_gradient
    exact = unrolled_slope(params, episode)
    first_order = unrolled_slope(params, episode, through_steps=stop)
    constant_head = unrolled_slope(params, episode, through_steps=stop, through_head=stop)
    last = adapted_path(params, episode)[-1]
    for cut, expected in ((False, exact), (True, first_order)):
        (value, aux), gradient = slope(learner(tanh_encoder(), first_order=cut))(params, episode)
        oracles.assert_close((value, gradient), expected)
        oracles.assert_close(aux.outputs, logits(last, episode.query.inputs))
        correct = aux.outputs.argmax(axis=1) == QUERY_LABELS
        oracles.assert_close(aux.metrics["accuracy"], correct.mean())
    # Gradient does flow through the initial head, and the second-order term is no rounding error.
    assert gap(first_order[1], jax.tree.map(jnp.zeros_like, params)) > 1e-3
    assert gap(first_order[1], constant_head[1]) > 1e-3
    assert gap(exact[1], first_order[1]) > 1e-3


def test_fo_proto_maml_is_first_order_proto_maml() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    named = mj.fo_proto_maml(
        tanh_encoder(), inner=optax.sgd(RATE), num_steps=STEPS, ways=WAYS, record_steps=True
    )
    general = learner(tanh_encoder(), first_order=True, record_steps=True)
    oracles.assert_close(
        *(
            (value, aux.metrics, gradient)
            for (value, aux), gradient in (slope(one)(params, episode) for one in (named, general))
        )
    )


def test_meta_gradient_is_the_finite_difference() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    run = slope(learner(tanh_encoder()))
    _, gradient = run(params, episode)
    for seed in range(3):
        direction = oracles.normal_like(seed, params)
        difference = oracles.central_difference(lambda p: run(p, episode)[0][0], params, direction)
        np.testing.assert_allclose(oracles.dot(gradient, direction), difference, rtol=1e-6)


@pytest.mark.parametrize("first_order", [False, True], ids=["exact", "first_order"])
def test_without_steps_it_is_the_prototypical_network(first_order: bool) -> None:
    params, episode = start(conv_encoder(), 6, 6, 1)
    prototypical = mj.prototypical_network(conv_encoder(), ways=WAYS, query_batching="separate")
    (expected, expected_aux), expected_gradient = slope(prototypical)(params, episode)
    ours = learner(conv_encoder(), num_steps=0, first_order=first_order)
    (value, aux), gradient = slope(ours)(params, episode)
    oracles.assert_close((value, gradient), (expected, expected_gradient))
    constant = np.asarray(aux.outputs - expected_aux.outputs)
    assert np.ptp(constant, axis=1).max() < 1e-12
    assert constant.min() > 1e-3  # ||f(x)||^2
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])


def test_body_and_head_are_both_adapted() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    task = jax.jit(learner(tanh_encoder()).adapt)(params, episode.support)
    first, *_, last = adapted_path(params, episode)
    adapted = Phi(task.params.body, task.params.weights, task.params.biases)
    oracles.assert_close(adapted, last)
    assert gap(adapted, first) > 1e-3
    outputs = learner(tanh_encoder()).predict(params, task, episode.query.inputs)
    oracles.assert_close(outputs, logits(last, episode.query.inputs))


def test_recorded_steps_are_runs_of_that_many_steps() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    value, aux = jax.jit(learner(tanh_encoder(), record_steps=True).loss)(params, episode)
    path = adapted_path(params, episode)
    losses = jnp.stack([loss(phi, episode.query) for phi in path])
    oracles.assert_close(aux.metrics["query_loss_per_step"], losses)
    assert np.abs(np.diff(losses)).min() > 1e-3
    scores = [
        np.mean(logits(phi, episode.query.inputs).argmax(axis=1) == QUERY_LABELS) for phi in path
    ]
    oracles.assert_close(aux.metrics["accuracy_per_step"], np.array(scores))
    oracles.assert_close(value, losses[-1])


def test_an_inner_rate_may_be_traced_and_differentiated() -> None:
    params, episode = start(tanh_encoder(), INPUTS)

    def value(rate: Array | float) -> Array:
        return learner(tanh_encoder(), inner=optax.sgd(rate)).loss(params, episode)[0]

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(value)))(jnp.array([0.0, RATE]))
    path = adapted_path(params, episode)
    expected = [loss(path[0], episode.query), loss(path[-1], episode.query)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    run = jax.jit(value)
    difference = oracles.central_difference(run, jnp.asarray(RATE), jnp.asarray(1.0))
    np.testing.assert_allclose(slopes[1], difference, rtol=1e-6)


def test_without_ways_there_is_a_column_for_every_possible_class() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    (value, aux), gradient = slope(learner(tanh_encoder(), ways=None))(params, episode)
    expected = unrolled_slope(params, episode)
    assert aux.outputs.shape == (len(QUERY_LABELS), len(SUPPORT_LABELS))
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close((value, gradient), expected)


@pytest.mark.parametrize("first_order", [False, True], ids=["exact", "first_order"])
def test_padding_counts_for_nothing(first_order: bool) -> None:
    params, episode = start(conv_encoder(), 6, 6, 1)
    # Rows of real classes, of a whole padded class (3), and of no class at all.
    support = padded(episode.support, [0, 3, 3, -1], 0)
    query = padded(episode.query, [3, 99, 1], 2)
    runs = [
        slope(learner(conv_encoder(), ways=ways, first_order=first_order))
        for ways in (WAYS + 1, WAYS)
    ]
    (value, aux), gradient = runs[0](params, mj.Episode(support, query))
    (expected, expected_aux), expected_gradient = runs[1](params, episode)
    oracles.assert_close((value, gradient), (expected, expected_gradient))
    oracles.assert_close(aux.outputs[query.weights > 0, :WAYS], expected_aux.outputs)
    np.testing.assert_array_equal(aux.outputs[:, WAYS:], -np.inf)
    oracles.assert_close(aux.metrics["accuracy"], expected_aux.metrics["accuracy"])


def test_the_head_alone_is_a_partition() -> None:
    params, episode = start(tanh_encoder(), INPUTS)
    labels = mj.ProtoMAMLParams("still", "moving", "moving")
    rules = {"moving": optax.sgd(RATE), "still": optax.set_to_zero()}
    got, expected = (
        slope(learner(tanh_encoder(), **options))(params, episode)
        for options in (
            {"adapt": ("weights", "biases")},
            {"inner": optax.partition(rules, labels)},
        )
    )
    oracles.assert_close(got, expected)
    with pytest.raises(ValueError, match=r"adapt='head' fits no parameter; there are body/bias"):
        learner(tanh_encoder(), adapt="head").loss(params, episode)
