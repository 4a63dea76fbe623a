"""Few-shot classification of pictures for people who do not write training loops.

From a folder to a classifier, and to what it says of the next picture:

```python
from metajax.pictures import FewShotClassifier, labelled_pictures

paths, labels = labelled_pictures("flowers")
classifier = FewShotClassifier().fit(paths, labels)
answers = classifier.answer(["unknown.jpg"])
```
"""

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
