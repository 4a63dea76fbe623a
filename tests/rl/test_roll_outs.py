"""Roll-outs: what is recorded, what ends, that no derivative goes in; and the objective of them."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from rl.enumeration import (
    decisions,
    environment_of,
    expected_return,
    paths_of,
    rewards_of,
    table_policy,
)

import metajax as mj
from metajax import rl
from metajax.rl.trajectories import mean_return

Array = jax.Array
KEY, OTHER_KEY = jax.random.split(jax.random.key(3))
HORIZON, ROLLOUTS = 5, 6
GOAL = {"goal": jnp.array([0.5, -0.8]), "stride": jnp.array(0.5)}
SURROGATE = rl.Surrogate(dice_lambda=1.0, baseline="leave_one_out", normalize=False)


@jax.custom_jvp
def simulated(position: Array) -> Array:
    """As a simulator that cannot be differentiated."""
    return position


@simulated.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise RuntimeError("the simulator was differentiated")


def walking(junk: Any = None) -> rl.Environment:
    """A walk of a length that is drawn, after which there is junk; the state holds a typed key."""

    def seen(state: dict[str, Array]) -> dict[str, Array]:
        return {"position": state["position"], "age": state["age"][None].astype(float)}

    def reset(key: Array, task: dict[str, Array]) -> tuple[Any, Any]:
        del task
        first, second = jax.random.split(key)
        state = {
            "key": second,
            "position": jax.random.normal(first, (2,), float),
            "age": jnp.zeros((), jnp.int32),
            "length": jax.random.randint(second, (), 1, HORIZON + 2),
        }
        return state, seen(state)

    def step(key: Array, state: Any, action: Array, task: dict[str, Array]) -> Any:
        own = jax.random.fold_in(state["key"], 1)
        noise = 0.1 * jax.random.normal(key, (2,), float)
        position = simulated(state["position"] + task["stride"] * action + noise)
        reward = -((position - task["goal"]) ** 2).sum()
        age = state["age"] + 1
        if junk is not None:
            # What comes of a step that ends an episode, and of all that follow.
            position = jnp.where(age >= state["length"], junk, position)
            reward = jnp.where(age > state["length"], junk, reward)
        state = state | {"key": own, "position": position, "age": age}
        return state, seen(state), reward, age >= state["length"]

    return rl.Environment(reset, step, lambda key: GOAL)


def linear() -> mj.Model:
    """Of position and age, as body and head."""
    body = mj.Model(
        lambda key, x: 0.3 * jax.random.normal(key, (3, 4), float),
        lambda params, x: jnp.tanh(jnp.concatenate([x["position"], x["age"]], axis=-1) @ params),
    )
    head = mj.Model(
        lambda key, x: 0.3 * jax.random.normal(key, (4, 2), float), lambda params, x: x @ params
    )
    return mj.models.chain(body, head)


POLICY = rl.gaussian_policy(linear(), std=0.5)


def objective(environment: rl.Environment | None = None) -> rl.PolicyGradient:
    environment = walking() if environment is None else environment
    return rl.PolicyGradient(
        POLICY, environment, horizon=HORIZON, rollouts=ROLLOUTS, surrogate=SURROGATE
    )


def some_params() -> Any:
    observation = {"position": jnp.zeros((1, 2)), "age": jnp.zeros((1, 1))}
    return jax.jit(POLICY.init)(jax.random.key(5), observation)


@jax.jit
def rolled(params: Any, key: Array) -> rl.Trajectories:
    return rl.roll_out(POLICY, walking(), params, GOAL, key, horizon=HORIZON, rollouts=ROLLOUTS)


EPISODE = rl.task_episodes(walking())(KEY)


# What is recorded.


@pytest.mark.usefixtures("float64")
def test_everything_has_the_axes_of_roll_outs_and_time() -> None:
    found = rolled(some_params(), KEY)
    shapes = jax.tree.map(lambda x: x.shape, found._asdict())
    steps = ROLLOUTS, HORIZON
    assert shapes == {
        "observations": {"position": (*steps, 2), "age": (*steps, 1)},
        "actions": (*steps, 2),
        "rewards": steps,
        "mask": steps,
        "log_probs": steps,
        "distribution": rl.Gaussian((*steps, 2), (*steps, 2)),
        "weights": None,
    }
    assert found.mask.dtype == bool


@pytest.mark.usefixtures("float64")
def test_episodes_end_where_they_do_and_stand_still() -> None:
    found = jax.tree.map(np.asarray, rolled(some_params(), KEY))
    lengths = found.mask.sum(axis=1)
    assert len(set(lengths)) > 2  # What is tested below.
    assert (found.mask == (np.arange(HORIZON)[None] < lengths[:, None])).all()
    assert (found.rewards[~found.mask] == 0).all()
    assert (found.rewards[found.mask] < 0).all()
    ages = found.observations["age"][..., 0]
    assert (ages == np.minimum(np.arange(HORIZON)[None], lengths[:, None] - 1)).all()
    for n, length in enumerate(lengths):
        positions = found.observations["position"][n]
        assert (positions[length - 1 :] == positions[length - 1]).all()
        # But for noise.
        moved = positions[1:length] - positions[: length - 1] - 0.5 * found.actions[n, : length - 1]
        assert (np.abs(moved) < 0.6).all()
        assert len(np.unique(moved)) == moved.size


def test_an_episode_that_ended_does_not_go_on() -> None:
    """Where the next draw would not have ended it."""

    def step(key: Array, state: Array, action: Array, task: Array) -> Any:
        return state, state, jnp.ones(()), jax.random.bernoulli(key, 0.3)

    tossing = rl.Environment(lambda key, task: (jnp.zeros(2), jnp.zeros(2)), step, lambda key: 0.0)
    policy = rl.gaussian_policy(mj.models.mlp((1,)))
    params = policy.init(KEY, jnp.zeros((1, 2)))
    found = rl.roll_out(policy, tossing, params, 0.0, KEY, horizon=5, rollouts=40)
    lengths = found.mask.sum(axis=1)
    assert len(set(lengths.tolist())) == 5
    assert (found.mask == (jnp.arange(5)[None] < lengths[:, None])).all()
    assert (found.rewards == found.mask).all()


@pytest.mark.usefixtures("float64")
def test_log_probs_are_the_policys_at_its_own_observations() -> None:
    params, found = some_params(), rolled(some_params(), KEY)
    given = POLICY.over_steps(params, found.observations)
    oracles.assert_close(found.distribution, given)
    oracles.assert_close(found.log_probs, given.log_prob(found.actions))
    scaled = (found.actions - given.mean) / 0.5
    assert len(np.unique(scaled)) == scaled.size  # Nothing is drawn twice.
    assert abs(scaled.mean()) < 4 / math.sqrt(scaled.size)


@pytest.mark.exact
@pytest.mark.usefixtures("float64")
def test_roll_outs_are_a_function_of_the_key() -> None:
    params = some_params()
    first, again, other = (rolled(params, key) for key in (KEY, KEY, OTHER_KEY))
    chex.assert_trees_all_equal(first, again)
    assert (first.actions != other.actions).all()
    assert (first.observations["position"] != other.observations["position"]).all()


@pytest.mark.usefixtures("float64")
def test_drawn_paths_are_those_of_the_enumeration() -> None:
    """Mean return and gradient, of episodes that end early, within what chance leaves."""
    process = decisions(ending=True)
    rewards, theta = rewards_of(1, process), oracles.normals(2, (2, 2))[0]
    surrogate = rl.Surrogate(
        dice_lambda=1.0, discount=0.9, baseline="leave_one_out", normalize=False, scale="return"
    )
    drawing = rl.PolicyGradient(
        table_policy(process),
        environment_of(process),
        horizon=3,
        rollouts=20_000,
        surrogate=surrogate,
    )
    examples = mj.Examples(rewards[None], jnp.zeros(1))
    value_and_grad = jax.value_and_grad(drawing.loss, has_aux=True)
    (value, aux), gradient = jax.jit(value_and_grad)(theta, examples, KEY, None)
    exact = jax.value_and_grad(lambda x: -expected_return(paths_of(process), x, rewards, 0.9))
    expected, slopes = exact(theta)
    error = 4 / math.sqrt(20_000)  # Rewards are normal, actions two.
    assert abs(value - expected) < error * 2
    assert jnp.abs(gradient - slopes).max() < error
    undiscounted = expected_return(paths_of(process), theta, rewards)
    assert abs(aux.metrics["return"] - undiscounted) < error * 2


# No derivative goes in.


@pytest.mark.usefixtures("float64")
def test_roll_outs_have_no_derivative() -> None:
    params = some_params()
    ones = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def tangents(params: Any) -> rl.Trajectories:
        return jax.jvp(lambda params: rolled(params, KEY), (params,), (ones,))[1]

    for leaf in jax.tree.leaves(tangents(params)):
        assert leaf.dtype == jax.dtypes.float0 or (leaf == 0).all()


def test_the_simulator_that_refuses_would_tell() -> None:
    state = walking().reset(KEY, GOAL)[0]
    with pytest.raises(RuntimeError, match="the simulator was differentiated"):
        jax.grad(lambda action: walking().step(KEY, state, action, GOAL)[2])(jnp.zeros(2))


WAYS = {
    "head, recomputed": {"adapt": "model/head", "backward": mj.Backward(checkpoint="steps")},
    "mixed": {"backward": mj.Backward(mixed=True)},
    "first order": {"first_order": True},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_no_derivative_of_the_simulator_is_traced(options: dict[str, Any]) -> None:
    """Of the task neither, which mixed mode differentiates with respect to."""
    learner = mj.maml(objective(), inner=optax.sgd(0.1), num_steps=2, **options)
    jax.eval_shape(jax.grad(learner.loss, has_aux=True), some_params(), EPISODE, KEY)


@pytest.mark.usefixtures("float64")
def test_junk_behind_the_end_is_seen_by_none() -> None:
    """Exact meta-gradients, which differentiate twice, of a simulator that refuses to be."""

    @jax.jit
    def run(junk: Array) -> Any:
        learner = mj.maml(
            objective(walking(junk)),
            inner=optax.sgd(0.1),
            num_steps=1,
            backward=mj.Backward(unroll=True),
        )
        return jax.value_and_grad(learner.loss, has_aux=True)(some_params(), EPISODE, KEY)

    (_, gradient), spoilt = run(1.0), run(jnp.nan)
    oracles.assert_close(spoilt[1], gradient)  # Which asks for numbers, too.
    assert jnp.isfinite(spoilt[0][0])
    assert all(jnp.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))


# The objective.


def test_the_objective_begins_with_an_observation_and_answers_with_the_mode() -> None:
    learner = mj.maml(objective(), inner=optax.sgd(0.1), num_steps=0)
    params = learner.init(KEY, EPISODE.support.inputs)
    assert jax.tree.map(jnp.shape, params) == rl.GaussianParams(
        mj.models.ChainParams((3, 4), (4, 2)), (2,)
    )
    task = learner.adapt(params, EPISODE.support, KEY)
    observations = {"position": jnp.ones((3, 2)), "age": jnp.zeros((3, 1))}
    found = learner.predict(params, task, observations)
    oracles.assert_close(found, POLICY.distribution(task.params, observations).mean, 1e-6)


def test_a_key_and_one_task_are_asked_for() -> None:
    learner = mj.maml(objective(), inner=optax.sgd(0.1), num_steps=1)
    params = some_params()
    with pytest.raises(ValueError, match=r"roll-outs are drawn, and there is no key; expected one"):
        learner.loss(params, EPISODE)
    with pytest.raises(ValueError, match=r"roll-outs are drawn, and there is no key; expected one"):
        learner.adapt(params, EPISODE.support)
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), EPISODE)
    with pytest.raises(
        ValueError, match=r"shape \(2, 2\); expected \[1, ...\], one task an episode"
    ):
        learner.loss(params, two, KEY)


def made(**options: Any) -> rl.PolicyGradient:
    given = {"policy": POLICY, "environment": walking(), "horizon": 2, "rollouts": 2} | options
    return rl.PolicyGradient(given.pop("policy"), given.pop("environment"), **given)


def test_arguments_are_checked() -> None:
    for options, message in (
        ({"policy": linear()}, r"policy is .*; expected a metajax\.rl\.Policy"),
        ({"environment": None}, r"environment is None; expected a metajax\.rl\.Environment"),
        ({"horizon": 2.5}, "horizon=2.5; expected an integer"),
        ({"rollouts": None}, "rollouts=None; expected an integer"),
        ({"surrogate": "dice"}, r"surrogate is 'dice'; expected a metajax\.rl\.Surrogate"),
    ):
        with pytest.raises(TypeError, match=message):
            made(**options)
    for name in ("horizon", "rollouts"):
        with pytest.raises(ValueError, match=rf"{name}=0; expected .*1 or more"):
            made(**{name: 0})


def resetting(reset: Callable[..., Any]) -> dict[str, Any]:
    return {"environment": rl.Environment(reset, walking().step, walking().sample_task)}


def stepping(change: Callable[..., Any]) -> dict[str, Any]:
    """An environment whose step returns `change(state, observation, reward, done)`."""

    def step(key: Array, state: Any, action: Any, task: Any) -> Any:
        return change(*walking().step(key, state, action, task))

    return {"environment": rl.Environment(walking().reset, step, walking().sample_task)}


def distributing(distribution: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return {"policy": rl.Policy(POLICY.init, distribution)}


class Shared(rl.Gaussian):
    """Whose standard deviation is not repeated for each item."""

    def log_prob(self, actions: Array) -> Array:
        return ((actions - self.mean) * self.log_std[None]).sum(axis=-1)

    def sample(self, key: Array) -> Array:
        return self.mean


def shared(params: Any, observations: Any) -> rl.Gaussian:
    return Shared(observations["position"], jnp.zeros(2))


class Apart(rl.Gaussian):
    """Whose log-probability is not the sum over components."""

    def log_prob(self, actions: Array) -> Array:
        return -((actions - self.mean) ** 2)


FITTING = {
    "reset of one": (
        TypeError,
        "reset returned an array; expected",
        resetting(lambda key, task: jnp.zeros(2)),
    ),
    "reset of three": (
        TypeError,
        "reset returned a tuple of 3; expected",
        resetting(lambda key, task: (0, 0, 0)),
    ),
    "reset of none": (
        TypeError,
        "gave the observation None; expected an array",
        resetting(lambda key, task: (jnp.zeros(2), None)),
    ),
    "other observations": (
        ValueError,
        r"no observations like those of the environment, float32\[4\] each: .*; expected a model",
        resetting(lambda key, task: (jnp.zeros(2), jnp.zeros(4))),
    ),
    "other actions": (
        ValueError,
        r"policy's, float32\[3\] each; expected floats \[2\], as many components",
        {"policy": rl.gaussian_policy(mj.models.mlp((3,))), "environment": rl.navigation()},
    ),
    "actions that would be broadcast": (
        ValueError,
        r"policy's, float32\[1\] each; expected floats \[2\], as many components",
        {"policy": rl.gaussian_policy(mj.models.mlp((1,))), "environment": rl.navigation()},
    ),
    "actions that are counted": (
        ValueError,
        r"policy's, int32\[\] each; expected floats \[2\], as many components",
        {"policy": rl.categorical_policy(mj.models.mlp((4,))), "environment": rl.navigation()},
    ),
    "too many choices": (
        ValueError,
        "chooses one of 7 actions, and the environment has 5; expected a policy of 5",
        {"policy": rl.categorical_policy(mj.models.mlp((7,))), "environment": rl.tabular(10, 5)},
    ),
    "components where one chooses": (
        ValueError,
        r"policy's, float32\[5\] each; expected an integer \[\], one of its 5 actions",
        {"policy": rl.gaussian_policy(mj.models.mlp((5,))), "environment": rl.tabular(10, 5)},
    ),
    "actions that cannot be added": (
        ValueError,
        r"step failed on an action float32\[3\] .*: TypeError .*; expected a step that takes such",
        distributing(lambda params, seen: rl.Gaussian(*[jnp.zeros((7, 3))] * 2)),
    ),
    "a step that fails": (
        ValueError,
        r"step failed on an action float32\[2\] of the policy's: KeyError 'x'; expected a step",
        stepping(lambda state, *rest: (state["x"], *rest)),
    ),
    "a distribution that items share": (
        ValueError,
        r"of 7 items holds float32\[7, 2\], float32\[2\], and its .*; expected arrays \[items",
        distributing(shared),
    ),
    "log-probabilities apart": (
        ValueError,
        r"log_prob gave float32\[7, 2\] for 7 items; expected \[items\], the sum",
        distributing(lambda params, seen: Apart(seen["position"], seen["position"])),
    ),
    "step of three": (
        TypeError,
        "step returned a tuple of 3; expected",
        stepping(lambda *four: four[:3]),
    ),
    "step of a list": (
        TypeError,
        "step returned a list; expected",
        stepping(lambda *four: [*four]),
    ),
    "another state": (
        ValueError,
        "reset gives the state .*; expected the same structure",
        stepping(lambda state, *rest: (state["position"], *rest)),
    ),
    "a state of another shape": (
        ValueError,
        r"reset gives the state .*float32\[2\], and its step .*float32\[3\]; expected the same",
        stepping(lambda state, *rest: (state | {"position": jnp.zeros(3)}, *rest)),
    ),
    "a state without its key": (
        ValueError,
        r"reset gives the state .*key<fry>\[\].*; expected the same shapes",
        stepping(lambda state, *rest: (state | {"key": jnp.zeros(2)}, *rest)),
    ),
    "another observation": (
        ValueError,
        "reset gives the observation .*; expected the same structure",
        stepping(lambda state, seen, *rest: (state, seen["age"], *rest)),
    ),
    "an observation of integers": (
        ValueError,
        r"and its step int32\[1\], float32\[2\]; expected the same shapes and dtypes",
        stepping(lambda state, seen, *rest: (state, seen | {"age": jnp.zeros(1, int)}, *rest)),
    ),
    "a reward a component": (
        ValueError,
        r"the reward float32\[2\]; expected a float of shape \(\)",
        stepping(lambda state, seen, reward, done: (state, seen, jnp.zeros(2), done)),
    ),
    "a reward of integers": (
        ValueError,
        r"the reward int32\[\]; expected a float",
        stepping(lambda state, seen, reward, done: (state, seen, jnp.zeros((), int), done)),
    ),
    "several ends": (
        ValueError,
        r"gave done bool\[2\]; expected a bool of shape \(\)",
        stepping(lambda state, seen, reward, done: (state, seen, reward, jnp.zeros(2, bool))),
    ),
}


@pytest.mark.parametrize(("kind", "message", "options"), FITTING.values(), ids=FITTING)
def test_policy_and_environment_are_looked_at_first(
    kind: type[Exception], message: str, options: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=message):
        made(**options)


def test_dtypes_of_task_and_parameters_are_looked_at() -> None:
    plane = rl.navigation()
    acting = rl.PolicyGradient(
        rl.gaussian_policy(mj.models.mlp((2,))), plane, horizon=2, rollouts=2
    )
    params = acting.init(KEY, None)
    with pytest.raises(ValueError, match=r"the task is int32\[2\]; expected .* float32\[2\]"):
        acting.roll_out(params, jnp.arange(2), KEY)
    assert made().roll_out(some_params(), GOAL | {"stride": 1}, KEY).rewards.shape == (2, 2)
    with jax.enable_x64(True):
        single = rl.Environment(
            lambda key, goal: (jnp.zeros_like(goal), jnp.zeros_like(goal)),
            plane.step,
            lambda key: jax.random.normal(key, (2,), jnp.float32),
        )
        acting = rl.PolicyGradient(acting.policy, single, horizon=2, rollouts=2)
        double = jax.tree.map(lambda x: x.astype(float), params)
        with pytest.raises(ValueError, match=r"parameters are of float64, unlike .*state float32"):
            acting.roll_out(double, jnp.zeros(2, jnp.float32), KEY)
        # Where both are of double precision they go together.
        acting = rl.PolicyGradient(acting.policy, plane, horizon=2, rollouts=2)
        assert acting.roll_out(double, jnp.zeros(2), KEY).rewards.dtype == jnp.float64


def of_one_action(log_probs: Array, rewards: Array) -> rl.Trajectories:
    """Roll-outs of which nothing else matters."""
    steps = rewards.shape
    gaussian = rl.Gaussian(jnp.zeros((*steps, 1)), jnp.zeros((*steps, 1)))
    seen = jnp.zeros((*steps, 1))
    return rl.Trajectories(seen, seen, rewards, jnp.ones(steps, bool), log_probs, gaussian)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_sums_of_rewards_in_half_precision_are_of_single_precision(half: Any) -> None:
    """Where bfloat16 would take 257 for 256."""
    paths = of_one_action(jnp.zeros((2, 400), half), jnp.ones((2, 400), half))
    surrogate = rl.Surrogate(discount=0.999, baseline=None, normalize=False)
    expected = (1 - 0.999 ** np.arange(400, 0, -1)) / 0.001
    advantages = surrogate.advantages(paths)
    np.testing.assert_allclose(advantages[0], expected, rtol=1e-4)
    np.testing.assert_allclose(mean_return(paths, 0.999), expected[0], rtol=1e-4)
    assert surrogate(paths.log_probs, paths, advantages).dtype == jnp.float32
    for baseline in (rl.linear_baseline, rl.leave_one_out):
        assert baseline(paths, advantages.astype(half)).dtype == jnp.float32


def test_a_clipped_ratio_that_overflows_has_the_gradient_of_the_clip() -> None:
    before, advantages = jnp.zeros((1, 5)), jnp.array([[1.0, 0.0, 1.0, -1.0, -1.0]])
    log_probs = jnp.array([[100.0, 100.0, -0.5, 0.5, -100.0]])
    surrogate = rl.Surrogate(baseline=None)
    for clip, last in ((0.2, -0.2), (1.0, -1.0), (3.0, -1.0)):
        value, gradient = jax.value_and_grad(surrogate)(
            log_probs, of_one_action(before, advantages), advantages, clip=clip
        )
        third, fourth = math.exp(-0.5), -math.exp(0.5)
        sums = clip + (third - 1) + (fourth + 1) - last
        np.testing.assert_allclose(value, sums / 5, rtol=1e-5)
        np.testing.assert_allclose(gradient[0], [0, 0, third / 5, fourth / 5, 0], rtol=1e-5)


def test_the_mean_of_the_others_asks_for_others_at_once() -> None:
    for baseline in ("leave_one_out", rl.leave_one_out):
        with pytest.raises(
            ValueError, match=r"leave_one_out.* of one roll-out; expected rollouts=2"
        ):
            made(rollouts=1, surrogate=rl.Surrogate(baseline=baseline))


def test_what_it_is_can_be_read() -> None:
    assert repr(made()) == "PolicyGradient(horizon=2, rollouts=2)"
    assert repr(rl.navigation()) == "Environment(action_size=2)"
    assert repr(rl.tabular(3, 4)) == "Environment(num_actions=4)"
    assert repr(walking()) == "Environment()"
