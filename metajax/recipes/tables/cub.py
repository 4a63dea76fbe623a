"""CUB-200-2011, 84 px: Chen et al.'s testbed with its four-block network.

Chen et al., "A closer look at few-shot classification" (2019), arXiv 1904.04232, and its code,
https://github.com/wyharveychen/CloserLookFewShot. Its first author says that the numbers at ICLR
came from fewer episodes than the text has, and that arXiv has those that converged (the code's
issue 42); arXiv's are as PaddleFSL cites them.
"""

from metajax.recipes.records import Algorithm, Number, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split

SHOTS = (1, 5)
Cell = tuple[Algorithm, int]

_ARXIV, _ICLR = "Chen et al. 2019, arXiv", "Chen et al. 2019, ICLR"
_PADDLE = "PaddleFSL's README"


def _number(value: float, half: float, at_iclr: str) -> Number:
    return Number(value, _ARXIV, half, note=f"{at_iclr} at ICLR, from fewer episodes")


_NUMBERS: dict[Cell, Number] = {
    ("maml", 1): _number(54.73, 0.97, "55.92 ± 0.95"),
    ("maml", 5): _number(75.75, 0.76, "72.09 ± 0.76"),
    ("prototypical", 1): _number(50.46, 0.88, "51.31 ± 0.91"),
    ("prototypical", 5): _number(76.39, 0.64, "70.77 ± 0.69"),
    ("matching", 1): Number(61.16, _ICLR, 0.89, note="from fewer episodes"),
    ("matching", 5): Number(72.86, _ICLR, 0.70, note="from fewer episodes"),
    ("relation", 1): _number(62.34, 0.94, "62.45 ± 0.98"),
    ("relation", 5): _number(77.84, 0.68, "76.11 ± 0.69"),
}
_SPLIT = "its split is not known here"
_AGAIN: dict[Cell, Number] = {
    ("maml", 1): Number(53.31, _PADDLE, 1.77, note=f"first order; {_SPLIT}"),
    ("maml", 5): Number(69.88, _PADDLE, 1.47, note=f"first order; {_SPLIT}"),
    ("prototypical", 1): Number(51.31, _PADDLE, 0.48, note=_SPLIT),
    ("prototypical", 5): Number(70.14, _PADDLE, 0.19, note=_SPLIT),
    ("relation", 1): Number(57.40, _PADDLE, 0.36, note=_SPLIT),
    ("relation", 5): Number(72.09, _PADDLE, 0.31, note=_SPLIT),
}
_FAN_OUT = "variance_scaling(2, fan_out, normal)"
_TORCH_DEFAULT = "variance_scaling(1/3, fan_in, uniform)"
_NETWORKS: dict[Algorithm, Network] = {
    "maml": Network("max_pool", kernel_init=_FAN_OUT, head_kernel_init=_TORCH_DEFAULT),
    "prototypical": Network("embedding", kernel_init=_FAN_OUT),
    "matching": Network("embedding", kernel_init=_FAN_OUT),
    "relation": Network(
        "relation", padding="VALID", kernel_init=_FAN_OUT, head_kernel_init=_TORCH_DEFAULT
    ),
}
_EVERYWHERE = (
    "trained on random crops, mirrored and with other colours, and the best of the validation "
    "classes was tested, on the middle of the images; here neither"
)
_AVERAGES = "tested with running averages, here with the statistics of support and queries"
_NOTES: dict[Algorithm, str] = {
    "maml": "the code has a first-order switch; how it stood is not said there",
    "prototypical": _AVERAGES,
    "matching": f"{_AVERAGES}; there each support item brings a read step",
    "relation": f"{_AVERAGES}; there the support is averaged, not added up, and a cross-entropy "
    "can take the place of the published loss",
}


def _recipe(algorithm: Algorithm, shots: int) -> Recipe:
    adapts = algorithm == "maml"
    again = _AGAIN.get((algorithm, shots))
    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="cub",
            drawing=Drawing(Split("train"), 5, shots, queries=16),
            network=_NETWORKS[algorithm],
            inner=Inner(0.01, 5) if adapts else None,
            outer=Outer(1e-3),
            iterations=60_000 if shots == 1 else 40_000,
            meta_batch=4 if adapts else 1,
            query_batching="separate" if adapts else "joint",
            pixels=84,
            full_context="embedding" if algorithm == "matching" else "none",
            temperature=0.01 if algorithm == "matching" else None,
        ),
        testing=Testing(
            Drawing(Split("test"), 5, shots, queries=15),
            episodes=600,
            steps=5 if adapts else 0,
            query_batching="separate" if adapts else "joint",
        ),
        source="the authors' code",
        variant="fce" if algorithm == "matching" else "",
        published=_NUMBERS[algorithm, shots],
        reproductions=() if again is None else (again,),
        note=f"{_EVERYWHERE}; {_NOTES[algorithm]}",
    )


RECIPES: tuple[Recipe, ...] = tuple(
    _recipe(algorithm, shots)
    for algorithm in ("maml", "prototypical", "matching", "relation")
    for shots in SHOTS
)
