r"""ProMP: proximal policy optimisation over adaptations.

Rothfuss, Lee, Clavera, Asfour, Abbeel, "ProMP: Proximal Meta-Policy Search", ICLR 2019, arXiv
1810.06784: a few steps of an optimiser on the same roll-outs, on

.. math:: \frac{1}{T} \sum_t \left( -J^{CLIP}_t(\phi_t(\theta)) +
  \frac{\eta}{n} \sum_i D(\pi_{old,t,i}, \pi_{\phi_{t,i}(\theta)}) \right)

(section 6) for tasks t with n inner steps, where :math:`J^{CLIP}` is the clipped surrogate
of Schulman, Wolski, Dhariwal, Radford, Klimov, "Proximal Policy Optimization Algorithms", 2017,
arXiv 1707.06347, eq. 7, of the adapted policy, and D the mean divergence of the policy before inner
step i from that of its roll-outs.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import optax

from metajax.checks.numbers import check_integers, check_numbers
from metajax.checks.objects import check_optimizer
from metajax.inner.backward import Backward
from metajax.inner.selection import Selection
from metajax.optimizer_states import check_opt_state
from metajax.rl.frozen import (
    Experience,
    adapted_and_kl,
    checked_loop,
    frozen_surrogate,
    gather,
    mean_over_devices,
    mean_over_tasks,
)
from metajax.rl.policy_gradients import PolicyGradient
from metajax.training_step import TrainState, TrainStep, check_state, gradient_norm, outer_update
from metajax.types import Array, Episode, Params


def ppo_step(
    objective: PolicyGradient,
    optimizer: optax.GradientTransformation,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    clip: float = 0.3,
    inner_kl: float = 5e-4,
    epochs: int = 5,
    axis_name: str | None = None,
) -> TrainStep:
    """A meta-step of ProMP, for `metajax.train` or a loop of one's own; PPO where `num_steps=0`.

    The numbers are those of the authors' code, whose optimiser is Adam with the rate 1e-3. A step
    draws the roll-outs that `metajax.maml` draws, once, for all of its epochs.

    >>> import jax, optax, metajax
    >>> environment = metajax.rl.navigation()
    >>> objective = metajax.rl.PolicyGradient(
    ...     metajax.rl.gaussian_policy(metajax.models.mlp((64, 64, 2), stddev=0.1)),
    ...     environment, horizon=100, rollouts=20)
    >>> optimizer = optax.adam(1e-3)
    >>> step = metajax.rl.ppo_step(objective, optimizer, inner=optax.sgd(0.1), num_steps=1)
    >>> sample = metajax.rl.task_episodes(environment)
    >>> params = objective.init(jax.random.key(0), sample(jax.random.key(0)).support.inputs)
    >>> state = metajax.init_state(params, optimizer, jax.random.key(1))

    and `metajax.train(step, None, state, sample, iterations=1000, meta_batch=40)` trains.

    Args:
      objective: the policy, the environment, and how many roll-outs a task takes.
      optimizer: the outer optimiser; its state goes on from step to step.
      inner: the inner optimiser, see `metajax.maml`.
      num_steps: inner steps, 0 or more; static.
      first_order: see `metajax.maml`; static.
      backward: see `metajax.maml`.
      adapt: see `metajax.maml`.
      clip: how far from 1 a ratio of probabilities of the adapted policy is let to go, above 0.
      inner_kl: eta above, times which the mean divergence, in nats, of the policies before the
        inner steps counts, 0 or more.
      epochs: updates on the same roll-outs, each on all of them, 1 or more; static.
      axis_name: see `trpo_step`.

    Returns:
      The pure function `(state, episodes) -> (state, metrics)`, of episodes `[tasks, ...]` from
      `task_episodes`. Metrics, means over tasks: `loss`, minus the discounted return after
      adaptation; `grad_norm` of the first epoch; `return` after adaptation, not discounted, and
      `return_before` it, of the roll-outs of the first inner step, where there are steps; `kl`, how
      far the adapted policies went from those of the roll-outs, in the mean over steps, in nats;
      `improvement`, by how much all epochs together lowered what they minimise.

    Raises:
      TypeError: an argument is of another kind; see `InnerLoop`. From the step: the state is no
        `TrainState`, the episodes are none, or `optimizer` searches along a line.
      ValueError: a number is out of range; see `InnerLoop`. From the step: the state is another
        optimiser's, parameters are not the policy's, or the episodes have no axis of tasks.
    """
    loop = checked_loop(objective, inner, num_steps, first_order, backward, adapt, axis_name)
    check_optimizer(optimizer, "optimizer", "optax.adam(1e-3)")
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", clip=clip)
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", inner_kl=inner_kl)
    check_integers(1, epochs=epochs)
    surrogate = frozen_surrogate(objective)
    update = outer_update(optimizer)
    average = partial(mean_over_devices, axis_name=axis_name)

    def judge(experience: Experience, params: Params) -> tuple[Array, Array]:
        """What is minimised, and the divergence of the adapted policies, means of the tasks."""

        def of_task(experience: Experience) -> tuple[Array, Array]:
            query = experience.query
            phi, moved = adapted_and_kl(objective, loop, params, experience.support)
            loss = objective.surrogate_loss(phi, query, surrogate=surrogate, clip=clip)
            if loop.num_steps:
                loss += inner_kl * moved.mean()
            return loss, objective.kl(phi, query)

        return mean_over_tasks(jax.vmap(of_task)(experience), None)

    def step(state: TrainState, episodes: Episode) -> tuple[TrainState, Mapping[str, Array]]:
        check_state(state)
        check_opt_state(optimizer, state.params, state.opt_state)
        experience, metrics = gather(objective, loop, state, episodes, axis_name)
        of_params = partial(judge, experience)

        def epoch(carry: tuple[Params, Any], _: None) -> tuple[Any, tuple[Array, Array]]:
            params, opt_state = carry
            (loss, _), gradient = jax.value_and_grad(of_params, has_aux=True)(params)
            loss, gradient = average((loss, gradient))
            return update(gradient, opt_state, params, loss), (loss, gradient_norm(gradient))

        begin = (state.params, state.opt_state)
        (params, opt_state), (losses, norms) = jax.lax.scan(epoch, begin, length=epochs)
        after, kl = average(of_params(params))
        metrics |= {
            "loss": metrics["loss"] + losses[0],
            "grad_norm": norms[0],
            "kl": kl,
            "improvement": losses[0] - after,
        }
        return TrainState(params, opt_state, state.step + 1, state.key), metrics

    return step
