"""Pre-trained networks as models, and where their weights come from."""

from metajax.models.pretrained.backbones import Backbone, Part, Preprocessing
from metajax.models.pretrained.efficientnet_lite import efficientnet_lite0

__all__ = [
    "Backbone",
    "Part",
    "Preprocessing",
    "efficientnet_lite0",
]


def __dir__() -> list[str]:
    return __all__
