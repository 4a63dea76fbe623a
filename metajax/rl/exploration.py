r"""E-MAML: the roll-outs before adaptation are credited with what they lead to.

Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever, "Some Considerations on Learning to
Explore via Meta-Reinforcement Learning", 2018, arXiv 1803.01118. Where `maml` with the magic box
differentiates the return after a step along the *expected* gradient, this is the expected return
after steps along the gradients :math:`g` of the roll-outs :math:`\tau` at hand,

.. math:: \sum_\tau p_\theta(\tau) \, J(\theta + \alpha g(\tau, \theta))

whose gradient has one part through :math:`\phi = \theta + \alpha g`, with the roll-outs
fixed, and one through their probability, :math:`J(\phi) \nabla \log p_\theta(\tau)`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.checked_learners import make_learner
from metajax.gradient_learners import gradient_learner, support_fit
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection
from metajax.keys import fit_key, query_key, step_keys
from metajax.rl.distributions import Distribution
from metajax.rl.environments import task_of
from metajax.rl.frozen import check_policy_gradient
from metajax.rl.policy_gradients import Batch, PolicyGradient, drawing_key
from metajax.rl.trajectories import Trajectories, mean_return, path_returns
from metajax.types import AdaptedTask, Array, Aux, Episode, Key, Learner, Params


def e_maml(
    objective: PolicyGradient,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
) -> Learner:
    """E-MAML (Stadie et al. 2018): `maml` that is credited with what its roll-outs explore.

    The meta-loss is minus the mean discounted return after adaptation, and its gradient has no bias
    but that of baselines: of how many roll-outs there are, too. The part through the probability of
    the roll-outs has a large variance, which grows with their number and length; from what a
    roll-out is credited with, the mean return of the task's others before that inner step is taken,
    of which it is independent.

    >>> import metajax, optax
    >>> environment = metajax.rl.navigation()
    >>> objective = metajax.rl.PolicyGradient(
    ...     metajax.rl.gaussian_policy(metajax.models.mlp((100, 100, 2), stddev=0.1)),
    ...     environment, horizon=100, rollouts=20,
    ...     surrogate=metajax.rl.Surrogate(dice_lambda=None))
    >>> learner = metajax.rl.e_maml(objective, inner=optax.sgd(0.1), num_steps=1)

    Args:
      objective: whose surrogate has `dice_lambda=None`. Its `scale` and `normalize` are those of
        the inner steps alone.
      inner: the inner optimiser, see `metajax.maml`.
      num_steps: inner steps, 0 or more; static.
      backward: see `metajax.maml`.
      adapt: see `metajax.maml`.

    Returns:
      A `Learner`, whose loss needs a key. It reports `return`, the mean of the roll-outs after
      adaptation, not discounted.

    Raises:
      TypeError: `objective` is no `PolicyGradient`; see `InnerLoop`.
      ValueError: its surrogate has another `dice_lambda`; see `InnerLoop`. From the learner's
        functions: there is no key, or parameters or episode do not fit the objective.
    """
    check_policy_gradient(objective)
    dice_lambda = objective.surrogate.dice_lambda
    if dice_lambda is not None:
        raise ValueError(
            f"the objective's surrogate has dice_lambda={dice_lambda}, by which its inner "
            "derivative counts how probable roll-outs are, and so does e_maml, a second time; "
            "expected metajax.rl.Surrogate(dice_lambda=None)"
        )
    loop = InnerLoop(inner, num_steps, False, backward, adapt)
    title = f"e_maml({loop})"
    learner = gradient_learner(
        objective, support_fit(objective, loop), record_steps=False, title=title
    )
    outer = dataclasses.replace(
        objective.surrogate, dice_lambda=0.0, normalize=False, scale="return"
    )

    def loss(
        params: Params, episode: Episode, key: Key | None, training: bool
    ) -> tuple[Array, Aux]:
        del training
        key = drawing_key(key)

        def step_loss(phi: Params, key: Key) -> tuple[Array, tuple[Array, Array]]:
            batch = objective.draw(phi, task_of(episode.support), key)
            value = objective.surrogate_loss(phi, batch) - objective.value(batch)
            trajectories = batch.trajectories
            distribution = objective.policy.over_steps(phi, trajectories.observations)
            score = _scores(distribution, trajectories)
            expected = _others_returns(trajectories, outer.discount)
            return value, (score.sum(), (score * expected).sum())

        keys = step_keys(fit_key(key), num_steps)
        phi, _, (scores, expected) = loop.run(step_loss, params, per_step=keys, has_aux=True)
        drawn: Any = query_key(key)
        trajectories = objective.roll_out(phi, task_of(episode.query), drawn)
        query = Batch(trajectories, outer.advantages(trajectories))
        value = objective.surrogate_loss(phi, query, surrogate=outer) - objective.value(query)
        value = value * jnp.exp(scores.sum()) + expected.sum()
        return value, Aux(None, {"query_loss": value, "return": mean_return(trajectories)})

    checked = make_learner(
        learner.init, loss, learner.adapt, learner.predict, title=title, task_kind=AdaptedTask
    )
    return learner._replace(loss=checked.loss)


def _scores(distribution: Distribution, trajectories: Trajectories) -> Array:
    """`[rollouts]`, 0, with the derivative of the logarithm of a roll-out's probability."""
    log_probs = distribution.log_prob(trajectories.actions)
    away = jnp.where(trajectories.mask, log_probs - jax.lax.stop_gradient(log_probs), 0).sum(axis=1)
    return away if trajectories.weights is None else away * trajectories.weights


def _others_returns(trajectories: Trajectories, discount: float) -> Array:
    """`[rollouts]` the mean discounted return of the other roll-outs; 0 where there are none."""
    returns = path_returns(trajectories, discount)
    weights = trajectories.weights
    weights = jnp.ones_like(returns) if weights is None else weights
    others = weights.sum() - 1
    rest = (weights * returns).sum() - returns
    return jnp.where(others > 0, rest / jnp.where(others > 0, others, 1), 0)
