"""Recipes as records: what is wrong is refused where it is written, and what is right is data."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import metajax as mj
from metajax.recipes import (
    ALGORITHMS,
    DATA_SETS,
    RECIPES,
    Drawing,
    Inner,
    Network,
    Number,
    Outer,
    Recipe,
    Split,
    Testing,
    Training,
    find,
)
from metajax.recipes.records import BY_GRADIENT, OF_FIXED_WAYS

MAML = find("maml", "omniglot", ways=5, shots=1)
PROTOTYPICAL = find("prototypical", "omniglot", ways=5, shots=1)
RELATION = find("relation", "omniglot", ways=5, shots=1)
MATCHING = find("matching", "omniglot", ways=5, shots=1)
ANIL = find("anil", "glyphs")
TWENTY = find("maml", "omniglot", ways=20, shots=1)
TRAIN = Split("train")


def training(recipe: Recipe, **changes: Any) -> Training:
    return dataclasses.replace(recipe.training, **changes)


# What is wrong

WRONG = (
    (lambda: Network("convolutional"), 'architecture=\'convolutional\'; expected "strided", "max'),
    (lambda: Network("strided", filters=0), "filters=0; expected an integer of 1 or more"),
    (lambda: Network("strided", features="max"), 'features=\'max\'; expected "mean" or "flat'),
    (lambda: Network("max_pool", pool_padding="same"), "pool_padding='same'; expected \"SAME\""),
    (lambda: Network("relation", padding="FULL"), "padding='FULL'; expected \"SAME\" or"),
    (lambda: Network("strided", use_scale=1), "use_scale=1; expected True or False"),
    (lambda: Network("strided", epsilon=0.0), "epsilon=0.0; expected a finite number above 0"),
    (lambda: Network("strided", kernel_init="he"), "kernel_init='he'; expected \"lecun_normal\""),
    (lambda: Network("strided", head_bias_init="2"), "head_bias_init='2'; expected \"lecun"),
    (lambda: Network("perceptron"), r"widths=\(\); expected widths for a perceptron, and"),
    (lambda: Network("strided", widths=(40,)), r"widths=\(40,\); expected widths for a perc"),
    (lambda: Network("perceptron", widths=(40, 0)), r"widths\[1\]=0; expected an integer of 1"),
    (lambda: Network("perceptron", widths=40), "widths is 40; expected a tuple of integers"),
    (lambda: Network("perceptron", widths=[40]), r"widths is \[40\]; expected a tuple of int"),
    (
        lambda: Network("perceptron", widths=(40,), head_kernel_init="ones"),
        "head_kernel_init='ones' of a perceptron; expected a truncated normal",
    ),
    (lambda: Inner(0.0, 1), "rate=0.0; expected a finite number above 0"),
    (lambda: Inner(float("inf"), 1), "rate=inf; expected a finite number above 0"),
    (lambda: Inner(0.1, -1), "steps=-1; expected an integer of 0 or more"),
    (lambda: Inner(0.1, 1.0), "steps=1.0; expected an integer of 0 or more"),
    (lambda: Inner(0.1, 1, "adamw"), 'optimizer=\'adamw\'; expected "sgd" or "adam"'),
    (lambda: Inner(0.1, 1, batch_size=0), "batch_size=0; expected an integer of 1 or more, or"),
    (lambda: Inner(0.1, 1, decay=1.0), r"decay=1.0; expected a number in \(0, 1\)"),
    (lambda: Inner(0.1, 1, carried="mean"), 'carried=\'mean\'; expected "learned" or "repl'),
    (lambda: Inner(0.1, 1, adapts="head"), 'adapts=\'head\'; expected "all" or "but stat'),
    (lambda: Outer("0.1"), "rate='0.1'; expected a finite number above 0"),
    (lambda: Outer(0.1, "rmsprop"), 'optimizer=\'rmsprop\'; expected "adam" or "sgd"'),
    (lambda: Outer(0.1, schedule="step"), 'schedule=\'step\'; expected "constant", "cosine'),
    (lambda: Outer(0.1, schedule="steps"), "every=None; expected every=, the iterations until"),
    (lambda: Outer(0.1, every=5), "schedule='constant', every=5; expected every=, the iterat"),
    (lambda: Outer(0.1, factor=2.0), r"factor=2.0; expected a number in \(0, 1\)"),
    (lambda: Outer(0.1, clip=0.0), "clip=0.0; expected a finite number above 0"),
    (lambda: Outer(0.1, clip_values=-1.0), "clip_values=-1.0; expected a finite number above"),
    (lambda: Outer(0.1, clip_modules=True), "clip=None; expected the norm to clip at"),
    (lambda: Outer(0.1, weight_decay=-0.1), "weight_decay=-0.1; expected a number, 0 or more"),
    (lambda: Split(0), "part=0; expected a string"),
    (lambda: Split("train", seed=-1), "seed=-1; expected an integer of 0 or more"),
    (lambda: Drawing("train", 5, 1, 5), "split is 'train'; expected a Split"),
    (lambda: Drawing(TRAIN, 0, 1, 5), "ways=0; expected an integer of 1 or more"),
    (lambda: Drawing(TRAIN, 5, 1, 0), "queries=0; expected an integer of 1 or more"),
    (lambda: Drawing(TRAIN, 5, 1, 5, "quarters"), "rotations='quarters'; expected \"none\", "),
    (lambda: Drawing(TRAIN, 5, 1, 5, across_sources=0), "across_sources=0; expected True or"),
    (lambda: training(MAML, algorithm="mamml"), 'algorithm=\'mamml\'; expected "anil", "boil"'),
    (lambda: training(MAML, data="mnist"), 'data=\'mnist\'; expected "cifar_fs", "cub"'),
    (lambda: training(MAML, drawing=TRAIN), r"drawing is Split\(part='train'.*; expected a Dra"),
    (lambda: training(MAML, network=None), "network is None; expected a Network"),
    (lambda: training(MAML, outer=1e-3), "outer is 0.001; expected an Outer"),
    (lambda: training(MAML, inner=None), "inner is None; expected an Inner"),
    (lambda: training(MAML, iterations=0), "iterations=0; expected an integer of 1 or more"),
    (lambda: training(MAML, meta_batch=0), "meta_batch=0; expected an integer of 1 or more"),
    (lambda: training(MAML, query_batching="all"), "query_batching='all'; expected \"separate"),
    (lambda: training(MAML, pixels=0), "pixels=0; expected an integer of 1 or more, or None"),
    (lambda: training(PROTOTYPICAL, inner=Inner(0.1, 1)), "; expected None: prototypical comp"),
    (
        lambda: training(MAML, network=RELATION.training.network),
        "architecture='relation' of maml; expected 'max_pool' or 'perceptron' or 'strided'",
    ),
    (
        lambda: training(RELATION, network=Network("embedding")),
        "architecture='embedding' of relation; expected 'relation'",
    ),
    (
        lambda: training(PROTOTYPICAL, network=Network("strided")),
        "architecture='strided' of prototypical; expected 'embedding'",
    ),
    (
        lambda: training(ANIL, network=Network("strided")),
        "head_kernel_init='lecun_normal' of anil; expected a truncated normal",
    ),
    (
        lambda: training(ANIL, inner=Inner(0.1, 1, adapts="but statistics")),
        "adapts='but statistics' of anil; expected 'all'",
    ),
    (
        lambda: training(MAML, algorithm="meta_sgd", inner=Inner(0.1, 1, "adam")),
        "optimizer='adam' of meta_sgd; expected 'sgd'",
    ),
    (
        lambda: training(MAML, inner=Inner(0.1, 1, "adam", carried="replaced")),
        "carried='replaced' of maml; expected 'learned'",
    ),
    (
        lambda: training(MAML, inner=Inner(0.1, 1, batch_size=5)),
        "batch_size=5 of maml; expected None: it is Reptile's",
    ),
    (
        lambda: dataclasses.replace(MAML, testing=dataclasses.replace(MAML.testing, batch_size=5)),
        "batch_size=5 of maml; expected None: it is Reptile's",
    ),
    (
        lambda: training(MAML, outer=Outer(0.1, clip=1.0, clip_modules=True)),
        "clip_modules=True of maml; expected a relation network, which has two modules",
    ),
    (
        lambda: training(MAML, temperature=0.1),
        "temperature=0.1; expected None: it is of matching networks alone, and this is maml",
    ),
    (lambda: training(RELATION, normalize="support"), "normalize='support'; expected 'both': it"),
    (lambda: training(RELATION, full_context="zeros"), "full_context='zeros'; expected 'none'"),
    (lambda: Network("strided", pool_first=True), "pool_first=True; expected False: it is of max"),
    (lambda: Inner(0.1, 1, decay=0.5), "decay=0.5; expected 0.999: it is of optimizer='adam'"),
    (lambda: Outer(0.1, factor=0.3), "factor=0.3; expected 0.5: it is of schedule='steps'"),
    (lambda: Split("train", "vinyals", seed=3), "seed=3; expected 0: it is of protocol='random'"),
    (lambda: training(MAML, pixels=14), "pixels=14; expected None: it is of data sets whose"),
    (
        lambda: dataclasses.replace(MAML, testing=PROTOTYPICAL.testing),
        "expected parts of one split: those of another overlap",
    ),
    (lambda: training(MATCHING, normalize="query"), "normalize='query'; expected \"both\" or"),
    (lambda: training(MATCHING, temperature=0.0), "temperature=0.0; expected a number above 0"),
    (lambda: Testing(TRAIN, 600), "drawing is Split.*; expected a Drawing"),
    (lambda: Testing(MAML.testing.drawing, 1), "episodes=1; expected an integer of 2 or more"),
    (lambda: Testing(MAML.testing.drawing, 9, steps=-1), "steps=-1; expected an integer of 0"),
    (lambda: Number(101.0, "us"), r"value=101.0; expected a number in \[0, 100\]"),
    (lambda: Number(98.7, "us", -0.4), "interval=-0.4; expected a number, 0 or more"),
    (lambda: Number(98.7, None), "source=None; expected a string"),
    (
        lambda: dataclasses.replace(
            MAML, testing=find("maml", "omniglot", ways=20, shots=1).testing
        ),
        "training of 5 ways and testing of 20; expected as many: maml has an output a way",
    ),
    (
        lambda: dataclasses.replace(
            PROTOTYPICAL, testing=dataclasses.replace(PROTOTYPICAL.testing, steps=5)
        ),
        "steps=5 at test; expected 0: prototypical compares",
    ),
    (lambda: dataclasses.replace(MAML, training=MAML), "training is Recipe.*; expected a Train"),
    (lambda: dataclasses.replace(MAML, testing=None), "testing is None; expected a Testing"),
    (lambda: dataclasses.replace(MAML, published=98.7), "published is 98.7; expected a Number"),
    (lambda: dataclasses.replace(MAML, transductive=1), "transductive is 1; expected a Number"),
    (
        lambda: dataclasses.replace(MAML, reproductions=MAML.published),
        "reproductions is Number.*; expected a tuple of Number",
    ),
    (lambda: dataclasses.replace(MAML, reproductions=(1,)), r"reproductions\[0\] is 1; expec"),
)


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_what_is_wrong_is_refused(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


# What is right


def test_every_name_is_of_one_recipe():
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names)
    assert MAML.name == "maml-omniglot-5w1s"
    assert find("matching", "omniglot", ways=20, shots=5, variant="bounded").name == (
        "matching-bounded-omniglot-20w5s"
    )
    assert find("maml", "sinusoids", shots=10).name == "maml-sinusoids-10s"


def test_every_algorithm_and_data_set_has_a_recipe():
    assert {recipe.training.algorithm for recipe in RECIPES} == set(ALGORITHMS)
    assert {recipe.training.data for recipe in RECIPES} == set(DATA_SETS)
    assert set(OF_FIXED_WAYS) < set(BY_GRADIENT) < set(ALGORITHMS)


def test_recipes_are_json():
    for recipe in RECIPES:
        written = json.loads(json.dumps(dataclasses.asdict(recipe)))
        assert written["training"]["algorithm"] == recipe.training.algorithm
        assert written["testing"]["drawing"]["split"]["part"] == "test"
        assert written["training"]["iterations"] == recipe.training.iterations


def test_recipes_say_where_they_are_from():
    for recipe in RECIPES:
        assert recipe.source
        numbers = (recipe.published, recipe.transductive, *recipe.reproductions)
        assert all(number.source for number in numbers if number is not None)
        assert recipe.transductive is None or recipe.testing.query_batching == "single"


def test_recipes_are_trained_and_tested_on_other_parts_of_the_same_split():
    for recipe in RECIPES:
        trained, tested = recipe.training.drawing.split, recipe.testing.drawing.split
        assert trained.part in ("train", "train_and_validation")
        assert tested.part == "test"
        assert (trained.protocol, trained.seed) == (tested.protocol, tested.seed)


def test_records_are_frozen_and_equal_trainings_are_one():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MAML.source = "us"  # type: ignore[misc]
    assert len({hash(recipe) for recipe in RECIPES}) == len(RECIPES)
    twenty = find("prototypical", "omniglot", ways=20, shots=1)
    assert twenty.training == PROTOTYPICAL.training
    assert len({twenty.training, PROTOTYPICAL.training}) == 1
    assert twenty != PROTOTYPICAL
    assert MAML.training != find("fomaml", "omniglot", ways=5, shots=1).training


def test_numbers_as_they_are_printed():
    assert str(Number(98.7, "us", 0.4)) == "98.7 ± 0.4"
    assert str(Number(98.8, "us")) == "98.8"


def test_numbers_of_numpy_are_numbers():
    assert dataclasses.replace(MAML.training, iterations=np.int64(9)).iterations == 9
    assert Outer(np.float64(0.1)) == Outer(0.1)


# Fewer iterations


def test_scaled():
    assert MAML.training.scaled(1) == MAML.training
    assert MAML.training.scaled(0.1) == training(MAML, iterations=6_000)
    half = RELATION.training.scaled(0.5)
    assert (half.iterations, half.outer.every, half.outer.factor) == (500_000, 50_000, 0.5)
    assert half.outer.rate == RELATION.training.outer.rate
    least = RELATION.training.scaled(1e-9)
    assert (least.iterations, least.outer.every) == (1, 1)
    assert PROTOTYPICAL.training.scaled(2).iterations == 40_000


@pytest.mark.parametrize("factor", [0, -1.0, float("inf"), float("nan"), "0.1", None, True])
def test_scaled_by_no_number(factor):
    with pytest.raises((TypeError, ValueError), match=r"factor=.*; expected a finite number above"):
        MAML.training.scaled(factor)


# The one that is asked for


def test_find():
    for recipe in RECIPES:
        drawing, data = recipe.testing.drawing, recipe.training.data
        algorithm, variant = recipe.training.algorithm, recipe.variant
        cell = {"ways": drawing.ways, "shots": drawing.shots}
        assert find(algorithm, data, **cell, variant=variant) is recipe
    assert find("maml", "glyphs") is find("maml", "glyphs", ways=5, shots=1)
    assert mj.recipes.find is find


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("maml", "omniglot"), r"4 recipes for .*ways=None.*; expected one of maml-omniglot-5w1s,"),
        (
            ("maml", "omniglot", 5),
            "2 recipes for .*ways=5.*; expected one of maml-omniglot-5w1s, m",
        ),
        (
            ("maml", "omniglot", 7, 1),
            "0 recipes for .*ways=7.*; expected one of maml-omniglot-5w1s",
        ),
        (("anil", "omniglot", 5, 1), "0 recipes for algorithm='anil'.*; expected one of .*anil-gl"),
        (("mamml", "omniglot", 5, 1), 'algorithm=\'mamml\'; expected "anil", "boil"'),
        (("maml", "mnist", 5, 1), "data='mnist'; expected \"cifar_fs\""),
        (("maml", "omniglot", 0, 1), "ways=0; expected an integer of 1 or more, or None"),
        (("maml", "omniglot", 5, "1"), "shots='1'; expected an integer of 1 or more, or None"),
    ],
)
def test_what_is_not_there(asked, said):
    algorithm, data, ways, shots = (*asked, None, None)[:4]
    with pytest.raises((TypeError, ValueError), match=said):
        find(algorithm, data, ways=ways, shots=shots)


def test_variants_are_asked_for_by_name():
    bounded = find("matching", "omniglot", ways=5, shots=1, variant="bounded")
    assert bounded.training.normalize == "both"
    with pytest.raises(ValueError, match=r"variant='fce'; expected one of .*matching-bounded-omn"):
        find("matching", "omniglot", ways=5, shots=1, variant="fce")
    with pytest.raises(TypeError, match="variant=None; expected a string"):
        find("matching", "omniglot", variant=None)  # type: ignore[arg-type]
