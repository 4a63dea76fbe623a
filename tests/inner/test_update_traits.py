"""What is said of an optimiser before the inner loop, against what its meta-gradient then is."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.sharding import Mesh, PartitionSpec
from optax import contrib

import metajax as mj
from metajax.inner.update_traits import update_traits

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
Optimizer = optax.GradientTransformation
PARAMS = {"first": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "last": np.ones((3, 1))}
SLOPE = "infinite slope"
NORMALISED = optax.chain(contrib.normalize(), optax.sgd(0.05))


def held(names: str) -> Any:
    return {"first": "first" in names, "last": "last" in names}


@pytest.mark.parametrize(
    ("optimizer", "climbing"),
    [
        (optax.masked(optax.sgd(0.1), held("last")), ("first/bias", "first/kernel")),
        (optax.chain(optax.masked(optax.sgd(0.1), held("first")), optax.clip(1.0)), ()),
        (optax.chain(optax.masked(optax.sgd(0.1), held("first")), optax.scale(-0.1)), ()),
        (optax.chain(optax.sgd(0.1), optax.masked(optax.set_to_zero(), held("first"))), ()),
        (optax.identity(), ("first/bias", "first/kernel", "last")),
        (optax.chain(optax.centralize(), optax.identity()), ("first/bias",)),
        (optax.scale(1.0), ()),
        (optax.set_to_zero(), ()),
        (
            optax.partition(
                {True: optax.set_to_zero(), False: optax.sgd(0.1)},
                jax.tree.map(
                    lambda hold, tree: jax.tree.map(lambda _: hold, tree), held("first"), PARAMS
                ),
            ),
            (),
        ),
    ],
)
def test_climbing_is_what_gets_its_gradient_back(
    optimizer: Optimizer, climbing: tuple[str, ...]
) -> None:
    assert update_traits(optimizer, PARAMS).climbing == climbing


def test_climbing_parameters_are_named_with_the_remedy() -> None:
    params = {f"leaf{i}": jnp.ones(1) for i in range(5)}
    with pytest.warns(RuntimeWarning) as warned:
        phi, _ = mj.inner_loop(
            lambda phi, _: sum(leaf.sum() for leaf in phi.values()),
            params,
            optax.identity(),
            num_steps=1,
        )
    (message,) = {str(warning.message) for warning in warned}
    assert "leaf0, leaf1, leaf2 and 2 more." in message
    assert "adapt=" in message
    assert "optax.set_to_zero()" in message
    assert warned[0].filename == __file__
    assert phi["leaf0"] == 2  # It does climb.


# With where their slope is infinite. Those that teach little more, or compile slowly, are slow.
FAST = {
    "sgd": (lambda: optax.sgd(0.1, momentum=0.9), "nowhere"),
    "adam": (lambda: optax.adam(0.1), "at zero"),
    "adam with eps_root": (lambda: optax.adam(0.1, eps_root=1e-8), "nowhere"),
    "part of it adam": (
        lambda: optax.partition(
            {"a": optax.adam(0.1), "s": optax.sgd(0.1)}, {"into": "s", "out": "a"}
        ),
        "at zero",
    ),
    "rmsprop, eps outside": (lambda: optax.rmsprop(0.1, eps_in_sqrt=False), "at zero"),
    "radam with eps_root": (lambda: optax.radam(0.1, eps_root=1e-8), "anywhere"),
    "clip": (lambda: optax.chain(optax.clip(0.1), optax.sgd(0.1)), "nowhere"),
    "clip_by_global_norm": (
        lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
        "at zero",
    ),
}
SLOW = {
    "rmsprop": (lambda: optax.rmsprop(0.1), "nowhere"),
    "adagrad": (lambda: optax.adagrad(0.1), "nowhere"),
    "adadelta": (lambda: optax.adadelta(0.1), "nowhere"),
    "lion": (lambda: optax.lion(0.1), "nowhere"),
    "lamb with eps_root": (lambda: optax.lamb(0.1, eps_root=1e-8), "at zero"),
    "lars": (lambda: optax.lars(0.1), "at zero"),
    "novograd": (lambda: optax.novograd(0.1), "at zero"),
    "rprop": (lambda: optax.rprop(0.1), "nowhere"),
    "normalize_by_update_norm": (
        lambda: optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
        "at zero",
    ),
    "muon": (lambda: contrib.muon(0.1), "at zero"),
    "sam, opaque": (lambda: contrib.sam(optax.sgd(0.1), NORMALISED, opaque_mode=True), "at zero"),
    "apply_if_finite": (lambda: optax.apply_if_finite(optax.sgd(0.1), 3), "nowhere"),
    "adabelief": (lambda: optax.adabelief(0.1), "nowhere"),
    "adafactor": (lambda: optax.adafactor(0.1), "at zero"),
    "adamax": (lambda: optax.adamax(0.1), "nowhere"),
    "adamw": (lambda: optax.adamw(0.1), "at zero"),
    "adamw with eps_root": (lambda: optax.adamw(0.1, eps_root=1e-8), "nowhere"),
    "adan": (lambda: optax.adan(0.1), "nowhere"),
    "amsgrad": (lambda: optax.amsgrad(0.1), "at zero"),
    "amsgrad with eps_root": (lambda: optax.amsgrad(0.1, eps_root=1e-8), "nowhere"),
    "fromage": (lambda: optax.fromage(0.1), "nowhere"),
    "lamb": (lambda: optax.lamb(0.1), "at zero"),
    "nadam": (lambda: optax.nadam(0.1), "at zero"),
    "nadam with eps_root": (lambda: optax.nadam(0.1, eps_root=1e-8), "nowhere"),
    "optimistic_adam_v2": (lambda: optax.optimistic_adam_v2(0.1), "at zero"),
    "optimistic_gradient_descent": (lambda: optax.optimistic_gradient_descent(0.1), "nowhere"),
    "polyak_sgd": (lambda: optax.polyak_sgd(), "at zero"),
    "radam": (lambda: optax.radam(0.1), "anywhere"),
    "sign_sgd": (lambda: optax.sign_sgd(0.1), "nowhere"),
    "sm3": (lambda: optax.sm3(0.1), "nowhere"),
    "yogi": (lambda: optax.yogi(0.1), "nowhere"),
    "adaptive_grad_clip": (
        lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.1)),
        "at zero",
    ),
    "clip_by_block_rms": (
        lambda: optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(0.1)),
        "at zero",
    ),
    "sam, transparent": (lambda: contrib.sam(optax.sgd(0.1), NORMALISED), "at zero"),
    "acprop": (lambda: contrib.acprop(0.1), "nowhere"),
    "ademamix": (lambda: contrib.ademamix(0.1), "at zero"),
    "ademamix with eps_root": (lambda: contrib.ademamix(0.1, eps_root=1e-8), "nowhere"),
    "adopt": (lambda: contrib.adopt(0.1), "at zero"),
    "cocob": (lambda: contrib.cocob(), "nowhere"),
    "dadapt_adamw": (lambda: contrib.dadapt_adamw(0.1), "at zero"),
    "dog": (lambda: contrib.dog(0.1), "anywhere"),
    "dowg": (lambda: contrib.dowg(0.1), "at zero"),
    "madgrad": (lambda: contrib.madgrad(0.1), "at zero"),
    "mechanize": (lambda: contrib.mechanize(optax.sgd(0.1)), "anywhere"),
    "momo": (lambda: contrib.momo(0.1), "at zero"),
    "momo_adam": (lambda: contrib.momo_adam(0.1), "at zero"),
    "prodigy": (lambda: contrib.prodigy(), "at zero"),
    "reduce_on_plateau": (
        lambda: optax.chain(optax.sgd(0.1), contrib.reduce_on_plateau()),
        "nowhere",
    ),
    "MultiSteps": (
        lambda: optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
        "nowhere",
    ),
}
ALL = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def unit_loss(params: dict[str, Array], inputs: Array) -> Array:
    return ((jax.nn.relu(inputs * params["into"]) @ params["out"] - 2.0) ** 2).sum()


def unit(into: float, dtype: Any = None) -> dict[str, Array]:
    """Dead on the support set where `into` is negative."""
    return {"into": jnp.full((1, 1), into, dtype), "out": jnp.full((1, 1), 0.5, dtype)}


def unit_meta_loss(params: dict[str, Array], optimizer: Optimizer, **options: Any) -> Array:
    phi, _ = mj.inner_loop(
        lambda params, _: unit_loss(params, jnp.ones((1, 1), params["into"].dtype)),
        params,
        optimizer,
        num_steps=3,
        **options,
    )
    # Of one of these it is not dead.
    return unit_loss(phi, jnp.array([[1.0], [-1.0]], phi["into"].dtype))


@pytest.mark.parametrize("name", ALL)
def test_slope_is_infinite_where_the_meta_gradient_is_nan(name: str) -> None:
    make, where = (FAST | SLOW)[name]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        slope = jax.jit(jax.grad(lambda params: unit_meta_loss(params, make())))
        finite = [
            all(jnp.isfinite(leaf).all() for leaf in slope(unit(into)).values())
            for into in (-1.0, 1.0)
        ]
    expected = {"nowhere": [True, True], "at zero": [False, True], "anywhere": [False, False]}
    assert finite == expected[where]
    said = [str(warning.message) for warning in warned if SLOPE in str(warning.message)]
    assert len(said) == (where != "nowhere")
    assert all(("eps_root" in message) is (where == "at zero") for message in said)


@pytest.mark.parametrize("steep", [True, False])
def test_slope_is_known_whatever_is_being_traced(steep: bool) -> None:
    params = unit(-1.0, jnp.float32)

    def meta_loss(params: dict[str, Array], rate: Array) -> Array:
        return unit_meta_loss(params, optax.adam(rate, eps_root=0.0 if steep else 1e-8))

    def check(function: Callable, *arguments: Any) -> None:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            jax.eval_shape(lambda *arguments: function(*arguments), *arguments)
        assert [SLOPE in str(warning.message) for warning in warned] == [True] * steep

    rates = jnp.ones(2, jnp.float32)
    check(meta_loss, params, rates[0])
    check(jax.jit(lambda *arguments: meta_loss(*arguments)), params, rates[0])
    check(jax.grad(meta_loss, argnums=(0, 1)), params, rates[0])
    check(jax.vmap(meta_loss, in_axes=(None, 0)), params, rates)
    check(
        lambda params, rates: jax.lax.map(lambda rate: meta_loss(params, rate), rates),
        params,
        rates,
    )
    mesh = Mesh(np.array(jax.devices()[:2]), "d")
    over = PartitionSpec("d")
    for checked in (True, False):
        check(
            jax.shard_map(
                lambda params, rates: meta_loss(params, rates[0])[None],
                mesh=mesh,
                in_specs=over,
                out_specs=over,
                check_vma=checked,
            ),
            jax.tree.map(lambda x: jnp.concatenate([x, x]), params),
            rates,
        )


@pytest.mark.parametrize("debug", [jax.debug_nans, jax.disable_jit])
def test_slope_is_known_while_debugging(debug: Callable) -> None:
    # Of a rate of its own, so that it has not been looked at before.
    with debug(True):
        traits = update_traits(optax.adam(0.0625 if debug is jax.debug_nans else 0.125), PARAMS)
    assert traits.infinite_slope == "at zero"


@pytest.mark.parametrize(
    "options", [{"first_order": True}, {"backward": mj.Backward(last_steps=0)}]
)
def test_without_exact_steps_nothing_is_said_of_the_slope(options: dict[str, Any]) -> None:
    jax.eval_shape(
        jax.grad(lambda params: unit_meta_loss(params, optax.adam(0.1), **options)), unit(-1.0)
    )


@pytest.mark.parametrize("make", [contrib.dog, lambda rate: contrib.mechanize(optax.sgd(rate))])
def test_first_order_is_finite_where_the_first_step_has_no_derivative(make: Callable) -> None:
    """Of the distance from where it began, say: the step is a constant then."""

    def adapted(params: Array) -> Array:
        return mj.inner_loop(
            lambda phi, _: ((phi - 1) ** 2).sum(), params, make(0.1), num_steps=2, first_order=True
        )[0]

    params = jnp.array([0.3, 0.4])
    slope = jax.jit(jax.grad(lambda params: ((adapted(params) - 2) ** 2).sum()))(params)
    np.testing.assert_allclose(slope, 2 * (jax.jit(adapted)(params) - 2), rtol=1e-12)


def test_reptile_takes_no_derivative_of_its_loop() -> None:
    learner = mj.reptile(mj.models.mlp((2,)), inner=optax.adam(0.1), num_steps=2)
    items = mj.Examples(jnp.ones((2, 3)), jnp.arange(2))
    params = learner.init(jax.random.key(0), items.inputs)
    jax.eval_shape(jax.grad(learner.loss, has_aux=True), params, mj.Episode(items, items))


# Optimisers that search along a line, on a small regression.

SEARCHES = {
    "lbfgs": optax.lbfgs,
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
    ),
}


def regression(phi: dict[str, Array], items: mj.Examples) -> Array:
    return ((jnp.tanh(items.inputs @ phi["into"]) @ phi["out"] - items.targets) ** 2).mean()


def objective() -> mj.Objective:
    return mj.Objective(
        init=lambda key, inputs: regression_task()[0],
        loss=lambda phi, items, key, context: (regression(phi, items), mj.ObjectiveAux(None, {})),
        predict=lambda phi, inputs, context: inputs,
    )


def regression_task() -> tuple[dict[str, Array], mj.Episode]:
    into, out, xs, ys, xq, yq = oracles.normals(0, (2, 3), (3, 1), (6, 2), (6, 1), (6, 2), (6, 1))
    episode = mj.Episode(mj.Examples(xs, ys), mj.Examples(xq, yq))
    return {"into": into, "out": out}, episode


@pytest.mark.parametrize("name", ["backtracking", pytest.param("lbfgs", marks=pytest.mark.slow)])
def test_a_line_search_adapts_and_trains_in_first_order(name: str) -> None:
    params, episode = regression_task()
    assert update_traits(SEARCHES[name](), params).searches
    learner = mj.maml(objective(), inner=SEARCHES[name](), num_steps=4, first_order=True)

    def scaled(scale: Array) -> mj.Episode:
        return jax.tree.map(lambda x: scale * x, episode)

    @jax.jit
    def slopes(params: dict[str, Array], scale: Array) -> Any:
        # The search reads the data, too, and they have a derivative here.
        return jax.grad(
            lambda params, scale: learner.loss(params, scaled(scale))[0], argnums=(0, 1)
        )(params, scale)

    @jax.jit
    def adapted(params: dict[str, Array]) -> dict[str, Array]:
        exact = mj.maml(objective(), inner=SEARCHES[name](), num_steps=4)
        return exact.adapt(params, episode.support).params

    phi = adapted(params)
    assert regression(phi, episode.support) < 0.5 * regression(params, episode.support)
    expected = jax.grad(lambda phi, scale: regression(phi, scaled(scale).query), argnums=(0, 1))
    one = jnp.ones(())
    oracles.assert_close(slopes(params, one), expected(phi, one))


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("backtracking", "none"),
        ("backtracking", "steps"),
        *(pytest.param("lbfgs", way, marks=pytest.mark.slow) for way in ("none", "steps")),
    ],
)
def test_the_exact_derivative_of_a_line_search_is_refused(name: str, checkpoint: str) -> None:
    params, episode = regression_task()
    backward = mj.Backward(checkpoint=checkpoint)
    learner = mj.maml(objective(), inner=SEARCHES[name](), num_steps=2, backward=backward)

    def loss(params: dict[str, Array]) -> Array:
        return learner.loss(params, episode)[0]

    for differentiate in (
        lambda: jax.grad(loss)(params),
        lambda: jax.jit(jax.grad(loss))(params),
        lambda: jax.grad(jax.jit(loss))(params),
        lambda: jax.jvp(loss, (params,), (params,)),
    ):
        with pytest.raises(ValueError, match=r"searches along a line.*first_order=True"):
            differentiate()


# Optimisers that ask for more than a gradient.


@pytest.mark.parametrize(
    ("opaque", "steps"), [(True, 3), pytest.param(False, 6, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore:.*infinite slope:RuntimeWarning")
def test_sam_steps_by_the_gradient_uphill(opaque: bool, steps: int) -> None:
    """Foret et al. 2021, equations 2 and 3; transparent, every second step goes uphill."""
    params, episode = regression_task()

    def step(phi: dict[str, Array], stop: Callable) -> dict[str, Array]:
        slope = stop(jax.grad(regression)(phi, episode.support))
        norm = jnp.sqrt(sum((leaf**2).sum() for leaf in slope.values()))
        above = {name: phi[name] + 0.05 * slope[name] / norm for name in phi}
        slope = stop(jax.grad(regression)(above, episode.support))
        return {name: phi[name] - 0.1 * slope[name] for name in phi}

    def theirs(params: dict[str, Array], stop: Callable) -> Array:
        for _ in range(3):
            params = step(params, stop)
        return regression(params, episode.query)

    def ours(params: dict[str, Array], first_order: bool) -> Array:
        phi, _ = mj.inner_loop(
            lambda phi, _: regression(phi, episode.support),
            params,
            contrib.sam(optax.sgd(0.1), NORMALISED, opaque_mode=opaque),
            num_steps=steps,
            first_order=first_order,
        )
        return regression(phi, episode.query)

    @jax.jit
    def slopes(params: dict[str, Array]) -> Any:
        return [
            [jax.value_and_grad(loss)(params, option) for option in options]
            for loss, options in (
                (ours, (False, True)),
                (theirs, (lambda x: x, jax.lax.stop_gradient)),
            )
        ]

    oracles.assert_close(*slopes(params))


WORKING = {
    "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "MultiSteps": lambda: optax.MultiSteps(
        optax.sgd(0.1), 2, accumulator_dtype=jnp.float64
    ).gradient_transformation(),
    "polyak_sgd": lambda: optax.polyak_sgd(),
    "reduce_on_plateau": lambda: optax.chain(
        optax.sgd(0.1), contrib.reduce_on_plateau(patience=1, accumulation_size=1)
    ),
}
WORKING_SLOWLY = {
    "lbfgs without a search": lambda: optax.lbfgs(0.1, scale_init_precond=False, linesearch=None),
    "muon": lambda: contrib.muon(0.1),
    "prodigy": lambda: contrib.prodigy(0.1),
}


@pytest.mark.parametrize(
    "name", [*WORKING, *(pytest.param(name, marks=pytest.mark.slow) for name in WORKING_SLOWLY)]
)
@pytest.mark.filterwarnings("ignore:.*infinite slope:RuntimeWarning")
def test_optimizer_moves_the_parameters_and_is_differentiated(name: str) -> None:
    params, episode = regression_task()

    @jax.jit
    def ours(params: dict[str, Array]) -> Any:
        def loss(params: dict[str, Array]) -> tuple[Array, Any]:
            phi, _ = mj.inner_loop(
                lambda phi, _: regression(phi, episode.support),
                params,
                (WORKING | WORKING_SLOWLY)[name](),
                num_steps=4,
            )
            return regression(phi, episode.query), phi

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, phi), gradient = ours(params)
    assert all((phi[leaf] != params[leaf]).any() for leaf in params)
    direction = oracles.normal_like(2, params)
    slope = oracles.central_difference(lambda params: ours(params)[0][0], params, direction)
    np.testing.assert_allclose(oracles.dot(gradient, direction), slope, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: optax.lookahead(optax.sgd(0.1), 2, 0.5), "optax.lookahead"),
        (lambda: contrib.schedule_free_sgd(0.1), "optax.contrib.schedule_free"),
        (
            lambda: optax.chain(optax.clip(1.0), contrib.schedule_free_sgd(0.1)),
            "optax.contrib.schedule_free",
        ),
    ],
)
def test_optimizer_whose_result_is_another_point_is_refused(make: Callable, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*use the optimiser within it"):
        mj.inner_loop(lambda phi, _: phi.sum(), jnp.ones(2), make(), num_steps=1)


def test_multi_steps_is_told_how_to_be_an_optimizer() -> None:
    optimizer: Any = optax.MultiSteps(optax.sgd(0.1), 2)
    with pytest.raises(TypeError, match=r"gradient_transformation\(\)"):
        mj.InnerLoop(optimizer, 1)


def test_a_product_in_another_precision() -> None:
    def update(updates: Array, state: Any, params: Any = None) -> tuple[Array, Any]:
        square = jnp.einsum("i,i->", updates, updates, preferred_element_type=jnp.float32)
        return (updates / jnp.sqrt(square + jnp.float32(1e-3))).astype(updates.dtype), state

    normalised = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    assert update_traits(normalised, jnp.ones(3, jnp.bfloat16)).infinite_slope == "nowhere"
