"""From recipes to learners: all of them are built, and are those that one writes by hand."""

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.nn import initializers

import metajax as mj
from metajax.algorithms.relation_networks import RelationParams
from metajax.algorithms.reptile import ReptileParams
from metajax.recipes import RECIPES, Drawing, Recipe, build, find
from metajax.recipes.records import BY_GRADIENT

OF_ONE_CHANNEL = ("glyphs", "omniglot")
# By default one of each that differ in more than a flag.
BY_DEFAULT = (
    "maml-omniglot-5w1s",
    "reptile-omniglot-5w1s",
    "prototypical-omniglot-5w1s",
    "relation-omniglot-5w1s",
    "matching-fce-mini_imagenet-5w1s",
    "proto_maml-emoji-5w1s",
    "anil-glyphs-5w1s",
    "meta_sgd-glyphs-5w1s",
)
KEY = jax.random.key(0)
GRADIENT = functools.partial(jax.value_and_grad, has_aux=True)


def shapes_of(recipe: Recipe, drawing: Drawing) -> mj.Episode:
    data, pixels = recipe.training.data, recipe.training.pixels or 28
    sinusoids = data == "sinusoids"
    item = (1,) if sinusoids else (pixels, pixels, 1 if data in OF_ONE_CHANNEL else 3)

    def examples(items: int) -> mj.Examples:
        targets = jax.ShapeDtypeStruct(
            (items, 1) if sinusoids else (items,), jnp.float32 if sinusoids else jnp.int32
        )
        return mj.Examples(jax.ShapeDtypeStruct((items, *item), jnp.float32), targets)

    return mj.Episode(
        examples(drawing.ways * drawing.shots), examples(drawing.ways * drawing.queries)
    )


@pytest.mark.parametrize(
    "recipe",
    [
        each if each.name in BY_DEFAULT else pytest.param(each, marks=pytest.mark.slow)
        for each in RECIPES
    ],
    ids=lambda recipe: recipe.name,
)
def test_every_recipe_is_built_and_fits_its_episodes(recipe: Recipe) -> None:
    learner, tester, optimizer = build(recipe)
    trained = shapes_of(recipe, recipe.training.drawing)
    tested = shapes_of(recipe, recipe.testing.drawing)
    params = jax.eval_shape(learner.init, KEY, trained.support.inputs)
    assert jax.eval_shape(tester.init, KEY, tested.support.inputs) == params
    state = jax.eval_shape(optimizer.init, params)
    gradient = params
    updates, after = jax.eval_shape(optimizer.update, gradient, state, params)
    assert updates == params
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for function, episode in ((learner, trained), (tester, tested)):
        loss, aux = jax.eval_shape(function.loss, params, episode, KEY)
        assert loss.shape == ()
        assert ("accuracy" in aux.metrics) == (recipe.training.data != "sinusoids")


# The same by hand


def small(recipe: Recipe, *, queries: int = 2) -> Recipe:
    """With 4 filters and few items."""
    training = recipe.training
    network = dataclasses.replace(training.network, filters=4)
    ways, shots = min(training.drawing.ways, 5), min(training.drawing.shots, 2)
    drawing = dataclasses.replace(training.drawing, ways=ways, shots=shots, queries=queries)
    training = dataclasses.replace(training, network=network, drawing=drawing)
    return dataclasses.replace(recipe, training=training)


def adapted(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    del leaf
    return "BatchStatistics" not in path


GLOROT = initializers.glorot_uniform()
STATISTICS: dict[str, Any] = {"filters": 4, "epsilon": 1e-3}
SCALED: dict[str, Any] = {"filters": 4}
RELATION: dict[str, Any] = {
    "filters": 4,
    "kernel_init": initializers.variance_scaling(2.0, "fan_out", "normal"),
}
BY_HAND = {
    "maml-omniglot-5w1s": lambda: mj.maml(
        mj.models.strided_conv_net(
            5,
            use_scale=False,
            kernel_init=GLOROT,
            head_kernel_init=initializers.normal(1.0),
            **STATISTICS,
        ),
        inner=optax.sgd(2.0),
        num_steps=1,
        adapt=adapted,
    ),
    "reptile-omniglot-5w1s": lambda: mj.reptile(
        mj.models.strided_conv_net(
            5, features="flatten", kernel_init=GLOROT, head_kernel_init=GLOROT, **STATISTICS
        ),
        inner=optax.rmsprop(1e-3, decay=0.995, eps=1e-8, eps_in_sqrt=False, initial_scale=1e-3),
        num_steps=5,
        batch_size=10,
        carry_state=True,
    ),
    "fomaml-mini_imagenet-5w1s": lambda: mj.fomaml(
        mj.models.max_pool_conv_net(
            5, use_scale=False, kernel_init=GLOROT, head_kernel_init=GLOROT, **STATISTICS
        ),
        inner=optax.sgd(0.05),
        num_steps=5,
        adapt=adapted,
    ),
    "prototypical-omniglot-5w1s": lambda: mj.prototypical_network(
        mj.models.embedding_net(
            filters=4, kernel_init=initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        ),
        ways=5,
        query_batching="joint",
    ),
    "relation-omniglot-5w1s": lambda: mj.relation_network(
        mj.models.relation_encoder(**RELATION),
        mj.models.relation_module(
            head_kernel_init=initializers.normal(0.01),
            head_bias_init=initializers.ones,
            **RELATION,
        ),
        ways=5,
    ),
    "matching-omniglot-5w1s": lambda: mj.matching_network(
        mj.models.embedding_net(filters=4), normalize="support", ways=5, query_batching="joint"
    ),
    "proto_maml-omniglot-5w1s": lambda: mj.proto_maml(
        mj.models.embedding_net(filters=4),
        inner=optax.sgd(0.02),
        num_steps=3,
        adapt=adapted,
        ways=5,
        query_batching="support",
    ),
    "anil-glyphs-5w1s": lambda: mj.anil(
        mj.models.from_linen(mj.models.ConvNet(None, 4, pooling="stride")),
        mj.models.mlp((5,), stddev=0.2),
        inner=optax.sgd(0.4),
        num_steps=5,
    ),
    "meta_sgd-glyphs-5w1s": lambda: mj.meta_sgd(
        mj.models.strided_conv_net(5, filters=4), rate=0.4, num_steps=1
    ),
    "ridge_head-glyphs-5w1s": lambda: mj.ridge_head(
        mj.models.embedding_net(filters=4), ways=5, query_batching="joint"
    ),
    "maml-sinusoids-5s": lambda: mj.maml(
        mj.models.mlp((40, 40, 1)),
        inner=optax.sgd(0.01),
        num_steps=1,
        loss_fn=mj.squared_error,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "maml-sinusoids-5s" else pytest.param(name, marks=pytest.mark.slow)
        for name in BY_HAND
    ],
)
def test_a_recipes_learner_is_the_one_written_by_hand(name: str) -> None:
    (recipe,) = (small(each) for each in RECIPES if each.name == name)
    shapes = shapes_of(recipe, recipe.training.drawing)
    ours, theirs = build(recipe).learner, BY_HAND[name]()
    first, second = (
        jax.jit(each.init)(KEY, jnp.zeros((1, *shapes.support.inputs.shape[1:])))
        for each in (ours, theirs)
    )
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)

    with jax.enable_x64(True):
        episode = jax.tree.map(
            lambda x, number: (
                jnp.arange(x.shape[0]) % 5
                if x.dtype == jnp.int32
                else oracles.normals(number, x.shape)[0]
            ),
            shapes,
            mj.Episode(mj.Examples(0, 1), mj.Examples(2, 3)),
        )
        params = jax.tree.map(lambda x: x.astype(jnp.float64), first)
        (our_loss, _), our_gradient = jax.jit(GRADIENT(ours.loss))(params, episode, KEY)
        (their_loss, _), their_gradient = jax.jit(GRADIENT(theirs.loss))(params, episode, KEY)
        # Two programs, which may round differently.
        close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
        close(our_loss, their_loss)
        jax.tree.map(close, our_gradient, their_gradient)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(our_gradient)) > 0


def test_testers_take_the_steps_of_the_test() -> None:
    for name, trained, tested in (("fomaml", 1, 3), ("reptile", 5, 50)):
        recipe = small(find(name, "omniglot", ways=5, shots=1))
        built = build(recipe, record_steps=True)
        assert f"num_steps={trained}," in repr(built.learner)
        assert f"num_steps={tested}," in repr(built.tester)
        shapes = shapes_of(recipe, recipe.testing.drawing)
        params = jax.eval_shape(built.tester.init, KEY, shapes.support.inputs)
        _, aux = jax.eval_shape(built.tester.loss, params, shapes, KEY)
        assert aux.metrics["accuracy_per_step"].shape == (tested + 1,)
        _, aux = jax.eval_shape(built.learner.loss, params, shapes, KEY)
        assert "accuracy_per_step" not in aux.metrics
    assert "batch_size=10" in repr(build(find("reptile", "omniglot", ways=5, shots=1)).learner)
    assert "batch_size=5" in repr(build(find("reptile", "omniglot", ways=5, shots=1)).tester)
    twenty = build(find("prototypical", "omniglot", ways=20, shots=1))
    assert repr(twenty.learner) == "prototypical_network(ways=60, query_batching='joint')"
    assert repr(twenty.tester) == "prototypical_network(ways=20, query_batching='joint')"


@pytest.mark.parametrize(
    "algorithm",
    ["meta_sgd", *(pytest.param(x, marks=pytest.mark.slow) for x in ("anil", "boil", "maml"))],
)
def test_exact_gradients_are_computed_as_asked(algorithm: str) -> None:
    recipe = small(find(algorithm, "glyphs"))
    inner = recipe.training.inner
    assert inner is not None
    training = dataclasses.replace(recipe.training, inner=dataclasses.replace(inner, steps=3))
    recipe = dataclasses.replace(recipe, training=training)
    shapes = shapes_of(recipe, training.drawing)

    def program(**options: Any) -> str:
        learner = build(recipe, **options).learner
        params = jax.eval_shape(learner.init, KEY, shapes.support.inputs)
        return str(
            jax.make_jaxpr(lambda params, episode: learner.loss(params, episode)[0])(params, shapes)
        )

    assert " scan[" in program()
    assert " scan[" not in program(backward=mj.Backward(unroll=True))


def test_what_is_no_recipe() -> None:
    with pytest.raises(TypeError, match=r"recipe is 'maml'; expected one of metajax.recipes.REC"):
        build("maml")  # type: ignore[arg-type]


# Optimisers


def rate_at(recipe: Recipe, iteration: int) -> float:
    """By a step from a fresh state at this iteration, beside one with a rate of 1."""
    training = recipe.training
    params: Any = {"w": jnp.zeros(2)}
    if training.algorithm == "relation":
        params = RelationParams(params, params)
    elif training.algorithm == "reptile":
        params = ReptileParams(params, params)
    gradient = jax.tree.map(lambda x: x + 0.01, params)

    def update(optimizer: optax.GradientTransformation) -> float:
        state = optax.tree_utils.tree_set(optimizer.init(params), count=jnp.int32(iteration))
        updates, _ = optimizer.update(gradient, state, params)
        return float(updates[0]["w"][0] if isinstance(updates, tuple) else updates["w"][0])

    adam = training.outer.optimizer == "adam"
    unit = optax.adam(lambda _: 1.0) if adam else optax.sgd(lambda _: 1.0)
    return update(build(recipe).optimizer) / update(unit)


@pytest.mark.parametrize(
    ("algorithm", "ways", "rates"),
    [
        ("maml", 5, {0: 1e-3, 59_999: 1e-3}),
        ("prototypical", 5, {0: 1e-3, 1_999: 1e-3, 2_000: 5e-4, 4_000: 2.5e-4, 19_999: 1e-3 / 512}),
        ("relation", 20, {0: 1e-3, 99_999: 1e-3, 100_000: 5e-4, 999_999: 1e-3 / 512}),
        ("matching", 5, {0: 1e-3, 10_000: 8.5355339e-4, 20_000: 5e-4, 40_000: 0.0}),
        ("reptile", 5, {0: 1.0, 25_000: 0.75, 100_000: 0.0}),
        ("reptile", 20, {0: 1.0, 100_000: 0.5, 200_000: 0.0}),
    ],
)
def test_rates(algorithm: str, ways: int, rates: dict[int, float]) -> None:
    recipe = find(algorithm, "omniglot", ways=ways, shots=1)
    found = [rate_at(recipe, iteration) for iteration in rates]
    np.testing.assert_allclose(found, [*rates.values()], rtol=1e-5, atol=1e-9)


def test_rates_of_fewer_iterations() -> None:
    for algorithm in ("prototypical", "matching", "reptile"):
        recipe = find(algorithm, "omniglot", ways=5, shots=1)
        iteration = recipe.training.iterations // 4
        tenth = dataclasses.replace(recipe, training=recipe.training.scaled(0.1))
        np.testing.assert_allclose(rate_at(tenth, iteration // 10), rate_at(recipe, iteration))


def steps_of(
    optimizer: optax.GradientTransformation, params: Any, gradients: list[Any]
) -> list[Any]:
    state, out = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        out.append(updates)
    return out


def test_relations_modules_are_clipped_apart() -> None:
    params = RelationParams({"w": jnp.zeros(2)}, {"w": jnp.zeros(2)})
    gradients = [
        RelationParams({"w": jnp.array([3.0, -4.0])}, {"w": jnp.array([0.1, 0.2])}),
        RelationParams({"w": jnp.array([0.03, 0.04])}, {"w": jnp.array([5.0, 12.0])}),
        RelationParams({"w": jnp.array([0.3, -0.1])}, {"w": jnp.array([0.0, 0.1])}),
    ]
    ours = steps_of(
        build(find("relation", "omniglot", ways=5, shots=1)).optimizer, params, gradients
    )
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))
    for module in (0, 1):
        alone = steps_of(clipped, params[module], [gradient[module] for gradient in gradients])
        for one, other in zip(ours, alone, strict=True):
            np.testing.assert_allclose(one[module]["w"], other["w"], rtol=1e-6)
    together = steps_of(clipped, params, gradients)
    assert not np.allclose(together[1][1]["w"], ours[1][1]["w"], rtol=1e-2)


def test_reptiles_second_moment_is_replaced() -> None:
    recipe = find("reptile", "omniglot", ways=5, shots=1)
    params = ReptileParams({"w": jnp.array([1.0, 2.0])}, {"nu": jnp.array([0.5, 0.25])})
    at_the_end = ReptileParams({"w": jnp.array([3.0, 1.0])}, {"nu": jnp.array([0.1, 0.75])})
    gradient = jax.tree.map(jnp.subtract, params, at_the_end)
    optimizer = build(recipe).optimizer
    half = optax.tree_utils.tree_set(optimizer.init(params), count=jnp.int32(50_000))
    updates, _ = optimizer.update(gradient, half, params)
    after: Any = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after.model["w"], [2.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(after.inner_state["nu"], [0.1, 0.75], rtol=1e-6)

    # Or learned, as the parameters are.
    learned = find("reptile", "emoji", ways=5, shots=1)
    optimizer = build(learned).optimizer
    half = optax.tree_utils.tree_set(optimizer.init(params), count=jnp.int32(2_500))
    updates, _ = optimizer.update(gradient, half, params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after.inner_state["nu"], [0.3, 0.5], rtol=1e-6)


def test_clipping_and_decay() -> None:
    recipe = find("maml", "omniglot", ways=5, shots=1)
    outer = dataclasses.replace(
        recipe.training.outer,
        rate=0.1,
        optimizer="sgd",
        clip_values=3.0,
        clip=2.5,
        weight_decay=0.5,
    )
    training = dataclasses.replace(recipe.training, outer=outer)
    params = {"w": jnp.array([2.0, -2.0])}
    (updates,) = steps_of(
        build(dataclasses.replace(recipe, training=training)).optimizer,
        params,
        [{"w": jnp.array([30.0, 4.0])}],
    )
    # To (3, 3), to the norm of 2.5, then half the parameters on top.
    side = 2.5 / np.sqrt(2)
    np.testing.assert_allclose(updates["w"], [-0.1 * (side + 1), -0.1 * (side - 1)], rtol=1e-6)


def test_learners_that_adapt_and_compare_are_told_apart() -> None:
    for recipe in RECIPES:
        adapts = recipe.training.algorithm in BY_GRADIENT
        assert adapts == (recipe.training.inner is not None)
        assert adapts == (recipe.testing.steps > 0)
