r"""TRPO over adaptations: a meta-step as far as the adapted policies may go.

Schulman, Levine, Moritz, Jordan, Abbeel, "Trust Region Policy Optimization", ICML 2015, arXiv
1502.05477, as the outer step of MAML (Finn et al. 2017, arXiv 1703.03400, section 5.3). With g the
gradient of the surrogate of the adapted policies, and F the Hessian of their mean divergence
:math:`D(\theta_{old}, \theta)` from those of the roll-outs,

.. math:: F s = g, \quad
  \theta = \theta_{old} + \rho^j \sqrt{\frac{2 \delta}{s^T F s}} \, s

with the smallest j from 0 on at which the surrogate has grown and :math:`D \le \delta` (appendix
C). Where D is least its slope is 0, so that :math:`F = J^T H J` without a rest: J takes parameters,
through the adaptation, to the distributions of actions, and H is the Hessian of D with respect to
those.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.checks.numbers import check_integers, check_numbers
from metajax.inner.backward import Backward
from metajax.inner.loop import InnerLoop
from metajax.inner.selection import Selection
from metajax.optimizer_states import check_opt_state
from metajax.rl.conjugate_gradients import along, conjugate_gradients, dot
from metajax.rl.distributions import Distribution
from metajax.rl.frozen import (
    Experience,
    adapted,
    checked_loop,
    frozen_surrogate,
    gather,
    mean_over_devices,
)
from metajax.rl.policy_gradients import Batch, PolicyGradient
from metajax.rl.trajectories import step_mean
from metajax.training_step import TrainState, TrainStep, check_state, gradient_norm
from metajax.types import Array, Episode, Params


def trpo_step(
    objective: PolicyGradient,
    *,
    inner: optax.GradientTransformation,
    num_steps: int,
    first_order: bool = False,
    backward: Backward = Backward(),
    adapt: Selection | None = None,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    damping: float = 1e-5,
    backtracks: int = 15,
    backtrack_ratio: float = 0.8,
    axis_name: str | None = None,
) -> TrainStep:
    """A meta-step of TRPO, for `metajax.train` or a loop of one's own.

    The numbers are those of the authors' code of MAML. A step draws the roll-outs that
    `metajax.maml` draws, once, and everything else is computed of them; it has no optimiser, and
    its state is that of `optax.identity()`:

    >>> import jax, optax, metajax
    >>> environment = metajax.rl.navigation()
    >>> objective = metajax.rl.PolicyGradient(
    ...     metajax.rl.gaussian_policy(metajax.models.mlp((2,), stddev=0.1)),
    ...     environment, horizon=5, rollouts=2)
    >>> step = metajax.rl.trpo_step(objective, inner=optax.sgd(0.1), num_steps=1)
    >>> sample = metajax.rl.task_episodes(environment)
    >>> params = objective.init(jax.random.key(0), sample(jax.random.key(0)).support.inputs)
    >>> state = metajax.init_state(params, optax.identity(), jax.random.key(1))
    >>> result = metajax.train(
    ...     step, None, state, sample, iterations=1, meta_batch=2, progress=False)
    >>> bool(result.history[-1]["kl"] <= 0.01)
    True

    Args:
      objective: the policy, the environment, and how many roll-outs a task takes.
      inner: the inner optimiser, see `metajax.maml`.
      num_steps: inner steps, 0 or more; with 0 it is TRPO on all tasks. Static.
      first_order: see `metajax.maml`; static.
      backward: see `metajax.maml`. Derivatives go through the inner loop forwards as well, which
        `mixed` rules out.
      adapt: see `metajax.maml`.
      max_kl: nats that the adapted policies may go from those of the roll-outs, in the mean over
        steps and tasks, above 0.
      cg_steps: steps of conjugate gradients, each one product with F, 1 or more; static.
      damping: times the identity is added to F, 0 or more.
      backtracks: lengths of the step that are tried at most, 1 or more; static.
      backtrack_ratio: the length of a try over that of the one before, between 0 and 1.
      axis_name: inside `metajax.parallel.mesh_step`, `pmap_step` and `metajax.train` with a mesh
        the axis over which everything is averaged, `"tasks"`; each device gets a slice of them.

    Returns:
      The pure function `(state, episodes) -> (state, metrics)`, of episodes `[tasks, ...]` from
      `task_episodes`. Where no try is accepted the parameters stay. Metrics, means over tasks:
      `loss`, minus the discounted return after adaptation; `grad_norm`; `return` after adaptation,
      not discounted, and `return_before` it, of the roll-outs of the first inner step, where there
      are steps; `kl`, how far the adapted policies went; `improvement`, by how much the surrogate
      grew; `backtracks`, tries that were rejected; `accepted`, 1 or 0.

    Raises:
      TypeError: an argument is of another kind; see `InnerLoop`. From the step: the state is no
        `TrainState`, or the episodes are none.
      ValueError: a number is out of range, or `backward` is mixed; see `InnerLoop`. From the step:
        the state has that of an optimiser, parameters are not the policy's, or the episodes have no
        axis of tasks.
    """
    loop = checked_loop(objective, inner, num_steps, first_order, backward, adapt, axis_name)
    if backward.mixed:
        raise ValueError(
            f"backward={backward} rules out forward mode, by which trpo_step goes through the "
            'inner loop; expected mixed=False; checkpoint="steps" saves memory, too'
        )
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", max_kl=max_kl)
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", damping=damping)
    between = "a number between 0 and 1, neither of them"
    check_numbers(lambda x: 0 < x < 1, between, backtrack_ratio=backtrack_ratio)
    check_integers(1, cg_steps=cg_steps, backtracks=backtracks)
    average = partial(mean_over_devices, axis_name=axis_name)

    def step(state: TrainState, episodes: Episode) -> tuple[TrainState, Mapping[str, Array]]:
        _check_no_optimizer(state)
        experience, metrics = gather(objective, loop, state, episodes, axis_name)
        query = experience.query
        distributions = partial(adapted_distributions, objective, loop, experience)
        surrogate = partial(_surrogate_loss, objective, query)
        divergence = partial(mean_kl, query)

        # The one pass through the inner loop of which gradient and products are made.
        old, push = jax.linearize(distributions, state.params)
        pull = jax.linear_transpose(push, state.params)
        loss, slope = jax.value_and_grad(surrogate)(old)
        loss, gradient = average((loss, pull(slope)[0]))

        def product(direction: Params) -> Params:
            image = fisher_product(push, pull, divergence, old, direction)
            return along(average(image), damping, direction)

        direction, residual = conjugate_gradients(product, gradient, cg_steps)
        bend = dot(direction, jax.tree.map(jnp.subtract, gradient, residual))

        def judge(params: Params) -> tuple[Array, Array]:
            moved = distributions(params)
            return average((surrogate(moved), divergence(moved)))

        length = jnp.sqrt(2 * max_kl / jnp.where(bend > 0, bend, jnp.inf))
        lengths = length * backtrack_ratio ** jnp.arange(backtracks, dtype=length.dtype)
        found = line_search(judge, state.params, direction, lengths, loss, max_kl)
        metrics |= {
            "loss": metrics["loss"] + loss,
            "grad_norm": gradient_norm(gradient),
            "kl": found.kl,
            "improvement": loss - found.loss,
            "backtracks": found.rejected,
            "accepted": found.accepted.astype(loss.dtype),
        }
        return state._replace(params=found.params, step=state.step + 1), metrics

    return step


def adapted_distributions(
    objective: PolicyGradient, loop: InnerLoop, experience: Experience, params: Params
) -> list[Array]:
    """What the policies, adapted from parameters, give of the queries' observations.

    Args:
      objective: whose policy it is.
      loop: the adaptation.
      experience: frozen, arrays `[tasks, ...]`.
      params: the policy's before adaptation.

    Returns:
      The distributions' arrays of floats, `[tasks, rollouts, horizon, ...]`: what else they hold, a
      mask say, is that of the roll-outs.
    """

    def of_task(experience: Experience) -> Distribution:
        phi = adapted(objective, loop, params, experience.support)
        return objective.policy.over_steps(phi, experience.query.trajectories.observations)

    return list(filter(_moves, jax.tree.leaves(jax.vmap(of_task)(experience))))


def fisher_product(
    push: Callable[[Params], Any],
    pull: Callable[[Any], tuple[Params]],
    divergence: Callable[[Any], Array],
    old: Any,
    direction: Params,
) -> Params:
    """:math:`J^T H J v`.

    Args:
      push: J, linear, from parameters to distributions.
      pull: its transpose.
      divergence: of distributions, from those at hand.
      old: those at hand.
      direction: v.
    """
    _, bent = jax.jvp(jax.grad(divergence), (old,), (push(direction),))
    return pull(bent)[0]


def _surrogate_loss(objective: PolicyGradient, query: Batch, floats: list[Array]) -> Array:
    """`[]` minus the mean surrogate of `adapted_distributions`."""
    surrogate = frozen_surrogate(objective)

    def of_task(batch: Batch, floats: list[Array]) -> Array:
        distribution = _with_floats(batch.trajectories.distribution, floats)
        log_probs = distribution.log_prob(batch.trajectories.actions)
        return -surrogate(log_probs, batch.trajectories, batch.advantages)

    return jax.vmap(of_task)(query, floats).mean()


def mean_kl(query: Batch, floats: list[Array]) -> Array:
    """`[]` the mean divergence of `adapted_distributions` from those of the roll-outs."""

    def of_task(batch: Batch, floats: list[Array]) -> Array:
        old = batch.trajectories.distribution
        return step_mean(old.kl(_with_floats(old, floats)), batch.trajectories)

    return jax.vmap(of_task)(query, floats).mean()


def _with_floats(distribution: Distribution, floats: list[Array]) -> Distribution:
    leaves, structure = jax.tree.flatten(distribution)
    given = iter(floats)
    return structure.unflatten([next(given) if _moves(leaf) else leaf for leaf in leaves])


def _moves(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


class Found(NamedTuple):
    """Where a search stands, and after it what it found.

    Attributes:
      params: those accepted, or those before.
      loss: of them.
      kl: of them; 0 of those before.
      rejected: tries.
      accepted: whether one was.
    """

    params: Params
    loss: Array
    kl: Array
    rejected: Array
    accepted: Array


def line_search(
    judge: Callable[[Params], tuple[Array, Array]],
    params: Params,
    direction: Params,
    lengths: Array,
    loss: Array,
    max_kl: float,
) -> Found:
    """The first of steps along minus `direction` that is better, and not too far.

    Args:
      judge: from parameters to their loss and divergence.
      params: where to begin.
      direction: uphill.
      lengths: `[tries]` those of the steps; where they are 0, nothing is tried.
      loss: at the beginning.
      max_kl: the largest divergence.
    """

    def goes_on(found: Found) -> Array:
        return ~found.accepted & (found.rejected < lengths.size) & (lengths[0] > 0)

    def attempt(found: Found) -> Found:
        tried = along(params, -lengths[found.rejected], direction)
        loss_there, kl = judge(tried)
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves((tried, loss_there))]
        good = (loss_there < loss) & (kl <= max_kl) & jnp.stack(finite).all()
        there = Found(tried, loss_there, kl, found.rejected, good)
        stay = found._replace(rejected=found.rejected + 1)
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), there, stay)

    nothing = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    begin = Found(params, loss, jnp.zeros_like(loss), *nothing)
    return jax.lax.while_loop(goes_on, attempt, begin)


def _check_no_optimizer(state: TrainState) -> None:
    check_state(state)
    try:
        check_opt_state(optax.identity(), state.params, state.opt_state)
    except ValueError as error:
        raise ValueError(
            "a step of TRPO has no optimiser, and the state has that of one; expected "
            "metajax.init_state(params, optax.identity(), key)"
        ) from error
