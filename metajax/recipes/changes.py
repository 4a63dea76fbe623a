"""A recipe with a few of its numbers changed: what is asked for most, by one name each."""

import dataclasses
import math
from typing import Any

from metajax.checks.numbers import check_numbers, check_optional_integers
from metajax.checks.objects import check_instance
from metajax.recipes.records import Recipe, Training


def changed(
    recipe: Recipe,
    *,
    iterations: int | None = None,
    meta_batch: int | None = None,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    train_ways: int | None = None,
    train_shots: int | None = None,
    train_queries: int | None = None,
    filters: int | None = None,
    outer_rate: float | None = None,
    inner_rate: float | None = None,
    steps: int | None = None,
    test_steps: int | None = None,
    pixels: int | None = None,
) -> Recipe:
    """The recipe with what is not None in place of its own; the rest is as it was.

    A training that has as many ways, shots or queries as its test keeps to that. What others
    published on the recipe is not said of another one.

    >>> import metajax
    >>> recipe = metajax.recipes.find("maml", "glyphs")
    >>> metajax.recipes.changed(recipe, ways=3, iterations=100).name
    'maml-glyphs-3w1s'

    Args:
      recipe: such as `metajax.recipes.named("maml-glyphs")`.
      iterations: meta-steps, 1 or more; a schedule is stretched with them.
      meta_batch: tasks a meta-step, 1 or more.
      ways: classes of a test episode, and of a training episode where the recipe has as many there.
      shots: support items a class, alike.
      queries: query items a class, alike.
      train_ways: classes of a training episode; None as said of `ways`.
      train_shots: support items a class in training, alike.
      train_queries: query items a class in training, alike.
      filters: channels of every block of a convolutional network.
      outer_rate: of the outer optimiser at the beginning, above 0.
      inner_rate: of the inner optimiser, above 0; of learners that take inner steps.
      steps: inner steps in training, 0 or more; of learners that take some.
      test_steps: inner steps at test, alike.
      pixels: width and height of the images; not of Omniglot and the glyphs.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: a number is out of range, or the algorithm, the network or the data set has no
        such setting.
    """
    check_instance(recipe, Recipe, "recipe", "a metajax.recipes.Recipe")
    check_optional_integers(1, iterations=iterations, meta_batch=meta_batch, filters=filters)
    check_optional_integers(1, ways=ways, shots=shots, queries=queries, pixels=pixels)
    check_optional_integers(
        1, train_ways=train_ways, train_shots=train_shots, train_queries=train_queries
    )
    check_optional_integers(0, steps=steps, test_steps=test_steps)
    rates = {"outer_rate": outer_rate, "inner_rate": inner_rate}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0, or None", **given)
    training, testing = recipe.training, recipe.testing
    _check_there(training, inner_rate=inner_rate, steps=steps, test_steps=test_steps)
    if filters is not None and training.network.architecture == "perceptron":
        raise ValueError(f"filters={filters}; expected None: the network is a perceptron")
    drawn = _replaced(testing.drawing, ways=ways, shots=shots, queries=queries)
    of_training = {"ways": train_ways, "shots": train_shots, "queries": train_queries}
    for name, asked in of_training.items():
        if asked is None and getattr(training.drawing, name) == getattr(testing.drawing, name):
            of_training[name] = getattr(drawn, name)
    if iterations is not None:
        training = training.scaled(iterations / training.iterations)
    inner = training.inner
    training = _replaced(
        training,
        iterations=iterations,
        meta_batch=meta_batch,
        pixels=pixels,
        drawing=_replaced(training.drawing, **of_training),
        network=_replaced(training.network, filters=filters),
        outer=_replaced(training.outer, rate=outer_rate),
        inner=inner and _replaced(inner, rate=inner_rate, steps=steps),
    )
    testing = _replaced(testing, drawing=drawn, steps=test_steps)
    if (training, testing) == (recipe.training, recipe.testing):
        return recipe
    return dataclasses.replace(
        recipe,
        training=training,
        testing=testing,
        source=f"{recipe.source}; changed",
        published=None,
        transductive=None,
        reproductions=(),
    )


def _check_there(training: Training, **given: float | None) -> None:
    """Raises where an inner loop's setting is given of a learner that has none."""
    for name, value in given.items():
        if value is not None and training.inner is None:
            raise ValueError(
                f"{name}={value}; expected None: {training.algorithm} compares, and takes no inner "
                "steps"
            )


def _replaced(record: Any, **changes: Any) -> Any:
    """The record with what is not None in its place."""
    given = {name: change for name, change in changes.items() if change is not None}
    return dataclasses.replace(record, **given)
