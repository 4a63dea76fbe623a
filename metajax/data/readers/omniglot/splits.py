"""Which characters of Omniglot are in which alphabet, split and trial, from the published lists."""

import dataclasses
from collections.abc import Iterable
from importlib import resources

import numpy as np

from metajax.checks.settings import check_texts
from metajax.kinds import check_words

CHARACTERS = 1623

# Number of characters by protocol and split; those called small are subsets.
PROTOCOLS = {
    "vinyals": {"train": 1028, "validation": 172, "test": 423},
    "lake": {
        "background": 964,
        "evaluation": 659,
        "background_small1": 136,
        "background_small2": 156,
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class LakeRuns:
    """The published trials of Lake's 20-way one-shot classification: 20 runs of 20 queries.

    The 20 characters of a run are of one alphabet; one drawer drew its support, another its
    queries. Classes and drawers index `omniglot(folder, "evaluation", protocol="lake")`: with
    `support = runs.support_drawer[:, None]` and `query = runs.query_drawer[:, None]`, the support
    is `images[runs.classes, support]`, `[20, 20, 28, 28, 1]`, and the queries are
    `images[np.take_along_axis(runs.classes, runs.labels, 1), query]`.

    Attributes:
      alphabets: the alphabet of each run.
      classes: `[20, 20]` the classes of each run, in the order of its support.
      labels: `[20, 20]` the place in `classes` of each query, in the order of the queries.
      support_drawer: `[20]` who drew the support, from 0.
      query_drawer: `[20]` who drew the queries, from 0.
    """

    alphabets: tuple[str, ...]
    classes: np.ndarray
    labels: np.ndarray
    support_drawer: np.ndarray
    query_drawer: np.ndarray


def lake_runs() -> LakeRuns:
    """The 20 published runs of 20-way one-shot classification within an alphabet.

    What is reported is the share of the 400 queries that are wrong. Models are to be trained on
    Lake's background set: 78 of the 200 characters are in Vinyals' training split.

    Source: Lake, Salakhutdinov and Tenenbaum, Science 350:1332 (2015), and "The Omniglot challenge:
    a 3-year progress report" (2019). The runs were published as pictures without names; who drew
    which character was found by https://github.com/jvlmdr/omniglot-eval.
    """
    names = class_names()[split_rows("evaluation", "lake")].tolist()
    lines = _listing("lake_runs.txt")

    def rows(alphabet: str, characters: str) -> list[int]:
        return [names.index(f"{alphabet}/character{int(c):02d}") for c in characters.split(",")]

    classes = [rows(alphabet, support) for _, alphabet, _, _, support, _ in lines]
    labels = [
        [run.index(row) for row in rows(line[1], line[5])]
        for run, line in zip(classes, lines, strict=True)
    ]
    return LakeRuns(
        tuple(line[1] for line in lines),
        np.array(classes),
        np.array(labels),
        np.array([int(line[2]) - 1 for line in lines]),
        np.array([int(line[3]) - 1 for line in lines]),
    )


def split_rows(split: str, protocol: str) -> np.ndarray:
    """The classes of a split, as ascending indices of all 1623.

    Raises:
      ValueError: unknown `protocol` or `split`, or a split of the other protocol.
    """
    _check_split(split, protocol)
    if protocol == "lake":
        small = split.removeprefix("background_")
        return np.flatnonzero([split == part or small in sets for part, sets, _, _ in _classes()])
    of_class = np.full(CHARACTERS, "train", "U10")
    for other, _alphabet, _characters, ids in _listing("vinyals_split.txt"):
        first, last = map(int, ids.split("-"))
        of_class[first - 1 : last] = other  # ids are 1-based, `last` included
    return np.flatnonzero(of_class == split)


def class_alphabets() -> np.ndarray:
    """`[1623]` the alphabet of every class."""
    return np.array([alphabet for _, _, alphabet, _ in _classes()])


def class_names() -> np.ndarray:
    """`[1623]` the name of every class, `Alphabet/characterNN`, as the official zips have it."""
    return np.array([f"{alphabet}/character{number:02d}" for _, _, alphabet, number in _classes()])


def _classes() -> list[tuple[str, str, str, int]]:
    """The set, the small sets and the alphabet of every class, and its number there, from 1."""
    classes = []
    for part, alphabet, ids, small in _listing("alphabets.txt"):
        first, last = map(int, ids.split("-"))
        classes += [(part, small, alphabet, id_ - first + 1) for id_ in range(first, last + 1)]
    return classes


def _listing(name: str) -> list[list[str]]:
    folder = resources.files("metajax.data.readers.omniglot")
    text = folder.joinpath(name).read_text(encoding="utf-8")
    return [line.split() for line in text.splitlines() if not line.startswith("#")]


def _check_split(split: str, protocol: str) -> None:
    def either(names: Iterable[str]) -> str:
        return " or ".join(map(repr, names))

    check_words((*PROTOCOLS,), protocol=protocol)
    check_texts(split=split)
    splits = PROTOCOLS[protocol]
    if split in splits:
        return
    for other, names in PROTOCOLS.items():
        if split in names:
            raise ValueError(
                f"split={split!r} belongs to protocol={other!r}, but protocol={protocol!r} was "
                f"asked for; use split={either(splits)}, or pass protocol={other!r}"
            )
    raise ValueError(
        f"split={split!r} is unknown; expected of protocol={protocol!r} {either(splits)}"
    )
