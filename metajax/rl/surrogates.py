r"""Surrogates of the expected return: what is differentiated in its place, of frozen roll-outs.

With :math:`r_t = \log \pi_\theta(a_t | s_t) - \log \pi_{old}(a_t | s_t)` and advantages
:math:`A_t`,

.. math:: \sum_t \left(e^{r_t + v_t} - e^{v_t}\right) A_t, \quad
  v_{t+1} = \lambda (v_t + \log \pi_\theta(a_t | s_t) - \bot \log \pi_\theta(a_t | s_t))

where :math:`\bot` stops the derivative. Where the policy is that of the roll-outs, it is Loaded
DiCE (Farquhar, Whiteson, Foerster, "Loaded DiCE", NeurIPS 2019, arXiv 1909.10549): the ratio of
probabilities at equality *is* the magic box of DiCE (Foerster et al., ICML 2018, arXiv 1802.05098).
With :math:`\lambda = 1` all its derivatives are unbiased; with :math:`\lambda = 0` it is the "low
variance curvature" of ProMP (Rothfuss et al., ICLR 2019, arXiv 1810.06784, eq. 12), whose Hessian
lacks :math:`H_{12} + H_{12}^T`. Away from equality :math:`e^{v_t}` would be a product of ratios
over many steps, which explodes: its value is that to first order, 1 and the decayed sum of past
:math:`r_t`, or 0 where that is below, so that the surrogate moves as its derivative says. What is
left with :math:`\lambda = 0` is the surrogate of TRPO (Schulman et al., ICML 2015, arXiv
1502.05477, eq. 14) and, clipped, of PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_numbers
from metajax.checks.objects import check_instance
from metajax.checks.settings import check_flags
from metajax.kinds import check_words
from metajax.rl.baselines import leave_one_out, linear_baseline
from metajax.rl.trajectories import (
    Trajectories,
    at_least_single,
    check_trajectories,
    of_steps,
    path_mean,
    step_mean,
)
from metajax.signatures import check_takes
from metajax.types import Array

Baseline = Literal["linear", "leave_one_out"] | Callable[[Trajectories, Array], Array]

_UNIT = "a number from 0 to 1"
_ROUNDINGS = 100  # Of returns; far below what tells actions apart, far above an error of a sum.


@dataclasses.dataclass(frozen=True)
class Surrogate:
    r"""How roll-outs become a surrogate of the expected return.

    The default is what the codes of MAML and ProMP do, with the low-variance estimator. That
    whose derivatives of every order are those of the expected return, without bias:

    >>> import metajax
    >>> exact = metajax.rl.Surrogate(
    ...     dice_lambda=1.0, baseline="leave_one_out", normalize=False, scale="return")

    Attributes:
      dice_lambda: from 0 to 1: how much the derivative of past actions' probability counts, see
        above. None is the plain :math:`\sum_t \log \pi_\theta(a_t | s_t) A_t`, whose derivative of
        first order alone is right: that of the code of MAML, and the inside of E-MAML.
      discount: of rewards, from 0 to 1.
      gae_lambda: of generalised advantage estimation (Schulman et al., ICLR 2016, arXiv 1506.02438,
        eq. 16), from 0 to 1; 1 is the discounted sum of rewards less the baseline.
      baseline: `"linear"`, a ridge regression on features of observations and time that is fitted
        to the same roll-outs, which biases a little; `"leave_one_out"`, the mean of the other
        roll-outs', which does not where `gae_lambda` is 1; None is none. Or a function
        `(trajectories, returns [rollouts, horizon]) -> [rollouts, horizon]` of the discounted sums
        of rewards from each step on.
      normalize: give advantages the mean 0 and the standard deviation 1 over a task's steps, so
        that an inner rate serves rewards of any scale; it biases.
      scale: `"step"` is the mean over steps, as in the authors' codes, for which the published
        inner rates are; `"return"` the mean over roll-outs of the sum over steps, each discounted
        by its time: the expected discounted return itself.

    Raises:
      TypeError: a number is none, `normalize` no bool, or a function cannot be called so.
      ValueError: a number is out of range, or a word unknown.
    """

    dice_lambda: float | None = 0.0
    discount: float = 0.99
    gae_lambda: float = 1.0
    baseline: Baseline | None = "linear"
    normalize: bool = True
    scale: Literal["step", "return"] = "step"

    def __post_init__(self) -> None:
        if self.dice_lambda is not None:
            check_numbers(_in_unit, f"{_UNIT}, or None", dice_lambda=self.dice_lambda)
        check_numbers(_in_unit, _UNIT, discount=self.discount, gae_lambda=self.gae_lambda)
        if callable(self.baseline):
            check_takes(self.baseline, "baseline", "trajectories", "returns")
        elif self.baseline is not None:
            check_words(tuple(_BASELINES), baseline=self.baseline)
        check_flags(normalize=self.normalize)
        check_words(("step", "return"), scale=self.scale)

    def advantages(self, trajectories: Trajectories) -> Array:
        """`[rollouts, horizon]` how much better actions were than expected; 0 after the end.

        They are of single precision at least, whatever that of the rewards.

        Args:
          trajectories: the roll-outs.

        Raises:
          TypeError: `trajectories` are none.
          ValueError: they are of several tasks, or the baseline does not give a number a step.
        """
        check_trajectories(trajectories)
        mask = trajectories.mask
        rewards = jnp.where(mask, at_least_single(trajectories.rewards), 0)
        returns = discounted_sums(rewards, self.discount)
        values = jnp.zeros_like(returns)
        if self.baseline is not None:
            estimate = (
                _BASELINES[self.baseline] if isinstance(self.baseline, str) else self.baseline
            )
            values = of_steps(trajectories, "the baseline", estimate(trajectories, returns))
            values = jnp.where(mask, values.astype(returns.dtype), 0)
        following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
        errors = rewards + self.discount * following - values
        advantages = discounted_sums(errors, self.discount * self.gae_lambda)
        if self.normalize:
            mean = step_mean(advantages, trajectories)
            variance = step_mean((advantages - mean) ** 2, trajectories)
            # Where all returns are alike, what rounding leaves of them is not made large.
            rounding = _ROUNDINGS * jnp.finfo(returns.dtype).eps
            least = 1e-8 + rounding * jnp.sqrt(step_mean(returns**2, trajectories))
            advantages = jnp.where(mask, (advantages - mean) / (jnp.sqrt(variance) + least), 0)
        return jax.lax.stop_gradient(advantages)

    def __call__(
        self,
        log_probs: Array,
        trajectories: Trajectories,
        advantages: Array,
        *,
        clip: float | None = None,
    ) -> Array:
        """`[]` the surrogate, to be made large; 0 where the policy is that of the roll-outs.

        Args:
          log_probs: `[rollouts, horizon]` of the actions, under the policy at hand.
          trajectories: the roll-outs.
          advantages: `[rollouts, horizon]`, from `advantages`.
          clip: how far from 1 a ratio of probabilities is let to go, above 0, see PPO; it is
            that of PPO whatever `dice_lambda` is. None is as far as it goes. Static.

        Raises:
          TypeError: an argument is of another kind.
          ValueError: arrays do not fit one another, or `clip` is out of range.
        """
        check_trajectories(trajectories)
        log_probs = at_least_single(of_steps(trajectories, "log_probs", log_probs))
        advantages = of_steps(trajectories, "advantages", advantages)
        if clip is not None:
            above = "a finite number above 0, or None"
            check_numbers(lambda x: 0 < x < math.inf, above, clip=clip)
        mask = trajectories.mask
        box = jnp.where(mask, log_probs - jax.lax.stop_gradient(log_probs), 0)
        ratio = jnp.where(mask, log_probs - trajectories.log_probs, 0)
        if clip is not None:
            # The lesser of the gains, clipped or not, is that of a ratio held on one side. It is
            # held before the exponential, whose overflow would make a derivative of 0 NaN.
            upper = jnp.where(advantages >= 0, math.log1p(clip), jnp.inf)
            lower = jnp.where(advantages < 0, math.log1p(-clip) if clip < 1 else -jnp.inf, -jnp.inf)
            gains = jnp.expm1(jnp.clip(ratio, lower, upper)) * advantages
        elif self.dice_lambda is None:
            gains = box * advantages
        else:
            gains = jnp.expm1(ratio) * advantages
            if self.dice_lambda:
                before = self.dice_lambda * _past(box, self.dice_lambda)
                moved = self.dice_lambda * _past(ratio, self.dice_lambda)
                gains = jnp.exp(before) * jax.lax.stop_gradient(jnp.maximum(1 + moved, 0)) * gains
        if self.scale == "step":
            return step_mean(gains, trajectories)
        discounts = self.discount ** jnp.arange(gains.shape[1], dtype=gains.dtype)
        return path_mean((gains * discounts[None]).sum(axis=1), trajectories.weights)


def check_surrogate(surrogate: object) -> None:
    """Raises a TypeError unless the argument `surrogate` is a `Surrogate`."""
    check_instance(surrogate, Surrogate, "surrogate", "a metajax.rl.Surrogate(...)")


def discounted_sums(values: Array, discount: float) -> Array:
    """`[rollouts, horizon]` sums from each step on, later ones discounted."""

    def add(later: Array, now: Array) -> tuple[Array, Array]:
        total = now + discount * later
        return total, total

    return jax.lax.scan(add, jnp.zeros_like(values[:, 0]), values.T, reverse=True)[1].T


def _past(values: Array, decay: float) -> Array:
    """`[rollouts, horizon]` sums up to the step before, earlier ones decayed."""

    def add(before: Array, now: Array) -> tuple[Array, Array]:
        return now + decay * before, before

    return jax.lax.scan(add, jnp.zeros_like(values[:, 0]), values.T)[1].T


def _in_unit(number: float) -> bool:
    return 0 <= number <= 1 and math.isfinite(number)


_BASELINES = {"linear": linear_baseline, "leave_one_out": leave_one_out}
