"""Policies: from parameters and observations to a distribution of actions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.numbers import check_numbers
from metajax.checks.objects import check_instance, check_model
from metajax.kinds import check_arrays
from metajax.rl.distributions import Categorical, Distribution, Gaussian
from metajax.signatures import check_takes
from metajax.types import Array, Inputs, Key, Model, Params


class Policy:
    """A pair of pure functions; `gaussian_policy` and `categorical_policy` make one of any model.

    Attributes:
      init: `(key, observations [items, ...]) -> params`.
      distribution: `(params, observations [items, ...]) -> Distribution`.
    """

    def __init__(
        self,
        init: Callable[[Key, Inputs], Params],
        distribution: Callable[[Params, Inputs], Any],
    ) -> None:
        """Takes the functions.

        Args:
          init: `(key, observations) -> params`; observations are arrays `[items, ...]`, one or a
            pytree of them, of which only shapes and dtypes matter.
          distribution: `(params, observations) -> Distribution`, whose arrays begin with the axis
            of items. An item's does not depend on the others.

        Raises:
          TypeError: a function cannot be called so.
        """
        check_takes(init, "init", "key", "observations")
        check_takes(distribution, "distribution", "params", "observations")
        self.init = init
        self.distribution: Callable[[Params, Inputs], Distribution] = distribution

    def over_steps(self, params: Params, observations: Inputs) -> Distribution:
        """The distributions `[rollouts, horizon, ...]` of observations `[rollouts, horizon, ...]`.

        Args:
          params: the policy's.
          observations: one array or a pytree of them.

        Raises:
          TypeError: observations are no arrays.
          ValueError: they have less than two axes.
        """
        check_arrays(observations, "observations")
        if any(jnp.ndim(x) < 2 for x in jax.tree.leaves(observations)):
            raise ValueError(
                f"observations have the shapes {[*map(jnp.shape, jax.tree.leaves(observations))]}; "
                "expected [rollouts, horizon, ...]: those of one axis of items are for distribution"
            )
        axes = jax.tree.leaves(observations)[0].shape[:2]
        items = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), observations)
        distribution: Any = self.distribution(params, items)
        return jax.tree.map(lambda x: x.reshape(*axes, *x.shape[1:]), distribution)


def check_policy(policy: object) -> None:
    """Raises a TypeError unless the argument `policy` is a `Policy`."""
    expected = "a metajax.rl.Policy, such as metajax.rl.gaussian_policy(model)"
    check_instance(policy, Policy, "policy", expected)


class GaussianParams(NamedTuple):
    """The parameters of a Gaussian policy.

    Attributes:
      model: those of the model that gives the mean.
      log_std: `[actions]` logarithms of the standard deviations, the same at every observation.
    """

    model: Params
    log_std: Array


def gaussian_policy(model: Model, *, std: float = 1.0, min_std: float = 1e-6) -> Policy:
    """Normal actions around what a model gives; its parameters are `GaussianParams`.

    The published policies of MAML (Finn et al. 2017, appendix A.2) have two hidden layers of 100
    ReLU, `metajax.models.mlp((100, 100, actions), stddev=0.1)`, and a standard deviation that
    begins at 1, is a parameter, and is no less than 1e-6 (the authors' code).

    >>> import metajax
    >>> policy = metajax.rl.gaussian_policy(metajax.models.mlp((100, 100, 2), stddev=0.1))

    Args:
      model: from observations `[items, ...]` to means `[items, actions]`.
      std: the standard deviation of every component to begin with, above 0.
      min_std: the least that is counted, 0 or more.

    Raises:
      TypeError: `model` is no `Model`, or a number none.
      ValueError: a number is out of range, or `std` below `min_std`. From the policy: the model's
        outputs are not `[items, actions]`.
    """
    check_model(model, "model")
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", std=std)
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", min_std=min_std)
    if std < min_std:
        raise ValueError(
            f"std={std} is below min_std={min_std}, where it has no gradient; expected {min_std} "
            "or more"
        )

    def init(key: Key, observations: Inputs) -> GaussianParams:
        params = model.init(key, observations)
        means = jax.eval_shape(model.apply, params, observations)
        _check_outputs(means)
        return GaussianParams(params, jnp.full(means.shape[1:], math.log(std), means.dtype))

    def distribution(params: GaussianParams, observations: Inputs) -> Gaussian:
        means = model.apply(params.model, observations)
        _check_outputs(means)
        log_std = params.log_std
        if min_std:
            log_std = jnp.maximum(log_std, math.log(min_std))
        return Gaussian(means, jnp.broadcast_to(log_std, means.shape))

    return Policy(init, distribution)


def categorical_policy(model: Model) -> Policy:
    """One of as many actions as a model has outputs, its logits; its parameters are the model's.

    >>> import metajax
    >>> policy = metajax.rl.categorical_policy(metajax.models.mlp((100, 100, 5), stddev=0.1))

    Args:
      model: from observations `[items, ...]` to logits `[items, actions]`.

    Raises:
      TypeError: `model` is no `Model`.
      ValueError: from the policy: the model's outputs are not `[items, actions]`.
    """
    check_model(model, "model")

    def distribution(params: Params, observations: Inputs) -> Categorical:
        logits = model.apply(params, observations)
        _check_outputs(logits)
        return Categorical(logits)

    return Policy(model.init, distribution)


def _check_outputs(outputs: Any) -> None:
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(
            f"the policy's model gave outputs of shape {shape}; expected [items, actions]"
        )
