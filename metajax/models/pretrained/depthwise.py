"""A convolution of each channel by itself."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.types import Array


class DepthwiseConv(nn.Module):
    """Padded as TensorFlow's `"SAME"`, without bias: `[items, height, width, channels]`.

    It is a sum, over the kernel's entries, of shifted images times a number a channel, which XLA
    makes one loop of. Its own grouped convolution is an order of magnitude slower on CPU.

    Attributes:
      size: of the kernel, `[size, size, 1, channels]`.
      stride: of the outputs.
    """

    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """The outputs, of `ceil(height / stride)` and `ceil(width / stride)`."""
        size, stride = self.size, self.stride
        shape = (size, size, 1, inputs.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        sides = inputs.shape[1:3]
        margins = jax.lax.padtype_to_pads(sides, (size, size), (stride, stride), "SAME")
        padded = jnp.pad(inputs, ((0, 0), *margins, (0, 0)))
        height, width = ((-(-side // stride) - 1) * stride + 1 for side in sides)
        terms = [
            padded[:, i : i + height : stride, j : j + width : stride] * kernel[i, j][None, None]
            for i in range(size)
            for j in range(size)
        ]
        return functools.reduce(jnp.add, terms)
