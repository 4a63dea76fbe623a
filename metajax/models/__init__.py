"""Networks and adapters. Flax is imported here and nowhere else in the package."""

from metajax.models.adapters import from_functions, from_linen, from_nnx
from metajax.models.conv import (
    BatchStatistics,
    ConvNet,
    max_pool_conv_net,
    strided_conv_net,
)
from metajax.models.convolution import patch_convolution
from metajax.models.mlp import MLP, mlp

__all__ = [
    "MLP",
    "BatchStatistics",
    "ConvNet",
    "from_functions",
    "from_linen",
    "from_nnx",
    "max_pool_conv_net",
    "mlp",
    "patch_convolution",
    "strided_conv_net",
]
