"""Which trainings the cells of the tables need, in which order, and how they are tested."""

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence

from metajax.recipes import Recipe, Split, Testing, Training

# What people ask for first comes first.
_FIRST = (
    "maml-omniglot-20w1s",
    "prototypical-omniglot-*",
    "maml-omniglot-5w1s",
    "relation-omniglot-5w1s",
    "reptile-omniglot-5*",
    "matching-omniglot-*",
    "proto_maml-omniglot-*",
    "fo_proto_maml-omniglot-*",
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
        """Of the first of its cells, with the number of seeds and iterations."""
        return f"{self.recipes[0].name}-{self.seeds}x{self.training.iterations}"


def ordered(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The headline cells first."""

    def place(recipe: Recipe) -> int:
        places = [i for i, pattern in enumerate(_FIRST) if fnmatch.fnmatch(recipe.name, pattern)]
        return places[0] if places else len(_FIRST)

    return sorted(recipes, key=place)


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


def jobs_of(
    recipes: Sequence[Recipe], *, seeds: int, scale: float, episodes: int | None
) -> list[Job]:
    """The trainings of these cells, in the order in which they come first."""
    cells: dict[Training, list[Recipe]] = {}
    for recipe in recipes:
        cells.setdefault(recipe.training.scaled(scale), []).append(recipe)
    return [Job(training, tuple(each), seeds, episodes) for training, each in cells.items()]


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
    if published.drawing.queries < 15 or published.query_batching not in ("single", "support"):
        queries = 15 if recipe.training.data == "omniglot" else published.drawing.queries
        out["strict"] = dataclasses.replace(
            published,
            drawing=dataclasses.replace(published.drawing, queries=queries),
            episodes=min(published.episodes, 1_000),
            query_batching="support",
        )
    return out
