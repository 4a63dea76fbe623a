"""Every optimiser of optax steps inside and outside as it does in a loop by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import oracles
import pytest
from trials_optimisers import factories

import metajax as mj
from metajax.inner.update_traits import update_traits
from metajax.types import Array, Params

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*infinite slope:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning"),  # Of optax.noisy_sgd.
]

MODEL = mj.Model(
    lambda key: {"w": jnp.zeros((3, 2)), "b": jnp.zeros((1, 2))},
    lambda params, x: jnp.tanh(x @ params["w"]) + params["b"],
)
FACTORIES = factories()
FAST = ("optax.adamw",)
NAMES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FACTORIES]


def task() -> tuple[Params, mj.Episode]:
    w, b, xs, ys, xq, yq = oracles.normals(0, (3, 2), (1, 2), (5, 3), (5, 2), (5, 3), (5, 2))
    return {"w": w, "b": b}, mj.Episode(mj.Examples(xs, ys), mj.Examples(xq, yq))


def loss(params: Params, examples: mj.Examples) -> Array:
    return ((MODEL.apply(params, examples.inputs) - examples.targets) ** 2).mean()


def learner(inner: optax.GradientTransformation, **options: Any) -> mj.Learner:
    settings = {"num_steps": 1, "loss_fn": mj.squared_error, **options}
    return mj.maml(MODEL, inner=inner, **settings)


def stepped(
    optimizer: optax.GradientTransformation, params: Params, value: Any, slope: Any, of: Any
) -> Params:
    """One step by hand; an optimiser is given what it takes beside the gradient."""
    update = optax.with_extra_args_support(optimizer).update
    return optax.apply_updates(
        params,
        update(slope, optimizer.init(params), params, value=value, grad=slope, value_fn=of)[0],
    )


def test_most_are_found() -> None:
    assert len(FACTORIES) > 30


@pytest.mark.parametrize("name", NAMES)
def test_one_step_inside_is_as_by_hand(name: str) -> None:
    params, episode = task()
    optimizer = FACTORIES[name](0.1)
    if "schedule_free" in name:
        with pytest.raises(ValueError, match="average of what the loop returns"):
            learner(optimizer).loss(params, episode)
        return
    traits = update_traits(optimizer, params)
    first_order = traits.searches or traits.infinite_slope == "anywhere"

    def by_hand(params: Params) -> Array:
        value, slope = jax.value_and_grad(loss)(params, episode.support)
        moved = stepped(optimizer, params, value, slope, lambda p: loss(p, episode.support))
        if first_order:
            moved = jax.tree.map(lambda p, m: p + jax.lax.stop_gradient(m - p), params, moved)
        return loss(moved, episode.query)

    @jax.jit
    def both(params: Params) -> Any:
        inside = learner(optimizer, first_order=first_order)
        ours = jax.value_and_grad(lambda p: inside.loss(p, episode)[0])
        return ours(params), jax.value_and_grad(by_hand)(params)

    oracles.assert_close(*both(params), 1e-8)


@pytest.mark.slow
def test_sam_steps_outside() -> None:
    """It takes nothing beside the gradient, and every second step goes back down."""
    params, episode = task()
    uphill = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    optimizer = optax.contrib.sam(optax.sgd(0.1), uphill)
    tasks = jax.tree.map(lambda x: x[None], episode)
    step = jax.jit(mj.train_step(learner(optax.sgd(0.1), num_steps=0), optimizer))
    state = mj.init_state(params, optimizer, jax.random.key(0))
    at, own = params, optimizer.init(params)
    for _ in range(2):
        state, _ = step(state, tasks)
        updates, own = optimizer.update(jax.grad(loss)(at, episode.query), own, at)
        at = optax.apply_updates(at, updates)
    oracles.assert_close(state.params, at, 1e-8)


def test_lookahead_is_refused_outside() -> None:
    with pytest.raises(ValueError, match="needs parameters in pairs, fast and slow"):
        mj.init_state(task()[0], optax.lookahead(optax.sgd(0.1), 2, 0.5), jax.random.key(0))


@pytest.mark.parametrize("name", NAMES)
def test_one_step_outside_is_as_by_hand(name: str) -> None:
    params, episode = task()
    optimizer = FACTORIES[name](0.1)
    tasks = jax.tree.map(lambda x: x[None], episode)
    step = mj.train_step(learner(optax.sgd(0.1), num_steps=0), optimizer)
    state = mj.init_state(params, optimizer, jax.random.key(0))
    if name == "optax.lbfgs":
        with pytest.raises(TypeError, match=r"outer optimiser searches along a line.*linesearch="):
            step(state, tasks)
        return

    @jax.jit
    def both(state: mj.TrainState) -> Any:
        value, slope = jax.value_and_grad(loss)(state.params, episode.query)
        by_hand = stepped(optimizer, state.params, value, slope, None)
        return step(state, tasks)[0].params, by_hand

    oracles.assert_close(*both(state), 1e-8)
