"""Images grouped by class: how they are built, chosen, split, and what is refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.data.labelled_images import ImageClasses, group_by_label, image_classes, in_short

COUNTS = np.array([3, 1, 2])


def rows(count: int, height: int = 2) -> np.ndarray:
    """Images whose every pixel is their row."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, 2, 1)
    ).copy()


def three(groups=("x", "y", "x")) -> ImageClasses:
    return ImageClasses(rows(6), np.cumsum(COUNTS) - COUNTS, COUNTS, ("c", "a", "b"), groups)


def numbered(classes: ImageClasses) -> dict[str, list[int]]:
    return {name: classes[name][:, 0, 0, 0].tolist() for name in classes.names}


def many(names) -> ImageClasses:
    return image_classes(rows(len(names))[:, None], names=names)


# Building


def test_classes_of_a_class_major_array():
    images = rows(6).reshape(2, 3, 2, 2, 1)
    classes = image_classes(images, names=("p", "q"), groups=("g", "h"))
    assert numbered(classes) == {"p": [0, 1, 2], "q": [3, 4, 5]}
    assert classes.groups == ("g", "h")
    assert np.shares_memory(classes.images, images)  # type: ignore[arg-type]
    assert image_classes(images).names == ("0", "1")
    assert image_classes(images).groups is None


def test_classes_of_a_jax_array_and_of_lists():
    images = jnp.asarray(rows(6).reshape(2, 3, 2, 2, 1))
    classes = image_classes(images)
    assert isinstance(classes.images, jax.Array)
    assert classes["1"][:, 0, 0, 0].tolist() == [3, 4, 5]
    assert image_classes(rows(2)[:, None].tolist()).counts.tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 0, 4, 4, 1), (0, 3, 4, 4, 1)])
def test_class_major_arrays_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"expected \[classes, items, height, width, channels\]"):
        image_classes(np.zeros(shape))


def test_images_grouped_by_integer_labels():
    classes = group_by_label(rows(5), [7, 3, 7, 7, 3])
    assert numbered(classes) == {"3": [1, 4], "7": [0, 2, 3]}


def test_images_grouped_by_named_labels():
    classes = group_by_label(rows(5), [2, 0, 2, 2, 0], names=["cat", "ox", "dog"])
    assert numbered(classes) == {"cat": [1, 4], "dog": [0, 2, 3]}  # no image, no class


def test_images_grouped_by_strings():
    assert numbered(group_by_label(rows(3), ["b", "é", "b"])) == {"b": [0, 2], "é": [1]}


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1], None, r"shape \(3, 2, 2, 1\) and labels \(2,\); expected one label an image"),
        ([[0], [1], [1]], None, r"labels \(3, 1\)"),
        ([0, 1, 2], ["a", "b"], r"labels from 0 to 2 but 2 names; expected labels in \[0, 2\)"),
        ([-1, 0, 1], ["a", "b"], "labels from -1 to 1"),
        (["a", "b", "c"], ["a", "b", "c"], "expected integer labels, or no names"),
        ([0.0, 1.0, 1.5], None, "labels are float64; expected integers or strings"),
        ([0, 1, 1], ["a", "a"], "two classes are called 'a'"),
    ],
)
def test_labels_that_do_not_fit(labels, names, message):
    with pytest.raises(ValueError, match=message):
        group_by_label(rows(3), labels, names=names)


def test_no_images_to_group():
    with pytest.raises(ValueError, match="and at least one image"):
        group_by_label(rows(0), [], names=["a"])


# Checks when it is made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 2, 2))}, r"shape \(6, 2, 2\); expected an array \[images, height"),
        ({"images": np.zeros((6, 2, 0, 1))}, "none of them 0"),
        (
            {"names": ("a", "b")},
            "'starts': 3, 'counts': 3, 'names': 2.; expected one of each a class",
        ),
        ({"names": (), "starts": COUNTS[:0], "counts": COUNTS[:0]}, "and some class"),
        ({"groups": ("x",)}, "'groups': 1.; expected one of each a class"),
        ({"groups": ()}, "'groups': 0"),
        ({"groups": ["x"] * 4}, "'groups': 4"),
        ({"names": ("a", "b", "a")}, "two classes are called 'a'; expected different names"),
        ({"counts": np.array([3, 0, 2])}, "1 classes have no image: 'b'; leave them out"),
        ({"counts": np.array([3, 1, 3])}, "rows 0 to 7|from row 0 to 7; expected rows of the 6"),
        ({"starts": np.array([-1, 3, 4])}, "from row -1 to 6"),
        ({"starts": [0, 3, 2**63 - 2]}, "from row 0 to 9223372036854775808; expected rows"),
        ({"starts": [0, 2, 4]}, "the classes 'a' and 'b' share the image in row 2; expected every"),
        ({"starts": [3, 0, 4]}, "the classes 'a' and 'c' share the image in row 4"),
        ({"starts": [0, 3, 3]}, "the classes 'b' and 'c' share the image in row 3"),
        ({"counts": [6, 1, 1]}, "the classes 'a' and 'b' share the image in row 3"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    parts = {
        "images": rows(6),
        "starts": np.array([0, 3, 4]),
        "counts": COUNTS,
        "names": ("a", "b", "c"),
    }
    with pytest.raises(ValueError, match=message):
        ImageClasses(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": "cab"}, "names is 'cab'; expected a list of strings"),
        ({"names": ("a", "b", 3)}, r"names is \('a', 'b', 3\); expected a list of strings"),
        ({"groups": [0, 1, 1]}, r"groups is \[0, 1, 1\]; expected a list of strings"),
        ({"images": rows(6).tolist()}, r"images is \[\[.*; expected an array of images"),
        (
            {"images": types.SimpleNamespace(shape=(6, 1, 1, 1))},
            r"images is namespace\(shape=.*; expected an array of images",
        ),
        ({"starts": [0.0, 3.0, 4.5]}, r"starts are float64\[3\]; expected \[classes\] integers"),
        ({"counts": COUNTS[:, None]}, r"counts are int64\[3, 1\]; expected \[classes\] integers"),
    ],
)
def test_parts_of_other_types(changes, message):
    parts = {"images": rows(6), "starts": [0, 3, 4], "counts": [3, 1, 2], "names": ["a", "b", "c"]}
    assert numbered(ImageClasses(**parts)) == {"a": [0, 1, 2], "b": [3], "c": [4, 5]}
    with pytest.raises(TypeError, match=message):
        ImageClasses(**(parts | changes))


# Choosing


def test_images_of_a_class_by_name():
    assert numbered(three()) == {"c": [0, 1, 2], "a": [3], "b": [4, 5]}
    with pytest.raises(KeyError, match="no class is called 'z'; there are 3: 'c', 'a', 'b'"):
        three()["z"]


def test_selected_classes_share_the_images():
    classes = three()
    chosen = classes.select(["b", "c"])
    assert numbered(chosen) == {"b": [4, 5], "c": [0, 1, 2]}
    assert chosen.groups == ("x", "x")
    assert chosen.images is classes.images
    assert three(groups=None).select(["a"]).groups is None


def test_names_that_cannot_be_selected():
    with pytest.raises(KeyError, match="no class is called 'z'"):
        three().select(["a", "z"])
    with pytest.raises(ValueError, match="two classes are called 'a'"):
        three().select(["a", "b", "a"])
    with pytest.raises(ValueError, match="and some class"):
        three().select([])
    with pytest.raises(TypeError, match="names is 'ab'; expected a list of strings"):
        three().select("ab")


def test_long_lists_are_cut():
    assert in_short(["a", "b", "c"], 2) == "'a', 'b' and 1 more"
    assert in_short({"a": 3, "b": 1}, 1) == "'a' (3) and 1 more"


# Splitting

SHARES = {"train": 0.64, "validation": 0.16, "test": 0.2}


def test_parts_are_disjoint_and_complete():
    names = [f"class {i}" for i in range(100)]
    parts = many(names).split(SHARES, seed=3)
    assert {part: len(classes.names) for part, classes in parts.items()} == {
        "train": 64,
        "validation": 16,
        "test": 20,
    }
    assert sorted(name for classes in parts.values() for name in classes.names) == sorted(names)
    for classes in parts.values():  # each class keeps its images
        for name in classes.names:
            assert classes[name][0, 0, 0, 0] == names.index(name)


def test_a_split_is_the_same_whatever_the_order_of_the_classes():
    names = [f"class {i}" for i in range(20)]

    def parts(order, seed):
        split = many(order).split(SHARES, seed=seed)
        return {part: set(classes.names) for part, classes in split.items()}

    assert parts(names, 0) == parts(names[::-1], 0)
    assert parts(names, 0) != parts(names, 1)


def test_a_split_stays_what_it_was():
    parts = many([*"abcdefghij"]).split({"train": 0.5, "test": 0.5}, seed=0)
    assert "".join(parts["train"].names) == "cdegh"
    assert "".join(parts["test"].names) == "abfij"


@pytest.mark.parametrize(
    ("shares", "error", "message"),
    [
        ({}, ValueError, r"shares=\{\}; expected shares above 0 that add up to 1"),
        ({"a": 0.5}, ValueError, "expected shares above 0 that add up to 1"),
        ({"a": np.inf}, ValueError, "expected shares above 0 that add up to 1"),
        ({"a": 1.5, "b": -0.5}, ValueError, r"shares\['b'\]=-0.5; expected a share above 0"),
        ({"a": 1.0, "b": 0.0}, ValueError, r"shares\['b'\]=0.0; expected a share above 0"),
        ({"a": np.nan}, ValueError, r"shares\['a'\]=nan; expected a share above 0"),
        ({"a": "1"}, TypeError, r"shares\['a'\]='1'; expected a share above 0"),
        ({"a": True}, TypeError, r"shares\['a'\]=True; expected a share above 0"),
    ],
)
def test_shares_that_do_not_add_up(shares, error, message):
    with pytest.raises(error, match=message):
        three().split(shares)


def test_a_part_without_classes():
    with pytest.raises(ValueError, match="'few' would have none of the 3 classes"):
        three().split({"many": 0.9, "few": 0.1})
