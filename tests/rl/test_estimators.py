"""Surrogates against expectations over all paths, and against loops written out in NumPy."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from rl.enumeration import (
    Enumerated,
    action_values,
    chances,
    decisions,
    exact_values,
    expected_return,
    paths_of,
    rewards_episode,
    rewards_of,
)

import metajax as mj
from metajax import rl
from metajax.rl.trajectories import mean_return, path_returns

pytestmark = pytest.mark.usefixtures("float64")

Array = jax.Array
KEY = jax.random.key(0)
RATE = 0.7
HORIZON = 3
UNBIASED = rl.Surrogate(
    dice_lambda=1.0, discount=1.0, baseline=None, normalize=False, scale="return"
)
ENDLESS, ENDING = False, True
PROCESSES = {ending: decisions(ending=ending) for ending in (ENDLESS, ENDING)}


def some_theta() -> Array:
    return oracles.normals(2, (2, 2))[0]


def some_rewards(seed: int = 1) -> Array:
    return rewards_of(seed, PROCESSES[ENDING])


def minus_return(ending: bool, discount: float, seed: int = 1) -> Callable[[Array], Array]:
    paths, rewards = paths_of(PROCESSES[ending]), some_rewards(seed)
    return lambda theta: -expected_return(paths, theta, rewards, discount)


def loss_of(ending: bool, surrogate: rl.Surrogate) -> Callable[[Array], Array]:
    objective, episode = Enumerated(PROCESSES[ending], surrogate), rewards_episode(some_rewards())
    return lambda theta: objective.loss(theta, episode.support, KEY, None)[0]


def derivatives(function: Callable[[Array], Array], order: int = 3) -> list[Array]:
    """The value and the derivatives up to that order."""

    @jax.jit
    def all_of(theta: Array) -> list[Array]:
        given = [function]
        for _ in range(order):
            given.append(jax.jacfwd(given[-1]) if given[1:] else jax.grad(function))
        return [derivative(theta) for derivative in given]

    return all_of(some_theta())


@functools.cache
def exact(ending: bool, discount: float) -> list[Array]:
    """The same of minus the expected return."""
    return derivatives(minus_return(ending, discount), 3 if ending else 2)


@functools.cache
def hessians_by_theory(ending: bool, discount: float) -> tuple[Array, Array]:
    """What low variance lacks of the Hessian, and what the plain one has in its place.

    `H12 + H12'`, `H12` being the expectation of the sum of `grad l_t (grad Q_t)'`, and that of the
    sum of `hess l_t Q_t`; both of minus the return.
    """
    paths, rewards = paths_of(PROCESSES[ending]), some_rewards()
    steps = np.arange(HORIZON)[None]

    def log_probs(theta: Array) -> Array:
        return jax.nn.log_softmax(theta, axis=-1)[paths.states, paths.actions]

    def q_values(theta: Array) -> Array:
        values, _ = action_values(PROCESSES[ending], theta, rewards, discount)
        return values[steps, paths.states, paths.actions]

    @jax.jit
    def both(theta: Array) -> tuple[Array, Array]:
        counts = chances(paths, theta)[:, None] * discount**steps * paths.mask
        slopes, q_slopes = jax.jacrev(log_probs)(theta), jax.jacrev(q_values)(theta)
        half = jnp.einsum("nt,ntij,ntkl->ijkl", counts, slopes, q_slopes)
        curves = jax.hessian(log_probs)(theta)
        plain = jnp.einsum("nt,nt,ntijkl->ijkl", counts, q_values(theta), curves)
        return -(half + half.transpose(2, 3, 0, 1)), -plain

    return both(some_theta())


# One loss, by the order of its derivatives.

SLOW = pytest.mark.slow
cases = pytest.mark.parametrize(
    ("ending", "discount", "values"),
    [
        pytest.param(ENDLESS, 1.0, False, id="no baseline", marks=SLOW),
        pytest.param(ENDING, 0.9, True, id="ending, discounted, values"),
    ],
)


def case(ending: bool, discount: float, values: bool, **options: Any) -> rl.Surrogate:
    baseline = exact_values(PROCESSES[ending], some_rewards(), discount) if values else None
    return dataclasses.replace(UNBIASED, discount=discount, baseline=baseline, **options)


@pytest.mark.parametrize("ending", [ENDLESS, ENDING], ids=["endless", "ending"])
def test_paths_are_all_there_are(ending: bool) -> None:
    """Their sum is what the recursion over states gives, which knows no paths."""
    paths, theta, rewards = paths_of(PROCESSES[ending]), some_theta(), some_rewards()
    assert len(paths.moves) == (26 if ending else 32)
    oracles.assert_close(chances(paths, theta).sum(), jnp.ones(()))
    _, values = action_values(PROCESSES[ending], theta, rewards, 0.9)
    oracles.assert_close(expected_return(paths, theta, rewards, 0.9), values[0, 0])


@cases
def test_the_unbiased_one_has_every_derivative_of_the_return(
    ending: bool, discount: float, values: bool
) -> None:
    order = 3 if ending else 2
    found = derivatives(loss_of(ending, case(ending, discount, values)), order)
    oracles.assert_close(found, exact(ending, discount)[: order + 1])


def test_advantages_of_one_step_are_as_good_as_of_all() -> None:
    """With V exact, A = r + V' - V is as unbiased, for the first derivative."""
    surrogate = case(ENDING, 0.9, True, gae_lambda=0.0)
    found = derivatives(loss_of(ENDING, surrogate), 1)
    oracles.assert_close(found, exact(ENDING, 0.9)[:2])


@cases
def test_low_variance_lacks_what_theory_says(ending: bool, discount: float, values: bool) -> None:
    surrogate = case(ending, discount, values, dice_lambda=0.0)
    value, gradient, hessian = derivatives(loss_of(ending, surrogate), 2)
    lacking, _ = hessians_by_theory(ending, discount)
    oracles.assert_close([value, gradient, hessian + lacking], exact(ending, discount)[:3])
    assert jnp.abs(lacking).max() > 0.04  # Where the largest of the Hessian is 0.13.


def test_the_plain_one_forgets_the_sampling() -> None:
    surrogate = case(ENDING, 0.9, False, dice_lambda=None)
    value, gradient, hessian = derivatives(loss_of(ENDING, surrogate), 2)
    right, (_, wrong) = exact(ENDING, 0.9), hessians_by_theory(ENDING, 0.9)
    oracles.assert_close([value, gradient, hessian], [*right[:2], wrong])
    assert jnp.abs(hessian - right[2]).max() > 0.4  # Where the largest of the Hessian is 0.13.


def test_loaded_dice_as_it_is_printed() -> None:
    """Algorithm 1 of Farquhar et al. 2019, for any baseline."""
    dice_lambda, discount = 0.5, 0.9
    rewards, paths = some_rewards(), paths_of(PROCESSES[ENDING])
    weights, values = chances(paths, some_theta()), oracles.normals(4, (HORIZON, 2))[0]

    def box(x: Array) -> Array:
        return jnp.exp(x - jax.lax.stop_gradient(x))

    def printed(theta: Array) -> Array:
        table, objective, w = jax.nn.log_softmax(theta, axis=-1), 0.0, 0.0
        for t in range(HORIZON):
            states, actions, counts = paths.states[:, t], paths.actions[:, t], paths.mask[:, t]
            to_go = sum(
                discount ** (i - t)
                * paths.mask[:, i]
                * rewards[paths.states[:, i], paths.actions[:, i]]
                for i in range(t, HORIZON)
            )
            v = dice_lambda * w
            w = v + table[states, actions]
            gains = discount**t * (box(w) - box(v)) * (to_go - values[t, states])
            objective -= (weights * counts * gains).sum()
        return objective

    def baseline(trajectories: rl.Trajectories, returns: Array) -> Array:
        del returns
        return jnp.einsum("nts,ts->nt", trajectories.observations, values)

    surrogate = dataclasses.replace(
        UNBIASED, dice_lambda=dice_lambda, discount=discount, baseline=baseline
    )
    oracles.assert_close(derivatives(loss_of(ENDING, surrogate))[1:], derivatives(printed)[1:])


# Learners that differentiate it again.


def slope(learner: mj.Learner, params: Any, episode: mj.Episode) -> Any:
    (_, aux), gradient = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(
        params, episode, KEY
    )
    return aux.metrics, gradient


def two_tasks() -> mj.Episode:
    """Rewards for the queries are others, so that none is taken for the other."""
    return rewards_episode(some_rewards(), some_rewards(3))


@pytest.mark.parametrize("steps", [pytest.param(1, marks=SLOW), 2])
def test_maml_has_the_exact_meta_gradient(steps: int) -> None:
    surrogate = dataclasses.replace(UNBIASED, discount=0.9)
    learner = mj.maml(
        Enumerated(PROCESSES[ENDING], surrogate),
        inner=optax.sgd(RATE),
        num_steps=steps,
        record_steps=True,
    )
    metrics, gradient = slope(learner, some_theta(), two_tasks())
    on_support, on_query = minus_return(ENDING, 0.9), minus_return(ENDING, 0.9, 3)

    def by_hand(theta: Array) -> tuple[Array, dict[str, Array]]:
        path = oracles.inner_path(lambda phi, _: on_support(phi), theta, oracles.sgd(RATE), steps)
        losses = jnp.stack([on_query(phi) for phi in path])
        returns = jnp.stack([-minus_return(ENDING, 1.0, 3)(phi) for phi in path])
        last = {"query_loss": losses[-1], "return": returns[-1]}
        return losses[-1], {**last, "query_loss_per_step": losses, "return_per_step": returns}

    expected, reported = jax.jit(jax.grad(by_hand, has_aux=True))(some_theta())
    oracles.assert_close((gradient, metrics), (expected, reported))


@pytest.mark.parametrize("estimator", ["plain", "low variance", "first order"])
def test_what_is_wrong_inside_is_wrong_outside_by_as_much(estimator: str) -> None:
    """`(I - rate H) grad L_Q(phi)`, under another Hessian."""
    lacking, plain = hessians_by_theory(ENDING, 0.9)
    right = exact(ENDING, 0.9)[2]
    dice_lambda, hessian, bound = {
        "plain": (None, plain, 0.1),
        "low variance": (0.0, right - lacking, 0.003),
        "first order": (1.0, jnp.zeros(right.shape), 0.01),
    }[estimator]
    surrogate = dataclasses.replace(UNBIASED, discount=0.9, dice_lambda=dice_lambda)
    make = mj.fomaml if estimator == "first order" else mj.maml
    learner = make(Enumerated(PROCESSES[ENDING], surrogate), inner=optax.sgd(RATE), num_steps=1)
    _, gradient = slope(learner, some_theta(), two_tasks())

    at_phi = jax.grad(minus_return(ENDING, 0.9, 3))(some_theta() - RATE * exact(ENDING, 0.9)[1])
    expected = {
        name: at_phi - RATE * jnp.einsum("ij,ijkl->kl", at_phi, found)
        for name, found in (("here", hessian), ("exact", right))
    }
    oracles.assert_close(gradient, expected["here"])
    assert jnp.abs(gradient - expected["exact"]).max() > bound


def test_meta_sgd_learns_its_rates_exactly() -> None:
    learner = mj.meta_sgd(Enumerated(PROCESSES[ENDING], UNBIASED), num_steps=2)
    rates = jnp.array([[0.3, 0.9], [0.5, -0.1]])
    _, gradient = slope(learner, mj.MetaSGDParams(some_theta(), rates), two_tasks())
    on_support, on_query = minus_return(ENDING, 1.0), minus_return(ENDING, 1.0, 3)

    def expected(theta: Array, rates: Array) -> Array:
        for _ in range(2):
            theta = theta - rates * jax.grad(on_support)(theta)
        return on_query(theta)

    by_hand = jax.jit(jax.grad(expected, argnums=(0, 1)))(some_theta(), rates)
    oracles.assert_close(tuple(gradient), by_hand)


def test_reptile_walks_to_the_adapted_policy() -> None:
    learner = mj.reptile(
        Enumerated(PROCESSES[ENDING], UNBIASED), inner=optax.sgd(RATE), num_steps=2
    )
    _, gradient = slope(learner, some_theta(), two_tasks())
    on_support = minus_return(ENDING, 1.0)

    @jax.jit
    def last(theta: Array) -> Array:
        return oracles.inner_path(lambda phi, _: on_support(phi), theta, oracles.sgd(RATE), 2)[-1]

    oracles.assert_close(gradient, some_theta() - last(some_theta()))


@pytest.mark.parametrize("part", [pytest.param("body", marks=SLOW), "head"])
def test_anil_and_boil_adapt_a_part_of_a_policy(part: str) -> None:
    def matrix(*shape: int) -> mj.Model:
        return mj.Model(lambda key, x: jnp.zeros(shape), lambda params, x: x @ params)

    chained = mj.models.chain(matrix(2, 3), matrix(3, 2))
    objective = Enumerated(PROCESSES[ENDING], UNBIASED, rl.categorical_policy(chained))
    factory = {"body": mj.boil, "head": mj.anil}[part]
    params = oracles.normal_like(4, objective.init(KEY, None))
    learner = factory(objective, inner=optax.sgd(RATE), num_steps=2)
    _, gradient = slope(learner, params, two_tasks())

    moving = {name: jnp.full(x.shape, name == part, float) for name, x in params._asdict().items()}
    rule = oracles.frozen(oracles.sgd(RATE), mj.models.ChainParams(**moving))
    on_support, on_query = (minus_return(ENDING, 1.0, seed) for seed in (1, 3))
    by_hand = jax.grad(
        lambda params: oracles.maml_loss(
            lambda phi, _: on_support(phi.body @ phi.head),
            lambda phi: on_query(phi.body @ phi.head),
            params,
            rule,
            2,
        )
    )
    oracles.assert_close(gradient, jax.jit(by_hand)(params))


# Baselines that are estimated too.


@pytest.mark.parametrize("baseline", ["leave_one_out", pytest.param("linear", marks=SLOW)])
def test_of_two_roll_outs_the_other_is_an_unbiased_baseline(baseline: str) -> None:
    """The mean over all pairs of paths; not so with a baseline that has seen the same path."""
    paths, theta = paths_of(PROCESSES[ENDING]), some_theta()
    surrogate = dataclasses.replace(UNBIASED, discount=0.9, baseline=baseline)
    objective = Enumerated(PROCESSES[ENDING], surrogate)
    everything = objective.roll_out(theta, some_rewards(), KEY)._replace(weights=None)

    def estimate(theta: Array, pair: Array) -> Array:
        trajectories = jax.tree.map(lambda x: x[pair], everything)
        batch = rl.Batch(trajectories, surrogate.advantages(trajectories))
        return objective.surrogate_loss(theta, batch)

    rows = jnp.arange(len(paths.moves))
    pairs = jnp.stack(jnp.meshgrid(rows, rows), axis=-1).reshape(-1, 2)
    weights = chances(paths, theta)[pairs].prod(axis=-1)

    def mean(theta: Array) -> Array:
        return (weights * jax.vmap(estimate, in_axes=(None, 0))(theta, pairs)).sum()

    found = jax.jit(lambda theta: (jax.grad(mean)(theta), jax.hessian(mean)(theta)))(theta)
    expected = tuple(exact(ENDING, 0.9)[1:3])
    if baseline == "leave_one_out":
        oracles.assert_close(found, expected)
    else:
        assert jnp.abs(found[0] - expected[0]).max() > 0.1 * jnp.abs(expected[0]).max()


# Loops in NumPy, of episodes of different lengths.

LENGTHS = (5, 2, 1, 4)
LONGEST = max(LENGTHS)


def made(junk: float = np.nan, *, weights: bool = False) -> tuple[rl.Trajectories, Array, Array]:
    """Trajectories, log-probabilities of another policy, and advantages."""
    shape = len(LENGTHS), LONGEST
    rewards, old, new, advantages = oracles.normals(0, shape, shape, shape, shape)
    mask = jnp.arange(LONGEST)[None] < jnp.array(LENGTHS)[:, None]
    rewards, old, new = (jnp.where(mask, x, junk) for x in (rewards, old, new))
    counts = jnp.array([1.0, 0.5, 3.0, 2.0]) if weights else None
    observations = jnp.zeros((*shape, 1))
    trajectories = rl.Trajectories(
        observations, jnp.zeros(shape, int), rewards, mask, old, None, counts
    )
    return trajectories, old + 2 * (new - old), jnp.where(mask, advantages, 0)


def counts_of(trajectories: rl.Trajectories) -> np.ndarray:
    weights = trajectories.weights
    return np.ones(len(LENGTHS)) if weights is None else np.asarray(weights)


weighted = pytest.mark.parametrize("weights", [False, True], ids=["once", "weighted"])


@weighted
def test_returns_are_of_the_steps_before_the_end(weights: bool) -> None:
    trajectories, *_ = made(weights=weights)
    expected = [
        sum(0.9**t * float(trajectories.rewards[n, t]) for t in range(length))
        for n, length in enumerate(LENGTHS)
    ]
    found = jax.jit(lambda x: (path_returns(x, 0.9), mean_return(x, 0.9)))(trajectories)
    mean = np.average(expected, weights=counts_of(trajectories))
    oracles.assert_close(found, (np.array(expected), mean))


@weighted
@pytest.mark.parametrize("scale", ["step", "return"])
@pytest.mark.parametrize(
    ("dice_lambda", "clip"), [(0.0, None), (0.5, None), (None, 0.2), (0.5, 0.2)]
)
def test_ratios_and_clipped_ratios(
    dice_lambda: float | None, clip: float | None, scale: str, weights: bool
) -> None:
    """The surrogates of TRPO (eq. 14) and PPO (eq. 7), less what they are at equality.

    Without `clip` each counts as often as the past has changed, to first order, or not at all.
    """
    trajectories, log_probs, advantages = made(weights=weights)
    surrogate = rl.Surrogate(dice_lambda=dice_lambda, discount=0.9, scale=scale)
    found = surrogate(log_probs, trajectories, advantages, clip=clip)
    total, steps, counts, often = 0.0, 0.0, counts_of(trajectories), set()
    for n, length in enumerate(LENGTHS):
        moved = np.asarray(log_probs[n, :length] - trajectories.log_probs[n, :length])
        for t in range(length):
            ratio, advantage, past = np.exp(moved[t]), float(advantages[n, t]), 1.0
            gain = ratio * advantage
            if clip is not None:
                gain = min(gain, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
            else:
                past += sum(dice_lambda ** (t - k) * moved[k] for k in range(t))
            often.add(past)
            discount = 0.9**t if scale == "return" else 1.0
            total += counts[n] * discount * max(past, 0.0) * (gain - advantage)
            steps += counts[n]
    assert (min(often) < 0) == (dice_lambda == 0.5 and clip is None)
    expected = total / (steps if scale == "step" else counts.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("dice_lambda", [None, 0.5])
def test_what_comes_after_the_end_has_no_derivative(
    dice_lambda: float | None, clip: float | None
) -> None:
    trajectories, log_probs, advantages = made()
    surrogate = rl.Surrogate(dice_lambda=dice_lambda)
    slopes = jax.grad(lambda x: surrogate(x, trajectories, advantages, clip=clip))(log_probs)
    assert jnp.isfinite(slopes).all()
    assert (slopes[~trajectories.mask] == 0).all()
    assert (slopes != 0).any()


@weighted
def test_the_mean_over_steps_is_the_authors(weights: bool) -> None:
    """The gradient of the mean of `log pi(a_t | s_t) A_t` over the steps that there are."""
    trajectories, _, advantages = made(weights=weights)
    surrogate = rl.Surrogate()
    at_equality = jax.grad(lambda x: surrogate(x, trajectories, advantages))
    counts = counts_of(trajectories)[:, None] * np.asarray(trajectories.mask)
    expected = counts * np.asarray(advantages) / counts.sum()
    np.testing.assert_allclose(at_equality(trajectories.log_probs), expected, rtol=1e-12)


@weighted
def test_advantages_are_generalised_advantage_estimation(weights: bool) -> None:
    discount, decay = 0.9, 0.7
    trajectories, *_ = made(weights=weights)
    (values,) = oracles.normals(5, (len(LENGTHS), LONGEST))
    surrogate = rl.Surrogate(
        discount=discount,
        gae_lambda=decay,
        baseline=lambda trajectories, returns: jnp.where(trajectories.mask, values, jnp.nan),
        normalize=False,
    )
    expected = np.zeros(values.shape)
    for n, length in enumerate(LENGTHS):
        for t in range(length):
            for k in range(t, length):
                following = values[n, k + 1] if k + 1 < length else 0.0
                error = trajectories.rewards[n, k] + discount * following - values[n, k]
                expected[n, t] += (discount * decay) ** (k - t) * error
    np.testing.assert_allclose(surrogate.advantages(trajectories), expected, rtol=1e-12)

    normal = dataclasses.replace(surrogate, normalize=True).advantages(trajectories)
    mask = np.asarray(trajectories.mask)
    counts = (counts_of(trajectories)[:, None] * mask)[mask]
    mean = np.average(expected[mask], weights=counts)
    spread = np.sqrt(np.average((expected[mask] - mean) ** 2, weights=counts))
    expected[mask] = (expected[mask] - mean) / (spread + 1e-8)
    np.testing.assert_allclose(normal, expected, rtol=1e-12)


def test_the_baseline_is_given_returns_to_go() -> None:
    trajectories, *_ = made()
    seen = []

    def baseline(trajectories: rl.Trajectories, returns: Array) -> Array:
        seen.append(returns)
        return returns

    surrogate = rl.Surrogate(discount=0.9, baseline=baseline, normalize=False)
    np.testing.assert_allclose(surrogate.advantages(trajectories), 0.0, atol=1e-12)
    expected = np.zeros(seen[0].shape)
    for n, length in enumerate(LENGTHS):
        for t in range(length):
            rewards = trajectories.rewards[n, t:length]
            expected[n, t] = sum(0.9**i * float(reward) for i, reward in enumerate(rewards))
    np.testing.assert_allclose(seen[0], expected, rtol=1e-12)


def test_rewards_that_are_all_alike_have_no_advantage() -> None:
    trajectories, *_ = made()
    zeros = trajectories._replace(rewards=jnp.zeros_like(trajectories.rewards))
    for baseline in (None, "leave_one_out"):
        assert (rl.Surrogate(baseline=baseline).advantages(zeros) == 0).all()


def test_settings_are_checked() -> None:
    for options, message in (
        ({"dice_lambda": 1.5}, "dice_lambda=1.5; expected a number from 0 to 1, or None"),
        ({"discount": -0.1}, "discount=-0.1; expected a number from 0 to 1"),
        ({"gae_lambda": np.nan}, "gae_lambda=nan; expected a number from 0 to 1"),
        ({"baseline": "none"}, "baseline='none'; expected"),
        ({"scale": "sum"}, "scale='sum'; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.Surrogate(**options)
    for options in ({"dice_lambda": "1"}, {"normalize": 1}, {"discount": None}):
        with pytest.raises(TypeError, match=rf"{next(iter(options))}=.*expected"):
            rl.Surrogate(**options)


@pytest.mark.parametrize("baseline", ["leave_one_out", None])
def test_what_rounding_leaves_is_no_advantage(baseline: Any) -> None:
    rounding = 1e-6 * jax.random.normal(jax.random.key(0), (7, 1), jnp.float32)
    rewards = jnp.float32(300) * (1 + rounding)
    zeros, mask = jnp.zeros_like(rewards), jnp.ones(rewards.shape, bool)
    alike = rl.Trajectories(zeros, zeros, rewards, mask, zeros, rl.Gaussian(zeros, zeros))
    advantages = rl.Surrogate(baseline=baseline).advantages(alike)
    assert advantages.dtype == jnp.float32
    assert jnp.abs(advantages).max() < 0.3
