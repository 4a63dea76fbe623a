"""Frozen roll-outs are those of the learner with the same key, and so are their derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.rl.frozen import adapted, adapted_and_kl, collect

ENVIRONMENT = mj.rl.navigation()
KEY = jax.random.key(1)


def _objective(surrogate: mj.rl.Surrogate) -> mj.rl.PolicyGradient:
    return mj.rl.PolicyGradient(
        mj.rl.gaussian_policy(mj.models.mlp((2,), stddev=0.3)),
        ENVIRONMENT,
        horizon=4,
        rollouts=3,
        surrogate=surrogate,
    )


@pytest.mark.parametrize(
    ("num_steps", "options"),
    [
        pytest.param(2, {"adapt": "model"}, id="a part"),
        pytest.param(0, {}, id="no step", marks=pytest.mark.slow),
        pytest.param(1, {}, id="one step", marks=pytest.mark.slow),
        pytest.param(2, {"first_order": True}, id="first order", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_of_frozen_roll_outs_is_the_learners(
    num_steps: int, options: dict, float64: None
) -> None:
    objective = _objective(mj.rl.Surrogate(discount=0.9))
    task, other = (mj.rl.task_episodes(ENVIRONMENT)(key) for key in jax.random.split(KEY))
    episode = mj.Episode(task.support, other.support)  # The tasks of both count.
    inner = optax.sgd(0.5)
    loop = mj.InnerLoop(inner, num_steps, **options)
    learner = mj.maml(objective, inner=inner, num_steps=num_steps, **options)
    params = learner.init(KEY, episode.support.inputs)

    @jax.jit
    def both(params: object) -> tuple:
        experience = collect(objective, loop, params, episode, KEY)

        def frozen(params: object) -> jax.Array:
            phi = adapted(objective, loop, params, experience.support)
            loss = objective.surrogate_loss(phi, experience.query)
            return loss - objective.value(experience.query)

        (loss, _), slope = jax.value_and_grad(learner.loss, has_aux=True)(params, episode, KEY)
        phi, kl = adapted_and_kl(objective, loop, params, experience.support)
        there = objective.kl(phi, experience.query)
        return jax.value_and_grad(frozen)(params), (loss, slope), (kl, there), experience

    ours, learners, (kl, there), experience = both(params)
    chex.assert_trees_all_close(ours, learners, rtol=1e-12, atol=1e-14)
    assert kl.shape == (num_steps,)
    np.testing.assert_allclose(jnp.append(kl, there), 0, atol=1e-14)
    assert experience.support.advantages.shape == (num_steps, 3, 4)
    assert experience.query.advantages.shape == (3, 4)
