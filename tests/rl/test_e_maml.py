"""E-MAML against the expectation over all roll-outs that an adaptation may see."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl.enumeration import Enumerated, chances, decisions, expected_return, paths_of

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


def _slopes(phi: jax.Array) -> jax.Array:
    """`[paths, states, actions]` policy gradients of one path each."""
    discounts = DISCOUNT ** np.arange(PROCESS.horizon)
    gains = discounts[None] * PATHS.mask * REWARDS[PATHS.states, PATHS.actions]
    to_go = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]  # Discounted from the beginning.

    def surrogates(phi: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(phi, axis=-1)[PATHS.states, PATHS.actions]
        return (log_probs * PATHS.mask * to_go).sum(axis=1)

    return jax.jacobian(surrogates)(phi)


def _mean_over_paths(phi: jax.Array, function: Callable, rollouts: int) -> jax.Array:
    """The mean of `function` of what follows a step along the gradient of so many roll-outs."""
    likely, slopes = chances(PATHS, phi), _slopes(phi)
    if rollouts == 2:
        likely = (likely[:, None] * likely[None]).ravel()
        slopes = ((slopes[:, None] + slopes[None]) / 2).reshape(-1, *phi.shape)
    return (likely * jax.vmap(function)(phi[None] + RATE * slopes)).sum()


def _expected(phi: jax.Array, steps: int, rollouts: int) -> jax.Array:
    """The expected return after steps along the gradients of so many roll-outs each."""
    if not steps:
        return expected_return(PATHS, phi, jnp.asarray(REWARDS), DISCOUNT)
    return _mean_over_paths(phi, lambda phi: _expected(phi, steps - 1, rollouts), rollouts)


def _over_all_paths(learner: mj.Learner, theta: jax.Array, steps: int, rollouts: int) -> jax.Array:
    """The mean of a learner's meta-loss over all that its inner steps may see."""
    likely = chances(PATHS, theta)
    if rollouts == 2:
        likely = likely[:, None] * likely[None]
    if steps == 2:
        after = theta[None] + RATE * _slopes(theta)
        likely = likely[:, None] * jax.vmap(lambda phi: chances(PATHS, phi))(after)
    which = jnp.stack(jnp.indices(likely.shape), axis=-1).reshape(-1, steps, rollouts)
    which = jnp.broadcast_to(which, (len(which), 2, rollouts))

    def loss(chosen: jax.Array) -> jax.Array:
        def examples(chosen: jax.Array) -> mj.Examples:
            return mj.Examples((jnp.asarray(REWARDS)[None], chosen[None]), jnp.zeros(1))

        episode = mj.Episode(examples(chosen), examples(-jnp.ones_like(chosen)))
        return learner.loss(theta, episode, KEY)[0]

    return (jax.lax.stop_gradient(likely.ravel()) * jax.vmap(loss)(which)).sum()


@pytest.mark.parametrize(
    ("steps", "rollouts", "backward"),
    [
        pytest.param(1, 2, mj.Backward(), id="two roll-outs"),
        pytest.param(1, 1, mj.Backward(), id="one roll-out", marks=pytest.mark.slow),
        pytest.param(2, 1, mj.Backward(mixed=True), id="two steps", marks=pytest.mark.slow),
    ],
)
def test_it_is_the_gradient_of_the_return_expected_after_steps_along_roll_outs(
    steps: int, rollouts: int, backward: mj.Backward, float64: None
) -> None:
    theta = jnp.asarray(THETA)
    objective, inner = _Chosen(PROCESS, PLAIN), optax.sgd(RATE)
    learner = mj.rl.e_maml(objective, inner=inner, num_steps=steps, backward=backward)

    @jax.jit
    def both(theta: jax.Array) -> tuple:
        exact = jax.value_and_grad(lambda theta: -_expected(theta, steps, rollouts))
        ours = jax.value_and_grad(lambda theta: _over_all_paths(learner, theta, steps, rollouts))
        return exact(theta), ours(theta)

    exact, ours = both(theta)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], exact[1], rtol=0, atol=1e-12)
    if (steps, rollouts) == (1, 1):  # `maml` does not see that the roll-outs before matter.
        blind = mj.maml(objective, inner=inner, num_steps=1)
        slope = jax.jit(jax.grad(lambda theta: _over_all_paths(blind, theta, 1, 1)))(theta)
        assert jnp.abs(slope - exact[1]).max() > 0.1 * jnp.abs(exact[1]).max()


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
