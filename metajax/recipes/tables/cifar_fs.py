"""CIFAR-FS, 32 px: the numbers that came with it.

Bertinetto et al., "Meta-learning with differentiable closed-form solvers" (2019), who made the
data set, ran the other algorithms with the code of their authors. What settings they gave it is not
known here: these are mini-ImageNet's. The numbers are as Lee et al. 2019, table 2, and PaddleFSL
cite them.
"""

import dataclasses

from metajax.recipes.records import Number, Recipe
from metajax.recipes.tables import mini_imagenet

_BERTINETTO = "Bertinetto et al. 2019"
_PADDLE = "PaddleFSL's README"
_NUMBERS = {
    ("maml", 1): Number(58.9, _BERTINETTO, 1.9),
    ("maml", 5): Number(71.5, _BERTINETTO, 1.0),
    ("prototypical", 1): Number(55.5, _BERTINETTO, 0.7),
    ("prototypical", 5): Number(72.0, _BERTINETTO, 0.6),
    ("relation", 1): Number(55.0, _BERTINETTO, 1.0),
    ("relation", 5): Number(69.3, _BERTINETTO, 0.8),
}
_AGAIN = {
    ("maml", 1): Number(57.06, _PADDLE, 3.83, note="first order"),
    ("maml", 5): Number(72.24, _PADDLE, 1.71, note="first order"),
    ("prototypical", 1): Number(55.49, _PADDLE, 0.21),
    ("prototypical", 5): Number(72.10, _PADDLE, 0.13),
    ("relation", 1): Number(55.84, _PADDLE, 0.37),
    ("relation", 5): Number(69.57, _PADDLE, 0.30),
}
_NOTES = {
    "maml": "32 filters, of which Lee et al. 2019, table 2, speak; others speak of 64",
    "prototypical": "how many ways it was trained on is not known",
    "relation": "64 filters, and padded, for maps of 6 x 6 pixels; Lee et al. 2019, table 2, speak "
    "of 64, 96, 128 and 256",
}


def _recipe(mini: Recipe) -> Recipe:
    training, testing = mini.training, mini.testing
    algorithm = training.algorithm
    cell = algorithm, testing.drawing.shots
    network = training.network
    if algorithm == "relation":
        network = dataclasses.replace(network, padding="SAME")
    return dataclasses.replace(
        mini,
        training=dataclasses.replace(training, data="cifar_fs", network=network, pixels=32),
        testing=dataclasses.replace(testing, episodes=600),
        source="those of mini-ImageNet",
        published=_NUMBERS[cell],
        reproductions=(_AGAIN[cell],),
        note=_NOTES[algorithm],
    )


RECIPES: tuple[Recipe, ...] = tuple(
    _recipe(mini)
    for mini in mini_imagenet.RECIPES
    if (mini.training.algorithm, mini.testing.drawing.shots) in _NUMBERS
)
