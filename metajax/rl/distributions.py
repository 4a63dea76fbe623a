"""Distributions of actions: what a policy gives of observations, as pytrees of arrays."""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from metajax.checks.objects import check_instance
from metajax.kinds import as_array, check_key
from metajax.types import Array, Key

Actions = Any


class Distribution(Protocol):
    """A pytree of arrays that begin with the axes of the observations, `[...]`, and these methods.

    `Gaussian` and `Categorical` are two.
    """

    def sample(self, key: Key) -> Actions:
        """Actions `[..., ...]`."""
        ...

    def mode(self) -> Actions:
        """The likeliest actions `[..., ...]`."""
        ...

    def log_prob(self, actions: Actions) -> Array:
        """`[...]` logarithms of the actions' probability, or density."""
        ...

    def entropy(self) -> Array:
        """`[...]` entropies, in nats."""
        ...

    def kl(self, other: Any) -> Array:
        """`[...]` Kullback-Leibler divergences KL(self, other) to another of its kind, in nats."""
        ...


class Gaussian(NamedTuple):
    """Independent normal distributions of the components of an action.

    Attributes:
      mean: `[..., actions]`.
      log_std: `[..., actions]` logarithms of the standard deviations.
    """

    mean: Array
    log_std: Array

    def sample(self, key: Key) -> Array:
        """Actions `[..., actions]`.

        Args:
          key: of what is drawn.
        """
        check_key(key)
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Array:
        """The mean."""
        return self.mean

    def log_prob(self, actions: Array) -> Array:
        """`[...]` logarithms of the density: the sum over an action's components.

        Args:
          actions: `[..., actions]`.

        Raises:
          TypeError: they are no array.
          ValueError: they are of another shape.
        """
        actions = as_array(actions, "actions")
        _check_shape("actions", actions, jnp.shape(self.mean))
        scaled = (actions - self.mean) * jnp.exp(-self.log_std)
        return -(0.5 * scaled**2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(axis=-1)

    def entropy(self) -> Array:
        """`[...]` entropies, in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=-1)

    def kl(self, other: "Gaussian") -> Array:
        """`[...]` divergences KL(self, other), in nats.

        Args:
          other: another of the same shape.

        Raises:
          TypeError: it is no `Gaussian`.
          ValueError: it is of another shape.
        """
        check_instance(other, Gaussian, "other", "a metajax.rl.Gaussian(mean, log_std)")
        _check_shape("other's mean", other.mean, jnp.shape(self.mean))
        moved = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        wider = jnp.exp(2 * (self.log_std - other.log_std))
        return (0.5 * (moved + wider - 1) + other.log_std - self.log_std).sum(axis=-1)


class Categorical(NamedTuple):
    """One of a number of actions.

    Attributes:
      logits: `[..., actions]` logarithms of probabilities, up to a number that all share; minus
        infinity is an action that is never taken.
    """

    logits: Array

    def sample(self, key: Key) -> Array:
        """Integers `[...]` from 0 on.

        Args:
          key: of what is drawn.
        """
        check_key(key)
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        """Integers `[...]`, the likeliest."""
        return self.logits.argmax(axis=-1)

    def log_prob(self, actions: Array) -> Array:
        """`[...]` logarithms of the actions' probability.

        Args:
          actions: integers `[...]`, from 0 on; that of another number is NaN.

        Raises:
          TypeError: they are no array of integers.
          ValueError: they are of another shape.
        """
        actions = as_array(actions, "actions")
        if not jnp.issubdtype(actions.dtype, jnp.integer):
            raise TypeError(f"actions are of {actions.dtype}; expected integers, one a choice")
        _check_shape("actions", actions, jnp.shape(self.logits)[:-1])
        given = jnp.take_along_axis(self._log_probs(), actions[..., None], axis=-1)
        return given.squeeze(-1)

    def entropy(self) -> Array:
        """`[...]` entropies, in nats."""
        log_probs = self._log_probs()
        return -_expected(log_probs, log_probs)

    def kl(self, other: "Categorical") -> Array:
        """`[...]` divergences KL(self, other), in nats; infinite where `other` never does so.

        Args:
          other: another of the same shape.

        Raises:
          TypeError: it is no `Categorical`.
          ValueError: it is of another shape.
        """
        check_instance(other, Categorical, "other", "a metajax.rl.Categorical(logits)")
        _check_shape("other's logits", other.logits, jnp.shape(self.logits))
        log_probs = self._log_probs()
        return _expected(log_probs, log_probs - other._log_probs())

    def _log_probs(self) -> Array:
        return jax.nn.log_softmax(self.logits, axis=-1)


def _expected(log_probs: Array, values: Array) -> Array:
    """`[...]` means of values, of which those of probability 0 do not count."""
    return (jnp.exp(log_probs) * jnp.where(log_probs > -jnp.inf, values, 0)).sum(axis=-1)


def _check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if jnp.shape(array) != shape:
        raise ValueError(f"{name} of shape {jnp.shape(array)}; expected {shape}")
