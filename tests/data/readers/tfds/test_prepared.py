"""Where data sets of TensorFlow Datasets are found, how they are prepared, what damages them."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from data.readers.tfds.prepared import FEATURES, builder_class, change, example, prepare, tfds
from irregular_files import irregular

from metajax.data.readers.tfds.reading import tfds_classes


@pytest.fixture
def animals(tmp_path) -> Path:
    """The folder of the one version of the data set `animals` in `tmp_path`."""
    return prepare(tmp_path, "animals", FEATURES, {"train": [(i, example(i)) for i in range(20)]})


def count(name: str, root: Path) -> int:
    return len(tfds_classes(name, data_dir=root, cache=False).images[:])


def test_newest_version_and_configs(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        examples = [(i, example(i)) for i in range(2 + (version == "1.10.0"))]
        prepare(tmp_path, "old", FEATURES, {"train": examples}, version=version)
        configs = ("x", "y")
        prepare(tmp_path, "two", FEATURES, {"train": examples}, version=version, configs=configs)
    names = ("old", "old:1.9.0", "old:1.*.*", "two", "two/y", "two/y:1.9.0")
    assert [count(name, tmp_path) for name in names] == [3, 2, 3, 3, 3, 2]
    (tmp_path / "two" / ".config" / "metadata.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"only 'two/x:1\.10\.0', 'two/x:1\.9\.0', 'two/y"):
        count("two", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'old:2.0.0' .* only 'old:1.10.0', 'old:1.9.0';"):
        count("old:2.0.0", tmp_path)


def test_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = re.escape(f"'omniglot' of TensorFlow Datasets is not prepared: '{tmp_path}/omniglot'")
    with pytest.raises(FileNotFoundError, match=rf"{message} holds none; .*download=True, .*work$"):
        tfds_classes("omniglot")


def test_unknown_name(tmp_path):
    message = "; its name is unknown, near it is 'omniglot'"
    for download in (True, False):
        with pytest.raises(FileNotFoundError, match=message):
            tfds_classes("omniglto", data_dir=tmp_path, download=download)
    with pytest.raises(FileNotFoundError, match=r"qqqqqq' holds none; .* unknown, near it is none"):
        count("qqqqqq", tmp_path)
    for name in ("a:b", "../a", "a/..", "Mnist", ""):
        said = re.escape(f"{name!r}; expected 'name', 'name/config'")
        with pytest.raises(ValueError, match=said):
            count(name, tmp_path)


# Preparing


def test_download_prepares_once(tmp_path, monkeypatch):
    made = builder_class("mnist", FEATURES, {"train": [(i, example(i)) for i in range(3)]})
    asked = []

    def builder(name, *, data_dir):
        asked.append(name)
        return made(data_dir=data_dir)

    monkeypatch.setattr(tfds, "builder", builder)
    for _ in range(2):
        options = {"cache": False, "download": True, "manual_dir": tmp_path}
        classes = tfds_classes("mnist", data_dir=tmp_path, **options)
        assert classes.counts.sum() == 3
    assert asked == ["mnist"]


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (ModuleNotFoundError("No module named 'tensorflow'"), ImportError),
        (ConnectionError("Max retries exceeded"), OSError),
        (AssertionError("Manual directory is empty"), ValueError),
    ],
)
def test_preparing_fails(tmp_path, monkeypatch, cause, kind):
    def builder(*_, **__):
        raise cause

    monkeypatch.setattr(tfds, "builder", builder)
    message = re.escape(
        f"preparing 'mnist' in '{tmp_path}/mnist' failed ({type(cause).__name__}: {cause}); it "
        "needs a network and mostly TensorFlow (pip install tensorflow): prepare it where they are"
    )
    with pytest.raises(kind, match=f"{message} .*, or pass manual_dir="):
        tfds_classes("mnist", data_dir=tmp_path, download=True)


@pytest.mark.parametrize(
    "package", ["tensorflow_datasets", "array_record.python.array_record_data_source"]
)
def test_not_installed(animals, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'is missing \(.*{package}.*pip install "metajax\[tfd'):
        count("animals", tmp_path)


# Formats and damage


def test_only_array_record_is_read(animals, tmp_path):
    change(animals, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert count("animals", tmp_path) == 20
    change(animals, alternativeFileFormats=[])
    message = re.escape(
        f"'{animals}' holds tfrecord files; expected array_record files, which are put beside them "
        "by: tfds convert_format --num_workers=1 --out_file_format=array_record "
        f"--dataset_version_dir='{animals}' (after: pip install tensorflow "
    )
    with pytest.raises(ValueError, match=message):
        count("animals", tmp_path)


def test_missing_and_truncated_files(animals, tmp_path):
    (file,) = animals.glob("*train.array_record*")
    whole = file.read_bytes()
    for length in (len(whole) // 2, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"records of 'animals-train\..* cannot be .*copy the"):
            count("animals", tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"cannot be read .*No such file .*train.*copy"):
        count("animals", tmp_path)


TRAIN = "animals-train.array_record-00000-of-00001"
FOREIGN = {"pythonClassName": "no.such.Feature", "jsonFeature": {"json": "{}"}}


@pytest.mark.parametrize(
    ("file", "content", "cause"),
    [
        ("features.json", json.dumps(FOREIGN), "ValueError: Unrecognized FeatureConnector type"),
        ("features.json", "{", "JSONDecodeError: "),
        ("features.json", "[]", "ValueError: "),
        ("dataset_info.json", "{", "ParseError: "),
        ("dataset_info.json", '{"name": "animals"}', ""),
        ("dataset_info.json", None, "DatasetInfoFileError: "),
    ],
)
def test_descriptions_that_are_damaged(animals, tmp_path, file, content, cause):
    (animals / file).unlink()
    if content is not None:
        (animals / file).write_text(content)
    message = rf"the data set 'animals' in '\S*animals' cannot be read \(({cause}).*; files may be "
    with pytest.raises((ValueError, OSError), match=f"(?s){message}"):
        count("animals", tmp_path)


def test_what_is_no_regular_file_is_not_waited_for(animals, tmp_path):
    for kind, path in irregular(tmp_path).items():
        for name in ("features.json", "dataset_info.json", TRAIN):
            shutil.move(animals / name, tmp_path / name)
            (animals / name).symlink_to(path)
            with pytest.raises(OSError, match=f"{name}' is {kind}; expected a regular file"):
                count("animals", tmp_path)
            os.replace(tmp_path / name, animals / name)
