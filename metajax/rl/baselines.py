"""Baselines: what return is expected from a step on, so that actions are judged by the rest."""

import jax
import jax.numpy as jnp

from metajax.rl.trajectories import (
    Trajectories,
    at_least_single,
    check_trajectories,
    of_steps,
)
from metajax.types import Array

_RIDGE = 1e-5


def linear_baseline(trajectories: Trajectories, returns: Array) -> Array:
    """A ridge regression of returns on features of observations and time, of the same roll-outs.

    Features are those of Duan et al. (ICML 2016, arXiv 1604.06778, section 5), as MAML's code has
    them: observations within -10 and 10, their squares, t/100 and its second and third power, and
    1. Each is scaled to unit length, and the ridge is 1e-5 of that, which single precision takes;
    of more than 20 features it takes a wider one, by their number.

    Args:
      trajectories: the roll-outs.
      returns: `[rollouts, horizon]` sums of rewards from each step on.

    Returns:
      `[rollouts, horizon]`.

    Raises:
      TypeError: `trajectories` are none, or `returns` no array.
      ValueError: arrays do not fit one another.
    """
    returns = _returns(trajectories, returns)
    rollouts, horizon = returns.shape
    leaves = jax.tree.leaves(trajectories.observations)
    flat = [x.reshape(rollouts, horizon, -1).astype(returns.dtype) for x in leaves]
    seen = jnp.clip(jnp.concatenate(flat, axis=-1), -10, 10)
    time = jnp.arange(horizon, dtype=returns.dtype) / 100
    powers = jnp.stack([time, time**2, time**3, jnp.ones_like(time)], axis=-1)
    powers = jnp.broadcast_to(powers[None], (rollouts, horizon, 4))
    features = jnp.concatenate([seen, seen**2, powers], axis=-1)
    counts = trajectories.mask.astype(returns.dtype)
    if trajectories.weights is not None:
        counts = counts * trajectories.weights[:, None]
    features = features.reshape(rollouts * horizon, -1)
    rows = features * jnp.sqrt(counts).reshape(-1, 1)
    targets = (jnp.where(trajectories.mask, returns, 0) * jnp.sqrt(counts)).reshape(-1)
    lengths = jnp.sqrt((rows**2).sum(axis=0))
    lengths = jnp.where(lengths > 0, lengths, 1)
    rows = rows / lengths[None]
    size = rows.shape[1]
    # The eigenvalues of features that are alike are rounded by their number, and below 0.
    ridge = max(_RIDGE, 4 * size * float(jnp.finfo(rows.dtype).eps))
    with jax.default_matmul_precision("highest"):
        gram = rows.T @ rows + ridge * jnp.eye(size, dtype=rows.dtype)
        factor = jax.scipy.linalg.cho_factor(gram)
        slopes = jax.scipy.linalg.cho_solve(factor, rows.T @ targets)
        return (features @ (slopes / lengths)).reshape(rollouts, horizon)


def leave_one_out(trajectories: Trajectories, returns: Array) -> Array:
    """The mean of the other roll-outs' returns from the same step on; 0 of those that ended.

    Args:
      trajectories: the roll-outs, of which each counts once.
      returns: `[rollouts, horizon]` sums of rewards from each step on.

    Returns:
      `[rollouts, horizon]`.

    Raises:
      TypeError: `trajectories` are none, or `returns` no array.
      ValueError: there is one roll-out alone, or they have weights, or arrays do not fit one
        another.
    """
    returns = _returns(trajectories, returns)
    rollouts = returns.shape[0]
    check_others(rollouts, weighted=trajectories.weights is not None)
    return (returns.sum(axis=0)[None] - returns) / (rollouts - 1)


def check_others(rollouts: int, *, weighted: bool = False) -> None:
    """Raises a ValueError unless there are roll-outs beside each, of which each counts once."""
    if rollouts < 2 or weighted:
        what = "trajectories with weights" if rollouts > 1 else "trajectories of one roll-out"
        raise ValueError(
            f'baseline="leave_one_out" of {what}; expected rollouts=2 or more, each counted once'
        )


def _returns(trajectories: Trajectories, returns: Array) -> Array:
    check_trajectories(trajectories)
    return at_least_single(of_steps(trajectories, "returns", returns))
