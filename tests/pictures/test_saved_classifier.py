"""A classifier as a file: the same to the bit, and nothing else than what was written."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pictures.picture_cases import SIDE, WIDTH, backbone, features, pictures

import metajax as mj
from metajax.calibration import Calibration
from metajax.pictures import FewShotClassifier, Look, Trained, encoders
from metajax.pictures.fitted_pictures import FittedPictures, as_record, of_record
from metajax.pictures.heads import HEADS
from metajax.pictures.mjx_files import read_mjx, write_mjx
from metajax.pictures.record_fields import Fields
from metajax.pictures.run_networks import RunNetwork

for package in ("sklearn", "safetensors", "flatbuffers"):
    pytest.importorskip(package, reason=f"{package} is not installed")
slow = pytest.mark.slow


def fitted(**given: Any) -> FewShotClassifier:
    images, labels = pictures()
    given = {"network": backbone(), "head": "means", "cache": False, **given}
    return FewShotClassifier(**given).fit(images, labels)


def learner() -> Trained:
    made = mj.prototypical_network(mj.models.mlp((5,)))
    return Trained(made, made.init(jax.random.key(0), jnp.zeros((1, WIDTH))))


def again(classifier: FewShotClassifier, folder: Path, **given: Any) -> FewShotClassifier:
    classifier.save(folder / "saved.mjx")
    return FewShotClassifier.load(folder / "saved.mjx", **given)


def assert_same(one: FewShotClassifier, other: FewShotClassifier, asked: np.ndarray) -> None:
    for name in ("calibration_", "held_out_", "names_", "thumbnails_", "look_", "kept"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("classes_", "rows_", "items_"):
        assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for ours, theirs in zip(one.answer(asked), other.answer(asked), strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.exact
@pytest.mark.parametrize("head", ["means", *(pytest.param(h, marks=slow) for h in HEADS)])
def test_features_are_saved_and_loaded(head: str, tmp_path: Path) -> None:
    items, labels = features()
    classifier = FewShotClassifier(network=None, head=head).fit(items, labels)
    other = again(classifier, tmp_path)
    assert_same(classifier, other, items)
    more = np.ones((1, WIDTH), np.float32)
    assert_same(classifier.add(more, ["dog"]), other.add(more, ["dog"]), items)


@pytest.mark.exact
def test_a_network_of_ones_own_travels_as_a_program(tmp_path: Path) -> None:
    images, labels = pictures()
    classifier = fitted(invert=True)
    other = again(classifier, tmp_path)
    assert_same(classifier, other, images)
    assert_same(again(other, tmp_path), other, images)
    assert_same(copy.deepcopy(other), other, images)
    assert_allclose(classifier.add(images, labels).items_, other.add(images, labels).items_)
    same = FewShotClassifier.load(tmp_path / "saved.mjx", network=backbone())
    assert isinstance(same.network, mj.models.pretrained.Backbone)
    with pytest.raises(ValueError, match="other weights"):
        FewShotClassifier.load(tmp_path / "saved.mjx", network=backbone(scale=2.0))


def test_a_learner_of_ones_own_travels_as_it_was_fitted(tmp_path: Path) -> None:
    images, labels = pictures()
    classifier = fitted(head=learner())
    other = again(classifier, tmp_path)
    assert_allclose(other.predict_proba(images), classifier.predict_proba(images), atol=1e-6)
    assert_same(again(other, tmp_path), other, images)
    for fit in (other.fit, other.add):
        with pytest.raises(ValueError, match=r"expected the learner, to fit it again: load\("):
            fit(images, labels)
    whole = FewShotClassifier.load(tmp_path / "saved.mjx", head=learner())
    assert whole.add(images[:1], [9]).classes_.tolist() == [3, 5, 8, 9]
    fitted().save(tmp_path / "means.mjx")
    with pytest.raises(ValueError, match="has a head with a name; expected head=None"):
        FewShotClassifier.load(tmp_path / "means.mjx", head=learner())


@slow
def test_a_run_travels_as_its_recipe(tmp_path: Path) -> None:
    recipe = mj.recipes.changed(mj.recipes.named("prototypical-glyphs-5w1s"), filters=2)
    one = jnp.zeros((1, 28, 28, 1))
    params = mj.recipes.build(recipe).tester.init(jax.random.key(0), one)
    images = np.asarray(mj.data.glyphs("test", drawers=3))[:3].reshape(9, 28, 28, 1)
    network = RunNetwork(Look(28, 1), recipe, params)
    classifier = FewShotClassifier(network, invert=True).fit(images, np.repeat([1, 2, 3], 3))
    other = again(classifier, tmp_path)
    assert_same(classifier, other, images)
    assert other.network.recipe == recipe
    found = jax.nn.softmax(other.export().call(images))
    assert_allclose(found, other.predict_proba(images), atol=1e-5)
    arrays, record = read_mjx(tmp_path / "saved.mjx")
    kernel = arrays["network/0"]
    for other in (kernel[..., :1], kernel * np.float32(np.nan)):
        arrays["network/0"] = other
        write_mjx(tmp_path / "other.mjx", arrays, record)
        with pytest.raises(ValueError, match="as its array network/0; expected finite float32"):
            FewShotClassifier.load(tmp_path / "other.mjx")
    record["network"]["recipe"]["training"]["algorithm"] = "os.system"
    write_mjx(tmp_path / "other.mjx", arrays, record)
    with pytest.raises(ValueError, match="has a recipe that is none"):
        FewShotClassifier.load(tmp_path / "other.mjx")
    with pytest.raises(ValueError, match="has a run, with its parameters; expected network=None"):
        FewShotClassifier.load(tmp_path / "other.mjx", network=backbone())


def test_weights_of_a_registered_network_are_not_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = pictures()

    def register(made: Callable[..., Any]) -> None:
        encoders._registered.cache_clear()
        monkeypatch.setitem(encoders.REGISTERED, "tiny", encoders.Registered(made, SIDE))

    register(lambda size: backbone())
    classifier = fitted(network="tiny")
    other = again(classifier, tmp_path)
    assert_same(classifier, other, images)
    assert other.network == "tiny"
    assert not [name for name in read_mjx(tmp_path / "saved.mjx")[0] if "network" in name]
    register(lambda size: backbone(scale=2.0))
    with pytest.raises(ValueError, match="with other weights than 'tiny' has here; expected"):
        FewShotClassifier.load(tmp_path / "saved.mjx")

    def missing(size: int) -> Any:
        raise ImportError('its weights are missing: pip install "metajax[pretrained]"')

    register(missing)
    with pytest.raises(ImportError, match=r"pip install"):
        FewShotClassifier.load(tmp_path / "saved.mjx")
    encoders._registered.cache_clear()


def _set(*path: str, to: Any) -> Callable[[dict, dict], None]:
    def change(arrays: dict, record: dict) -> None:
        del arrays
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = to

    return change


def _array(name: str, to: Any) -> Callable[[dict, dict], None]:
    def change(arrays: dict, record: dict) -> None:
        del record
        arrays[name] = to(arrays[name])

    return change


def _without(name: str) -> Callable[[dict, dict], None]:
    return lambda arrays, record: arrays.pop(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("classes", to=[3, 5]), "place among the 2 classes"),
        (_set("classes", to=[3]), "1 classes; expected two or more"),
        (_set("classes", to=[5, 3, 8]), "3 classes; expected two or more of one kind"),
        (_set("classes", to=[3, 3, 8]), "3 classes"),
        (_set("classes", to=["3", 5, 8]), "3 classes"),
        (_set("classes", to=[[3], 5, 8]), "has classes"),
        (_set("classes", to=[3, 5, 2**63]), "3 classes"),
        (_set("label_dtype", to="V"), "has label_dtype 'V'; expected one of"),
        (_set("label_dtype", to="str"), "3 classes; expected two or more of one kind"),
        (_set("names", to=["a"]), "has 1 names, 1 different; expected 12"),
        (_set("names", to=["a"] * 12), "has 12 names, 1 different; expected 12"),
        (_set("names", to=12), "has names 12; expected a list"),
        (_set("calibration", to=None), "calibration holds None; expected an object"),
        (_set("calibration", "temperature", to=0.0), "temperature 0.0; expected a number above 0"),
        (_set("calibration", "temperature", to=True), "temperature True"),
        (_set("calibration", "threshold", to="high"), "threshold 'high'"),
        (_set("calibration", "kind", to="magic"), "kind 'magic'"),
        (_set("calibration", "ways", to=4), "ways 4; expected an integer 3 to 3"),
        (_set("held_out", to={"accuracy": 2.0, "items": 3}), r"accuracy 2.0; expected a share"),
        (_set("kept", to=1.5), "kept 1.5; expected a number between"),
        (_set("look", to=None), "look holds None"),
        (_set("look", "side", to=10**9), "side 1000000000; expected an integer 1 to 4096"),
        (_set("look", "aspect", to="fish-eye"), "aspect 'fish-eye'"),
        (_set("look", "invert", to=1), "invert 1; expected true or false"),
        (_set("look", "channels", to=1), "is refused"),
        (_set("head", to="means"), "head holds 'means'; expected an object"),
        (_set("head", "name", to="forest"), "name 'forest'; expected one of ridge"),
        (_set("network", to="tiny"), "network holds 'tiny'"),
        (_set("network", to={"registered": "os", "digest": ""}), "registered 'os'; expected one"),
        (_set("network", "program", "arrays", to=-1), "arrays -1; expected an integer 0 to"),
        (_set("network", "program", "arrays", to=3), "no array 'network/1'; expected 3"),
        (_set("network", "program", "title", to=None), "title None; expected a text"),
        (_array("items", lambda x: x * np.nan), "items of float32"),
        (_array("items", lambda x: x[:, :0]), "items of float32"),
        (_array("items", lambda x: x[:, :3]), "is refused"),
        (
            _array("items", lambda x: np.zeros((12, 4, 4, 3), np.uint8)),
            "is refused|for its network",
        ),
        (
            lambda arrays, record: (
                arrays.update(items=np.zeros((12, 4, 4, 3), np.uint8)),
                record.update(network=None),
            ),
            r"shape \(12, 4, 4, 3\); expected features, since it has no network",
        ),
        (_array("items", lambda x: x.astype(np.float16)), "items of float16"),
        (_array("rows", lambda x: x + 1), "rows of int64"),
        (_array("rows", lambda x: x[:3]), r"rows of int64 and shape \(3,\)"),
        (_array("rows", lambda x: x.astype(np.int32)), "rows of int32"),
        (_array("thumbnails", lambda x: x[::-1].copy()), "other thumbnails; expected 12 files"),
        (_array("thumbnail_ends", lambda x: x[::-1].copy()), "other thumbnails"),
        (_array("thumbnail_ends", lambda x: x[:2]), "other thumbnails"),
        (_array("network/program", lambda x: x[:50]), "program"),
        (_array("network/program", lambda x: x.astype(np.int32)), "program of int32"),
        (_array("network/0", lambda x: x[:3]), "is refused"),
        (_without("items"), "no array 'items'"),
        (_without("thumbnail_ends"), "no array 'thumbnail_ends'"),
        (_without("network/program"), "no array 'network/program'"),
    ],
)
def test_what_a_stranger_wrote_is_refused(
    change: Callable[[dict, dict], Any], says: str, whole: Path, tmp_path: Path
) -> None:
    arrays, record = read_mjx(whole)
    change(arrays, record)
    write_mjx(tmp_path / "other.mjx", arrays, record)
    with pytest.raises(ValueError, match=says) as given:
        FewShotClassifier.load(tmp_path / "other.mjx")
    assert str(tmp_path / "other.mjx") in str(given.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.mjx"
    fitted().save(path)
    return path


def test_a_file_that_is_whole_is_loaded(whole: Path) -> None:
    assert FewShotClassifier.load(whole).classes_.tolist() == [3, 5, 8]


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float32", "bool", "<U3", "O"])
def test_labels_keep_their_dtype(dtype: str) -> None:
    classes = np.unique(np.array([0, 1] if dtype == "bool" else [3, 5, 120]).astype(dtype))
    given = FittedPictures(
        classes,
        np.arange(len(classes)),
        np.ones((len(classes), 2), np.float32),
        [f"#{row}" for row in range(len(classes))],
        None,
        Calibration(1.0, ways=len(classes)),
        None,
    )
    arrays, record = as_record(given)
    read = of_record(arrays, Fields(json.loads(json.dumps(record)), "a file"))
    assert read.classes.dtype == classes.dtype
    assert_array_equal(read.classes, classes)


def test_the_largest_labels_and_numbers_of_numpy_are_saved(tmp_path: Path) -> None:
    items, labels = features()
    large = np.uint64(2**63) + np.unique(labels, return_inverse=True)[1].astype(np.uint64)
    classifier = FewShotClassifier(network=None, head="means", kept=np.float64(0.5))
    assert_same(classifier.fit(items, large), again(classifier, tmp_path), items)


def test_what_is_added_to_a_file_without_thumbnails_has_none(whole: Path, tmp_path: Path) -> None:
    arrays, record = read_mjx(whole)
    del arrays["thumbnails"]
    write_mjx(tmp_path / "other.mjx", arrays, record)
    other = FewShotClassifier.load(tmp_path / "other.mjx", network=backbone())
    images, labels = pictures()
    assert other.add(images[:1], labels[:1]).thumbnails_ is None


def test_labels_that_json_has_not_are_not_saved(tmp_path: Path) -> None:
    items, labels = features()
    classifier = FewShotClassifier(network=None, head="means").fit(items, labels)
    classifier.classes_ = np.array([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match=r"classes_ has b'a'; expected texts"):
        classifier.save(tmp_path / "saved.mjx")
    assert not (tmp_path / "saved.mjx").exists()


@pytest.mark.parametrize("head", ["means", *(pytest.param(h, marks=slow) for h in HEADS)])
def test_what_is_exported_says_the_same(head: str) -> None:
    images, _ = pictures()
    classifier = fitted(head=head, invert=True)
    program = jax.export.deserialize(bytearray(classifier.export().serialize()))
    for asked in (images[:1], images):
        found = jax.nn.softmax(program.call(asked))
        assert_allclose(found, classifier.predict_proba(asked), atol=1e-6)


@slow
def test_what_was_loaded_is_exported_too(tmp_path: Path) -> None:
    images, _ = pictures()
    other = again(fitted(head=learner()), tmp_path)
    found = jax.nn.softmax(other.export().call(images))
    assert_allclose(found, other.predict_proba(images), atol=1e-6)


def test_thumbnails_are_pictures() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    files = fitted().thumbnails_
    assert files is not None
    assert image.open(io.BytesIO(files[0])).size == (SIDE, SIDE)
