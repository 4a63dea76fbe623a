"""The diagnosis: its figures by hand, the cause of what is broken, silence on what is not."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import LEARNERS, WAYS, encoder, episode, model

import metajax as mj
from metajax.inspection.dead_units import active_units, merged

ROWS = {row.name: row for row in LEARNERS}
# A word or two of each finding.
CAUSES = {
    "not finite": "Not finite",
    "rate": "inner rate is too large",
    "sign": "along the gradient",
    "labels": "numbered differently",
    "left out": "leaves out",
    "no gradient": "exactly 0 at every step",
    "dead": "Dead units",
    "constant": "the same outputs",
    "batch": "share a batch",
    "alone": "answered alone",
    "small rate": "inner rate is too small",
    "chance": "at chance",
    "no fall": "does not fall",
}
Sample = Callable[[jax.Array], mj.Episode]


def causes(diagnosis: mj.Diagnosis) -> set[str]:
    """What the findings are about; each is known by its words."""
    return {
        next(name for name, text in CAUSES.items() if text in finding)
        for finding in diagnosis.findings
    }


@functools.cache
def adapting() -> mj.Learner:
    """MAML whose rates are among its parameters, so that one program serves many set-ups."""
    return mj.meta_sgd(model(), num_steps=2, rate=0.1, granularity="leaf")


@functools.cache
def comparing() -> mj.Learner:
    return mj.prototypical_network(encoder())


def initial(learner: mj.Learner) -> Any:
    return jax.jit(learner.init)(jax.random.key(1), episode(jax.random.key(0)).support.inputs)


def at_rates(**rates: float) -> Any:
    """Parameters of `adapting`, with other rates of some layers."""
    params = initial(adapting())
    changed = {
        layer: {name: jnp.full_like(x, rate) for name, x in params.rates[layer].items()}
        for layer, rate in rates.items()
    }
    return params._replace(rates={**params.rates, **changed})


def moved(params: Any, layer: str, leaf: str, change: Callable[[jax.Array], jax.Array]) -> Any:
    """A net's parameters with another array in a layer."""
    return {**params, layer: {**params[layer], leaf: change(params[layer][leaf])}}


def diagnose(
    learner: mj.Learner, params: Any, sample: Sample = episode, *, seed: int = 0
) -> mj.Diagnosis:
    return mj.diagnose(learner, params, sample, episodes=16, seed=seed)


@functools.cache
def trained(name: str, sample: Sample = episode) -> Any:
    learner, optimizer = ROWS[name].learner(), optax.adam(3e-3)
    state = mj.init_state(initial(learner), optimizer, jax.random.key(2))
    options = {"iterations": 150, "meta_batch": 4, "dispatch": 150, "progress": False}
    return mj.train(learner, optimizer, state, sample, **options).state.params


def swapped(key: jax.Array) -> mj.Episode:
    """Query labels are one further than those of the support set."""
    support, query = episode(key)
    return mj.Episode(support, query._replace(targets=(query.targets + 1) % WAYS))


def renumbered(key: jax.Array) -> mj.Episode:
    """Query labels are numbered anew in every episode."""
    support, query = episode(key)
    numbers = jax.random.permutation(jax.random.fold_in(key, 1), WAYS)
    return mj.Episode(support, query._replace(targets=numbers[query.targets]))


def test_figures_by_hand(float64: None) -> None:
    learner = mj.maml(model(), inner=optax.sgd(0.2), num_steps=2, first_order=True)
    params = jax.tree.map(jnp.float64, initial(learner))
    found = mj.diagnose(learner, params, episode, episodes=2, seed=3)

    def scores(phi: Any, examples: mj.Examples) -> tuple[jax.Array, jax.Array]:
        outputs = model().apply(phi, examples.inputs)
        targets = examples.targets
        return mj.cross_entropy(outputs, targets), mj.accuracy(outputs, targets)

    @jax.jit
    def by_hand(support: mj.Examples, query: mj.Examples) -> jax.Array:
        phi, steps = params, []
        for _ in range(3):
            slope = jax.grad(lambda phi: scores(phi, support)[0])(phi)
            norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(slope)))
            steps.append(jnp.stack([*scores(phi, support), *scores(phi, query), norm]))
            phi = jax.tree.map(lambda x, y: x - 0.2 * y, phi, slope)
        return jnp.stack(steps)

    keys = mj.task_keys(jax.random.key(3), 2)
    expected = np.mean([by_hand(*episode(jax.random.split(key)[0])) for key in keys], axis=0)
    names = ("support_loss", "support_accuracy", "query_loss", "query_accuracy", "gradient_norm")
    for name, curve in zip(names, expected.T, strict=True):
        np.testing.assert_allclose(getattr(found, name), curve, rtol=1e-10, err_msg=name)
    assert found.unmoved == {}
    assert found.chance == pytest.approx(1 / WAYS)


@pytest.mark.parametrize("learner", [adapting, comparing])
def test_accuracies_are_those_of_evaluate(learner: Callable[[], mj.Learner]) -> None:
    params = initial(learner())
    found = diagnose(learner(), params, seed=2)
    scores = mj.evaluate(learner(), params, episode, episodes=16, seed=2)
    for value in (found.accuracy, found.predicted_accuracy, found.query_accuracy[-1]):
        np.testing.assert_allclose(value, scores.mean("accuracy"), rtol=1e-5)
    np.testing.assert_allclose(found.query_loss[-1], scores.mean("query_loss"), rtol=1e-5)
    assert found.findings == ()
    assert "nothing looks wrong" in repr(found)


def test_dead_units_of_a_net_made_by_hand() -> None:
    weights = jnp.eye(4)

    def net(x: jax.Array) -> jax.Array:
        first = jax.nn.relu(x @ weights)
        second = jax.checkpoint(jax.jit(lambda x: jnp.maximum(0, x)))(-first - 1)
        third, _ = jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), first, weights[None])
        return (jax.vmap(jax.nn.relu)(third) + second).sum()

    # The second unit is above 0 for the last item alone, the fourth never.
    inputs = jnp.array([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 2.0, 0.0, 0.0]])
    first, second, third, fourth = map(np.asarray, active_units(net, inputs))
    for units in (first, third, fourth):
        np.testing.assert_array_equal(units, [True, True, True, False])
    assert not second.any()
    # The second set goes through one more, after the first.
    whole = [jnp.array([False, False, True]), jnp.array([True])]
    either = merged([jnp.array([True, False, False])], whole)
    assert [x.tolist() for x in either] == [[True, False, True], [True]]
    assert len(merged([jnp.array([True])], whole)) == 3


def test_dead_units_are_found() -> None:
    params = initial(adapting())
    some = moved(params.model, "Dense_0", "bias", lambda x: x.at[:4].add(-100))
    found = diagnose(adapting(), params._replace(model=some))
    assert 4 / 16 <= found.dead_units[0] < 6 / 16
    assert found.findings == ()
    dead = moved(params.model, "Dense_0", "bias", lambda x: x - 100)
    found = diagnose(adapting(), params._replace(model=dead))
    assert found.dead_units.tolist() == [1]
    assert found.zero_gradient > 0.9
    assert found.unmoved["Dense_0/kernel"] == "zero gradient"
    assert causes(found) == {"dead", "constant", "no gradient"}
    dead = moved(initial(comparing()), "Dense_0", "bias", lambda x: x - 100)
    assert causes(diagnose(comparing(), dead)) == {"dead", "constant"}


def test_inner_rates() -> None:
    def found(rate: float) -> mj.Diagnosis:
        return diagnose(adapting(), at_rates(Dense_0=rate, Dense_1=rate))

    assert causes(found(0.1)) == set()
    assert causes(found(30.0)) == {"rate"}
    assert causes(found(-0.1)) == {"sign"}
    assert causes(found(1e-5)) == {"small rate"}
    diverged = found(1e20)
    assert causes(diverged) == {"not finite"}
    assert "the inner rate is too large" in diverged.findings[0]
    assert diverged.non_finite == "the support loss after 1 of 2 inner steps, in 16 of 16 episodes"


@pytest.mark.parametrize("sample", [swapped, renumbered])
def test_labels_of_other_numbers(sample: Sample) -> None:
    found = diagnose(adapting(), initial(adapting()), sample)
    assert causes(found) == {"labels"}
    assert found.raw_renumbered > 0.9 > 0.5 > found.raw_accuracy
    assert found.renumbered_accuracy > 0.7 > 0.6 > found.renumbered_chance
    assert causes(diagnose(comparing(), initial(comparing()), sample)) == {"labels"}


def test_labels_of_other_numbers_where_raw_inputs_say_nothing() -> None:
    def sizes(params: jax.Array, inputs: jax.Array) -> jax.Array:
        return params * inputs.reshape(inputs.shape[0], -1) ** 2

    def signs(key: jax.Array) -> mj.Episode:
        support, query = swapped(key)
        flips = jax.random.rademacher(key, (WAYS * 4, 1, 1, 1), jnp.float32)
        return mj.Episode(support, query._replace(inputs=query.inputs * flips))

    learner = mj.prototypical_network(mj.Model(lambda key: jnp.ones(()), sizes))
    found = diagnose(learner, jnp.ones(()), signs)
    assert found.raw_renumbered < 0.8
    assert causes(found) == {"labels"}


def test_a_frozen_head() -> None:
    params = at_rates(Dense_0=0.01, Dense_1=0.0)
    found = diagnose(adapting(), params)
    assert causes(found) == {"left out"}
    assert found.unmoved == {f"Dense_1/{name}": "left out" for name in ("bias", "kernel")}
    zeros = moved(params.model, "Dense_1", "kernel", jnp.zeros_like)
    found = diagnose(adapting(), params._replace(model=zeros))
    assert causes(found) == {"left out", "no gradient", "constant"}


@pytest.mark.slow
def test_a_head_frozen_by_a_choice_or_a_mask() -> None:
    def of_head(params: Any) -> Any:
        return {
            layer: jax.tree.map(lambda x, layer=layer: layer == "Dense_1", leaves)
            for layer, leaves in params.items()
        }

    masked = optax.chain(optax.sgd(0.01), optax.masked(optax.set_to_zero(), of_head))
    params = initial(adapting()).model
    for learner in (
        mj.maml(model(), inner=optax.sgd(0.01), num_steps=2, adapt="Dense_0"),
        mj.maml(model(), inner=masked, num_steps=2),
    ):
        found = diagnose(learner, params)
        assert causes(found) == {"left out"}
        assert "Dense_1/kernel" in found.findings[0]


def centred(inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Inputs less the mean of their batch."""
    flat = inputs.reshape(inputs.shape[0], -1)
    counted = jnp.ones(flat.shape[0]) if weights is None else weights
    return flat - (counted @ flat / counted.sum())[None]


def test_statistics_of_the_batch() -> None:
    def apply(params: jax.Array, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        return params * centred(inputs, weights)

    def offset(key: jax.Array) -> mj.Episode:
        """The queries of an episode are all moved by the same pattern."""
        support, query = episode(key)
        pattern = 20 * jax.random.normal(jax.random.fold_in(key, 1), query.inputs.shape[1:])
        return mj.Episode(support, query._replace(inputs=query.inputs + pattern[None]))

    net = mj.Model(lambda key: jnp.ones(()), apply)
    single, separate = (
        diagnose(mj.prototypical_network(net, query_batching=batching), jnp.ones(()), offset)
        for batching in ("single", "separate")
    )
    assert causes(single) == {"batch"}
    assert 'query_batching="separate"' in single.findings[0]
    assert [*single.batchings] == ["separate", "joint", "single", "support"]
    assert causes(separate) == {"alone"}
    assert separate.accuracy == separate.batchings["separate"] > 0.9
    assert separate.predicted_accuracy == separate.batchings["support"] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "reptile_carry", "proto_maml"])
def test_an_adapted_task_is_asked_under_every_batching(name: str) -> None:
    net = model() if name != "proto_maml" else encoder()

    def apply(params: Any, inputs: jax.Array, weights: jax.Array | None) -> jax.Array:
        return net.apply(params, centred(inputs, weights))

    whole = mj.Model(net.init, apply)
    makers = {
        "maml": mj.maml,
        "proto_maml": mj.proto_maml,
        "reptile_carry": functools.partial(mj.reptile, carry_state=True),
    }
    found, scores = {}, {}
    for batching in ("separate", "joint"):
        learner = makers[name](whole, inner=optax.sgd(0.1), num_steps=1, query_batching=batching)
        params = initial(learner)
        found[batching] = diagnose(learner, params)
        scores[batching] = mj.evaluate(learner, params, episode, episodes=16).mean("accuracy")
    for diagnosis in found.values():
        assert [*diagnosis.batchings] == ["separate", "joint", "single", "support"]
        for batching, score in scores.items():
            np.testing.assert_allclose(diagnosis.batchings[batching], score, rtol=1e-5)


@pytest.mark.slow
def test_each_query_normalised_by_itself() -> None:
    images = mj.data.glyphs("train", drawers=6)
    sample = mj.data.image_episodes(images, ways=5, shots=1, queries=5)
    net = mj.models.strided_conv_net(5, filters=8)
    learner = mj.maml(net, inner=optax.sgd(0.4), num_steps=1)
    params = jax.jit(learner.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    optimizer = optax.adam(3e-3)
    state = mj.init_state(params, optimizer, jax.random.key(1))
    options = {"iterations": 100, "meta_batch": 4, "dispatch": 100, "progress": False}
    params = mj.train(learner, optimizer, state, sample, **options).state.params
    healthy = diagnose(learner, params, sample)
    assert healthy.findings == ()
    assert len(healthy.dead_units) == 4

    def lonely(params: Any, episode: mj.Episode, key: Any = None, training: Any = None) -> Any:
        task = learner.adapt(params, episode.support)
        scores = jax.vmap(lambda x: net.apply(task.params, x[None])[0])(episode.query.inputs)
        return mj.cross_entropy(scores, episode.query.targets), mj.Aux(scores, {})

    found = diagnose(learner._replace(loss=lonely), params, sample)
    assert "batch" in causes(found)
    assert found.accuracy < 0.4 < healthy.accuracy


def test_regression() -> None:
    net = mj.models.mlp((20, 1), stddev=0.5)
    sample = mj.data.sinusoid_episodes(shots=5, queries=5)
    learner = mj.meta_sgd(net, num_steps=3, rate=0.01, granularity="leaf", loss_fn=mj.squared_error)
    params = learner.init(jax.random.key(0), sample(jax.random.key(0)).support.inputs)
    found = diagnose(learner, params, sample)
    assert found.support_loss.shape == (4,)
    assert (found.accuracy, found.chance, found.raw_accuracy) == (None, None, None)
    assert "accuracy" not in repr(found)
    far = params._replace(rates=jax.tree.map(lambda x: 1e4 * x, params.rates))
    assert causes(diagnose(learner, far, sample)) <= {"rate", "not finite"} != set()


def test_a_policy() -> None:
    def loss(params: jax.Array, examples: mj.Examples, key: jax.Array, context: Any) -> Any:
        missed = params[None] + jax.random.normal(key, (8, 2)) - examples.inputs
        return (missed**2).mean(), mj.ObjectiveAux(None, {})

    def sample(key: jax.Array) -> mj.Episode:
        goal = mj.Examples(jax.random.normal(key, (1, 2)), jnp.zeros(1))
        return mj.Episode(goal, goal)

    policy = mj.Objective(lambda key: jnp.zeros(2), loss, lambda params, inputs, kept: inputs)
    learner = mj.maml(policy, inner=optax.sgd(0.1), num_steps=1)
    found = diagnose(learner, jnp.zeros(2), sample)
    assert found.findings == ()
    assert found.query_loss[1] < found.query_loss[0]
    assert (found.accuracy, found.batchings, found.constant_outputs) == (None, None, None)


def test_a_learner_made_by_hand() -> None:
    found = diagnose(adapting()._replace(inspect=None), initial(adapting()), swapped)
    assert causes(found) == {"labels"}
    assert (found.support_loss, found.dead_units, found.batchings) == (None, None, None)
    assert found.query_loss.shape == (1,)


def test_bad_parameters_and_inputs() -> None:
    params = initial(adapting())
    bad = moved(params.model, "Dense_0", "bias", lambda x: x.at[0].set(jnp.nan))
    found = diagnose(adapting(), params._replace(model=bad))
    assert found.non_finite == "the meta-parameters, model/Dense_0/bias"

    def dirty(key: jax.Array) -> mj.Episode:
        support, query = episode(key)
        return mj.Episode(support, query._replace(inputs=query.inputs.at[0].set(jnp.inf)))

    found = diagnose(adapting(), params, dirty)
    assert causes(found) == {"not finite"}
    assert found.non_finite.startswith("the inputs, in 16 of 16")


def test_padding_counts_for_nothing() -> None:
    def unequal(key: jax.Array) -> mj.Episode:
        """Of the last class one query is left."""
        support, query = episode(key)
        return mj.Episode(support, jax.tree.map(lambda x: x[: WAYS * 4 - 3], query))

    def padded(key: jax.Array) -> mj.Episode:
        support, query = unequal(key)
        weights = jnp.ones(WAYS * 4).at[WAYS * 4 - 3 :].set(0)
        more = jax.tree.map(lambda x: jnp.concatenate([x, jnp.full_like(x[:3], -1)]), query)
        return mj.Episode(support, more._replace(weights=weights))

    params = initial(comparing())
    one, other = (diagnose(comparing(), params, sample) for sample in (unequal, padded))
    assert one.chance == pytest.approx(4 / 9)
    for name in ("chance", "accuracy", "raw_accuracy", "renumbered_accuracy"):
        assert getattr(one, name) == pytest.approx(getattr(other, name)), name
    assert one.findings == other.findings == ()


@pytest.mark.slow
def test_samplers_of_lists_and_of_the_host() -> None:
    images = mj.data.glyphs("train", drawers=6)
    options = {"ways": WAYS, "shots": 2, "queries": 4}
    near = mj.data.image_episodes(images, **options)
    learner = comparing()
    params = learner.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    drawn = jax.vmap(near.draw)(mj.task_keys(jax.random.key(3), 20))
    for samples in (
        [mj.data.image_episodes(images, **options, place=place) for place in ("device", "host")],
        [mj.data.listed_episodes(images, drawn, place=place) for place in ("device", "host")],
    ):
        one, other = (diagnose(learner, params, sample) for sample in samples)
        assert one.accuracy == other.accuracy
        np.testing.assert_allclose(one.query_loss, other.query_loss, rtol=1e-5)
        scores = mj.evaluate(learner, params, samples[0], episodes=16)
        np.testing.assert_allclose(one.accuracy, scores.mean("accuracy"), rtol=1e-5)
    with pytest.raises(ValueError, match="a list of 20"):
        mj.diagnose(learner, params, samples[0], episodes=21)
    listed = [jax.device_get(samples[0].at(jax.random.key(0), index)) for index in range(16)]
    assert diagnose(learner, params, listed).accuracy == one.accuracy
    assert mj.diagnose(learner, params, iter(listed), episodes=17).episodes == 16
    with pytest.raises(ValueError, match="the iterator ended after 1 episodes; expected 2 or more"):
        mj.diagnose(learner, params, listed[:1])


def test_bad_arguments() -> None:
    params = initial(adapting())
    keys = jax.random.split(jax.random.key(0))
    stack = jax.vmap(lambda key: mj.init_state(params, optax.sgd(0.1), key))(keys)
    with pytest.raises(ValueError, match="params is a stack of runs; expected one of them"):
        mj.diagnose(adapting(), stack, episode)
    with pytest.raises(ValueError, match="episodes=1"):
        mj.diagnose(adapting(), params, episode, episodes=1)
    with pytest.raises(TypeError, match="seed"):
        mj.diagnose(adapting(), params, episode, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="batched"):
        mj.Objective(lambda key: 0, lambda *x: x, lambda *x: x, batched=3)  # type: ignore[arg-type]


def test_inspection_is_in_no_other_program() -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("inspected")

    support, query = episode(jax.random.key(0))
    refusing, params = comparing()._replace(inspect=refuse), initial(comparing())
    refusing.predict(params, refusing.adapt(params, support), query.inputs)
    mj.evaluate(refusing, params, episode, episodes=2)
    with pytest.raises(AssertionError, match="inspected"):
        diagnose(refusing, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_healthy_learners(name: str) -> None:
    learner = ROWS[name].learner()
    assert mj.diagnose(learner, trained(name), episode).findings == ()
    assert causes(mj.diagnose(learner, initial(learner), episode)) <= {"chance"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "boil", "prototypical"])
def test_trained_learners_and_labels_of_other_numbers(name: str) -> None:
    learner = ROWS[name].learner()
    assert causes(mj.diagnose(learner, trained(name), swapped)) == {"labels"}
    found = causes(mj.diagnose(learner, trained(name, renumbered), renumbered))
    assert "labels" in found
    assert found <= {"labels", "left out"}
