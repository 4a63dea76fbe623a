"""The four-block convolutional networks of the few-shot literature."""

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


class ConvNet(nn.Module):
    """Blocks of [3x3 convolution, batch statistics, ReLU], then a mean or flattening, then a head.

    The convolutions have no bias: batch statistics would cancel it.

    Attributes:
      outputs: width of the linear head; None leaves the head out (an embedding).
      filters: channels of every block.
      blocks: number of blocks.
      pooling: how a block halves the image, `"stride"` in the convolution (rounding up) or `"max"`
        over 2x2 windows after it.
      features: `"mean"` over space, `"flatten"`, or `"map"` to leave the maps as they are (then
        there is no head).
      use_scale: see `BatchStatistics`.
      epsilon: see `BatchStatistics`.
      pool_padding: whether `"max"` rounds down, `"VALID"`, or up, `"SAME"`, see `max_pool_2x2`.
      pool_first: take the maxima before the batch statistics, which are then those of the maxima.
      kernel_init: initializer of the convolutions, see `jax.nn.initializers`.
      head_kernel_init: of the head's kernel.
      head_bias_init: of the head's bias.
    """

    outputs: int | None
    filters: int = 64
    blocks: int = 4
    pooling: Literal["stride", "max"] = "stride"
    features: Literal["mean", "flatten", "map"] = "mean"
    use_scale: bool = True
    epsilon: float = 1e-5
    pool_padding: Literal["VALID", "SAME"] = "VALID"
    pool_first: bool = False
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL
    head_kernel_init: nn.initializers.Initializer = LECUN_NORMAL
    head_bias_init: nn.initializers.Initializer = nn.initializers.zeros

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
                pool=self.pool_padding if self.pooling == "max" else None,
                pool_first=self.pool_first,
                use_scale=self.use_scale,
                epsilon=self.epsilon,
                kernel_init=self.kernel_init,
            )
        if self.features == "map":
            return hidden
        if self.features == "mean":
            hidden = hidden.mean(axis=(1, 2))
        hidden = hidden.reshape(hidden.shape[0], -1)
        if self.outputs is None:
            return hidden
        return nn.Dense(
            self.outputs,
            kernel_init=checked(self.head_kernel_init, "head_kernel_init"),
            bias_init=checked(self.head_bias_init, "head_bias_init"),
        )(hidden)


def strided_conv_net(
    ways: int,
    *,
    filters: int = 64,
    features: Literal["mean", "flatten"] = "mean",
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> Model:
    """The Omniglot network of Finn et al. (2017, section 5.2): strides, a mean over space, a head.

    The defaults are this library's. The MAML authors' code (cbfinn/maml, maml.py and utils.py):

    >>> from jax.nn import initializers
    >>> import metajax
    >>> model = metajax.models.strided_conv_net(
    ...     5,
    ...     use_scale=False,
    ...     epsilon=1e-3,
    ...     kernel_init=initializers.glorot_uniform(),
    ...     head_kernel_init=initializers.normal(1.0),
    ... )

    It adapts all but the offsets of the batch statistics, which it meta-learns: a learner does so
    with `adapt=["Conv_*", "Dense_0"]`. (Its epsilon is TensorFlow's default.) The network of the
    Reptile authors' code (openai/supervised-reptile, models.py) has `features="flatten"`,
    `epsilon=1e-3`, and `glorot_uniform()` for both kernels, and all of it is adapted.

    Args:
      ways: outputs of the head.
      filters: channels of every block, published as 64.
      features: what the head sees of the last maps: their `"mean"` over space, or `"flatten"`, all
        of them, 4 times as many from 28 px images.
      use_scale: give batch statistics a scale beside the offset.
      epsilon: what batch statistics add to the variance, above 0.
      kernel_init: initializer of the convolutions' kernels, a function `(key, shape, dtype)` such
        as those of `jax.nn.initializers`.
      head_kernel_init: of the head's kernel, `[features, ways]`.
      head_bias_init: of the head's bias, `[ways]`.

    Raises:
      TypeError: a number is no integer, `epsilon` no number, `use_scale` no bool, or an initializer
        no function of a key, a shape and a dtype.
      ValueError: `ways` or `filters` is below 1, `epsilon` not above 0, or `features` another word.
        From the model's `init`: an initializer returns something else than it is asked for.
    """
    check_integers(1, ways=ways, filters=filters)
    check_words(("mean", "flatten"), features=features)
    check_flags(use_scale=use_scale)
    check_epsilon(epsilon)
    check_initializers(
        kernel_init=kernel_init, head_kernel_init=head_kernel_init, head_bias_init=head_bias_init
    )
    return from_linen(
        ConvNet(
            ways,
            filters,
            pooling="stride",
            features=features,
            use_scale=use_scale,
            epsilon=epsilon,
            kernel_init=kernel_init,
            head_kernel_init=head_kernel_init,
            head_bias_init=head_bias_init,
        )
    )


def embedding_net(
    *,
    filters: int = 64,
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
) -> Model:
    """The embedding network of Snell et al. (2017, section 3.1): four max-pooled blocks.

    28 px images give 64 features, 84 px images 1,600. The authors' code begins as PyTorch does by
    default, with `variance_scaling(1 / 3, "fan_in", "uniform")` of `jax.nn.initializers`.

    Args:
      filters: channels of every block, published as 64.
      use_scale: give batch statistics a scale beside the offset, as the authors' code does.
      epsilon: what batch statistics add to the variance, above 0.
      kernel_init: initializer of the convolutions' kernels, see `strided_conv_net`.

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
    return from_linen(
        ConvNet(
            None,
            filters,
            pooling="max",
            features="flatten",
            use_scale=use_scale,
            epsilon=epsilon,
            kernel_init=kernel_init,
        )
    )


def max_pool_conv_net(
    ways: int,
    *,
    filters: int = 32,
    pool_padding: Literal["VALID", "SAME"] = "VALID",
    pool_first: bool = False,
    use_scale: bool = True,
    epsilon: float = 1e-5,
    kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_kernel_init: nn.initializers.Initializer = LECUN_NORMAL,
    head_bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> Model:
    """The mini-ImageNet network of Finn et al. (2017, section 5.2): max-pooling, flattened, a head.

    The defaults are this library's. The MAML authors' code has `use_scale=False`, `epsilon=1e-3`,
    `glorot_uniform()` for both kernels, and learners with `adapt=["Conv_*", "Dense_0"]`, see
    `strided_conv_net`. That of the Reptile authors (openai/supervised-reptile, models.py) pools
    before it normalises, and rounds up, so that 84 px give maps of 6x6:

    >>> from jax.nn import initializers
    >>> import metajax
    >>> model = metajax.models.max_pool_conv_net(
    ...     5,
    ...     pool_padding="SAME",
    ...     pool_first=True,
    ...     epsilon=1e-3,
    ...     kernel_init=initializers.glorot_uniform(),
    ...     head_kernel_init=initializers.glorot_uniform(),
    ... )

    Args:
      ways: outputs of the head.
      filters: channels of every block, published as 32.
      pool_padding: whether pooling rounds down, `"VALID"`, leaving out an odd last row or column,
        or up, `"SAME"`.
      pool_first: pool before the batch statistics, which are then those of the maxima. (Before ReLU
        or after it is one and the same.)
      use_scale: give batch statistics a scale beside the offset.
      epsilon: what batch statistics add to the variance, above 0.
      kernel_init: initializer of the convolutions' kernels, see `strided_conv_net`.
      head_kernel_init: of the head's kernel, `[features, ways]`.
      head_bias_init: of the head's bias, `[ways]`.

    Raises:
      TypeError: a number is no integer, `epsilon` no number, a flag no bool, or an initializer no
        function of a key, a shape and a dtype.
      ValueError: `ways` or `filters` is below 1, `epsilon` not above 0, or `pool_padding` another
        word. From the model's functions: the images are too small for four poolings, or an
        initializer returns something else than it is asked for.
    """
    check_integers(1, ways=ways, filters=filters)
    check_words(("VALID", "SAME"), pool_padding=pool_padding)
    check_flags(pool_first=pool_first, use_scale=use_scale)
    check_epsilon(epsilon)
    check_initializers(
        kernel_init=kernel_init, head_kernel_init=head_kernel_init, head_bias_init=head_bias_init
    )
    return from_linen(
        ConvNet(
            ways,
            filters,
            pooling="max",
            features="flatten",
            use_scale=use_scale,
            epsilon=epsilon,
            pool_padding=pool_padding,
            pool_first=pool_first,
            kernel_init=kernel_init,
            head_kernel_init=head_kernel_init,
            head_bias_init=head_bias_init,
        )
    )
