"""Reinforcement learning fits unchanged: an objective that draws its own roll-outs with the key.

The task is that of Finn et al. (2017, section 5.3): a point on the plane moves to a goal that the
policy does not see, so that only adaptation can tell it where to go.

Exact MAML differentiates the policy-gradient estimate, and the derivative of the usual surrogate
`log pi(a) * return` is not an estimate of the Hessian of the expected return: it lacks the term
that comes from the sampling. The magic box of DiCE (Foerster et al. 2018, arXiv 1802.05098,
section 3) gives both derivatives right.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import metajax as mj

Array = jax.Array
Policy = dict[str, Array]
STRIDE = 0.5


def init_policy(key: Array, inputs: Array) -> Policy:
    del key, inputs
    return {"weight": jnp.zeros((2, 2)), "bias": jnp.zeros(2), "log_std": jnp.full(2, -0.5)}


def roll_out(policy: Policy, goal: Array, key: Array, horizon: int) -> tuple[Array, ...]:
    """One trajectory: `[horizon, 2]` positions, `[horizon, 2]` actions, `[horizon]` distances."""

    def move(position: Array, noise: Array) -> tuple[Array, tuple[Array, ...]]:
        mean = policy["weight"] @ position + policy["bias"]
        action = mean + jnp.exp(policy["log_std"]) * noise
        after = position + STRIDE * action
        return after, (position, action, jnp.sqrt(((after - goal) ** 2).sum()))

    return jax.lax.scan(move, jnp.zeros(2), jax.random.normal(key, (horizon, 2)))[1]


def magic_box(log_probability: Array) -> Array:
    """1, whose derivatives are those of the probability relative to it."""
    return jnp.exp(log_probability - jax.lax.stop_gradient(log_probability))


def navigation(*, horizon: int, rollouts: int, power: int = 1) -> mj.Objective:
    """Minus the mean return, the reward being `-distance^power` to the goal `examples.inputs[0]`.

    The baseline of a reward is the mean of the other roll-outs' at the same time.
    """

    def loss(
        policy: Policy, examples: mj.Examples, key: Array, support: mj.Examples | None
    ) -> tuple[Array, mj.ObjectiveAux]:
        keys = jax.random.split(key, rollouts)
        positions, actions, distances = jax.lax.stop_gradient(
            jax.vmap(lambda key: roll_out(policy, examples.inputs[0], key, horizon))(keys)
        )
        rewards = -(distances**power)
        baselines = (rewards.sum(axis=0)[None] - rewards) / (rollouts - 1)
        means = positions @ policy["weight"].T + policy["bias"][None, None]
        scaled = (actions - means) / jnp.exp(policy["log_std"])[None, None]
        log_probabilities = -(0.5 * scaled**2 + policy["log_std"][None, None]).sum(axis=-1)
        so_far = jnp.cumsum(log_probabilities, axis=1)
        surrogate = magic_box(so_far) * (rewards - baselines) + baselines
        return -surrogate.sum(axis=1).mean(), mj.ObjectiveAux(
            None, {"last_distance": distances[:, -1].mean()}
        )

    def predict(policy: Policy, positions: Array, support: mj.Examples | None) -> Array:
        return positions @ policy["weight"].T + policy["bias"][None]

    return mj.Objective(init_policy, loss, predict)


def reinforce(policy: Policy, goal: Array, key: Array, horizon: int, rollouts: int) -> Policy:
    """The policy gradient of minus the return, from the Gaussian's score function, in loops."""
    weight, bias = np.asarray(policy["weight"]), np.asarray(policy["bias"])
    std = np.exp(np.asarray(policy["log_std"]))
    paths, rewards = [], []
    for one in jax.random.split(key, rollouts):
        position, path, earned = np.zeros(2), [], []
        for noise in np.asarray(jax.random.normal(one, (horizon, 2))):
            path.append((position, noise))
            position = position + STRIDE * (weight @ position + bias + std * noise)
            earned.append(-np.linalg.norm(position - np.asarray(goal)))
        paths.append(path)
        rewards.append(earned)
    gradient = {"weight": np.zeros((2, 2)), "bias": np.zeros(2), "log_std": np.zeros(2)}
    for i, path in enumerate(paths):
        for t, (position, noise) in enumerate(path):
            others = [sum(r[t:]) for j, r in enumerate(rewards) if j != i]
            advantage = sum(rewards[i][t:]) - sum(others) / len(others)
            gradient["weight"] -= advantage * np.outer(noise / std, position) / rollouts
            gradient["bias"] -= advantage * noise / std / rollouts
            gradient["log_std"] -= advantage * (noise**2 - 1) / rollouts
    return gradient


def goal_task(goal: Array) -> mj.Episode:
    examples = mj.Examples(goal[None], jnp.zeros(1))
    return mj.Episode(examples, examples)


def some_policy() -> Policy:
    return oracles.normal_like(0, init_policy(jax.random.key(0), jnp.zeros((1, 2))), 0.3)


LEARNERS = {
    "maml": mj.maml,
    "fomaml": mj.fomaml,
    "reptile": mj.reptile,
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_inner_gradient_is_reinforce(name: str) -> None:
    policy, goal, key = some_policy(), jnp.array([0.5, -0.8]), jax.random.key(1)
    objective = navigation(horizon=3, rollouts=4)
    learner = LEARNERS[name](objective, inner=optax.sgd(1.0), num_steps=1)
    adapted = jax.jit(learner.adapt)(policy, goal_task(goal).support, key).params

    step_key = jax.random.fold_in(key, 0)  # The fit's; each of its steps has one of the split.
    if name == "reptile":
        step_key = jax.random.fold_in(step_key, 0)
    expected = reinforce(policy, goal, jax.random.split(step_key, 1)[0], 3, 4)
    oracles.assert_close(jax.tree.map(jnp.subtract, policy, adapted), expected)


@pytest.mark.exact
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", LEARNERS)
def test_loss_is_a_function_of_the_key(name: str) -> None:
    learner = LEARNERS[name](navigation(horizon=3, rollouts=4), inner=optax.sgd(0.1), num_steps=2)
    episode = goal_task(jnp.array([0.5, -0.8]))
    run = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))
    first, again, other = (run(some_policy(), episode, jax.random.key(seed)) for seed in (0, 0, 1))
    oracles.assert_close(again, first, 0.0)
    assert abs(first[0][0] - other[0][0]) > 1e-3
    assert jax.tree.reduce(jnp.maximum, jax.tree.map(lambda g: jnp.abs(g).max(), first[1])) > 1e-3


@pytest.mark.usefixtures("float64")
def test_exact_maml_follows_the_expected_return() -> None:
    """One move and a squared distance, where the expected return has a closed form."""
    goal, rate = jnp.array([0.5, -0.8]), 0.5
    policy = {
        "weight": jnp.zeros((2, 2)),
        "bias": jnp.array([-0.4, 0.3]),
        "log_std": jnp.array([-0.2, 0.1]),
    }

    def expected_loss(moving: Policy) -> Array:
        off = (STRIDE * moving["bias"] - goal) ** 2
        return (off + STRIDE**2 * jnp.exp(2 * moving["log_std"])).sum()

    def expected_meta_loss(moving: Policy) -> Array:
        return oracles.maml_loss(
            lambda phi, _: expected_loss(phi), expected_loss, moving, oracles.sgd(rate), 1
        )

    objective = navigation(horizon=1, rollouts=100_000, power=2)
    learner = mj.maml(objective, inner=optax.sgd(rate), num_steps=1)
    slope = jax.grad(lambda policy, key: learner.loss(policy, goal_task(goal), key)[0])
    draws = jax.jit(
        lambda policy: jax.lax.map(
            lambda key: slope(policy, key), jax.random.split(jax.random.key(0), 16)
        )
    )(policy)

    moving = {name: policy[name] for name in ("bias", "log_std")}
    exact = jax.grad(expected_meta_loss)(moving)
    # What a surrogate without the magic box would give, but for noise.
    first_order = oracles.fomaml_gradient(
        lambda phi, _: expected_loss(phi), expected_loss, moving, oracles.sgd(rate), 1
    )
    for name in moving:
        mean = draws[name].mean(axis=0)
        error = draws[name].std(axis=0, ddof=1) / 4.0
        assert (jnp.abs(mean - exact[name]) < 4 * error).all(), name
        assert (jnp.abs(mean - first_order[name]) > 10 * error).all(), name


def test_meta_training_improves_the_adapted_return() -> None:
    tasks, steps = 20, 150
    objective = navigation(horizon=5, rollouts=20)
    options = {"inner": optax.sgd(0.1), "num_steps": 1}
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(0.02))
    meta_step = mj.train_step(mj.maml(objective, **options), optimizer)
    judge = mj.maml(objective, record_steps=True, **options)

    def sample(key: Array, count: int) -> mj.Episode:
        return jax.vmap(goal_task)(jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0))

    @jax.jit
    def meta_train(state: mj.TrainState) -> mj.TrainState:
        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(lambda s, key: meta_step(s, sample(key, tasks)), state, keys)[0]

    @jax.jit
    def returns(policy: Policy) -> Array:
        """Mean return on fresh goals, before and after adaptation."""
        keys = mj.task_keys(jax.random.key(1), 100)
        _, aux = jax.vmap(judge.loss, in_axes=(None, 0, 0))(
            policy, sample(jax.random.key(2), 100), keys
        )
        return -aux.metrics["query_loss_per_step"].mean(axis=0)

    policy = init_policy(jax.random.key(3), jnp.zeros((1, 2)))
    trained = meta_train(mj.init_state(policy, optimizer, jax.random.key(4))).params
    before, after = returns(policy), returns(trained)
    assert after[1] > before[1] + 1.0
    assert after[1] > after[0] + 1.0  # By adapting, not by a policy that is good for all goals.
