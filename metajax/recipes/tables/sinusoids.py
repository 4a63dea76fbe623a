"""Sine curves from K points (Finn et al. 2017, section 5.1 and figure 2; the authors' code).

The paper draws its results and prints no number; those reported as a table are Li et al.'s (2017).
"""

from metajax.recipes.records import Algorithm, Number, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split

_DRAWN = {
    10: Number(0.15, "Finn et al. 2017, figure 2", 0.05, note="read off the figure, after 10 steps")
}
_AGAIN = {5: (Number(1.13, "Li et al. 2017, table 1", 0.18, note="after 1 step"),)}


def _recipe(algorithm: Algorithm, shots: int) -> Recipe:
    exact = algorithm == "maml"
    return Recipe(
        training=Training(
            algorithm=algorithm,
            data="sinusoids",
            drawing=Drawing(Split("train"), 1, shots, queries=shots),
            network=Network(
                "perceptron", head_kernel_init="truncated_normal(0.01)", widths=(40, 40)
            ),
            inner=Inner(0.01, 1),
            outer=Outer(1e-3),
            iterations=70_000,
            meta_batch=25,
        ),
        testing=Testing(Drawing(Split("test"), 1, shots, queries=100), episodes=1_000, steps=10),
        source="Finn et al. 2017, section 5.1 and appendix A.2",
        published=_DRAWN.get(shots) if exact else None,
        reproductions=_AGAIN.get(shots, ()) if exact else (),
        note="the authors' script has an inner rate of 0.001 unless told otherwise",
    )


RECIPES: tuple[Recipe, ...] = tuple(
    _recipe(algorithm, shots) for algorithm in ("maml", "fomaml") for shots in (5, 10, 20)
)
