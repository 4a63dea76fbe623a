"""Recipes as JSON, by name, and with a few numbers changed."""

import json

import pytest

from metajax.recipes import RECIPES, Recipe, as_json, changed, find, from_json, named


def test_every_recipe_is_the_same_after_json() -> None:
    for recipe in RECIPES:
        assert from_json(json.loads(json.dumps(as_json(recipe)))) == recipe


def test_a_field_that_an_older_version_did_not_have_is_its_default() -> None:
    record = as_json(find("maml", "glyphs"))
    del record["training"]["normalize"], record["variant"], record["training"]["inner"]["adapts"]
    assert from_json(record) == find("maml", "glyphs")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.outer.rate", "fast", "rate='fast'; expected a finite number above 0"),
        ("training.outer.rte", 0.1, "record.training.outer has 'rte', which Outer has not"),
        (
            "training.drawing",
            [],
            r"record.training.drawing is \[\]; expected the fields of Drawing",
        ),
        ("training.network.widths", 3, "record.training.network.widths is 3; expected a list"),
        ("training.inner.steps", 1.5, "steps=1.5; expected an integer of 0 or more"),
        ("reproductions", [3], r"record.reproductions\[0\] is 3; expected the fields of Number"),
        ("training.algorithm", "__import__('os')", 'expected "anil", '),
    ],
)
def test_what_is_wrong_in_json_is_named(path: str, value: object, said: str) -> None:
    record = as_json(find("maml", "glyphs"))
    inner = record
    *parts, last = path.split(".")
    for part in parts:
        inner = inner[part]
    inner[last] = value
    with pytest.raises((TypeError, ValueError), match=said):
        from_json(record)


def test_what_is_missing_in_json_is_named() -> None:
    record = as_json(find("maml", "glyphs"))
    del record["testing"]["drawing"]["shots"]
    with pytest.raises(ValueError, match=r"record\.testing\.drawing lacks 'shots'; expected a who"):
        from_json(record)


def test_every_recipe_has_its_name() -> None:
    for recipe in RECIPES:
        assert named(recipe.name) is recipe
    assert named("maml-glyphs") is find("maml", "glyphs")


def test_names_that_are_none_have_a_hint() -> None:
    with pytest.raises(ValueError, match=r"'mmal-glyphs-5w1s'; did you mean 'maml-glyphs-5w1s' or"):
        named("mmal-glyphs-5w1s")
    with pytest.raises(ValueError, match="begins the names of 4 recipes; expected one of 'maml-om"):
        named("maml-omniglot")
    with pytest.raises(ValueError, match="called ''; expected algorithm-data-ways-shots, such as"):
        named("")


def test_a_training_keeps_to_its_test() -> None:
    maml = changed(find("maml", "glyphs"), ways=3, shots=2, queries=4)
    assert maml.name == "maml-glyphs-3w2s"
    trained, tested = maml.training.drawing, maml.testing.drawing
    assert (trained.ways, trained.shots, trained.queries) == (3, 2, 5)  # It had 5 of 15.
    assert (tested.ways, tested.shots, tested.queries) == (3, 2, 4)
    apart = changed(named("prototypical-glyphs"), ways=3, train_queries=2)
    assert (apart.training.drawing.ways, apart.testing.drawing.ways) == (30, 3)
    assert apart.training.drawing.queries == 2


def test_iterations_stretch_the_schedule() -> None:
    recipe = next(each for each in RECIPES if each.training.outer.every is not None)
    half = recipe.training.iterations // 2
    shorter = changed(recipe, iterations=half).training
    assert shorter.iterations == half
    assert shorter.outer.every == round(recipe.training.outer.every / 2)
    assert changed(recipe, iterations=7).training.iterations == 7


def test_what_was_published_is_of_the_recipe_alone() -> None:
    published = find("maml", "omniglot", ways=20, shots=1)
    assert changed(published) is published
    assert changed(published, iterations=60_000) is published
    other = changed(published, filters=8, outer_rate=0.01, inner_rate=0.2, steps=2, test_steps=4)
    assert (other.published, other.transductive, other.reproductions) == (None, None, ())
    assert other.source == f"{published.source}; changed"
    training = other.training
    assert training.inner is not None
    assert (training.network.filters, training.outer.rate) == (8, 0.01)
    assert (training.inner.rate, training.inner.steps, other.testing.steps) == (0.2, 2, 4)


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        (named("ridge_head"), {"inner_rate": 0.1}, "inner_rate=0.1; expected None: ridge_head com"),
        (named("ridge_head"), {"test_steps": 1}, "test_steps=1; expected None: ridge_head"),
        (named("maml-glyphs"), {"pixels": 84}, "pixels=84; expected None"),
        (named("maml-sinusoids-5s"), {"filters": 8}, "filters=8; expected None: the network is a"),
        (named("maml-glyphs"), {"train_ways": 6}, "training of 6 ways and testing of 5"),
        (named("maml-glyphs"), {"iterations": 0}, "iterations=0; expected an integer of 1"),
    ],
)
def test_changes_that_a_recipe_does_not_have(recipe: Recipe, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        changed(recipe, **changes)
