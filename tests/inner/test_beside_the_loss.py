"""What a loss gives beside itself, under `has_aux`: its values, and the derivative through them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import oracles
import pytest

import metajax as mj

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
Params = dict[str, Array]
RATE, STEPS = 0.3, 4


def theta() -> Params:
    return oracles.normal_like(0, {"body": jnp.zeros((3, 4)), "head": jnp.zeros(4)})


def data() -> tuple[Array, Array]:
    """Of each step."""
    inputs, targets = oracles.normals(1, (STEPS, 6, 3), (STEPS, 6))
    return inputs, targets


def loss(params: Params, step: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
    inputs, targets = step
    hidden = jnp.tanh(inputs @ params["body"])
    errors = hidden @ params["head"] - targets
    return (errors**2).mean(), {"errors": errors, "sizes": jnp.abs(params["head"]).sum()}


def from_aux(aux: dict[str, Array]) -> Array:
    """A number that each step has its own part in."""
    steps = len(aux["sizes"])
    if not steps:
        return jnp.zeros(())
    weights = 1.0 + jnp.arange(steps)
    return (weights * (jnp.sin(aux["errors"]).sum(axis=1) + aux["sizes"])).sum()


def run(num_steps: int, **options: Any) -> Callable[[Params], Any]:
    """`theta -> ((number, (adapted parameters, aux)), derivative of the number)`."""
    per_step = jax.tree.map(lambda x: x[:num_steps], data())

    def number(params: Params) -> Any:
        adapted, seen, aux = mj.inner_loop(
            loss,
            params,
            optax.sgd(RATE),
            num_steps=num_steps,
            per_step=per_step,
            has_aux=True,
            **options,
        )
        assert seen is None
        return from_aux(aux), (adapted, aux)

    return jax.jit(jax.value_and_grad(number, has_aux=True))


def by_hand(num_steps: int, exact_steps: int, moving: str | None = None) -> Callable[[Params], Any]:
    """The same, step by step; all but the last gradients are constants."""

    def number(params: Params) -> Any:
        auxes = []
        for i in range(num_steps):
            step = jax.tree.map(lambda x, i=i: x[i], data())
            auxes.append(loss(params, step)[1])
            slopes = jax.grad(lambda params, step=step: loss(params, step)[0])(params)
            if i < num_steps - exact_steps:
                slopes = jax.lax.stop_gradient(slopes)
            params = {
                name: leaf - RATE * slopes[name] if moving in (None, name) else leaf
                for name, leaf in params.items()
            }
        aux = jax.tree.map(lambda *each: jnp.stack(each), *auxes)
        return from_aux(aux), (params, aux)

    return jax.jit(jax.value_and_grad(number, has_aux=True))


def way(
    name: str, exact_steps: int, moving: str | None = None, *, slow: bool = False, **options: Any
) -> Any:
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(options, exact_steps, moving, id=name, marks=marks)


WAYS = [
    way("exact", STEPS),
    way("first order", 0, first_order=True),
    way("truncated", 2, backward=mj.Backward(last_steps=2)),
    way("mixed", STEPS, backward=mj.Backward(mixed=True)),
    way(
        "mixed, truncated, unrolled",
        1,
        slow=True,
        backward=mj.Backward(mixed=True, last_steps=1, unroll=True),
    ),
    way("checkpoints", STEPS, backward=mj.Backward(checkpoint="steps")),
    way("nested checkpoints", STEPS, slow=True, backward=mj.Backward(checkpoint="nested")),
    way("head", STEPS, "head", adapt="head"),
    way("head, mixed", STEPS, "head", slow=True, adapt="head", backward=mj.Backward(mixed=True)),
    way("head, first order", 0, "head", slow=True, adapt="head", first_order=True),
]


@pytest.mark.parametrize(("options", "exact_steps", "moving"), WAYS)
def test_values_and_derivative_are_those_of_the_unrolled_loop(
    options: dict[str, Any], exact_steps: int, moving: str | None
) -> None:
    found = run(STEPS, **options)(theta())
    oracles.assert_close(found, by_hand(STEPS, exact_steps, moving)(theta()))


@pytest.mark.parametrize("options", [{}, {"adapt": "head"}, {"backward": mj.Backward(mixed=True)}])
def test_no_steps_give_nothing_of_the_right_shape(options: dict[str, Any]) -> None:
    (_, (adapted, aux)), slopes = run(0, **options)(theta())
    oracles.assert_close(adapted, theta(), 0.0)
    assert jax.tree.map(jnp.shape, aux) == {"errors": (0, 6), "sizes": (0,)}
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize("mixed", [False, True])
def test_keys_flags_and_integers_leave_the_loop(mixed: bool) -> None:
    """Of no step, too, and where there is a derivative."""
    for num_steps in (0, 3):
        keys = jax.random.split(jax.random.key(0), num_steps)

        def number(x: Array, keys: Array = keys, num_steps: int = num_steps) -> Any:
            adapted, _, aux = mj.inner_loop(
                lambda x, key: ((x**2).sum(), (key, x > 0, jnp.int32(7), None)),
                x,
                optax.sgd(0.1),
                num_steps=num_steps,
                per_step=keys,
                backward=mj.Backward(mixed=mixed),
                has_aux=True,
            )
            return adapted.sum(), aux

        slopes, aux = jax.jit(jax.grad(number, has_aux=True))(jnp.array([1.0, -1.0]))
        drawn, flags, integers, nothing = aux
        oracles.assert_close(slopes, jnp.full(2, 0.8**num_steps))
        assert (jax.random.key_data(drawn) == jax.random.key_data(keys)).all()
        assert (flags == jnp.tile(jnp.array([True, False]), (num_steps, 1))).all()
        assert (integers.shape, integers.dtype, nothing) == ((num_steps,), jnp.int32, None)


def test_it_goes_with_what_is_observed() -> None:
    adapted, seen, aux = mj.inner_loop(
        lambda params, step: (loss(params, step)[0], params["head"]),
        theta(),
        optax.sgd(RATE),
        num_steps=STEPS,
        per_step=data(),
        observe=lambda params: params["head"],
        has_aux=True,
    )
    oracles.assert_close(seen, jnp.concatenate([aux, adapted["head"][None]]))


@pytest.mark.parametrize(
    "options", [{}, {"adapt": "head"}, {"first_order": True}, {"backward": mj.Backward(mixed=True)}]
)
def test_nothing_beside_it_is_the_program_without(options: dict[str, Any]) -> None:
    """Of the loop, and of its derivative."""

    def program(has_aux: bool) -> str:
        def given(params: Params, step: Any) -> Any:
            value, _ = loss(params, step)
            return (value, ()) if has_aux else value

        def number(params: Params, per_step: Any) -> Array:
            adapted, *_ = mj.inner_loop(
                given,
                params,
                optax.sgd(RATE),
                num_steps=STEPS,
                per_step=per_step,
                has_aux=has_aux,
                **options,
            )
            return adapted["head"].sum()

        return jax.jit(jax.grad(number)).lower(theta(), data()).as_text()

    assert program(True) == program(False)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_step_computes_its_loss_once(mixed: bool) -> None:
    """What it draws, an episode in a simulator say, is drawn once."""
    backward = mj.Backward(mixed=mixed)

    def adapted(params: Params, per_step: Any) -> Any:
        options = {"num_steps": STEPS, "per_step": per_step, "has_aux": True, "backward": backward}
        return mj.inner_loop(loss, params, optax.sgd(RATE), **options)

    program = jax.jit(adapted).lower(theta(), data()).as_text()
    assert program.count("stablehlo.tanh") == 1


@pytest.mark.parametrize("num_steps", [0, 1])
def test_a_pair_is_asked_for(num_steps: int) -> None:
    for given, kind in (
        (lambda x, step: x.sum(), "no pair"),
        (lambda x, step: (0.0,) * 3, "a tuple of 3"),
    ):
        with pytest.raises(TypeError, match=rf"loss gave {kind}; expected \(loss, aux\)"):
            mj.inner_loop(given, jnp.ones(2), optax.sgd(0.1), num_steps=num_steps, has_aux=True)
