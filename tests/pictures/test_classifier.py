"""The classifier: what is fitted, what is held out, and what is asked, each as it is promised."""

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pictures.picture_cases import SIDE, WIDTH, backbone, features, pictures
from scipy import special

import metajax as mj
from metajax.models.pretrained import Preprocessing
from metajax.pictures import FewShotClassifier, Look, Trained, fitting, heads
from metajax.pictures.encoders import encoder_of
from metajax.pictures.fitting import (
    calibrate_items,
    fit_items,
    folds_of,
    held_out_scores,
    keeping_threshold,
)
from metajax.pictures.heads import HEADS, Temperatures, head_of
from metajax.pictures.labels import check_same_kind, labels_of, shares_of
from metajax.pictures.likeness import most_similar
from metajax.pictures.names import names_of
from metajax.pictures.run_networks import RunNetwork

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
slow = pytest.mark.slow
by_head = pytest.mark.parametrize("head", ["ridge", *(pytest.param(h, marks=slow) for h in HEADS)])


def of_features(head: Any = "means", **given: Any) -> FewShotClassifier:
    return FewShotClassifier(network=None, head=head, **given)


def of_pictures(**given: Any) -> FewShotClassifier:
    return FewShotClassifier(**{"network": backbone(), "head": "means", "cache": False, **given})


def assert_equal_answers(one: FewShotClassifier, other: FewShotClassifier, X: Any) -> None:  # noqa: N803
    for ours, theirs in zip(one.answer(X), other.answer(X), strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.exact
@by_head
def test_what_is_added_is_as_if_it_had_been_fitted(head: str) -> None:
    items, labels = features()
    order = np.r_[0:30:2, 1:30:2]
    whole = of_features(head).fit(items[order], labels[order])
    grown = of_features(head).fit(items[:20:2], labels[:20:2])  # Two of the three classes.
    grown.add(items[20::2], labels[20::2]).add(items[1::2], labels[1::2])
    assert grown.calibration_ == whole.calibration_
    assert grown.names_ == whole.names_ == [f"#{row}" for row in range(30)]
    assert_equal_answers(grown, whole, items)


def test_the_order_of_pictures_does_not_matter() -> None:
    items, labels = features()
    order = np.random.default_rng(0).permutation(len(items))
    one, other = of_features().fit(items, labels), of_features().fit(items[order], labels[order])
    assert one.held_out_ == other.held_out_
    assert_allclose(one.calibration_.temperature, other.calibration_.temperature, rtol=1e-4)
    assert_allclose(one.predict_proba(items), other.predict_proba(items), atol=1e-5)
    assert_array_equal(order[other.answer(items).nearest], one.answer(items).nearest)


@pytest.mark.exact
def test_one_picture_is_answered_as_among_others() -> None:
    items, labels = features()
    classifier = of_features("ridge").fit(items, labels)
    alone = [classifier.predict_proba(items[row : row + 1]) for row in range(5)]
    assert_array_equal(np.concatenate(alone), classifier.predict_proba(items)[:5])


def test_answers_are_those_of_the_calibration() -> None:
    items, labels = features()
    classifier = of_features(kept=0.7).fit(items, labels)
    strangers = np.random.default_rng(1).normal(size=(20, WIDTH)).astype(np.float32)
    asked = np.concatenate([items, strangers])
    answers = classifier.answer(asked, nearest=2)
    head = head_of("means", WIDTH, 3, of_network=False)
    mean = jnp.asarray(items.mean(axis=0))
    targets = jnp.asarray(classifier.rows_)
    outputs = head.learner.predict(
        mean, head.learner.adapt(mean, mj.Examples(jnp.asarray(items), targets)), asked
    )
    expected = classifier.calibration_.answer(outputs)
    assert_allclose(answers.probabilities, expected.probabilities, atol=1e-5)
    assert_array_equal(answers.accepted, expected.accepted)
    assert 0 < answers.accepted[30:].mean() < answers.accepted[:30].mean()
    assert_array_equal(answers.likeliest, classifier.predict(asked))
    assert [*answers.labels[answers.accepted]] == [*answers.likeliest[answers.accepted]]
    assert {*answers.labels[~answers.accepted]} == {None}
    assert_array_equal(answers.nearest[:30, 0], np.arange(30))  # Each is most like itself.
    assert_allclose(answers.similarities[:30, 0], 1, rtol=1e-5)
    assert classifier.answer(items[:2], nearest=99).nearest.shape == (2, 30)
    assert classifier.answer(items[:2], nearest=0).nearest.shape == (2, 0)


@by_head
def test_what_is_held_out_has_no_influence(head: str) -> None:
    items, labels = features()
    rows = np.unique(labels, return_inverse=True)[1]
    folds = folds_of(items, rows)
    assert folds is not None
    made = head_of(head, WIDTH, 3, of_network=False)
    before = held_out_scores(made, items, rows, folds)
    spoilt = items.copy()
    spoilt[folds.asked[1][folds.counted[1]]] = np.nan
    after = held_out_scores(made, spoilt, rows, folds)
    assert np.isnan(after[1]).all()  # It is what is asked.
    asked = folds.weights[1] == 0
    rest = np.flatnonzero(~asked)
    alone = of_features(head, kept=None).fit(items[rest], labels[rest])
    scores = alone._live.task.scores(items[folds.asked[1]])
    assert_allclose(before[1], scores, rtol=2e-4, atol=2e-5)


def test_folds_hold_every_item_out_once_and_no_class() -> None:
    draw = np.random.default_rng(0)
    rows = draw.permutation(np.repeat([0, 1, 2, 3], [1, 2, 7, 25]))
    items = draw.normal(size=(len(rows), 3)).astype(np.float32)
    folds = folds_of(items, rows)
    assert folds is not None
    assert len(folds.weights) == 10
    assert_array_equal((folds.weights == 0).sum(axis=0), rows > 0)
    for weights, asked, counted in zip(*folds, strict=True):
        assert {*rows[weights > 0]} == {0, 1, 2, 3}
        assert_array_equal(np.sort(asked[counted]), np.flatnonzero(weights == 0))
        assert len({*asked}) == len(asked)
    order = draw.permutation(len(rows))
    again = folds_of(items[order], rows[order])
    assert again is not None
    assert_array_equal(again.weights, folds.weights[:, order])
    assert folds_of(items[:3], np.arange(3)) is None


def test_copies_of_a_picture_are_held_out_together() -> None:
    items = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    items[1], items[6] = items[0], items[4]
    folds = folds_of(items, np.array([0, 0, 0, 0, 1, 1, 1]))
    assert folds is not None
    held = folds.weights == 0
    assert_array_equal(held.sum(axis=0), 1)
    assert_array_equal(held[:, [0, 4]], held[:, [1, 6]])
    assert len(held) == 3
    assert folds_of(items[[0, 1, 4, 6]], np.array([0, 0, 1, 1])) is None  # One of each.


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.95, 0.999])
def test_a_threshold_keeps_its_share_and_is_the_highest(kept: float) -> None:
    scores = np.random.default_rng(0).normal(size=40)
    threshold = keeping_threshold(scores, kept)
    assert (scores >= threshold).mean() >= kept
    assert (scores > scores[scores >= threshold].min()).mean() < kept
    assert threshold not in scores or kept == 0.999  # Between two, where there are two.


def test_few_pictures_have_the_temperature_of_their_head_and_no_threshold() -> None:
    items, labels = features()
    one = of_features("ridge").fit(items[::10], labels[::10])
    assert (one.calibration_.temperature, one.calibration_.threshold) == (0.7, None)
    assert one.held_out_ is None
    assert one.answer(items).accepted.all()
    some = of_features("ridge").fit(items[::3], labels[::3])
    assert some.held_out_ is not None
    assert some.held_out_.items == 10
    assert some.calibration_.temperature != 0.9
    assert some.calibration_.threshold is None
    assert of_features(kept=None).fit(items, labels).calibration_.threshold is None


def test_the_mean_of_a_networks_few_features_is_taken_in_part() -> None:
    items = np.random.default_rng(0).normal(1.0, size=(6, WIDTH)).astype(np.float32)
    rows = np.repeat([0, 1, 2], 2)
    taken = {}
    for of_network in (False, True):
        head = head_of("means", WIDTH, 3, of_network=of_network)
        taken[of_network] = fit_items(head, items, rows, 3).arrays.params
    assert_allclose(taken[False], items.mean(axis=0), rtol=1e-5)
    assert_allclose(taken[True], items.sum(axis=0) / 16, rtol=1e-5)


def _likeliest(outputs: np.ndarray, targets: np.ndarray, before: Temperatures) -> float:
    """The same by trying all."""
    shifts = np.linspace(-2, 2, 4001)
    tried = []
    for shift in shifts:
        logs = special.log_softmax(outputs / (before.several * np.exp(shift)), axis=1)
        lost = -logs[np.arange(len(targets)), targets].sum()
        tried.append(lost + shift**2 / (2 * before.spread**2))
    return float(before.several * np.exp(shifts[np.argmin(tried)]))


@pytest.mark.parametrize("apart", [0.5, 8.0])  # Some are wrong, or none is.
def test_the_temperature_is_the_likeliest(apart: float) -> None:
    items, labels = features(apart=apart)
    rows = np.unique(labels, return_inverse=True)[1]
    head = head_of("ridge", WIDTH, 3, of_network=False)
    folds = folds_of(items, rows)
    assert folds is not None
    outputs = held_out_scores(head, items, rows, folds)[folds.counted].astype(np.float64)
    found, held = calibrate_items(head, items, rows, 3, None)
    assert held is not None
    assert (held.accuracy == 1) == (apart > 1)
    expected = _likeliest(outputs, rows[folds.asked][folds.counted], head.temperatures)
    assert_allclose(found.temperature, expected, rtol=2e-3)
    assert found.temperature > 0.3 * head.temperatures.several  # Where nothing is wrong, too.


def test_scores_that_say_nothing_leave_a_temperature() -> None:
    items, labels = features()
    shuffled = np.random.default_rng(0).normal(size=items.shape).astype(np.float32)
    classifier = of_features().fit(shuffled, labels)
    assert classifier.held_out_ is not None
    assert classifier.held_out_.accuracy < 0.6
    assert np.isfinite(classifier.calibration_.temperature)


@pytest.mark.parametrize("classes", [["a", "b", "c"], [3, -1, 2**40], [0.0, 1.0, 2.0]])
def test_labels_come_back_as_they_were(classes: list) -> None:
    items, labels = features()
    given = np.array(classes)[np.unique(labels, return_inverse=True)[1]]
    classifier = of_features().fit(items, given)
    assert classifier.classes_.tolist() == sorted(classes)
    assert classifier.predict(items).dtype == given.dtype
    assert classifier.score(items, given) > 0.9
    booleans = given == given[0]
    assert of_features().fit(items, booleans).predict(items).dtype == bool


def test_labels_that_were_not_fitted_are_warned_of() -> None:
    items, labels = features()
    classifier = of_features().fit(items[:20], labels[:20])
    with pytest.raises(ValueError, match="30 pictures and y 2 labels"):
        classifier.score(items, ["ant", "bee"])
    right = classifier.score(items[:20], labels[:20])
    with pytest.warns(RuntimeWarning, match=r"'cat': answers .* count as wrong; expected") as given:
        found = classifier.score(items, labels)
    assert given[0].filename == __file__
    assert_allclose(found, right * 20 / 30)
    weights = np.repeat([1.0, 0.0], [20, 10])
    with pytest.warns(RuntimeWarning, match="cat"):
        assert_allclose(classifier.score(items, labels, weights), right)


def test_no_picture_is_looked_at_twice() -> None:
    images, labels = pictures()
    seen: list[int] = []
    classifier = of_pictures(network=backbone(seen)).fit(images[:11], labels[:11])
    jax.effects_barrier()
    assert seen == [32]
    classifier.predict(images[:1])
    classifier.add(images[11:], labels[11:])
    classifier.predict_proba(images[:3])
    jax.effects_barrier()
    assert seen == [32, 1, 1, 8]
    assert classifier.items_.shape == (12, WIDTH)
    many = np.concatenate([images] * 4)
    classifier.predict(many)
    jax.effects_barrier()
    assert seen[4:] == [32, 32]


def test_a_folder_is_looked_at_once(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images, labels = pictures()
    paths = []
    for row, (picture, label) in enumerate(zip(images, labels, strict=True)):
        paths.append(tmp_path / str(label) / f"{row}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        image.fromarray(picture).save(paths[-1])
    seen: list[int] = []
    given = {"network": backbone(seen), "cache": tmp_path / "cache"}
    first = of_pictures(**given).fit(paths, labels)
    second = of_pictures(**given).fit(list(map(str, paths)), labels)
    jax.effects_barrier()
    assert seen == [12]
    arrays = of_pictures().fit(images, labels)
    assert_allclose(first.items_, arrays.items_, rtol=1e-5, atol=1e-6)
    assert_array_equal(first.items_, second.items_)
    assert first.names_[:2] == ["3/0.png", "3/1.png"]
    assert arrays.names_[:2] == ["#0", "#1"]
    assert first.thumbnails_ is not None
    assert len(first.thumbnails_) == 12
    assert_array_equal(first.predict([paths[5]]), [5])
    before = [*first.thumbnails_]
    first.add([paths[0]], [labels[0]])
    assert first.names_[-1] == "3/0.png (2)"
    assert first.thumbnails_ == [*before, before[0]]


def test_names_are_short_and_told_apart() -> None:
    assert names_of(["/x/a/1.png", "/y/a/1.png", "/z/a/1.png"], ["b/2.png"]) == [
        "a/1.png",
        "a/1.png (2)",
        "a/1.png (3)",
    ]
    assert names_of(["/x/a/\udcff.png"], [])[0].isprintable()


def test_inverted_pictures_are_those_of_the_other_ink() -> None:
    images, labels = pictures()
    one = of_pictures(invert=True).fit(images, labels)
    other = of_pictures().fit(255 - images, labels)
    assert_array_equal(one.items_, other.items_)
    assert one.look_ == Look(SIDE, 3, invert=True)
    assert_array_equal(one.predict_proba(images), other.predict_proba(255 - images))
    assert one.thumbnails_ != other.thumbnails_  # They are what people gave.


def test_a_learner_of_ones_own_is_a_head() -> None:
    images, labels = pictures()
    learner = mj.prototypical_network(mj.models.mlp((5,)))
    params = learner.init(jax.random.key(0), jnp.zeros((1, WIDTH)))
    classifier = of_pictures(head=Trained(learner, params)).fit(images, labels)
    support = mj.Examples(classifier.items_, jnp.asarray(classifier.rows_))
    scores = learner.predict(params, learner.adapt(params, support), classifier.items_)
    expected = jax.nn.softmax(scores[:, :3] / classifier.calibration_.temperature)
    assert_allclose(classifier.predict_proba(images), expected, atol=1e-5)
    assert classifier.calibration_.kind == "probability"


def test_a_head_of_few_outputs_says_how_many() -> None:
    items, labels = features()
    learner = mj.maml(mj.models.mlp((2,)), inner=optax.sgd(0.1), num_steps=1)
    head = Trained(learner, learner.init(jax.random.key(0), jnp.zeros((1, WIDTH))))
    classifier = of_features(head).fit(items[:20], labels[:20])
    assert classifier.predict_proba(items).shape == (30, 2)
    with pytest.raises(ValueError, match=r"3 classes, and .* tells 2 apart; expected 2"):
        classifier.add(items[20:], labels[20:])
    assert [*classifier.classes_] == ["ant", "bee"]  # As it was.


def tiny_run(name: str, filters: int | None) -> RunNetwork:
    """Without filters it is a perceptron, which is compiled sooner."""
    recipe = mj.recipes.named(name)
    if filters is None:
        network = mj.recipes.Network(
            "perceptron",
            widths=(4,),
            kernel_init="truncated_normal(0.01)",
            head_kernel_init="truncated_normal(0.01)",
        )
        training = dataclasses.replace(recipe.training, network=network)
        recipe = dataclasses.replace(recipe, training=training)
    else:
        recipe = mj.recipes.changed(recipe, filters=filters)
    learner = mj.recipes.build(recipe).tester
    params = learner.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    return RunNetwork(Look(28, 1), recipe, params)


@pytest.mark.parametrize(
    ("name", "filters", "shots"),
    [
        ("maml-glyphs-5w1s", None, 1),
        pytest.param("prototypical-glyphs-5w1s", 2, 4, marks=slow),
        pytest.param("maml-glyphs-5w1s", 2, 4, marks=slow),
        pytest.param("reptile-omniglot-5w5s", None, 4, marks=slow),
    ],
)
def test_a_run_answers_with_its_own_learner(name: str, filters: int | None, shots: int) -> None:
    glyphs = np.asarray(mj.data.glyphs("test", drawers=shots))[:3]
    images, labels = glyphs.reshape(-1, 28, 28, 1), np.repeat(["x", "y", "z"], shots)
    network = tiny_run(name, filters)
    classifier = FewShotClassifier(network, kept=None).fit(images, labels)
    learner = network.head(3).learner
    support = mj.Examples(jnp.asarray(images / 255, jnp.float32), jnp.asarray(classifier.rows_))
    task = learner.adapt(network.own, support)
    scores = learner.predict(network.own, task, support.inputs)[:, :3]
    scores /= classifier.calibration_.temperature
    assert_allclose(classifier.predict_proba(images), jax.nn.softmax(scores), atol=1e-5)
    exported = jax.nn.softmax(classifier.export().call(images))
    assert_allclose(exported, classifier.predict_proba(images), atol=1e-5)
    assert (classifier.held_out_ is None) == (shots == 1)
    assert classifier.items_.dtype == np.uint8
    gone = copy.copy(classifier).set_params(network="a folder that is gone")
    again = pickle.loads(pickle.dumps(gone))
    assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))
    with pytest.raises(ValueError, match="head='means', and network is a run"):
        FewShotClassifier(network, head="means").fit(images, labels)
    with pytest.raises(ValueError, match=r"side=32.* takes pictures of 28 pixels; expected"):
        FewShotClassifier(network, side=32).fit(images, labels)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"y": [1] * 12}, ValueError, "one class, .*1.*; expected two or more"),
        ({"y": [1, 2]}, ValueError, "12 pictures and y 2 labels; expected one label"),
        ({"network": "no/such"}, FileNotFoundError, "no folder; expected the name of a network"),
        ({"network": "."}, FileNotFoundError, "no run's folder"),
        ({"network": backbone(scale=np.nan)}, ValueError, "picture 0 of X are not finite"),
        ({"X": ["no/such.png"] * 12}, OSError, "12 of 12 pictures cannot be read"),
        ({"X": {"a": 1}}, TypeError, "expected several"),
    ],
)
def test_what_cannot_be_fitted(given: dict, error: type[Exception], says: str) -> None:
    images, labels = pictures()
    given = {"X": images, "y": labels, "network": backbone(), **given}
    with pytest.raises(error, match=says):
        of_pictures(network=given["network"]).fit(given["X"], given["y"])


def test_a_backbone_sees_the_side_that_is_asked_for_and_its_channels() -> None:
    colours = backbone()
    grey = dataclasses.replace(colours, preprocessing=Preprocessing(SIDE, (0.5,), (0.5,)))
    for network, side, expected in (
        (colours, None, Look(SIDE, 3, "pad")),
        (colours, 9, Look(9, 3, "pad")),
        (grey, None, Look(SIDE, 1, "pad")),
    ):
        encoder = encoder_of(network, side, "pad", False)
        assert encoder is not None
        assert encoder.look == expected


def test_a_part_of_a_network_is_refused() -> None:
    images, labels = pictures()
    whole = backbone()
    rest = mj.models.pretrained.Backbone("rest", whole.parts, None)
    with pytest.raises(ValueError, match="without a preprocessing; expected"):
        of_pictures(network=rest).fit(images, labels)


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        (["a", 1], TypeError, "y has the label 1; expected texts alone"),
        (np.array(["a", 1], object), TypeError, "y has the label 1; expected texts alone"),
        ([1.0, np.inf], ValueError, "y has numbers like inf"),
        ([1.0, 0.5], ValueError, "y has numbers like 0.5; expected labels of classes"),
        ([b"a", b"b"], TypeError, "S1; expected texts, integers or booleans"),
        (["a", "caf\udce9"], ValueError, r"'caf\\udce9', which is no Unicode: .* another name"),
        ([["a"], ["b"]], ValueError, r"shape \(2, 1\); expected \[n\] labels"),
    ],
)
def test_labels_that_are_none(labels: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        labels_of(labels)


@pytest.mark.parametrize(
    "weights", [[1.0, -0.5], [0.0, 0.0], [1.0], [1.0, np.nan], [[1.0], [1.0]], ["a", "b"], 1.0]
)
def test_weights_that_are_none(weights: Any) -> None:
    with pytest.raises(ValueError, match="expected 2 numbers of 0 or more, one a picture and not"):
        shares_of(weights, 2)


def test_settings_are_checked_again_where_more_is_added() -> None:
    items, labels = features()
    classifier = of_features().fit(items, labels)
    with pytest.raises(ValueError, match="kept=2"):
        classifier.set_params(kept=2.0).add(items, labels)


def test_what_was_fitted_may_change_afterwards() -> None:
    items, labels = features()
    given = items.copy()
    classifier = of_features().fit(given, labels)
    given[:] = 0
    assert_array_equal(classifier.items_, items)
    images = np.zeros((2, 28, 28, 1), np.uint8)
    kept = tiny_run("maml-glyphs-5w1s", None).items(images, False)
    images[:] = 1
    assert not kept.any()


def test_labels_of_another_kind_are_not_added() -> None:
    items, labels = features()
    classifier = of_features().fit(items, labels)
    with pytest.raises(ValueError, match=r"y has integers, .* are texts, .*; expected one kind"):
        classifier.add(items[:2], [1, 2])
    with pytest.raises(ValueError, match=r"int64, .* are of uint64: .* np.asarray\(y, 'uint64'\)"):
        check_same_kind(np.array([1]), np.array([1], np.uint64))
    classifier.add(items[:2], np.array(["dog", "dog"], object))
    assert "dog" in classifier.classes_


@pytest.mark.parametrize(("each", "judged"), [(9, False), (10, True)])
def test_a_threshold_takes_twenty_and_scores_of_the_head_s_own_kind(
    each: int, judged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two classes by a head with outputs for three."""
    rows = np.repeat([0, 1], each)
    items = np.arange(2.0 * each, dtype=np.float32)[:, None]
    scores = np.random.default_rng(0).normal(size=(2 * each, 3)) + 2 * np.eye(3)[rows]
    scores[:, 2] = 99

    def asked(head: Any, items: Any, rows: Any, folds: Any) -> np.ndarray:
        return scores[folds.asked]

    monkeypatch.setattr(fitting, "held_out_scores", asked)
    head = dataclasses.replace(head_of("means", 1, 3, of_network=False), kind="probability")
    found, held_out = calibrate_items(head, items, rows, 2, 0.8)
    assert held_out is not None
    assert held_out == (np.mean(scores[:, :2].argmax(axis=1) == rows), 2 * each)
    expected = _likeliest(scores[:, :2], rows, head.temperatures)
    assert_allclose(found.temperature, expected, rtol=2e-3)
    if not judged:
        assert (found.threshold, found.kept) == (None, None)
        return
    chances = jax.nn.softmax(scores[:, :2] / found.temperature).max(axis=1)
    assert_allclose(found.threshold, keeping_threshold(np.asarray(chances), 0.8), rtol=1e-4)
    assert (found.kind, found.kept) == ("probability", 0.8)


def test_the_most_similar_are_so_by_their_angle_from_the_mean() -> None:
    draw = np.random.default_rng(0)
    known, asked = (draw.integers(0, 256, (n, 2, 2, 1)).astype(np.uint8) for n in (9, 600))
    asked[-9:] = known
    apart = [x.reshape(-1, 4) - known.reshape(-1, 4).mean(axis=0) for x in (known, asked)]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in apart]
    cosines = units[1] @ units[0].T
    rows, found = most_similar(asked, known, 3)
    assert_array_equal(rows, np.argsort(-cosines, axis=1)[:, :3])
    assert_allclose(found, np.take_along_axis(cosines, rows, 1), atol=1e-5)
    same = most_similar(known[:1], known[[0, 1, 0, 2, 0]], 2)
    assert same[0].tolist() == [[0, 2]]  # Of equal ones the first.


def test_heads_see_directions_from_the_mean() -> None:
    items, _ = features()
    centre = items.mean(axis=0)
    seen = np.asarray(heads._centring().apply(centre, items))
    apart = items - centre
    assert_allclose(seen, apart / np.linalg.norm(apart, axis=1, keepdims=True), atol=1e-6)


def test_a_calibration_is_of_the_share_that_is_kept() -> None:
    items, labels = features(apart=1.5)
    rows = np.unique(labels, return_inverse=True)[1]
    head = head_of("means", WIDTH, 3, of_network=False)
    strict, lenient = (calibrate_items(head, items, rows, 3, kept)[0] for kept in (0.5, 0.95))
    assert strict.threshold is not None
    assert lenient.threshold is not None
    assert strict.threshold > lenient.threshold
    assert strict.temperature == lenient.temperature
    assert (strict.kept, strict.ways, strict.kind) == (0.5, 3, "logit")
