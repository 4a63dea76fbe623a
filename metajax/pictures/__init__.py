"""Few-shot classification of pictures for people who do not write training loops."""

from metajax.pictures.classifier import FewShotClassifier, PictureAnswers
from metajax.pictures.fitting import HeldOut
from metajax.pictures.heads import Trained
from metajax.pictures.reading import LabelledPictures, Look, labelled_pictures

__all__ = [
    "FewShotClassifier",
    "HeldOut",
    "LabelledPictures",
    "Look",
    "PictureAnswers",
    "Trained",
    "labelled_pictures",
]


def __dir__() -> list[str]:
    return __all__
