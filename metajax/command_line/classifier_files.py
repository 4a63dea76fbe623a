"""A classifier's file as a verb is given it."""

import os
from typing import TYPE_CHECKING

_OWN = "of its own"

if TYPE_CHECKING:
    from metajax.pictures import FewShotClassifier


def load_classifier(path: str) -> "FewShotClassifier":
    """The classifier of a file.

    Raises:
      FileNotFoundError: there is none.
      ImportError: a package is missing, that of its network's weights say.
      OSError: it cannot be read.
      ValueError: it is no classifier, damaged, or one of features.
    """
    from metajax.pictures import FewShotClassifier

    if not os.path.exists(path):
        raise FileNotFoundError(
            f"there is no file {path!r}; expected a classifier, which `metajax fit` makes of a "
            "folder of pictures"
        )
    if os.path.isdir(path):
        raise IsADirectoryError(
            f"{path!r} is a folder; expected a classifier's file, such as flowers.mjx, and then "
            "the pictures"
        )
    classifier = FewShotClassifier.load(path)
    if classifier.look_ is None:
        raise ValueError(
            f"{path!r} was fitted on features, and takes no pictures; expected one that was fitted "
            "on pictures"
        )
    return classifier


def network_and_head(classifier: "FewShotClassifier") -> tuple[str, str]:
    """What they are called: registered names, or a run's recipe and its algorithm."""
    from metajax.pictures.encoders import REGISTERED
    from metajax.pictures.run_networks import RunNetwork
    from metajax.runs import Run, load_run

    network, head = classifier.network, classifier.head
    if isinstance(network, str) and network not in REGISTERED:
        network = load_run(network)
    if isinstance(network, RunNetwork | Run):
        return network.recipe.name, network.recipe.training.algorithm
    named = network if isinstance(network, str) else getattr(network, "name", _OWN)
    return named, head if isinstance(head, str) else _OWN
