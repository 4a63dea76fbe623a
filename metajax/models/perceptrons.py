"""Multi-layer perceptrons."""

import math
from collections.abc import Sequence

import flax.linen as nn

from metajax.checks.episodes import check_floating
from metajax.checks.numbers import check_integers, check_numbers
from metajax.models.adapters.linen import from_linen
from metajax.types import Array, Model


class MLP(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
      widths: outputs of each layer, the last being the model's.
      stddev: standard deviation of the truncated normal from which weights are drawn. The default
        is that of the MAML authors' sinusoid and Omniglot perceptrons.
    """

    widths: Sequence[int]
    stddev: float = 0.01

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """`[items, ...] -> [items, widths[-1]]`; items are flattened."""
        check_floating(inputs, "MLP")
        kernel_init = nn.initializers.truncated_normal(self.stddev)
        hidden = inputs.reshape(inputs.shape[0], -1)
        for width in self.widths[:-1]:
            hidden = nn.relu(nn.Dense(width, kernel_init=kernel_init)(hidden))
        return nn.Dense(self.widths[-1], kernel_init=kernel_init)(hidden)


def mlp(widths: Sequence[int], *, stddev: float = 0.01) -> Model:
    """An `MLP` as a model; `mlp((40, 40, 1))` is the sinusoid network of Finn et al. (2017).

    Args:
      widths: outputs of each layer, at least one, each 1 or more.
      stddev: see `MLP`.

    Raises:
      TypeError: a number is no integer, or `widths` no list.
      ValueError: `stddev` is negative, or `widths` is empty or holds a number below 1.
    """
    if not isinstance(widths, list | tuple):
        raise TypeError(f"widths={widths!r}; expected a list of integers, one a layer")
    check_numbers(lambda x: 0 <= x < math.inf, "a finite number, 0 or more", stddev=stddev)
    if not len(widths):
        raise ValueError(f"widths={widths!r}; expected at least one width")
    check_integers(1, **{f"widths[{place}]": width for place, width in enumerate(widths)})
    return from_linen(MLP(tuple(widths), stddev))
