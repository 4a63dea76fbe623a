"""All recipes, and the one that is asked for."""

import difflib

from metajax.checks.numbers import check_optional_integers
from metajax.checks.settings import check_texts
from metajax.data.labelled_images import in_short
from metajax.kinds import check_words
from metajax.recipes.records import ALGORITHMS, DATA_SETS, Recipe
from metajax.recipes.tables import (
    cifar_fs,
    cub,
    emoji,
    glyphs,
    mini_imagenet,
    omniglot,
    sinusoids,
    tiered_imagenet,
)

RECIPES: tuple[Recipe, ...] = (
    *omniglot.RECIPES,
    *emoji.RECIPES,
    *sinusoids.RECIPES,
    *mini_imagenet.RECIPES,
    *tiered_imagenet.RECIPES,
    *cifar_fs.RECIPES,
    *cub.RECIPES,
    *glyphs.RECIPES,
)


def find(
    algorithm: str,
    data: str,
    *,
    ways: int | None = None,
    shots: int | None = None,
    variant: str = "",
) -> Recipe:
    """The recipe of a cell.

    >>> import metajax
    >>> metajax.recipes.find("maml", "omniglot", ways=20, shots=1).published
    Number(value=95.8, source='Finn et al. 2017, table 1', interval=0.3, note='')

    Args:
      algorithm: such as `"maml"`, one of `metajax.recipes.ALGORITHMS`.
      data: such as `"omniglot"`, one of `metajax.recipes.DATA_SETS`.
      ways: of its test; None where there is only one.
      shots: of its test; None where there is only one.
      variant: see `Recipe`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: there is no such recipe, algorithm or data set, or there are several recipes.
    """
    check_words(ALGORITHMS, algorithm=algorithm)
    check_words(DATA_SETS, data=data)
    check_texts(variant=variant)
    check_optional_integers(1, ways=ways, shots=shots)
    of_pair = [
        each
        for each in RECIPES
        if (each.training.algorithm, each.training.data) == (algorithm, data)
    ]
    found = [
        each
        for each in of_pair
        if each.variant == variant
        and ways in (None, each.testing.drawing.ways)
        and shots in (None, each.testing.drawing.shots)
    ]
    if len(found) == 1:
        return found[0]
    others = [each for each in RECIPES if each.training.algorithm == algorithm]
    there = [each.name for each in found or of_pair or others]
    asked = (
        f"algorithm={algorithm!r}, data={data!r}, ways={ways}, shots={shots}, variant={variant!r}"
    )
    raise ValueError(f"{len(found)} recipes for {asked}; expected one of {', '.join(there)}")


def named(name: str) -> Recipe:
    """The recipe that is called so, or the one whose name begins so.

    >>> import metajax
    >>> metajax.recipes.named("ridge_head").name
    'ridge_head-glyphs-5w1s'

    Args:
      name: such as `"maml-omniglot-20w1s"`, see `Recipe.name`, or a beginning that one name has.

    Raises:
      TypeError: it is no string.
      ValueError: no name is or begins so, or several begin so.
    """
    check_texts(name=name)
    by_name = {recipe.name: recipe for recipe in RECIPES}
    if name in by_name:
        return by_name[name]
    beginning = [each for each in by_name if each.startswith(name)]
    if len(beginning) == 1:
        return by_name[beginning[0]]
    if beginning and name:
        raise ValueError(
            f"{name!r} begins the names of {len(beginning)} recipes; expected one of "
            f"{in_short(beginning)}"
        )
    near = difflib.get_close_matches(name, by_name, n=3)
    without_files = [each for each in by_name if by_name[each].training.data == "glyphs"]
    hint = f"expected algorithm-data-ways-shots, such as {in_short(without_files, 3)}"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    raise ValueError(f"no recipe is called {name!r}; {hint}")
