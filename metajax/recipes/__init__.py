"""Recipes: how published numbers were made, as data, and what it takes to make them again."""

from metajax.recipes.building import Built, build
from metajax.recipes.changes import changed
from metajax.recipes.finding import RECIPES, find, named
from metajax.recipes.json_form import as_json, from_json
from metajax.recipes.loading import sampler
from metajax.recipes.records import ALGORITHMS, DATA_SETS, Number, Recipe, Testing, Training
from metajax.recipes.settings import Drawing, Inner, Network, Outer, Split

__all__ = [
    "ALGORITHMS",
    "DATA_SETS",
    "RECIPES",
    "Built",
    "Drawing",
    "Inner",
    "Network",
    "Number",
    "Outer",
    "Recipe",
    "Split",
    "Testing",
    "Training",
    "as_json",
    "build",
    "changed",
    "find",
    "from_json",
    "named",
    "sampler",
]
