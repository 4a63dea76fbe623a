"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.checks.numbers import check_integers, check_numbers
from metajax.kinds import arrays_of, check_key, in_brief
from metajax.types import Array, Episode, Examples, Key


def sinusoid_episodes(
    *,
    shots: int,
    queries: int,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, jnp.pi),
    inputs: tuple[float, float] = (-5.0, 5.0),
) -> Callable[[Key], Episode]:
    """Sampler of tasks `y = amplitude sin(x - phase)`; the defaults are the paper's ranges.

    Args:
      shots: support points, 1 or more.
      queries: query points, 1 or more.
      amplitude: range of the uniform amplitude: two finite numbers, the second no less.
      phase: range of the uniform phase, in radians.
      inputs: range of the uniform inputs.

    Returns:
      The pure function `key -> Episode`, inputs `[items, 1]` and targets `[items, 1]` floats.

    Raises:
      TypeError: `shots` or `queries` is no integer, or a range not two numbers.
      ValueError: `shots` or `queries` is below 1, or a range is reversed or not finite.
    """
    check_integers(1, shots=shots, queries=queries)
    for name, given in (("amplitude", amplitude), ("phase", phase), ("inputs", inputs)):
        _check_range(name, given)

    def sample(key: Key) -> Episode:
        check_key(key)
        amplitude_key, phase_key, inputs_key = jax.random.split(key, 3)
        a = jax.random.uniform(amplitude_key, (), minval=amplitude[0], maxval=amplitude[1])
        p = jax.random.uniform(phase_key, (), minval=phase[0], maxval=phase[1])
        x = jax.random.uniform(inputs_key, (shots + queries, 1), minval=inputs[0], maxval=inputs[1])
        y = sinusoid(x, a, p)
        return Episode(Examples(x[:shots], y[:shots]), Examples(x[shots:], y[shots:]))

    return sample


def _check_range(name: str, given: Any) -> None:
    if not isinstance(given, tuple | list | np.ndarray) or np.shape(given) != (2,):
        raise TypeError(
            f"{name} is {in_brief(given)}; expected two numbers, the least and the largest"
        )
    ends = {f"{name}[{index}]": end for index, end in enumerate(given)}
    check_numbers(math.isfinite, "a finite number", **ends)
    if given[0] > given[1]:
        raise ValueError(f"{name}={given!r}; expected the least number before the largest")


def sinusoid(inputs: Array, amplitude: Array | float, phase: Array | float) -> Array:
    """`amplitude sin(inputs - phase)`, elementwise; `phase` in radians."""
    inputs, amplitude, phase = arrays_of(inputs=inputs, amplitude=amplitude, phase=phase)
    return amplitude * jnp.sin(inputs - phase)
