"""Recipes trained on a user's own folder of pictures."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metajax.data import image_classes
from metajax.recipes import Network, changed, named
from metajax.runs import Run, evaluate_run, load_run, own_classes, report_run, train_run
from metajax.runs.episodes import Part, episodes_of
from metajax.runs.own_classes import on_own_pictures

Image = pytest.importorskip("PIL.Image")

_GLYPHS = named("maml-glyphs-5w1s")
# It is compiled sooner than convolutions.
_PERCEPTRON = Network(
    "perceptron",
    widths=(4,),
    kernel_init="truncated_normal(0.01)",
    head_kernel_init="truncated_normal(0.01)",
)
RECIPE = changed(
    replace(_GLYPHS, training=replace(_GLYPHS.training, network=_PERCEPTRON)),
    iterations=2,
    ways=2,
    queries=2,
    train_queries=2,
    meta_batch=2,
    steps=1,
    test_steps=1,
)

# Ways that a part has if turned classes count, and has not if they do not.
TURNED: dict[Part, int] = {"train": 8, "validation": 3, "test": 3}


def pictures(folder: Path, classes: int = 10, each: int = 3) -> Path:
    draw = np.random.default_rng(0)
    for index in range(classes):
        (folder / f"class {index}").mkdir(parents=True)
        for item in range(each):
            pixels = draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class {index}" / f"{item}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("own")
    pictures(folder / "pictures")
    return train_run(
        RECIPE,
        folder / "run",
        pictures=folder / "pictures",
        validate_every=2,
        validation_episodes=2,
        progress=False,
    )


def test_own_classes_are_cut_by_the_seed(trained: Run) -> None:
    own = trained.classes
    assert own is not None
    assert (len(own.train), len(own.validation), len(own.test)) == (6, 2, 2)
    assert {*own.train, *own.validation, *own.test} == {f"class {i}" for i in range(10)}
    assert trained.shape == (28, 28, 1)
    assert "validation" in json.loads(trained.metrics.read_text())
    assert load_run(trained.folder).classes == own
    assert evaluate_run(trained, episodes=2).scores["accuracy"].shape == (2,)


def test_a_turned_class_is_none_of_its_own_at_test(trained: Run) -> None:
    assert trained.recipe == on_own_pictures(RECIPE)
    turning = changed(named("prototypical-glyphs"), queries=2, train_queries=2)
    assert turning.testing.drawing.rotations == "classes"
    own = on_own_pictures(turning)
    assert own.training == turning.training
    assert own.training.drawing.rotations == "classes"
    assert own.testing.drawing.rotations == "none"
    for part, ways in TURNED.items():
        recipe = changed(own, ways=ways, train_ways=ways)
        enough = pytest.raises(ValueError, match="ways") if part != "train" else nullcontext()
        with enough:
            episodes_of(recipe, part, classes=trained.classes, data_dir=None)


def test_what_others_published_is_not_of_own_pictures() -> None:
    recipe = on_own_pictures(named("prototypical-omniglot-5w1s"))
    assert (recipe.published, recipe.transductive, recipe.reproductions) == (None, None, ())
    assert named("prototypical-omniglot-5w1s").published is not None


@pytest.mark.slow
def test_pictures_may_move_and_others_may_join_them(trained: Run, tmp_path: Path) -> None:
    assert trained.classes is not None
    moved = tmp_path / "moved"
    shutil.copytree(trained.classes.folder, moved)
    shutil.copytree(moved / "class 0", moved / "another")
    scores = evaluate_run(trained, episodes=2, pictures=moved)
    expected = evaluate_run(trained, episodes=2)
    np.testing.assert_array_equal(scores.scores["accuracy"], expected.scores["accuracy"])
    again = train_run(
        RECIPE, trained.folder, pictures=moved, validate_every=2, validation_episodes=2
    )
    assert again.stopped == "finished"
    shutil.rmtree(moved / trained.classes.test[0])
    lacks = pytest.raises(ValueError, match="lacks 1 of the 2 classes of the test part: 'class ")
    with pytest.warns(RuntimeWarning, match="is made again"), lacks:
        evaluate_run(trained, episodes=2, pictures=moved)


@pytest.mark.slow
def test_pictures_that_are_gone_leave_the_other_figures(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.warns(RuntimeWarning, match=r"no episode.png: .*nowhere' is no folder"):
        drawn = report_run(trained, tmp_path, pictures=tmp_path / "nowhere")
    assert "training.png" in [path.name for path in drawn]
    assert report_run(trained, tmp_path)[-1].name == "episode.png"


def test_own_pictures_and_none_are_two_runs(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"its own pictures are '.*' there and none here"):
        train_run(RECIPE, trained.folder, validate_every=2, validation_episodes=2)
    sinusoids = named("maml-sinusoids-5s")
    with pytest.raises(ValueError, match="a recipe of sinusoids, which are no pictures; expected"):
        train_run(sinusoids, tmp_path / "run", pictures=tmp_path)


@pytest.mark.parametrize(
    ("ways", "validate_every", "part", "size", "enough"),
    [(3, None, "test", 2, 13), (2, 5, "validation", 1, 10), (7, 5, "train", 6, 44)],
)
def test_too_few_classes_say_how_many_are_needed(
    tmp_path: Path, ways: int, validate_every: int | None, part: str, size: int, enough: int
) -> None:
    folder = pictures(tmp_path / "pictures", classes=9, each=1)
    recipe = changed(named("maml-glyphs"), ways=ways)
    with pytest.raises(ValueError) as few:
        train_run(recipe, tmp_path / "run", pictures=folder, validate_every=validate_every)
    said = (
        f"holds 9 classes, of which {size} are the {part} part, and an episode there takes {ways}"
    )
    assert said in str(few.value)
    assert f"expected {enough} classes or more, or fewer ways" in str(few.value)
    assert not (tmp_path / "run").exists()


def test_what_could_not_be_tested_is_not_trained(tmp_path: Path) -> None:
    recipe = changed(RECIPE, queries=300, train_queries=2)
    with pytest.raises(ValueError) as few:
        train_run(recipe, tmp_path / "run")
    said = "maml-glyphs-2w1s could be trained, and not be tested: an episode takes 301 items"
    assert str(few.value).startswith(said)
    assert not (tmp_path / "run").exists()


def test_so_many_classes_are_enough() -> None:
    images = np.zeros((60, 16, 2, 2, 1), np.uint8)
    for ways in (1, 2, 3, 5):
        recipe = changed(named("maml-glyphs"), ways=ways)
        enough = own_classes._enough(own_classes._classes_needed(recipe, True))
        for count in (enough, enough + 1, enough + 2, 60):
            every = image_classes(images[:count])
            own = own_classes.split_classes(every, "", recipe, 0, validated=True)
            assert min(len(own.validation), len(own.test)) >= ways
        with pytest.raises(ValueError, match=f"expected {enough} classes or more"):
            own_classes.split_classes(
                image_classes(images[: enough - 1]), "", recipe, 0, validated=True
            )


def test_too_few_pictures_name_the_classes(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", each=2)
    few = r"episode of the train part takes 3 pictures of a class, 1 .*: 'class "
    with pytest.raises(ValueError, match=few):
        train_run(RECIPE, tmp_path / "run", pictures=folder)
    tested = changed(RECIPE, train_queries=1)
    with pytest.raises(ValueError, match="episode of the test part takes 3 pictures"):
        train_run(tested, tmp_path / "run", pictures=folder)
    assert not (tmp_path / "run").exists()
