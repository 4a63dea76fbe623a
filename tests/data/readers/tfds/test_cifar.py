"""The class lists of CIFAR-FS and FC100, and their splits of a small stand-in for CIFAR-100."""

from collections import Counter

import numpy as np
import pytest

from metajax.data.readers.tfds.cifar import cifar100_listing, cifar_fs, fc100

SIZES = {"cifar_fs": (64, 16, 20), "fc100": (60, 20, 20)}
SPLITS = ("train", "validation", "test")


def test_class_lists_are_complete():
    listing = cifar100_listing()
    names = [row["class"] for row in listing]
    assert names == sorted(set(names))
    assert len(names) == 100
    assert set(Counter(row["superclass"] for row in listing).values()) == {5}
    for paper, sizes in SIZES.items():
        assert Counter(row[paper] for row in listing) == dict(zip(SPLITS, sizes, strict=True))


def test_fc100_keeps_superclasses_whole():
    split_of = {row["superclass"]: row["fc100"] for row in cifar100_listing()}
    assert all(row["fc100"] == split_of[row["superclass"]] for row in cifar100_listing())
    assert Counter(split_of.values()) == {"train": 12, "validation": 4, "test": 4}
    tested = {name for name, split in split_of.items() if split == "test"}
    assert tested == {"aquatic_mammals", "insects", "medium_mammals", "people"}


def test_splits_of_the_images(tmp_path):
    from data.readers.tfds.prepared import png, prepare, tfds

    listing = cifar100_listing()
    supers = sorted({row["superclass"] for row in listing})
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=[row["class"] for row in listing]),
        "coarse_label": tfds.features.ClassLabel(names=supers),
    }

    def examples(value):
        for label, row in enumerate(listing):
            pixels = np.full((32, 32, 3), value, np.uint8)
            pixels[..., 0] = label
            coarse = supers.index(row["superclass"])
            yield label, {"image": png(pixels), "label": label, "coarse_label": coarse}

    prepare(tmp_path, "cifar100", features, {"train": list(examples(1)), "test": list(examples(2))})
    for paper, load in {"cifar_fs": cifar_fs, "fc100": fc100}.items():
        parts = [load(split, data_dir=tmp_path, cache=tmp_path / "cache") for split in SPLITS]
        assert tuple(len(part.names) for part in parts) == SIZES[paper]
        together = [name for part in parts for name in part.names]
        assert len(set(together)) == 100
        for part in parts:
            for name, group in zip(part.names, part.groups, strict=True):
                row = next(row for row in listing if row["class"] == name)
                assert group == row["superclass"]
                images = part[name]
                assert images.shape == (2, 32, 32, 3)
                assert (images[..., 0] == listing.index(row)).all()
                assert images[:, 0, 0, 1].tolist() == [1, 2]
    groups = [set(fc100(s, data_dir=tmp_path, cache=tmp_path / "cache").groups) for s in SPLITS]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 20

    (tmp_path / "cifar100" / "1.0.0" / "label.labels.txt").touch()
    with pytest.warns(RuntimeWarning, match=r"1 of its files changed: 'label\.labels") as warned:
        cifar_fs(data_dir=tmp_path, cache=tmp_path / "cache")
    assert warned[0].filename == __file__


def test_unknown_split():
    for load in (cifar_fs, fc100):
        with pytest.raises(ValueError, match='split=\'val\'; expected "train", "valid'):
            load("val")
