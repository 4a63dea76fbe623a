"""The inner loop: closed forms on quadratics, and every optimiser against its update rule."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
STEPS = 3


class Quadratics(NamedTuple):
    """Support `1/2 (theta-a)' A (theta-a)`, query `1/2 (theta-b)' B (theta-b)`."""

    theta: Array
    a: Array
    b: Array
    support_matrix: Array
    query_matrix: Array


def quadratic(theta: Array, matrix: Array, centre: Array) -> Array:
    return 0.5 * (theta - centre) @ matrix @ (theta - centre)


def quadratics(size: int = 5) -> Quadratics:
    theta, a, b, *roots = oracles.normals(0, *[(size,)] * 3, *[(size, size)] * 2)
    return Quadratics(theta, a, b, *(root @ root.T / size + jnp.eye(size) for root in roots))


def meta_losses(problem: Quadratics, way: str, steps: int, first_order: bool) -> Callable:
    """`(theta, rate) -> meta-loss`, by the inner loop itself or through `maml`."""
    _, a, b, support_matrix, query_matrix = problem

    def direct(theta: Array, rate: Array | float) -> Array:
        phi, _ = mj.inner_loop(
            lambda phi, _: quadratic(phi, support_matrix, a),
            theta,
            optax.sgd(rate),
            num_steps=steps,
            first_order=first_order,
        )
        return quadratic(phi, query_matrix, b)

    objective = mj.Objective(
        init=lambda key, inputs: jnp.zeros(inputs.shape[-1]),
        loss=lambda phi, examples, key, context: (
            quadratic(phi, examples.inputs, examples.targets),
            mj.ObjectiveAux(None, {}),
        ),
        predict=lambda phi, inputs, context: phi,
    )
    episode = mj.Episode(mj.Examples(support_matrix, a), mj.Examples(query_matrix, b))

    def learned(theta: Array, rate: Array | float) -> Array:
        learner = mj.maml(
            objective, inner=optax.sgd(rate), num_steps=steps, first_order=first_order
        )
        return learner.loss(theta, episode)[0]

    return {"inner_loop": direct, "maml": learned}[way]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("way", ["inner_loop", "maml"])
def test_quadratic_has_the_closed_form(way: str, steps: int, first_order: bool) -> None:
    problem = quadratics()
    theta, a, b, support_matrix, query_matrix = problem
    rate = 0.1
    shrink = jnp.eye(len(theta)) - rate * support_matrix
    power = jnp.linalg.matrix_power(shrink, steps)
    phi = a + power @ (theta - a)
    slope = query_matrix @ (phi - b)

    meta_loss = meta_losses(problem, way, steps, first_order)
    loss, (gradient, rate_gradient) = jax.jit(jax.value_and_grad(meta_loss, argnums=(0, 1)))(
        theta, rate
    )

    oracles.assert_close(loss, quadratic(phi, query_matrix, b))
    oracles.assert_close(gradient, slope if first_order else power @ slope)
    if first_order:
        # The gradients are constants: phi = theta - rate * (their sum).
        oracles.assert_close(rate_gradient, (phi - theta) / rate @ slope)
    else:
        moved = -steps * support_matrix @ jnp.linalg.matrix_power(shrink, steps - 1) @ (theta - a)
        oracles.assert_close(rate_gradient, moved @ slope)


def test_vmap_over_inner_rates_is_a_loop_over_them() -> None:
    problem = quadratics()
    rates = jnp.array([0.0, 0.05, 0.2])
    slope = jax.value_and_grad(meta_losses(problem, "maml", 3, False), argnums=(0, 1))
    swept = jax.jit(jax.vmap(slope, in_axes=(None, 0)))(problem.theta, rates)
    one = jax.jit(slope)
    looped = [one(problem.theta, rate) for rate in rates]
    oracles.assert_close(swept, jax.tree.map(lambda *each: jnp.stack(each), *looped))


# A small nonlinear problem with parameters in a tree, and data of its own at every step.


class Net(NamedTuple):
    params: dict[str, Array]
    support: tuple[Array, Array]
    query: tuple[Array, Array]


def net() -> Net:
    shapes = {"first": jnp.zeros((3, 4)), "offset": jnp.zeros(4), "second": jnp.zeros((4, 2))}
    params = oracles.normal_like(0, shapes)
    xs, ys, xq, yq = oracles.normals(1, (STEPS, 6, 3), (STEPS, 6, 2), (6, 3), (6, 2))
    return Net(params, (xs, ys), (xq, yq))


def net_loss(params: dict[str, Array], data: tuple[Array, Array]) -> Array:
    inputs, targets = data
    hidden = jnp.tanh(inputs @ params["first"] + params["offset"][None])
    return ((hidden @ params["second"] - targets) ** 2).mean()


LABELS = {"first": "held", "offset": "held", "second": "moved"}
HELD = {"first": True, "offset": True, "second": False}


def only_second(rule: oracles.Rule) -> oracles.Rule:
    shapes = net().params
    return oracles.frozen(
        rule, {name: jnp.full(shapes[name].shape, 1.0 - HELD[name]) for name in shapes}
    )


# What is tested, and its update rule; both built only when used, so that they are in float64.
OPTIMIZERS: dict[str, Callable[[], tuple[optax.GradientTransformation, oracles.Rule]]] = {
    "sgd": lambda: (optax.sgd(0.3), oracles.sgd(0.3)),
    "schedule": lambda: (
        optax.sgd(lambda count: jnp.array([0.4, 0.3, 0.2])[count]),
        oracles.scheduled_sgd([0.4, 0.3, 0.2]),
    ),
    "momentum": lambda: (optax.sgd(0.2, momentum=0.8), oracles.momentum(0.2, 0.8)),
    "nesterov": lambda: (
        optax.sgd(0.2, momentum=0.8, nesterov=True),
        oracles.nesterov(0.2, 0.8),
    ),
    "rmsprop": lambda: (
        optax.rmsprop(0.05, decay=0.9, eps=1e-8),
        oracles.rmsprop(0.05, 0.9, 1e-8),
    ),
    "adagrad": lambda: (
        optax.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-7),
        oracles.adagrad(0.1, 0.1, 1e-7),
    ),
    "adam": lambda: (
        optax.adam(0.05, eps=1e-8, eps_root=1e-8),
        oracles.adam(0.05, 0.9, 0.999, 1e-8, 1e-8),
    ),
    "adam_without_first_moment": lambda: (
        optax.adam(0.05, b1=0.0, eps=1e-8, eps_root=1e-8),
        oracles.adam(0.05, 0.0, 0.999, 1e-8, 1e-8),
    ),
    "clip": lambda: (
        optax.chain(optax.clip(0.1), optax.sgd(0.3)),
        oracles.clipped(oracles.sgd(0.3), 0.1),
    ),
    "clip_by_global_norm": lambda: (
        optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.3)),
        oracles.norm_clipped(oracles.sgd(0.3), 0.5),
    ),
    "partition": lambda: (
        optax.partition(
            {"moved": optax.sgd(0.3, momentum=0.8), "held": optax.set_to_zero()}, LABELS
        ),
        only_second(oracles.momentum(0.3, 0.8)),
    ),
    "masked": lambda: (
        optax.chain(optax.sgd(0.3), optax.masked(optax.set_to_zero(), HELD)),
        only_second(oracles.sgd(0.3)),
    ),
}


# By the norm, which has no slope at 0: here the gradient is not 0.
@pytest.mark.filterwarnings("ignore:.*infinite slope:RuntimeWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_follows_its_update_rule_and_is_differentiated_through(name: str) -> None:
    params, support, query = net()
    optimizer, rule = OPTIMIZERS[name]()

    @jax.jit
    def ours(params: dict[str, Array]) -> Any:
        def loss(params: dict[str, Array], first_order: bool) -> tuple[Array, Any]:
            phi, path = mj.inner_loop(
                net_loss,
                params,
                optimizer,
                num_steps=STEPS,
                first_order=first_order,
                per_step=support,
                observe=lambda phi: phi,
            )
            return net_loss(phi, query), (phi, path)

        slope = jax.value_and_grad(loss, has_aux=True)
        (value, (phi, path)), exact = slope(params, False)
        _, first_order = slope(params, True)
        return value, phi, path, exact, first_order

    def support_loss(phi: dict[str, Array], step: int) -> Array:
        return net_loss(phi, (support[0][step], support[1][step]))

    def query_loss(phi: dict[str, Array]) -> Array:
        return net_loss(phi, query)

    @jax.jit
    def theirs(params: dict[str, Array]) -> Any:
        def loss(params: dict[str, Array]) -> tuple[Array, Any]:
            path = oracles.inner_path(support_loss, params, rule, STEPS)
            return query_loss(path[-1]), path

        (value, path), exact = jax.value_and_grad(loss, has_aux=True)(params)
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *path)
        return value, path[-1], stacked, exact, jax.grad(query_loss)(path[-1])

    results = ours(params)
    oracles.assert_close(results, theirs(params))
    direction = oracles.normal_like(2, params)
    slope = oracles.central_difference(lambda params: ours(params)[0], params, direction)
    np.testing.assert_allclose(oracles.dot(results[3], direction), slope, rtol=1e-6)


@pytest.mark.exact
def test_no_steps_leave_the_parameters_alone() -> None:
    params, support, _ = net()
    none = jax.tree.map(lambda x: x[:0], support)

    def fit(params: dict[str, Array]) -> tuple[Any, Any]:
        return mj.inner_loop(
            net_loss,
            params,
            optax.adam(1.0),
            num_steps=0,
            per_step=none,
            observe=lambda phi: {"offset": phi["offset"]},
        )

    (phi, seen), pull_back = jax.vjp(fit, params)
    oracles.assert_close(phi, params, 0.0)
    oracles.assert_close(seen, {"offset": params["offset"][None]}, 0.0)
    cotangent = oracles.normal_like(2, params)
    (pulled,) = pull_back((cotangent, jax.tree.map(jnp.zeros_like, seen)))
    oracles.assert_close(pulled, cotangent, 0.0)


def test_nothing_is_observed_unless_asked() -> None:
    params, support, _ = net()
    phi, seen = mj.inner_loop(net_loss, params, optax.sgd(0.1), num_steps=STEPS, per_step=support)
    assert seen is None
    assert jax.tree.structure(phi) == jax.tree.structure(params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("eps_root", "first_order", "finite"),
    [(0.0, False, False), (1e-8, False, True), (0.0, True, True)],
)
def test_adam_needs_eps_root_where_a_unit_is_dead(
    eps_root: float, first_order: bool, finite: bool, dtype: Any
) -> None:
    inputs = jnp.ones((1, 1), dtype)
    params = {
        "into": jnp.array([[1.0, -1.0]], dtype),  # The second unit is never active.
        "out": jnp.array([[0.5], [0.5]], dtype),
    }

    def loss(params: dict[str, Array], _: None) -> Array:
        return ((jax.nn.relu(inputs @ params["into"]) @ params["out"] - 2.0) ** 2).mean()

    def meta_loss(params: dict[str, Array]) -> Array:
        optimizer = optax.adam(0.01, eps_root=eps_root)
        phi, _ = mj.inner_loop(loss, params, optimizer, num_steps=2, first_order=first_order)
        return loss(phi, None)

    said = nullcontext() if finite else pytest.warns(RuntimeWarning, match="eps_root=1e-8")
    with said:
        value, gradient = jax.jit(jax.value_and_grad(meta_loss))(params)
    assert jnp.isfinite(value)
    if not finite:
        assert jnp.isnan(gradient["out"][1, 0])
        return
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert gradient["into"][0, 1] == gradient["out"][1, 0] == 0
    assert gradient["into"][0, 0] < 0
    assert gradient["out"][0, 0] < 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": -1}, ValueError, "num_steps=-1"),
        ({"num_steps": 1.0}, TypeError, "num_steps=1.0"),
        ({"optimizer": 0.1}, TypeError, "optimizer is 0.1"),
    ],
)
def test_slips_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"optimizer": optax.sgd(0.1), "num_steps": 1} | options
    with pytest.raises(error, match=message):
        mj.inner_loop(lambda phi, _: phi.sum(), jnp.ones(2), **arguments)
