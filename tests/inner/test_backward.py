"""Every way to compute the inner loop's derivative: the same derivative, or the truncated one."""

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
STEPS = 5  # Two segments of two and one more step, where checkpoints are nested.

BACKWARDS = {
    "mixed": mj.Backward(mixed=True),
    "steps": mj.Backward(checkpoint="steps"),
    "nested": mj.Backward(checkpoint="nested"),
    "mixed_steps": mj.Backward(mixed=True, checkpoint="steps"),
    "mixed_nested": mj.Backward(mixed=True, checkpoint="nested"),
    "all_steps": mj.Backward(last_steps=STEPS + 1),
    "unrolled": mj.Backward(unroll=True),
    "unrolled_nested": mj.Backward(checkpoint="nested", unroll=True),
}

# By the learned rate; and the update rule by hand.
OPTIMIZERS: dict[str, tuple[Callable, Callable]] = {
    "sgd": (optax.sgd, oracles.sgd),
    "momentum": (
        lambda rate: optax.sgd(rate, momentum=0.8),
        lambda rate: oracles.momentum(rate, 0.8),
    ),
    "adam": (
        lambda rate: optax.adam(rate, eps_root=1e-8),
        lambda rate: oracles.adam(rate, 0.9, 0.999, 1e-8, 1e-8),
    ),
}


def problem() -> dict[str, Any]:
    """Everything that a meta-gradient may be taken of, labels beside it."""
    xs, xq, first, second = oracles.normals(0, (STEPS, 6, 3), (6, 3), (3, 4), (4, 2))
    return {
        "params": {"first": first, "second": second},
        "rate": jnp.array(0.1),
        "support": xs,
        "query": xq,
        "temperature": jnp.array(0.7),
    }


LABELS = jnp.array([0, 1, 1, 0, 1, 0])


def net_loss(params: dict[str, Array], inputs: Array, temperature: Array) -> Array:
    hidden = jnp.tanh(inputs @ params["first"]) @ params["second"]
    log_probabilities = jax.nn.log_softmax(hidden / temperature)
    return -jnp.take_along_axis(log_probabilities, LABELS[:, None], axis=1).mean()


def meta_loss(
    given: dict[str, Any], optimizer: Callable, backward: mj.Backward | None, **options: Any
) -> tuple[Array, Any]:
    """By `inner_loop`: mini-batches come as data, the temperature is closed over."""
    ways = {} if backward is None else {"backward": backward}
    phi, seen = mj.inner_loop(
        lambda phi, data: net_loss(phi, data["inputs"], given["temperature"]) + 0 * data["step"],
        given["params"],
        optimizer(given["rate"]),
        num_steps=STEPS,
        per_step={"inputs": given["support"], "step": jnp.arange(STEPS)},
        observe=lambda phi: phi["second"].sum(),
        **ways,
        **options,
    )
    return net_loss(phi, given["query"], given["temperature"]), seen


def by_hand(given: dict[str, Any], rule: Callable) -> tuple[Array, Any]:
    path = oracles.inner_path(
        lambda phi, step: net_loss(phi, given["support"][step], given["temperature"]),
        given["params"],
        rule(given["rate"]),
        STEPS,
    )
    seen = jnp.stack([phi["second"].sum() for phi in path])
    return net_loss(path[-1], given["query"], given["temperature"]), seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_exact_derivative_with_respect_to_everything(name: str) -> None:
    optimizer, rule = OPTIMIZERS[name]

    @jax.jit
    def derivatives(given: dict[str, Any]) -> dict[str, Any]:
        ways = {
            way: jax.value_and_grad(
                lambda given, backward=backward: meta_loss(given, optimizer, backward),
                has_aux=True,
            )(given)
            for way, backward in {"default": None, **BACKWARDS}.items()
        }
        hand = jax.value_and_grad(lambda given: by_hand(given, rule), has_aux=True)(given)
        return {**ways, "hand": hand}

    results = derivatives(problem())
    hand = results.pop("hand")
    assert min(jnp.abs(x).max() for x in jax.tree.leaves(hand[1])) > 1e-4
    for result in results.values():
        oracles.assert_close(result, hand)


@pytest.mark.parametrize("way", ["mixed", "mixed_nested"])
def test_mixed_mode_under_vmap_and_differentiated_again(way: str) -> None:
    given = problem()
    rates = jnp.array([0.05, 0.2])

    def slope(backward: mj.Backward) -> Callable:
        def by_rate(rate: Array) -> Array:
            gradient = jax.grad(lambda given: meta_loss(given, optax.sgd, backward)[0])(
                {**given, "rate": rate}
            )
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(gradient))

        return jax.vmap(jax.value_and_grad(by_rate))

    ours, plain = jax.jit(
        lambda rates: [slope(backward)(rates) for backward in (BACKWARDS[way], mj.Backward())]
    )(rates)
    oracles.assert_close(ours, plain)


@pytest.mark.parametrize("checkpoint", ["none", "steps", "nested"])
def test_reverse_over_reverse_composes_with_forward_mode(checkpoint: str) -> None:
    given = problem()
    direction = oracles.normal_like(1, given)
    backward = mj.Backward(checkpoint=checkpoint)

    @jax.jit
    def both(given: dict[str, Any]) -> tuple[Array, Any]:
        def loss(given: dict[str, Any]) -> Array:
            return meta_loss(given, optax.sgd, backward)[0]

        return jax.jvp(loss, (given,), (direction,))[1], jax.grad(loss)(given)

    forward, gradient = both(given)
    oracles.assert_close(forward, oracles.dot(gradient, direction))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("last_steps", [0, 2, 7])
def test_truncation_has_the_closed_form(last_steps: int, mixed: bool) -> None:
    theta, a, b, *roots = oracles.normals(0, *[(4,)] * 3, *[(4, 4)] * 2)
    support, query = (root @ root.T / 4 + jnp.eye(4) for root in roots)
    rate, steps = 0.1, 7

    def loss(theta: Array) -> Array:
        phi, _ = mj.inner_loop(
            lambda phi, _: 0.5 * (phi - a) @ support @ (phi - a),
            theta,
            optax.sgd(rate),
            num_steps=steps,
            backward=mj.Backward(mixed=mixed, last_steps=last_steps),
        )
        return 0.5 * (phi - b) @ query @ (phi - b)

    shrink = jnp.eye(4) - rate * support
    phi = a + jnp.linalg.matrix_power(shrink, steps) @ (theta - a)
    expected = jnp.linalg.matrix_power(shrink, last_steps) @ query @ (phi - b)
    oracles.assert_close(jax.jit(jax.grad(loss))(theta), expected)


def test_learners_and_steps_pass_it_on() -> None:
    sample = mj.data.sinusoid_episodes(shots=4, queries=4)
    episodes = jax.vmap(sample)(jax.random.split(jax.random.key(0), 2))
    model = mj.models.mlp((5, 1), stddev=0.5)
    optimizer = optax.sgd(1.0)

    def step(backward: mj.Backward) -> Callable:
        return mj.maml_step(
            model,
            optimizer,
            inner=optax.sgd(0.1),
            num_steps=3,
            backward=backward,
            loss_fn=mj.squared_error,
        )

    params = model.init(jax.random.key(1), episodes.support.inputs[0])
    state = mj.init_state(params, optimizer, jax.random.key(2))
    run = jax.jit(lambda state: [step(each)(state, episodes)[0].params for each in each_way])
    each_way = [mj.Backward(), mj.Backward(mixed=True), mj.Backward(last_steps=0)]
    plain, mixed, first_order = run(state)
    oracles.assert_close(mixed, plain)
    assert jnp.abs(first_order["Dense_0"]["kernel"] - plain["Dense_0"]["kernel"]).max() > 1e-6


def test_mixed_mode_rules_out_forward_mode() -> None:
    given = problem()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(
            lambda given: meta_loss(given, optax.sgd, BACKWARDS["mixed"])[0], (given,), (given,)
        )


def test_the_number_of_traces_does_not_grow_with_the_steps() -> None:
    traces = []

    def loss(phi: Array, _: None) -> Array:
        traces.append(1)
        return (phi**2).sum()

    counts = []
    for steps in (4, 64):
        traces.clear()
        for backward in (way for way in BACKWARDS.values() if not way.unroll):
            jax.jit(
                jax.grad(
                    lambda theta, steps=steps, backward=backward: mj.inner_loop(
                        loss, theta, optax.sgd(0.1), num_steps=steps, backward=backward
                    )[0].sum()
                )
            ).lower(jnp.ones(2))
        counts.append(len(traces))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unroll": 4}, TypeError, "unroll=4; expected True or False"),
        (
            {"last_steps": -1},
            ValueError,
            "last_steps=-1; expected an integer of 0 or more, or None",
        ),
        ({"last_steps": 1.5}, TypeError, "last_steps=1.5; expected an integer of 0 or more"),
        ({"checkpoint": ["x"]}, ValueError, "checkpoint="),
        ({"checkpoint": "all"}, ValueError, "checkpoint='all'; expected \"none\", "),
    ],
)
def test_slips_are_named(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mj.Backward(**options)


INNER: dict[str, Any] = {"inner": optax.sgd(0.1), "num_steps": 1}


@pytest.mark.parametrize("factory", [mj.maml, mj.proto_maml])
def test_what_is_no_backward_is_refused(factory: Callable) -> None:
    with pytest.raises(TypeError, match=r"backward is 'mixed'; expected a metajax.Backward"):
        factory(mj.models.mlp((2,)), **INNER, backward="mixed")


@pytest.mark.parametrize("factory", [mj.maml, mj.proto_maml])
@pytest.mark.parametrize(
    "backward",
    [
        mj.Backward(last_steps=2),
        mj.Backward(last_steps=0),
        mj.Backward(mixed=True),
        mj.Backward(checkpoint="steps", unroll=True),
    ],
)
def test_first_order_has_no_derivative_to_compute(factory: Callable, backward: mj.Backward) -> None:
    message = r"first_order=True with backward=Backward\(.*\), but no derivative goes through"
    with pytest.raises(ValueError, match=message):
        factory(mj.models.mlp((2,)), **INNER, first_order=True, backward=backward)
    factory(mj.models.mlp((2,)), **INNER, first_order=True, backward=mj.Backward(unroll=True))


@pytest.mark.parametrize(
    "backward", [mj.Backward(), mj.Backward(last_steps=0), *BACKWARDS.values()]
)
@pytest.mark.parametrize("items", [3, 10])
def test_every_step_has_its_data(items: int, backward: mj.Backward) -> None:
    message = rf"per_step holds an array of shape \({items}, 2\) but num_steps=4; expected"
    with pytest.raises(ValueError, match=message):
        mj.inner_loop(
            lambda phi, data: (phi * data).sum(),
            jnp.ones(2),
            optax.sgd(0.1),
            num_steps=4,
            backward=backward,
            per_step=jnp.ones((items, 2)),
        )


def test_a_loss_that_is_no_number() -> None:
    for backward in (mj.Backward(), mj.Backward(mixed=True)):
        with pytest.raises(TypeError, match="scalar-output"):
            mj.inner_loop(
                lambda phi, _: (phi.sum(), phi),
                jnp.ones(2),
                optax.sgd(0.1),
                num_steps=1,
                backward=backward,
            )
