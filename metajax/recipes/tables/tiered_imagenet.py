"""tieredImageNet, 84 px: Liu et al.'s numbers of algorithms that are older than the data set.

Liu et al., "Learning to propagate labels: transductive propagation network for few-shot learning"
(2019), tables 2 and 8. They took the numbers over 600 test episodes of 15 queries a class, and say
nothing of how these baselines were trained, beside "higher way" for Prototypical Networks: the
settings are those of mini-ImageNet, but for the prototypical rate, which falls as late as that of
their own network.
"""

import dataclasses

from metajax.recipes.records import Number, Recipe
from metajax.recipes.tables import mini_imagenet

_LIU = "Liu et al. 2019, table 8"
_BN = "queries share a batch, as they do here"
_MAML_NOTE = (
    "filters are mini-ImageNet's; of this number Lee et al. 2019, table 1, say the same, and Rusu "
    'et al. 2019 "deeper net"'
)
_PROTOTYPICAL_NOTE = (
    "tested here with the statistics of support and queries; the iterations are chosen, theirs end "
    "by the validation loss"
)
_NUMBERS = {
    ("maml", 1): Number(51.67, _LIU, 1.81, note=_BN),
    ("maml", 5): Number(70.30, _LIU, 1.75, note=_BN),
    ("reptile", 1): Number(48.97, _LIU, 0.21),
    ("reptile", 5): Number(66.47, _LIU, 0.21),
    ("prototypical", 1): Number(53.31, _LIU, 0.89),
    ("prototypical", 5): Number(72.69, _LIU, 0.74),
    ("relation", 1): Number(54.48, _LIU, 0.93, note=_BN),
    ("relation", 5): Number(71.31, _LIU, 0.78, note=f"{_BN}; others who cite it have 71.32"),
}
_TOGETHER = {1: Number(52.36, _LIU, 0.23), 5: Number(71.03, _LIU, 0.22)}
_PADDLE = "PaddleFSL's README"
_MAML_AGAIN = {
    1: Number(49.00, _PADDLE, 3.26, note="first order"),
    5: Number(67.56, _PADDLE, 1.80, note="first order"),
}


def _recipe(mini: Recipe) -> Recipe:
    training, testing = mini.training, mini.testing
    algorithm, shots = training.algorithm, testing.drawing.shots
    reptile, prototypical = algorithm == "reptile", algorithm == "prototypical"
    training = dataclasses.replace(training, data="tiered_imagenet")
    if prototypical:
        outer = dataclasses.replace(training.outer, every=25_000)
        training = dataclasses.replace(training, outer=outer, iterations=100_000)
    if not reptile:
        drawing = dataclasses.replace(testing.drawing, queries=15)
        testing = dataclasses.replace(testing, drawing=drawing, episodes=600)
    return dataclasses.replace(
        mini,
        training=training,
        testing=testing,
        source="those of mini-ImageNet; open in Liu et al. 2019",
        published=_NUMBERS[algorithm, shots],
        transductive=_TOGETHER[shots] if reptile else None,
        reproductions=(_MAML_AGAIN[shots],) if algorithm == "maml" else (),
        note={"maml": _MAML_NOTE, "prototypical": _PROTOTYPICAL_NOTE}.get(algorithm, mini.note),
    )


RECIPES: tuple[Recipe, ...] = tuple(
    _recipe(mini)
    for mini in mini_imagenet.RECIPES
    if (mini.training.algorithm, mini.testing.drawing.shots) in _NUMBERS
)
