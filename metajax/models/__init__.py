"""Networks and adapters. Flax is imported here and nowhere else in the package."""

from metajax.chains import ChainParams, chain
from metajax.models import kernels, pretrained
from metajax.models.adapters.equinox import from_equinox
from metajax.models.adapters.estimation import estimate_statistics
from metajax.models.adapters.haiku import from_haiku
from metajax.models.adapters.linen import from_linen
from metajax.models.adapters.nnx import from_nnx
from metajax.models.batch_statistics import BatchStatistics
from metajax.models.conv_nets import (
    ConvNet,
    embedding_net,
    max_pool_conv_net,
    strided_conv_net,
)
from metajax.models.feature_models import centred, identity
from metajax.models.frozen_models import frozen
from metajax.models.full_context_embeddings import full_context
from metajax.models.half_precision import computing_in
from metajax.models.low_rank import LoRAParams, LowRankFactors, with_lora
from metajax.models.perceptrons import MLP, mlp
from metajax.models.relation_nets import (
    RelationEncoder,
    RelationModule,
    relation_encoder,
    relation_module,
)

__all__ = [
    "MLP",
    "BatchStatistics",
    "ChainParams",
    "ConvNet",
    "LoRAParams",
    "LowRankFactors",
    "RelationEncoder",
    "RelationModule",
    "centred",
    "chain",
    "computing_in",
    "embedding_net",
    "estimate_statistics",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "frozen",
    "full_context",
    "identity",
    "kernels",
    "max_pool_conv_net",
    "mlp",
    "pretrained",
    "relation_encoder",
    "relation_module",
    "strided_conv_net",
    "with_lora",
]


def __dir__() -> list[str]:
    return __all__
