"""The policy-gradient objective: a task's roll-outs, and the surrogate of its expected return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_integers
from metajax.checks.objects import check_instance
from metajax.rl.distributions import Actions
from metajax.rl.environments import Environment, Task, check_environment, task_of
from metajax.rl.fitting import check_fitting
from metajax.rl.policies import Policy
from metajax.rl.surrogates import Surrogate
from metajax.rl.trajectories import Trajectories, mean_return, roll_out, step_mean
from metajax.types import Array, Examples, Inputs, Key, Objective, ObjectiveAux, Params


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
          ValueError: a number is out of range, policy and environment are not made for one another,
            or a function of theirs returns something else than it is to.
        """
        check_instance(
            policy, Policy, "policy", "a metajax.rl.Policy, such as gaussian_policy(...)"
        )
        check_environment(environment)
        check_integers(1, horizon=horizon, rollouts=rollouts)
        check_instance(surrogate, Surrogate, "surrogate", "a metajax.rl.Surrogate(...)")
        self.policy = policy
        self.environment = environment
        self.horizon = int(horizon)
        self.rollouts = int(rollouts)
        self.surrogate = surrogate
        super().__init__(self._init, self._loss, self._predict, lambda params, support: ())
        check_fitting(policy, environment)

    def roll_out(self, params: Params, task: Task, key: Key) -> Trajectories:
        """Lets the policy act in a task; no derivative goes through it.

        Args:
          params: the policy's.
          task: of the environment.
          key: of what is drawn.
        """
        return roll_out(
            self.policy,
            self.environment,
            params,
            task,
            key,
            horizon=self.horizon,
            rollouts=self.rollouts,
        )

    def draw(self, params: Params, task: Task, key: Key) -> Batch:
        """Roll-outs with their advantages; see `roll_out`."""
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
        """
        trajectories = batch.trajectories
        distribution = self.policy.over_steps(params, trajectories.observations)
        log_probs = distribution.log_prob(trajectories.actions)
        value = self.surrogate if surrogate is None else surrogate
        return -value(log_probs, trajectories, batch.advantages, clip=clip)

    def kl(self, params: Params, batch: Batch) -> Array:
        """`[]` the mean over steps of KL(policy of the roll-outs, policy of `params`), in nats."""
        trajectories = batch.trajectories
        distribution = self.policy.over_steps(params, trajectories.observations)
        return step_mean(trajectories.distribution.kl(distribution), trajectories)

    def value(self, batch: Batch) -> Array:
        """`[]` the mean discounted return of roll-outs."""
        return mean_return(batch.trajectories, self.surrogate.discount)

    def _init(self, key: Key, inputs: Inputs) -> Params:
        del inputs  # Tasks; a policy begins with observations.
        first, second = jax.random.split(key)

        def begin(key: Key) -> Inputs:
            task = self.environment.sample_task(key)
            return self.environment.reset(key, task)[1]

        observation = jax.eval_shape(begin, first)
        zeros = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), observation)
        return self.policy.init(second, zeros)

    def _loss(
        self, params: Params, examples: Examples, key: Key | None, context: Examples | None
    ) -> tuple[Array, ObjectiveAux]:
        del context
        if key is None:
            raise ValueError(
                "roll-outs are drawn, and there is no key; expected one: learner.loss(params, "
                "episode, key), learner.adapt(params, support, key)"
            )
        batch = self.draw(params, task_of(examples), key)
        loss = self.surrogate_loss(params, batch) - self.value(batch)
        return loss, ObjectiveAux(None, {"return": mean_return(batch.trajectories)})

    def _predict(self, params: Params, inputs: Inputs, kept: Any) -> Actions:
        del kept
        return self.policy.distribution(params, inputs).mode()
