"""Networks and adapters. Flax is imported here and nowhere else in the package."""

from metajax.models.adapters import from_functions, from_linen, from_nnx
from metajax.models.conv import (
    ConvNet,
    embedding_net,
    max_pool_conv_net,
    strided_conv_net,
)
from metajax.models.convolution import convolution
from metajax.models.full_context import full_context
from metajax.models.mlp import MLP, mlp
from metajax.models.normalization import BatchStatistics
from metajax.models.precision import computing_in
from metajax.models.relation import (
    RelationEncoder,
    RelationModule,
    relation_encoder,
    relation_module,
)

__all__ = [
    "MLP",
    "BatchStatistics",
    "ConvNet",
    "RelationEncoder",
    "RelationModule",
    "computing_in",
    "convolution",
    "embedding_net",
    "from_functions",
    "from_linen",
    "from_nnx",
    "full_context",
    "max_pool_conv_net",
    "mlp",
    "relation_encoder",
    "relation_module",
    "strided_conv_net",
]
