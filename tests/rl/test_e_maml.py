"""E-MAML against the expectation over all roll-outs that an adaptation may see."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl.enumeration import (
    Enumerated,
    chances,
    decisions,
    expected_return,
    path_returns,
    paths_of,
)

import metajax as mj
from metajax.keys import fit_key, step_keys

RATE, DISCOUNT = 0.7, 0.9
KEY = jax.random.key(0)
PROCESS = decisions(ending=True)
PATHS = paths_of(PROCESS)
COUNT = len(PATHS.moves)
REWARDS = np.random.default_rng(1).normal(size=(2, 2))
THETA = np.random.default_rng(2).normal(size=(2, 2))
PLAIN = mj.rl.Surrogate(
    dice_lambda=None, discount=DISCOUNT, baseline=None, normalize=False, scale="return"
)


class _Chosen(Enumerated):
    """A step's roll-outs are the paths that the task says; where they are negative, all of them."""

    def roll_out(self, params: jax.Array, task: tuple, key: jax.Array) -> mj.rl.Trajectories:
        rewards, chosen = task  # Of two inner steps, `[2, rollouts]`.
        trajectories = super().roll_out(params, rewards, key)
        begin = step_keys(fit_key(KEY), 2)[0]
        first = (jax.random.key_data(key) == jax.random.key_data(begin)).all()
        paths = jnp.where(first, chosen[0], chosen[1])
        counts = jax.nn.one_hot(paths, COUNT, dtype=params.dtype).sum(axis=0)
        weights = jnp.where((paths < 0).any(), trajectories.weights, counts)
        return trajectories._replace(weights=weights)


def _combinations(rollouts: int) -> np.ndarray:
    """`[combinations, rollouts]` all paths that so many roll-outs may be."""
    return np.stack(np.indices((COUNT,) * rollouts), axis=-1).reshape(-1, rollouts)


def _credit(rollouts: int, surrogate: mj.rl.Surrogate) -> np.ndarray:
    """`[combinations, rollouts, horizon]` times what a step's score counts in the gradient."""
    mask = PATHS.mask[_combinations(rollouts)]
    discounts = DISCOUNT ** np.arange(PROCESS.horizon)
    gains = discounts * (PATHS.mask * REWARDS[PATHS.states, PATHS.actions])[_combinations(rollouts)]
    to_go = np.cumsum(gains[..., ::-1], axis=-1)[..., ::-1]  # Discounted from the beginning.
    if surrogate == PLAIN:
        return to_go / rollouts
    count = mask.sum(axis=(1, 2), keepdims=True)
    advantages = to_go / discounts
    advantages -= (mask * advantages).sum(axis=(1, 2), keepdims=True) / count
    variance = (mask * advantages**2).sum(axis=(1, 2), keepdims=True) / count
    return mask * advantages / (np.sqrt(variance) + 1e-8) / count


def _slopes(phi: jax.Array, rollouts: int, surrogate: mj.rl.Surrogate) -> jax.Array:
    """`[combinations, states, actions]` policy gradients of so many roll-outs each."""

    def log_probs(phi: jax.Array) -> jax.Array:
        return PATHS.mask * jax.nn.log_softmax(phi, axis=-1)[PATHS.states, PATHS.actions]

    scores = jax.jacobian(log_probs)(phi)[_combinations(rollouts)]
    return jnp.einsum("crt,crtij->cij", _credit(rollouts, surrogate), scores)


def _likely(phi: jax.Array, rollouts: int) -> jax.Array:
    """`[combinations]` probabilities."""
    return chances(PATHS, phi)[_combinations(rollouts)].prod(axis=1)


def _return_of(phi: jax.Array) -> jax.Array:
    return expected_return(PATHS, phi, jnp.asarray(REWARDS), DISCOUNT)


def _expected(
    phi: jax.Array, steps: int, rollouts: int, surrogate: mj.rl.Surrogate = PLAIN
) -> jax.Array:
    """The expected return after steps along the gradients of so many roll-outs each."""
    if not steps:
        return _return_of(phi)
    after = phi[None] + RATE * _slopes(phi, rollouts, surrogate)
    following = jax.vmap(lambda phi: _expected(phi, steps - 1, rollouts, surrogate))(after)
    return (_likely(phi, rollouts) * following).sum()


def _episodes(which: jax.Array) -> mj.Episode:
    """Of roll-outs `[..., 2, rollouts]` of two inner steps."""

    def examples(which: jax.Array) -> mj.Examples:
        rewards = jnp.broadcast_to(jnp.asarray(REWARDS), (*which.shape[:-2], 1, *REWARDS.shape))
        return mj.Examples((rewards, which[..., None, :, :]), jnp.zeros((*which.shape[:-2], 1)))

    return mj.Episode(examples(which), examples(-jnp.ones_like(which)))


def _over_all_paths(
    learner: mj.Learner, theta: jax.Array, steps: int, rollouts: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How likely all are that the inner steps may see, and meta-loss and gradient of each."""
    likely, which = _likely(theta, rollouts), _combinations(rollouts)[:, None]
    if steps == 2:
        after = theta[None] + RATE * _slopes(theta, rollouts, PLAIN)
        likely = (likely[:, None] * jax.vmap(lambda phi: _likely(phi, rollouts))(after)).ravel()
        which = np.stack(np.indices((COUNT, COUNT)), axis=-1).reshape(-1, 2, rollouts)
    which = jnp.broadcast_to(which, (len(which), 2, rollouts))

    def loss(theta: jax.Array, episode: mj.Episode) -> jax.Array:
        return learner.loss(theta, episode, KEY)[0]

    each = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0))(theta, _episodes(which))
    return likely, *each


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "backward"), [(1, mj.Backward()), (2, mj.Backward(mixed=True))], ids=["one", "two"]
)
def test_it_is_the_gradient_of_the_return_expected_after_steps_along_one_roll_out(
    steps: int, backward: mj.Backward, float64: None
) -> None:
    theta = jnp.asarray(THETA)
    objective, inner = _Chosen(PROCESS, PLAIN), optax.sgd(RATE)
    learner = mj.rl.e_maml(objective, inner=inner, num_steps=steps, backward=backward)

    @jax.jit
    def both(theta: jax.Array) -> tuple:
        exact = jax.value_and_grad(lambda theta: -_expected(theta, steps, 1))
        return exact(theta), _over_all_paths(learner, theta, steps, 1)

    exact, (likely, losses, slopes) = both(theta)
    np.testing.assert_allclose(likely @ losses, exact[0], rtol=1e-12)
    np.testing.assert_allclose(jnp.tensordot(likely, slopes, 1), exact[1], rtol=0, atol=1e-12)
    if steps == 1:  # `maml` does not see that the roll-outs before matter.
        blind = mj.maml(objective, inner=inner, num_steps=1)
        likely, _, slopes = jax.jit(lambda theta: _over_all_paths(blind, theta, 1, 1))(theta)
        slope = jnp.tensordot(likely, slopes, 1)
        assert jnp.abs(slope - exact[1]).max() > 0.1 * jnp.abs(exact[1]).max()


@pytest.mark.parametrize(
    "surrogate",
    [
        pytest.param(PLAIN, marks=pytest.mark.slow, id="plain"),
        pytest.param(
            dataclasses.replace(PLAIN, normalize=True, scale="step"), id="normalised inside"
        ),
    ],
)
def test_of_two_roll_outs_each_is_credited_with_more_than_the_other_returned(
    surrogate: mj.rl.Surrogate, float64: None
) -> None:
    """Each pair's gradient; in the mean that of the return, and closer to it than without."""
    theta, pairs = jnp.asarray(THETA), _combinations(2)
    learner = mj.rl.e_maml(_Chosen(PROCESS, surrogate), inner=optax.sgd(RATE), num_steps=1)
    others = path_returns(PATHS, REWARDS, DISCOUNT)[pairs[:, ::-1]]

    def by_hand(theta: jax.Array, others: np.ndarray) -> jax.Array:
        """`[pairs]`, whose derivatives are what the equations say."""
        returns = jax.vmap(_return_of)(theta[None] + RATE * _slopes(theta, 2, surrogate))
        log_probs = jnp.log(chances(PATHS, theta))[pairs]
        credit = jax.lax.stop_gradient(returns)[:, None] - others
        return -returns - (credit * log_probs).sum(axis=1)

    @jax.jit
    def both(theta: jax.Array) -> tuple:
        exact = jax.value_and_grad(lambda theta: -_expected(theta, 1, 2, surrogate))
        jacobian = jax.jacobian(by_hand)
        hands = jacobian(theta, others), jacobian(theta, 0 * others)
        return exact(theta), hands, _over_all_paths(learner, theta, 1, 2)

    exact, (right, without), (likely, losses, slopes) = both(theta)
    np.testing.assert_allclose(likely @ losses, exact[0], rtol=1e-12)
    np.testing.assert_allclose(jnp.tensordot(likely, slopes, 1), exact[1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(slopes, right, rtol=0, atol=1e-12)

    def variance(slopes: jax.Array) -> float:
        return float((likely * ((slopes - exact[1][None]) ** 2).sum(axis=(1, 2))).sum())

    assert variance(slopes) < 0.6 * variance(without)


def test_a_magic_box_inside_is_refused() -> None:
    objective = Enumerated(PROCESS, mj.rl.Surrogate())
    with pytest.raises(ValueError, match=re.escape("expected metajax.rl.Surrogate(dice_lambda=No")):
        mj.rl.e_maml(objective, inner=optax.sgd(RATE), num_steps=1)


def test_a_loss_needs_a_key_and_an_objective_roll_outs() -> None:
    objective = Enumerated(PROCESS, PLAIN)
    learner = mj.rl.e_maml(objective, inner=optax.sgd(RATE), num_steps=1)
    task = mj.Examples(jnp.asarray(REWARDS, jnp.float32)[None], jnp.zeros(1))
    with pytest.raises(ValueError, match=re.escape("learner.loss(params, episode, key)")):
        learner.loss(jnp.zeros((2, 2)), mj.Episode(task, task))
    assert repr(learner) == "e_maml(num_steps=1, inner=..., exact)"
    with pytest.raises(TypeError, match="expected a PolicyGradient, such as"):
        mj.rl.e_maml(mj.models.mlp((4, 2)), inner=optax.sgd(RATE), num_steps=1)
