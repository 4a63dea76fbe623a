"""What leaves a loop, and that derivatives do not notice."""

import jax
import jax.numpy as jnp
import optax
import oracles
import pytest
from operations import count_operations

import metajax as mj
from metajax.inner.invariants import hoist

pytestmark = pytest.mark.usefixtures("float64")

ITEMS, WIDTH = 4, 8


def _arrays() -> tuple[jax.Array, ...]:
    return oracles.normals(0, (ITEMS, WIDTH), (WIDTH, WIDTH), (WIDTH,))


def _products(fun: object, *args: object) -> int:
    return round(count_operations(fun, *args)) // 2


@jax.custom_jvp
def _doubled_slope(x: jax.Array, y: jax.Array) -> jax.Array:
    return x * y


@_doubled_slope.defjvp
def _doubled_slope_jvp(primals: tuple, tangents: tuple) -> tuple:
    (x, y), (dx, dy) = primals, tangents
    return x * y, 2 * (y * dx + x * dy)


def test_what_depends_on_no_argument_is_computed_once() -> None:
    inputs, body, head = _arrays()

    def loss(head: jax.Array) -> jax.Array:
        return (jnp.tanh(inputs @ body) @ head).sum()

    @jax.jit
    def compiled(head: jax.Array) -> jax.Array:
        return (jax.jit(lambda x: jnp.tanh(x @ body))(inputs) @ head).sum()

    for fun in (loss, compiled):
        assert _products(hoist(fun, head), head) == ITEMS * WIDTH
        oracles.assert_close(hoist(fun, head)(head), loss(head))


def test_results_that_depend_on_nothing_come_back() -> None:
    inputs, body, _ = _arrays()
    outputs = hoist(lambda x: {"fixed": inputs @ body, "given": x, "number": 2.0}, 1.0)(3.0)
    oracles.assert_close(outputs["fixed"], inputs @ body)
    assert (outputs["given"], outputs["number"]) == (3.0, 2.0)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(outputs))


def test_derivatives_of_what_is_closed_over() -> None:
    inputs, body, head = _arrays()

    def loss(body: jax.Array, head: jax.Array, *, moved: bool) -> jax.Array:
        def inner(head: jax.Array) -> jax.Array:
            features = jax.nn.relu(inputs @ body)
            return jax.nn.logsumexp(features @ head) + (body**2).sum() * head.sum()

        inner = hoist(inner, head) if moved else inner
        return inner(head - 0.1 * jax.grad(inner)(head))

    first, second = (
        jax.grad(lambda *args, m=moved: loss(*args, moved=m), argnums=(0, 1))(body, head)
        for moved in (True, False)
    )
    oracles.assert_close(first, second)


def test_a_derivative_rule_stays_with_its_function() -> None:
    # JAX's own partial evaluation takes such a function apart, and its rule is lost.
    def outer(known: jax.Array) -> jax.Array:
        return hoist(lambda x: _doubled_slope(known, x), 1.0)(3.0)

    assert jax.grad(outer)(5.0) == 6.0
    inner = hoist(lambda x: _doubled_slope(jnp.asarray(5.0), x), 1.0)
    assert jax.grad(inner)(3.0) == 10.0


def test_printing_stays_in_the_function(capsys: pytest.CaptureFixture) -> None:
    def loud(x: jax.Array) -> jax.Array:
        jax.debug.print("said")
        return x

    said = hoist(loud, 1.0)
    said(1.0), said(1.0)
    jax.effects_barrier()
    assert capsys.readouterr().out.count("said") == 2


def test_a_step_count_costs_the_head_alone() -> None:
    inputs, body, head = _arrays()
    params = {"body": body, "head": head}

    def loss(params: dict, step: None) -> jax.Array:
        return (jnp.tanh(inputs @ params["body"]) @ params["head"]).sum() ** 2

    def meta(params: dict, steps: int, adapt: str | None) -> jax.Array:
        phi, _ = mj.inner_loop(loss, params, optax.sgd(0.01), num_steps=steps, adapt=adapt)
        return loss(phi, None)

    def cost(steps: int, adapt: str | None) -> int:
        return _products(jax.grad(lambda params: meta(params, steps, adapt)), params)

    one = ITEMS * WIDTH
    # Forward, the inner gradient, and the derivative of both: six products with the head a step.
    assert 0 < cost(5, "head") - cost(1, "head") <= 4 * 6 * one
    assert cost(5, None) - cost(1, None) > 4 * 4 * one * WIDTH
