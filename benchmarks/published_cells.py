"""Which trainings the cells of the tables need, in which order, and how they are tested."""

import dataclasses
import fnmatch
from collections.abc import Sequence

from metajax.recipes import RECIPES, Recipe, Split, Testing, Training

# Of what is published on a random split, these are to be trained on Vinyals', too.
AGAIN = (
    "maml-vinyals-omniglot-5w1s",
    "maml-vinyals-omniglot-20w1s",
    "reptile-vinyals-omniglot-5w1s",
    "relation-vinyals-omniglot-5w1s",
)
# Where nothing else is asked for: what people ask for first comes first.
FIRST = (
    "maml-omniglot-20w1s",
    "prototypical-omniglot-*@1x3",
    "maml-omniglot-5w1s",
    "relation-omniglot-5w1s",
    "reptile-omniglot-5*",
    "matching-omniglot-*",
    "proto_maml-omniglot-*",
    "fo_proto_maml-omniglot-*",
    "*-omniglot-*",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One training, and the cells that are tested with its parameters.

    Attributes:
      training: at the number of iterations that it is run for.
      recipes: of the cells.
      seeds: trained side by side.
      episodes: of each test, or None for the recipe's.
      deadline: in seconds since the epoch, or None.
    """

    training: Training
    recipes: tuple[Recipe, ...]
    seeds: int
    episodes: int | None
    deadline: float | None = None

    @property
    def name(self) -> str:
        """Of the first cell that is trained so, with the number of seeds and iterations."""
        given = self.recipes[0]
        sharing = [each for each in (*RECIPES, *again()) if each.training == given.training]
        first = sharing[0] if sharing else given
        return f"{first.name}-{self.seeds}x{self.training.iterations}"


def asked(words: Sequence[str]) -> list[tuple[Recipe, float, int]]:
    """The cells of these words, with the share of their iterations and the number of seeds.

    A word is a pattern of names, with what is to be changed behind an `@`: `maml-omniglot-20w1s`,
    `relation-*@0.1`, `prototypical-*@1x3`. Cells on the split of Vinyals et al. are among those of
    patterns that say `vinyals`. A cell is taken by the first pattern that fits.

    Raises:
      ValueError: no cell fits a pattern, or a number is none.
    """
    out: dict[str, tuple[Recipe, float, int]] = {}
    for word in words:
        pattern, _, changes = word.partition("@")
        scale, _, seeds = changes.partition("x")
        cells = again() if "vinyals" in pattern else RECIPES
        fitting = [recipe for recipe in cells if fnmatch.fnmatch(recipe.name, pattern)]
        if not fitting:
            raise ValueError(f"{pattern!r} fits no cell; see metajax.recipes.RECIPES")
        for recipe in fitting:
            out.setdefault(recipe.name, (recipe, float(scale or 1), int(seeds or 1)))
    return list(out.values())


def again() -> tuple[Recipe, ...]:
    """Those that are published on a random split, on that of Vinyals et al."""
    random = [one for one in RECIPES if one.training.drawing.split.protocol == "random"]
    return tuple(strictly_split(recipe) for recipe in random)


def strictly_split(recipe: Recipe) -> Recipe:
    """The same trained and tested on the split of Vinyals et al."""
    training, testing = recipe.training, recipe.testing
    drawn = dataclasses.replace(training.drawing, split=Split("train_and_validation", "vinyals"))
    tested = dataclasses.replace(testing.drawing, split=Split("test", "vinyals"))
    variant = "-".join(part for part in (recipe.variant, "vinyals") if part)
    return dataclasses.replace(
        recipe,
        training=dataclasses.replace(training, drawing=drawn),
        testing=dataclasses.replace(testing, drawing=tested),
        variant=variant,
    )


def jobs_of(cells: Sequence[tuple[Recipe, float, int]], *, episodes: int | None) -> list[Job]:
    """The trainings of these cells, in the order in which they come first."""
    out: dict[tuple[Training, int], list[Recipe]] = {}
    for recipe, scale, seeds in cells:
        out.setdefault((recipe.training.scaled(scale), seeds), []).append(recipe)
    return [Job(training, tuple(of), seeds, episodes) for (training, seeds), of in out.items()]


def tests_of(recipe: Recipe, episodes: int | None) -> dict[str, Testing]:
    """The protocols that a cell is tested by: as published, all queries at once too, strictly."""
    published = recipe.testing
    if episodes is not None:
        published = dataclasses.replace(published, episodes=episodes)
    out = {"published": published}
    if recipe.transductive is not None:
        out["transductive"] = dataclasses.replace(published, query_batching="separate")
    if recipe.training.data == "sinusoids":
        return out
    # Elsewhere there may not be so many items a class.
    queries = 15 if recipe.training.data == "omniglot" else published.drawing.queries
    strict = dataclasses.replace(
        published,
        drawing=dataclasses.replace(published.drawing, queries=queries),
        episodes=min(published.episodes, 1_000),
        query_batching="support",
    )
    if strict != published:
        out["strict"] = strict
    return out
