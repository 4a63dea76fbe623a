"""What makes the networks fast: convolutions, pooling and statistics, exact at any order."""

from metajax.models.kernels.convolutions import convolution
from metajax.models.kernels.max_pooling import max_pool_2x2

__all__ = ["convolution", "max_pool_2x2"]
