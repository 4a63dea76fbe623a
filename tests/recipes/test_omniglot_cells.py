"""The Omniglot recipes, beside their numbers typed a second time, from papers and authors' code."""

import dataclasses

import pytest

from metajax.recipes import RECIPES, Recipe, find
from metajax.recipes.tables import omniglot

CELLS = ((5, 1), (5, 5), (20, 1), (20, 5))
# Published, and its interval.
PUBLISHED = {
    "maml": ((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
    "fomaml": ((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
    "reptile": ((95.39, 0.09), (98.90, 0.10), (88.14, 0.15), (96.65, 0.33)),
    "prototypical": ((98.8, None), (99.7, None), (96.0, None), (98.9, None)),
    "relation": ((99.6, 0.2), (99.8, 0.1), (97.6, 0.2), (99.1, 0.1)),
    "matching": ((98.1, None), (98.9, None), (93.8, None), (98.5, None)),
    "matching-bounded": ((98.1, None), (98.9, None), (93.8, None), (98.5, None)),
}
TRANSDUCTIVE = ((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32))
REPRODUCED = {
    "maml": ([99.1], [], [91.6, 94.46], []),
    "prototypical": ([98.4], [99.6], [94.9, 95.1], [98.6]),
    "matching-bounded": ([92.0], [93.2], [75.6], [77.8]),
}
# Ways, shots and queries a class in training; queries a class and episodes at test.
DRAWN = {
    "maml": ((5, 1, 1), (5, 5, 5), (20, 1, 1), (20, 5, 5)),
    "fomaml": ((5, 1, 1), (5, 5, 5), (20, 1, 1), (20, 5, 5)),
    "reptile": ((5, 10, 1), (5, 10, 1), (20, 10, 1), (20, 10, 1)),
    "prototypical": ((60, 1, 5), (60, 5, 5), (60, 1, 5), (60, 5, 5)),
    "relation": ((5, 1, 19), (5, 5, 15), (20, 1, 10), (20, 5, 5)),
    "matching": ((20, 1, 5), (20, 5, 5), (20, 1, 5), (20, 5, 5)),
    "matching-bounded": ((20, 1, 5), (20, 5, 5), (20, 1, 5), (20, 5, 5)),
    "proto_maml": ((5, 1, 5), (5, 5, 5), (20, 1, 5), (20, 5, 5)),
    "fo_proto_maml": ((5, 1, 5), (5, 5, 5), (20, 1, 5), (20, 5, 5)),
}
TESTED = {
    "maml": ((1, 5, 1, 5), 600),
    "fomaml": ((1, 5, 1, 5), 600),
    "reptile": ((1, 1, 1, 1), 10_000),
    "prototypical": ((15, 15, 15, 15), 1_000),
    "relation": ((1, 5, 1, 5), 10_000),
    "matching": ((15, 15, 15, 15), 1_000),
    "matching-bounded": ((15, 15, 15, 15), 1_000),
    "proto_maml": ((15, 15, 15, 15), 1_000),
    "fo_proto_maml": ((15, 15, 15, 15), 1_000),
}
# Iterations, tasks of each, and the outer rate.
OUTER = {
    "maml": ((60_000, 32), (60_000, 32), (60_000, 16), (60_000, 16), 1e-3),
    "fomaml": ((60_000, 32), (60_000, 32), (60_000, 16), (60_000, 16), 1e-3),
    "reptile": ((100_000, 5), (100_000, 5), (200_000, 5), (200_000, 5), 1.0),
    "prototypical": (*((20_000, 1),) * 4, 1e-3),
    "relation": (*((1_000_000, 1),) * 4, 1e-3),
    "matching": (*((40_000, 1),) * 4, 1e-3),
    "matching-bounded": (*((40_000, 1),) * 4, 1e-3),
    "proto_maml": (*((20_000, 4),) * 4, 1e-3),
    "fo_proto_maml": (*((20_000, 4),) * 4, 1e-3),
}
SCHEDULES = {
    "maml": ("adam", "constant", None, None, False),
    "fomaml": ("adam", "constant", None, None, False),
    "reptile": ("sgd", "linear", None, None, False),
    "prototypical": ("adam", "steps", 2_000, None, False),
    "relation": ("adam", "steps", 100_000, 0.5, True),
}
# Rate on the mean loss, steps in training and at test, support items a step in both.
INNER = {
    "maml": ((2.0, 1, 3), (2.0, 1, 3), (2.0, 5, 5), (2.0, 5, 5)),
    "fomaml": ((2.0, 1, 3), (2.0, 1, 3), (2.0, 5, 5), (2.0, 5, 5)),
    "reptile": ((1e-3, 5, 50), (1e-3, 5, 50), (5e-4, 10, 50), (5e-4, 10, 50)),
}
BATCHES = ((10, 5), (10, 5), (20, 10), (20, 10))
# The split's protocol, the part that is trained on, turns in training and at test.
SPLITS = {
    "maml": ("random", "train", "tasks", "tasks"),
    "fomaml": ("random", "train", "tasks", "tasks"),
    "reptile": ("random", "train_and_validation", "classes", "none"),
    "prototypical": ("vinyals", "train_and_validation", "classes", "classes"),
    "relation": ("random", "train_and_validation", "episode", "episode"),
    "matching": ("vinyals", "train_and_validation", "classes", "classes"),
    "matching-bounded": ("vinyals", "train_and_validation", "classes", "classes"),
    "proto_maml": ("vinyals", "train_and_validation", "classes", "classes"),
    "fo_proto_maml": ("vinyals", "train_and_validation", "classes", "classes"),
}
# In training and at test.
BATCHING = {
    "maml": ("separate", "separate"),
    "fomaml": ("separate", "separate"),
    "reptile": ("separate", "single"),
    "prototypical": ("joint", "joint"),
    "relation": ("separate", "separate"),
    "matching": ("joint", "joint"),
    "matching-bounded": ("joint", "joint"),
    "proto_maml": ("support", "support"),
    "fo_proto_maml": ("support", "support"),
}
# Architecture, features, scale beside the offset, epsilon, where kernels, heads and biases begin.
XAVIER, LECUN = "xavier_uniform", "lecun_normal"
NETWORKS = {
    "maml": ("strided", "mean", False, 1e-3, XAVIER, "normal(1)", "zeros"),
    "fomaml": ("strided", "mean", False, 1e-3, XAVIER, "normal(1)", "zeros"),
    "reptile": ("strided", "flatten", True, 1e-3, XAVIER, XAVIER, "zeros"),
    "prototypical": (
        *("embedding", "mean", True, 1e-5),
        *("variance_scaling(1/3, fan_in, uniform)", LECUN, "zeros"),
    ),
    "relation": (
        *("relation", "mean", True, 1e-5),
        *("variance_scaling(2, fan_out, normal)", "normal(0.01)", "ones"),
    ),
    "matching": ("embedding", "mean", True, 1e-5, LECUN, LECUN, "zeros"),
    "matching-bounded": ("embedding", "mean", True, 1e-5, LECUN, LECUN, "zeros"),
    "proto_maml": ("embedding", "mean", True, 1e-5, LECUN, LECUN, "zeros"),
    "fo_proto_maml": ("embedding", "mean", True, 1e-5, LECUN, LECUN, "zeros"),
}
GRADIENT = ("maml", "fomaml")
every_cell = pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in DRAWN for number in range(4)]
)


def recipe_of(name: str, number: int) -> Recipe:
    algorithm, _, variant = name.partition("-")
    ways, shots = CELLS[number]
    return find(algorithm, "omniglot", ways=ways, shots=shots, variant=variant)


def test_there_are_no_others():
    cells = {recipe_of(name, number).name for name in DRAWN for number in range(4)}
    cells |= {recipe_of(f"{name}-tuned", number).name for name in GRADIENT for number in range(4)}
    assert cells == {recipe.name for recipe in omniglot.RECIPES}
    assert cells == {recipe.name for recipe in RECIPES if recipe.training.data == "omniglot"}


@pytest.mark.parametrize("algorithm", GRADIENT)
def test_what_learns_faster_differs_in_what_it_says(algorithm):
    for number in range(4):
        tuned, published = recipe_of(f"{algorithm}-tuned", number), recipe_of(algorithm, number)
        assert tuned.testing == published.testing
        assert tuned.published == published.published
        training = published.training
        network = dataclasses.replace(training.network, epsilon=1e-5, head_kernel_init=LECUN)
        assert tuned.training == dataclasses.replace(
            training,
            network=network,
            inner=dataclasses.replace(training.inner, rate=0.4),
            outer=dataclasses.replace(training.outer, rate=3e-3, schedule="cosine"),
        )


@every_cell
def test_numbers(name, number):
    recipe = recipe_of(name, number)
    published = recipe.published
    if name not in PUBLISHED:
        assert published is None
    else:
        assert published is not None
        assert (published.value, published.interval) == PUBLISHED[name][number]
    together = recipe.transductive
    if name == "reptile":
        assert together is not None
        assert (together.value, together.interval) == TRANSDUCTIVE[number]
    else:
        assert together is None
    again = REPRODUCED.get(name, ([],) * 4)[number]
    assert [each.value for each in recipe.reproductions] == again


@every_cell
def test_episodes(name, number):
    recipe = recipe_of(name, number)
    training, testing = recipe.training, recipe.testing
    drawn = training.drawing
    assert (drawn.ways, drawn.shots, drawn.queries) == DRAWN[name][number]
    queries, episodes = TESTED[name]
    assert (testing.drawing.queries, testing.episodes) == (queries[number], episodes)
    assert (testing.drawing.ways, testing.drawing.shots) == CELLS[number]
    protocol, part, turns, turns_at_test = SPLITS[name]
    assert (drawn.split.protocol, drawn.split.part, drawn.rotations) == (protocol, part, turns)
    assert (testing.drawing.split.protocol, testing.drawing.split.part) == (protocol, "test")
    assert testing.drawing.rotations == turns_at_test
    assert drawn.split.seed == testing.drawing.split.seed == 0
    assert (training.query_batching, testing.query_batching) == BATCHING[name]


@every_cell
def test_outer_loop(name, number):
    training = recipe_of(name, number).training
    outer, rows = training.outer, OUTER[name]
    assert (training.iterations, training.meta_batch) == rows[number]
    assert outer.rate == rows[4]
    usual = ("adam", "cosine", None, None, False)
    found = (outer.optimizer, outer.schedule, outer.every, outer.clip, outer.clip_modules)
    assert found == SCHEDULES.get(name, usual)
    assert outer.factor == 0.5
    assert (outer.clip_values, outer.weight_decay) == (None, 0.0)


@every_cell
def test_inner_loop(name, number):
    recipe = recipe_of(name, number)
    inner, testing = recipe.training.inner, recipe.testing
    if name not in INNER:
        assert (inner is None) == ("proto_maml" not in name)
        if inner is not None:
            # Chosen here, after Meta-Dataset's best 0.0199.
            assert (inner.rate, inner.steps, testing.steps) == (0.02, 3, 5)
            assert (inner.adapts, inner.optimizer) == ("but statistics", "sgd")
        return
    assert inner is not None
    assert (inner.rate, inner.steps, testing.steps) == INNER[name][number]
    if name == "reptile":
        assert (inner.batch_size, testing.batch_size) == BATCHES[number]
        # 0.999 a step of theirs, five tasks of which come one after another.
        assert (inner.optimizer, inner.carried, inner.adapts) == ("adam", "replaced", "all")
        assert inner.decay == pytest.approx(0.999**5, abs=1e-4)
    else:
        assert (inner.batch_size, testing.batch_size) == (None, None)
        assert (inner.optimizer, inner.adapts) == ("sgd", "but statistics")


@every_cell
def test_networks(name, number):
    training = recipe_of(name, number).training
    network = training.network
    assert NETWORKS[name] == (
        network.architecture,
        network.features,
        network.use_scale,
        network.epsilon,
        network.kernel_init,
        network.head_kernel_init,
        network.head_bias_init,
    )
    assert (network.filters, network.padding) == (64, "SAME")
    assert training.normalize == ("support" if name == "matching" else "both")
    assert (training.temperature, training.full_context, training.pixels) == (None, "none", None)
