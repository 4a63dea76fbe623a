"""Pre-trained networks as models, and where their weights come from."""

from metajax.models.pretrained.backbones import Backbone, Part, Preprocessing
from metajax.models.pretrained.efficientnet_lite import efficientnet_lite0
from metajax.models.pretrained.vision_transformers import vision_transformer

__all__ = [
    "Backbone",
    "Part",
    "Preprocessing",
    "efficientnet_lite0",
    "vision_transformer",
]


def __dir__() -> list[str]:
    return __all__
