"""Reinforcement learning by the learners of all else: an objective that draws its own roll-outs.

That estimators are what they should be is shown on decisions whose paths can be listed
(`tests/rl/test_estimators.py`). Here actions are continuous and everything is drawn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj
from metajax import rl

Array = jax.Array
STRIDE = 0.5
GOAL = (0.5, -0.8)
UNBIASED = rl.Surrogate(
    dice_lambda=1.0, discount=1.0, baseline="leave_one_out", normalize=False, scale="return"
)


def plane(power: int = 1) -> rl.Environment:
    """A point on the plane that is paid minus a power of the distance to its goal."""

    def reset(key: Array, goal: Array) -> tuple[Array, Array]:
        return jnp.zeros_like(goal), jnp.zeros_like(goal)

    def step(key: Array, position: Array, action: Array, goal: Array) -> tuple[Any, ...]:
        position = position + STRIDE * action
        return position, position, -(((position - goal) ** 2).sum() ** (power / 2)), False

    return rl.Environment(reset, step, lambda key: jnp.asarray(GOAL, float))


def linear() -> mj.Model:
    return mj.Model(
        lambda key, x: {"weight": jnp.zeros((2, 2)), "bias": jnp.zeros(2)},
        lambda params, x: x @ params["weight"] + params["bias"][None],
    )


def objective_of(horizon: int, rollouts: int, power: int = 1) -> rl.PolicyGradient:
    policy = rl.gaussian_policy(linear())
    return rl.PolicyGradient(
        policy, plane(power), horizon=horizon, rollouts=rollouts, surrogate=UNBIASED
    )


def some_params() -> rl.GaussianParams:
    params = rl.GaussianParams(linear().init(jax.random.key(0), jnp.zeros((1, 2))), jnp.zeros(2))
    return oracles.normal_like(0, params, 0.3)


def episode() -> mj.Episode:
    return rl.task_episodes(plane())(jax.random.key(0))


def reinforce(params: rl.GaussianParams, paths: rl.Trajectories) -> rl.GaussianParams:
    """The gradient of minus the return from the score function of normal actions, in loops."""
    weight, bias = (np.asarray(params.model[name]) for name in ("weight", "bias"))
    variance = np.exp(2 * np.asarray(params.log_std))
    rollouts, horizon = paths.rewards.shape
    slopes = {"weight": np.zeros((2, 2)), "bias": np.zeros(2)}
    of_std = np.zeros(2)
    for n in range(rollouts):
        for t in range(horizon):
            to_go = [sum(paths.rewards[m, t:]) for m in range(rollouts)]
            advantage = to_go[n] - sum(to_go[m] for m in range(rollouts) if m != n) / (rollouts - 1)
            seen, action = np.asarray(paths.observations[n, t]), np.asarray(paths.actions[n, t])
            away = action - (seen @ weight + bias)
            slopes["weight"] -= advantage * np.outer(seen, away / variance) / rollouts
            slopes["bias"] -= advantage * away / variance / rollouts
            of_std -= advantage * (away**2 / variance - 1) / rollouts
    return rl.GaussianParams(slopes, of_std)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("factory", [mj.maml, mj.reptile])
def test_inner_gradient_is_reinforce(factory: Callable[..., mj.Learner]) -> None:
    objective, params, key = objective_of(3, 4), some_params(), jax.random.key(1)
    learner = factory(objective, inner=optax.sgd(1.0), num_steps=1)
    adapted = jax.jit(learner.adapt)(params, episode().support, key).params

    step_key = jax.random.fold_in(key, 0)  # The fit's; each of its steps has one of the split.
    if factory is mj.reptile:
        step_key = jax.random.fold_in(step_key, 0)
    paths = jax.jit(objective.roll_out)(params, jnp.asarray(GOAL), jax.random.split(step_key, 1)[0])
    expected = reinforce(params, jax.tree.map(np.asarray, paths))
    oracles.assert_close(jax.tree.map(jnp.subtract, params, adapted), expected)


@pytest.mark.exact
@pytest.mark.usefixtures("float64")
def test_loss_is_a_function_of_the_key() -> None:
    learner = mj.maml(objective_of(3, 4), inner=optax.sgd(0.1), num_steps=2)
    run = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    first, again, other = (
        run(some_params(), episode(), jax.random.key(seed)) for seed in (0, 0, 1)
    )
    oracles.assert_close(again, first, 0.0)
    assert abs(first[0][0] - other[0][0]) > 1e-3
    assert jax.tree.reduce(jnp.maximum, jax.tree.map(lambda g: jnp.abs(g).max(), first[1])) > 1e-3


@pytest.mark.usefixtures("float64")
def test_exact_maml_follows_the_expected_return() -> None:
    """One move and a squared distance, where the expected return has a closed form."""
    goal, rate, draws = jnp.asarray(GOAL), 0.5, 16
    moving = {"bias": jnp.array([-0.4, 0.3]), "log_std": jnp.array([-0.2, 0.1])}

    def expected_loss(moving: dict[str, Array]) -> Array:
        off = (STRIDE * moving["bias"] - goal) ** 2
        return (off + STRIDE**2 * jnp.exp(2 * moving["log_std"])).sum()

    def expected_meta_loss(moving: dict[str, Array]) -> Array:
        return oracles.maml_loss(
            lambda phi, _: expected_loss(phi), expected_loss, moving, oracles.sgd(rate), 1
        )

    learner = mj.maml(objective_of(1, 20_000, power=2), inner=optax.sgd(rate), num_steps=1)
    slope = jax.grad(lambda params, key: learner.loss(params, episode(), key)[0])
    params = rl.GaussianParams(
        {"weight": jnp.zeros((2, 2)), "bias": moving["bias"]}, moving["log_std"]
    )
    keys = jax.random.split(jax.random.key(0), draws)
    found = jax.jit(lambda params: jax.lax.map(lambda key: slope(params, key), keys))(params)

    exact = jax.grad(expected_meta_loss)(moving)
    # What a surrogate without the magic box would give, but for noise.
    first_order = oracles.fomaml_gradient(
        lambda phi, _: expected_loss(phi), expected_loss, moving, oracles.sgd(rate), 1
    )
    for name, drawn in (("bias", found.model["bias"]), ("log_std", found.log_std)):
        mean = drawn.mean(axis=0)
        error = drawn.std(axis=0, ddof=1) / draws**0.5
        assert (jnp.abs(mean - exact[name]) < 4 * error).all(), name
        assert (jnp.abs(mean - first_order[name]) > 6 * error).all(), name


# The learners, trained and evaluated like any other.

ENVIRONMENT = rl.navigation(stride=0.5, reach=1.0)
SAMPLE = rl.task_episodes(ENVIRONMENT)


def navigating() -> rl.PolicyGradient:
    head = mj.models.mlp((2,), stddev=0.1)
    body = mj.Model(lambda key, x: jnp.eye(2), lambda params, x: x @ params)
    policy = rl.gaussian_policy(mj.models.chain(body, head), std=0.6)
    return rl.PolicyGradient(policy, ENVIRONMENT, horizon=5, rollouts=20)


def train(learner: mj.Learner, iterations: int) -> tuple[Any, Any]:
    """Parameters before and after."""
    before = learner.init(jax.random.key(0), SAMPLE(jax.random.key(1)).support.inputs)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(0.03))
    run = mj.train(
        learner,
        optimizer,
        mj.init_state(before, optimizer, jax.random.key(3)),
        SAMPLE,
        iterations=iterations,
        meta_batch=20,
        progress=False,
    )
    return before, run.state.params


def evaluate(learner: mj.Learner, params: Any) -> np.ndarray:
    """Mean returns before and after each step, on the same tasks."""
    return mj.evaluate(learner, params, SAMPLE, episodes=100).mean("return_per_step")


def test_meta_training_improves_the_adapted_return() -> None:
    learner = mj.maml(navigating(), inner=optax.sgd(0.3), num_steps=1, record_steps=True)
    before, after = (evaluate(learner, params) for params in train(learner, 60))
    assert after[1] > before[1] + 0.5
    assert after[1] > after[0] + 1.0  # By adapting, not by a policy that is good for all goals.


LEARNERS: dict[str, tuple[Callable[..., mj.Learner], dict[str, Any]]] = {
    "maml": (mj.maml, {"inner": optax.sgd(0.3)}),
    "fomaml": (mj.fomaml, {"inner": optax.sgd(0.3)}),
    "reptile": (mj.reptile, {"inner": optax.sgd(0.3)}),
    "anil": (mj.anil, {"inner": optax.sgd(0.3)}),
    "boil": (mj.boil, {"inner": optax.sgd(0.3)}),
    "meta_sgd": (mj.meta_sgd, {"rate": 0.3, "granularity": "leaf"}),
}


def learner_of(name: str) -> mj.Learner:
    factory, options = LEARNERS[name]
    return factory(navigating(), num_steps=2, record_steps=True, **options)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_takes_the_objective(name: str) -> None:
    """As far as can be told without a compiler."""
    learner = learner_of(name)
    given = SAMPLE(jax.random.key(1))
    params = jax.eval_shape(learner.init, jax.random.key(0), given.support.inputs)
    gradient, aux = jax.eval_shape(
        jax.grad(learner.loss, has_aux=True), params, given, jax.random.key(0)
    )
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)
    assert aux.outputs is None
    assert {name: value.shape for name, value in aux.metrics.items()} == {
        "query_loss": (),
        "return": (),
        "query_loss_per_step": (3,),
        "return_per_step": (3,),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_and_is_evaluated(name: str) -> None:
    learner = learner_of(name)
    before, after = (evaluate(learner, params) for params in train(learner, 60))
    assert np.isfinite(after).all()
    # Reptile's walks to policies that are sure of themselves, whatever the task.
    assert name == "reptile" or after[-1] > before[-1]


@pytest.mark.parametrize(("factory", "moves"), [(mj.anil, "head"), (mj.boil, "rest")])
def test_anil_and_boil_take_a_policys_parts(factory: Callable[..., mj.Learner], moves: str) -> None:
    """They are `maml` of the same selection; deviations are no head's."""
    objective, given, key = navigating(), SAMPLE(jax.random.key(1)), jax.random.key(2)
    params = objective.init(jax.random.key(0), given.support.inputs)
    adapt = "model/head" if moves == "head" else ("model/body", "log_std")
    options = {"inner": optax.sgd(0.3), "num_steps": 1}
    learners = factory(objective, **options), mj.maml(objective, adapt=adapt, **options)
    adapted, expected = jax.jit(
        lambda params: [learner.adapt(params, given.support, key).params for learner in learners]
    )(params)
    oracles.assert_close(adapted, expected, 1e-6)
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), adapted, params)
    head = moves == "head"
    assert set(jax.tree.leaves(moved.model.head)) == {head}
    assert (moved.model.body, moved.log_std) == (not head, not head)


@pytest.mark.parametrize("factory", [mj.anil, mj.boil])
def test_parts_are_asked_for(factory: Callable[..., mj.Learner]) -> None:
    options = {"inner": optax.sgd(0.3), "num_steps": 1}
    inputs = SAMPLE(jax.random.key(1)).support.inputs
    whole = rl.PolicyGradient(rl.gaussian_policy(linear()), plane(), horizon=2, rollouts=2)
    with pytest.raises(
        ValueError,
        match=r"none of the parameters model/bias, model/weight, log_std are those of a part named "
        r"head; expected some: a model such as metajax\.models\.chain\(body, head\)",
    ):
        factory(whole, **options).init(jax.random.key(0), inputs)
    only = mj.Objective(lambda key: {"head": 0.0}, whole.loss, whole.predict)
    with pytest.raises(ValueError, match="all of the parameters head are those of a part named"):
        factory(only, **options).init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match=r"an Objective comes with head=.*; expected None"):
        factory(navigating(), mj.models.mlp((2,)), **options)
    with pytest.raises(ValueError, match="an Objective brings its own loss"):
        factory(navigating(), loss_fn=mj.squared_error, **options)
    with pytest.raises(TypeError, match=r"head is None; expected a metajax\.Model"):
        factory(mj.models.mlp((2,)), **options)
