"""The published modules of Relation Networks (Sung et al. 2018, section 3.3 and figure 2)."""

from typing import Literal

import flax.linen as nn

from metajax.checks.episodes import check_floating
from metajax.checks.numbers import check_integers
from metajax.kinds import check_words
from metajax.models.adapters.linen import from_linen
from metajax.models.conv_block import conv_block
from metajax.types import Array, Model


class RelationEncoder(nn.Module):
    """Four blocks of [3x3 convolution, batch statistics, ReLU], the first two max-pooled.

    The first two convolutions have no padding, as in the authors' code: 28 px images give maps of
    5x5, 84 px images maps of 19x19.

    Attributes:
      filters: channels of every block.
    """

    filters: int = 64

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
                pooled=pooled,
            )
        return hidden


class RelationModule(nn.Module):
    """Two max-pooled blocks, a layer of `hidden` with ReLU, and one output before the sigmoid.

    Attributes:
      filters: channels of both blocks.
      hidden: width of the hidden layer.
      padding: of both convolutions. In the authors' code `"SAME"` for Omniglot, `"VALID"` for
        mini-ImageNet (84 px: maps of 3x3 before the hidden layer).
    """

    filters: int = 64
    hidden: int = 8
    padding: Literal["SAME", "VALID"] = "SAME"

    @nn.compact
    def __call__(self, pairs: Array, weights: Array | None = None) -> Array:
        """Maps of pairs `[pairs, height, width, 2 channels]` to `[pairs, 1]`."""
        hidden = pairs
        for _ in range(2):
            hidden = conv_block(
                hidden, weights, filters=self.filters, padding=self.padding, pooled=True
            )
        hidden = hidden.reshape(hidden.shape[0], -1)
        return nn.Dense(1)(nn.relu(nn.Dense(self.hidden)(hidden)))


def relation_encoder(*, filters: int = 64) -> Model:
    """The published embedding module, a `RelationEncoder` as a model.

    Args:
      filters: channels of every block, published as 64.

    Raises:
      TypeError: a number is no integer.
      ValueError: `filters` is below 1.
    """
    check_integers(1, filters=filters)
    return from_linen(RelationEncoder(filters))


def relation_module(
    *, filters: int = 64, hidden: int = 8, padding: Literal["SAME", "VALID"] = "SAME"
) -> Model:
    """The published relation module, a `RelationModule` as a model.

    Args:
      filters: channels of both blocks, published as 64.
      hidden: width of the hidden layer, published as 8.
      padding: see `RelationModule`.

    Raises:
      TypeError: a number is no integer.
      ValueError: a number is below 1, or `padding` another word.
    """
    check_integers(1, filters=filters, hidden=hidden)
    check_words(("SAME", "VALID"), padding=padding)
    return from_linen(RelationModule(filters, hidden, padding))
