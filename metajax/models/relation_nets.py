"""The published modules of Relation Networks (Sung et al. 2018, section 3.3 and figure 2)."""

from typing import Literal

import flax.linen as nn

from metajax.checks.episodes import check_floating
from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_flags
from metajax.kinds import check_words
from metajax.models.adapters.linen import from_linen
from metajax.models.batch_statistics import check_epsilon
from metajax.models.conv_block import conv_block
from metajax.models.initializers import LECUN_NORMAL, check_initializers, checked
from metajax.types import Array, Model


class RelationEncoder(nn.Module):
    """Four blocks of [3x3 convolution, batch statistics, ReLU], the first two max-pooled.

    The first two convolutions have no padding, as in the authors' code: 28 px images give maps of
    5x5, 84 px images maps of 19x19.

    Attributes:
      filters: channels of every block.
      use_scale: see `BatchStatistics`.
      epsilon: see `BatchStatistics`.
      kernel_init: initializer of the convolutions, see `jax.nn.initializers`.
    """

    filters: int = 64
    use_scale: bool = True
    epsilon: float = 1e-5
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL

    @nn.compact
    def __call__(self, inputs: Array, weights: Array | None = None) -> Array:
        """`[items, height, width, channels]` floats to maps `[items, ..., ..., filters]`."""
        check_floating(inputs, "RelationEncoder")
        hidden = inputs
        for block in range(4):
            pooled = block < 2
            hidden = conv_block(
                hidden,
                weights,
                filters=self.filters,
                padding="VALID" if pooled else "SAME",
                pool="VALID" if pooled else None,
                use_scale=self.use_scale,
                epsilon=self.epsilon,
                kernel_init=self.kernel_init,
            )
        return hidden


class RelationModule(nn.Module):
    """Two max-pooled blocks, a layer of `hidden` with ReLU, and one output before the sigmoid.

    Attributes:
      filters: channels of both blocks.
      hidden: width of the hidden layer.
      padding: of both convolutions. In the authors' code `"SAME"` for Omniglot, `"VALID"` for
        mini-ImageNet (84 px: maps of 3x3 before the hidden layer).
      use_scale: see `BatchStatistics`.
      epsilon: see `BatchStatistics`.
      kernel_init: initializer of the convolutions, see `jax.nn.initializers`.
      head_kernel_init: of the kernels of both dense layers.
      head_bias_init: of their biases.
    """

    filters: int = 64
    hidden: int = 8
    padding: Literal["SAME", "VALID"] = "SAME"
    use_scale: bool = True
    epsilon: float = 1e-5
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL
    head_kernel_init: nn.initializers.Initializer = LECUN_NORMAL
    head_bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, pairs: Array, weights: Array | None = None) -> Array:
        """Maps of pairs `[pairs, height, width, 2 channels]` to `[pairs, 1]`."""
        hidden = pairs
        for _ in range(2):
            hidden = conv_block(
                hidden,
                weights,
                filters=self.filters,
                padding=self.padding,
                pool="VALID",
                use_scale=self.use_scale,
                epsilon=self.epsilon,
                kernel_init=self.kernel_init,
            )
        hidden = hidden.reshape(hidden.shape[0], -1)
        return self._dense(1)(nn.relu(self._dense(self.hidden)(hidden)))

    def _dense(self, width: int) -> nn.Dense:
        return nn.Dense(
            width,
            kernel_init=checked(self.head_kernel_init, "head_kernel_init"),
            bias_init=checked(self.head_bias_init, "head_bias_init"),
        )


def relation_encoder(
    *,
    filters: int = 64,
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
) -> Model:
    """The published embedding module, a `RelationEncoder` as a model.

    Args:
      filters: channels of every block, published as 64.
      use_scale: give batch statistics a scale beside the offset, as the authors' code does.
      epsilon: what batch statistics add to the variance, above 0; the authors' is the default.
      kernel_init: initializer of the convolutions' kernels, a function `(key, shape, dtype)` such
        as those of `jax.nn.initializers`; for the authors' see `relation_module`.

    Raises:
      TypeError: a number is no integer, `epsilon` no number, `use_scale` no bool, or `kernel_init`
        no function of a key, a shape and a dtype.
      ValueError: `filters` is below 1, or `epsilon` not above 0. From the model's `init`:
        `kernel_init` returns something else than it is asked for.
    """
    check_integers(1, filters=filters)
    check_flags(use_scale=use_scale)
    check_epsilon(epsilon)
    check_initializers(kernel_init=kernel_init)
    return from_linen(RelationEncoder(filters, use_scale, epsilon, kernel_init))


def relation_module(
    *,
    filters: int = 64,
    hidden: int = 8,
    padding: Literal["SAME", "VALID"] = "SAME",
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> Model:
    """The published relation module, a `RelationModule` as a model.

    The default initializers are this library's. The authors' code
    (floodsung/LearningToCompare_FSL) draws the convolutions of both modules from a normal of
    variance 2 / (9 filters), the dense layers' kernels from one of deviation 0.01, and starts their
    biases at 1, so that none of the few hidden ReLUs is dead:

    >>> from jax.nn import initializers
    >>> import metajax
    >>> convolutions = initializers.variance_scaling(2.0, "fan_out", "normal")
    >>> encoder = metajax.models.relation_encoder(kernel_init=convolutions)
    >>> relation = metajax.models.relation_module(
    ...     kernel_init=convolutions,
    ...     head_kernel_init=initializers.normal(0.01),
    ...     head_bias_init=initializers.ones,
    ... )

    Args:
      filters: channels of both blocks, published as 64.
      hidden: width of the hidden layer, published as 8.
      padding: see `RelationModule`.
      use_scale: give batch statistics a scale beside the offset, as the authors' code does.
      epsilon: what batch statistics add to the variance, above 0; the authors' is the default.
      kernel_init: initializer of the convolutions' kernels, a function `(key, shape, dtype)` such
        as those of `jax.nn.initializers`.
      head_kernel_init: of the kernels of both dense layers.
      head_bias_init: of their biases.

    Raises:
      TypeError: an integer or `epsilon` is none, `use_scale` no bool, or an initializer no function
        of a key, a shape and a dtype.
      ValueError: a number is out of range, or `padding` another word. From the model's `init`: an
        initializer returns something else than it is asked for.
    """
    check_integers(1, filters=filters, hidden=hidden)
    check_words(("SAME", "VALID"), padding=padding)
    check_flags(use_scale=use_scale)
    check_epsilon(epsilon)
    check_initializers(
        kernel_init=kernel_init, head_kernel_init=head_kernel_init, head_bias_init=head_bias_init
    )
    return from_linen(
        RelationModule(
            filters,
            hidden,
            padding,
            use_scale,
            epsilon,
            kernel_init,
            head_kernel_init,
            head_bias_init,
        )
    )
