"""The policy-gradient objective: a task's roll-outs, and the surrogate of its expected return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance
from metajax.rl.baselines import check_others, leave_one_out
from metajax.rl.distributions import Actions, Distribution
from metajax.rl.environments import Environment, check_environment, task_of
from metajax.rl.fitting import check_fitting, check_given, check_observations, check_params
from metajax.rl.policies import Policy, check_policy
from metajax.rl.surrogates import Surrogate, check_surrogate
from metajax.rl.trajectories import (
    Trajectories,
    check_trajectories,
    mean_return,
    of_steps,
    rolled_out,
    step_mean,
)
from metajax.types import Array, Examples, Inputs, Key, Objective, ObjectiveAux, Params, Task


class Batch(NamedTuple):
    """Roll-outs of one policy in one task, and what they are worth.

    Attributes:
      trajectories: the roll-outs.
      advantages: `[rollouts, horizon]`.
    """

    trajectories: Trajectories
    advantages: Array


class PolicyGradient(Objective):
    """The objective of reinforcement learning, for every learner that takes an `Objective`.

    Its loss draws roll-outs with the key, and is minus their mean discounted return; its
    derivatives are those of the surrogate. It reports the mean `return` of the roll-outs, not
    discounted, so that a learner with `record_steps=True` reports `return_per_step`. `predict` of a
    learner gives the likeliest actions for observations.

    >>> import metajax, optax
    >>> environment = metajax.rl.navigation()
    >>> objective = metajax.rl.PolicyGradient(
    ...     metajax.rl.gaussian_policy(metajax.models.mlp((100, 100, 2), stddev=0.1)),
    ...     environment, horizon=100, rollouts=20)
    >>> learner = metajax.maml(objective, inner=optax.sgd(0.1), num_steps=1)
    >>> sample = metajax.rl.task_episodes(environment)

    Attributes:
      policy: the policy.
      environment: the environment.
      horizon: actions of a roll-out at most.
      rollouts: roll-outs a draw.
      surrogate: how they become a loss.
    """

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        *,
        horizon: int,
        rollouts: int,
        surrogate: Surrogate = Surrogate(),
    ) -> None:
        """Takes the settings.

        Args:
          policy: the policy.
          environment: the environment.
          horizon: actions of a roll-out at most, 1 or more; static.
          rollouts: roll-outs a draw, so many a task for every inner step and as many for the
            queries, 1 or more; static.
          surrogate: how they become a loss.

        Raises:
          TypeError: an argument is of another kind.
          ValueError: a number is out of range, or `rollouts` is 1 and the baseline the mean of the
            others, policy and environment are not made for one another, or a function of theirs
            returns something else than it is to.
        """
        check_policy(policy)
        check_environment(environment)
        check_integers(1, horizon=horizon, rollouts=rollouts)
        check_surrogate(surrogate)
        if surrogate.baseline in ("leave_one_out", leave_one_out):
            check_others(rollouts)
        self.policy = policy
        self.environment = environment
        self.horizon = int(horizon)
        self.rollouts = int(rollouts)
        self.surrogate = surrogate
        super().__init__(self._init, self._loss, self._predict, lambda params, support: ())
        self._fitting = check_fitting(policy, environment)

    def __repr__(self) -> str:
        """How many roll-outs it draws, of which length."""
        return f"PolicyGradient(horizon={self.horizon}, rollouts={self.rollouts})"

    def roll_out(self, params: Params, task: Task, key: Key) -> Trajectories:
        """Lets the policy act in a task; no derivative goes through it.

        Args:
          params: the policy's.
          task: of the environment.
          key: of what is drawn.

        Raises:
          TypeError, ValueError: parameters or task are not of policy and environment, or `key` is
            none.
        """
        check_given(self._fitting, params, task, key)
        return rolled_out(
            self.policy, self.environment, params, task, key, self.horizon, self.rollouts
        )

    def draw(self, params: Params, task: Task, key: Key) -> Batch:
        """Roll-outs with their advantages; see `roll_out`.

        Args:
          params: the policy's.
          task: of the environment.
          key: of what is drawn.
        """
        trajectories = self.roll_out(params, task, key)
        return Batch(trajectories, self.surrogate.advantages(trajectories))

    def surrogate_loss(
        self,
        params: Params,
        batch: Batch,
        *,
        surrogate: Surrogate | None = None,
        clip: float | None = None,
    ) -> Array:
        """`[]` minus the surrogate of frozen roll-outs, under whatever parameters.

        Args:
          params: the policy's.
          batch: the roll-outs.
          surrogate: how they become a loss; None is the objective's own.
          clip: see `Surrogate`.

        Raises:
          TypeError, ValueError: an argument is of another kind, or `clip` out of range.
        """
        _check_batch(batch)
        if surrogate is not None:
            check_surrogate(surrogate)
        trajectories = batch.trajectories
        log_probs = self._distribution(params, batch).log_prob(trajectories.actions)
        value = self.surrogate if surrogate is None else surrogate
        return -value(log_probs, trajectories, batch.advantages, clip=clip)

    def kl(self, params: Params, batch: Batch) -> Array:
        """`[]` the mean over steps of KL(policy of the roll-outs, policy of `params`), in nats.

        Args:
          params: the policy's.
          batch: the roll-outs.
        """
        _check_batch(batch)
        trajectories = batch.trajectories
        divergences = trajectories.distribution.kl(self._distribution(params, batch))
        return step_mean(divergences, trajectories)

    def value(self, batch: Batch) -> Array:
        """`[]` the mean discounted return of roll-outs.

        Args:
          batch: the roll-outs.
        """
        _check_batch(batch)
        return mean_return(batch.trajectories, self.surrogate.discount)

    def _init(self, key: Key, inputs: Inputs) -> Params:
        del inputs  # Tasks; a policy begins with observations.
        zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), self._fitting.observation)
        return self.policy.init(key, zeros)

    def _loss(
        self, params: Params, examples: Examples, key: Key | None, context: Examples | None
    ) -> tuple[Array, ObjectiveAux]:
        del context
        batch = self.draw(params, task_of(examples), drawing_key(key))
        loss = self.surrogate_loss(params, batch) - self.value(batch)
        return loss, ObjectiveAux(None, {"return": mean_return(batch.trajectories)})

    def _predict(self, params: Params, inputs: Inputs, kept: Any) -> Actions:
        del kept
        check_observations(self._fitting, inputs)
        return self.policy.distribution(params, inputs).mode()

    def _distribution(self, params: Params, batch: Batch) -> Distribution:
        check_params(self._fitting, params)
        return self.policy.over_steps(params, batch.trajectories.observations)


def drawing_key(key: Key | None) -> Key:
    """A learner's key, of which roll-outs are drawn.

    Raises:
      ValueError: there is none.
    """
    if key is None:
        raise ValueError(
            "roll-outs are drawn, and there is no key; expected one: learner.loss(params, episode, "
            "key), learner.adapt(params, support, key)"
        )
    return key


def _check_batch(batch: object) -> None:
    """Raises unless the argument `batch` is a `Batch` of one task."""
    check_instance(batch, Batch, "batch", "a metajax.rl.Batch, as PolicyGradient.draw returns it")
    assert isinstance(batch, Batch)
    check_trajectories(batch.trajectories)
    of_steps(batch.trajectories, "the batch's advantages", batch.advantages)
