"""Pre-trained networks as models, and where their weights come from."""

from metajax.models.pretrained.backbones import Backbone, Part, Preprocessing

__all__ = [
    "Backbone",
    "Part",
    "Preprocessing",
]


def __dir__() -> list[str]:
    return __all__
