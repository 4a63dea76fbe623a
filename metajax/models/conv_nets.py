"""The four-block convolutional networks of the few-shot literature."""

from typing import Literal

import flax.linen as nn

from metajax.checks.episodes import check_floating
from metajax.checks.numbers import check_integers
from metajax.checks.settings import check_flags
from metajax.models.adapters.linen import from_linen
from metajax.models.conv_block import conv_block
from metajax.types import Array, Model


class ConvNet(nn.Module):
    """Blocks of [3x3 convolution, batch statistics, ReLU], then a mean or flattening, then a head.

    The convolutions have no bias: batch statistics would cancel it.

    Attributes:
      outputs: width of the linear head; None leaves the head out (an embedding).
      filters: channels of every block.
      blocks: number of blocks.
      pooling: how a block halves the image, `"stride"` in the convolution (rounding up) or `"max"`
        over 2x2 windows after it (rounding down).
      features: `"mean"` over space, `"flatten"`, or `"map"` to leave the maps as they are (then
        there is no head).
      use_scale: see `BatchStatistics`.
    """

    outputs: int | None
    filters: int = 64
    blocks: int = 4
    pooling: Literal["stride", "max"] = "stride"
    features: Literal["mean", "flatten", "map"] = "mean"
    use_scale: bool = True

    @nn.compact
    def __call__(self, inputs: Array, weights: Array | None = None) -> Array:
        """`[items, height, width, channels]` floats to `[items, outputs]`."""
        check_floating(inputs, "ConvNet")
        hidden = inputs
        for _ in range(self.blocks):
            hidden = conv_block(
                hidden,
                weights,
                filters=self.filters,
                stride=2 if self.pooling == "stride" else 1,
                pooled=self.pooling == "max",
                use_scale=self.use_scale,
            )
        if self.features == "map":
            return hidden
        if self.features == "mean":
            hidden = hidden.mean(axis=(1, 2))
        hidden = hidden.reshape(hidden.shape[0], -1)
        return hidden if self.outputs is None else nn.Dense(self.outputs)(hidden)


def strided_conv_net(ways: int, *, filters: int = 64, use_scale: bool = True) -> Model:
    """The Omniglot network of Finn et al. (2017, section 5.2): strides, a mean over space, a head.

    Args:
      ways: outputs of the head.
      filters: channels of every block, published as 64.
      use_scale: give batch statistics a scale beside the offset; the authors' code has none.

    Raises:
      TypeError: a number is no integer, or `use_scale` no bool.
      ValueError: `ways` or `filters` is below 1.
    """
    check_integers(1, ways=ways, filters=filters)
    check_flags(use_scale=use_scale)
    return from_linen(
        ConvNet(ways, filters, pooling="stride", features="mean", use_scale=use_scale)
    )


def embedding_net(*, filters: int = 64) -> Model:
    """The embedding network of Snell et al. (2017, section 3.1): four max-pooled blocks.

    28 px images give 64 features, 84 px images 1,600.

    Args:
      filters: channels of every block, published as 64.

    Raises:
      TypeError: a number is no integer.
      ValueError: `filters` is below 1.
    """
    check_integers(1, filters=filters)
    return from_linen(ConvNet(None, filters, pooling="max", features="flatten"))


def max_pool_conv_net(ways: int, *, filters: int = 32, use_scale: bool = True) -> Model:
    """The mini-ImageNet network of Finn et al. (2017, section 5.2): max-pooling, flattened, a head.

    Args:
      ways: outputs of the head.
      filters: channels of every block, published as 32.
      use_scale: give batch statistics a scale beside the offset; the authors' code has none.

    Raises:
      TypeError: a number is no integer, or `use_scale` no bool.
      ValueError: `ways` or `filters` is below 1.
    """
    check_integers(1, ways=ways, filters=filters)
    check_flags(use_scale=use_scale)
    return from_linen(
        ConvNet(ways, filters, pooling="max", features="flatten", use_scale=use_scale)
    )
