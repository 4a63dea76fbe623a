"""E-MAML against the expectation over all roll-outs that an adaptation may see."""

import re

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


class _OnePath(Enumerated):
    """A step's roll-out is the one path that the task says; with a negative one, all of them."""

    def roll_out(self, params: jax.Array, task: tuple, key: jax.Array) -> mj.rl.Trajectories:
        rewards, chosen = task
        trajectories = super().roll_out(params, rewards, key)
        begin = step_keys(fit_key(KEY), 2)[0]
        first = (jax.random.key_data(key) == jax.random.key_data(begin)).all()
        path = jnp.where(first, chosen[0], chosen[1])
        one = jax.nn.one_hot(path, COUNT, dtype=params.dtype)
        return trajectories._replace(weights=jnp.where(path < 0, trajectories.weights, one))


def _slopes(phi: jax.Array) -> jax.Array:
    """`[paths, states, actions]` policy gradients of one path each."""
    discounts = DISCOUNT ** np.arange(PROCESS.horizon)
    gains = discounts[None] * PATHS.mask * REWARDS[PATHS.states, PATHS.actions]
    to_go = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]  # Discounted from the beginning.

    def surrogates(phi: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(phi, axis=-1)[PATHS.states, PATHS.actions]
        return (log_probs * PATHS.mask * to_go).sum(axis=1)

    return jax.jacobian(surrogates)(phi)


def _expected(phi: jax.Array, steps: int) -> jax.Array:
    """The expected return after steps along the gradient of one path each."""
    if not steps:
        return expected_return(PATHS, phi, jnp.asarray(REWARDS), DISCOUNT)
    after = jax.vmap(lambda phi: _expected(phi, steps - 1))(phi[None] + RATE * _slopes(phi))
    return (chances(PATHS, phi) * after).sum()


def _over_all_paths(learner: mj.Learner, theta: jax.Array, steps: int) -> jax.Array:
    """The mean of a learner's meta-loss over what its inner steps may see, one path each."""
    likely = chances(PATHS, theta)
    if steps == 2:
        after = theta[None] + RATE * _slopes(theta)
        likely = likely[:, None] * jax.vmap(lambda phi: chances(PATHS, phi))(after)
    which = jnp.stack(jnp.indices(likely.shape), axis=-1).reshape(-1, steps)
    which = jnp.concatenate([which] * (2 if steps == 1 else 1), axis=1)

    def loss(chosen: jax.Array) -> jax.Array:
        def examples(chosen: jax.Array) -> mj.Examples:
            return mj.Examples((jnp.asarray(REWARDS)[None], chosen[None]), jnp.zeros(1))

        episode = mj.Episode(examples(chosen), examples(-jnp.ones_like(chosen)))
        return learner.loss(theta, episode, KEY)[0]

    return (jax.lax.stop_gradient(likely.ravel()) * jax.vmap(loss)(which)).sum()


@pytest.mark.parametrize(
    ("steps", "backward"), [(1, mj.Backward()), (2, mj.Backward(mixed=True))], ids=["1", "2"]
)
def test_it_is_the_gradient_of_the_return_expected_after_steps_along_one_path(
    steps: int, backward: mj.Backward, float64: None
) -> None:
    theta = jnp.asarray(THETA)
    settings = {"inner": optax.sgd(RATE), "num_steps": steps, "backward": backward}
    learner = mj.rl.e_maml(_OnePath(PROCESS, PLAIN), **settings)

    @jax.jit
    def both(theta: jax.Array) -> tuple:
        exact = jax.value_and_grad(lambda theta: -_expected(theta, steps))(theta)
        return exact, jax.value_and_grad(lambda theta: _over_all_paths(learner, theta, steps))(
            theta
        )

    exact, ours = both(theta)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], exact[1], rtol=0, atol=1e-12)
    if steps == 1:  # Roll-outs before adaptation matter, and `maml` does not see that they do.
        blind = mj.maml(_OnePath(PROCESS, PLAIN), inner=optax.sgd(RATE), num_steps=1)
        slope = jax.jit(jax.grad(lambda theta: _over_all_paths(blind, theta, 1)))(theta)
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
