"""Which characters of Omniglot are in which alphabet, split and trial.

From the published lists, but for the random split, which was never published: the papers that use
one shuffle the characters anew.
"""

import dataclasses
import hashlib
from importlib import resources

import numpy as np

from metajax.checks.numbers import check_optional_integers
from metajax.checks.settings import check_texts
from metajax.kinds import check_words

CHARACTERS = 1623

_PARTS = ("train", "validation", "test")

# The splits of each protocol; those called small are subsets.
PROTOCOLS = {
    "vinyals": (*_PARTS, "train_and_validation"),
    "random": (*_PARTS, "train_and_validation"),
    "lake": ("background", "evaluation", "background_small1", "background_small2"),
}
_RANDOM = (1100, 100, 423)


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
    _, alphabets, *drawers, support, queries = zip(*_listing("lake_runs.txt"), strict=True)

    def rows(alphabet: str, characters: str) -> list[int]:
        return [names.index(f"{alphabet}/character{int(c):02d}") for c in characters.split(",")]

    classes = [*map(rows, alphabets, support)]
    asked = zip(classes, map(rows, alphabets, queries), strict=True)
    labels = [[run.index(row) for row in query] for run, query in asked]
    return LakeRuns(alphabets, np.array(classes), np.array(labels), *(np.array(drawers, int) - 1))


def split_rows(split: str, protocol: str, seed: int | None = None) -> np.ndarray:
    """The classes of a split, as ascending indices of all 1623.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: the protocol has no such split, or a seed is given to one that is not random.
    """
    check_words((*PROTOCOLS,), protocol=protocol)
    check_texts(split=split)
    if split not in PROTOCOLS[protocol]:
        known = [
            f"protocol={name!r} with split={' or '.join(map(repr, splits))}"
            for name, splits in PROTOCOLS.items()
        ]
        raise ValueError(
            f"split={split!r} with protocol={protocol!r}; expected {', or '.join(known)}"
        )
    check_optional_integers(0, seed=seed)
    if seed is not None and protocol != "random":
        raise ValueError(
            f"seed={seed} with protocol={protocol!r}, whose splits are published lists; expected "
            'no seed, or protocol="random"'
        )
    if protocol == "lake":
        small = split.removeprefix("background_")
        return np.flatnonzero([split == part or small in sets for part, sets, *_ in _classes()])
    of_class = _vinyals() if protocol == "vinyals" else _random(0 if seed is None else int(seed))
    return np.flatnonzero(np.isin(of_class, split.split("_and_")))


def _vinyals() -> np.ndarray:
    """`[1623]` which of the three parts every class is in."""
    of_class = np.full(CHARACTERS, "train", "U10")
    for part, _alphabet, _characters, ids in _listing("vinyals_split.txt"):
        first, last = map(int, ids.split("-"))
        of_class[first - 1 : last] = part  # ids are 1-based, `last` included
    return of_class


def _random(seed: int) -> np.ndarray:
    """The same, at random by SHA-256: whatever the version of a generator, the same characters."""
    digests = [hashlib.sha256(f"{seed}/{index}".encode()).digest() for index in range(CHARACTERS)]
    of_class = np.empty(CHARACTERS, "U10")
    of_class[sorted(range(CHARACTERS), key=digests.__getitem__)] = np.repeat(_PARTS, _RANDOM)
    return of_class


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
        classes += [(part, small, alphabet, number + 1) for number in range(last - first + 1)]
    return classes


def _listing(name: str) -> list[list[str]]:
    folder = resources.files("metajax.data.readers.omniglot")
    text = folder.joinpath(name).read_text(encoding="utf-8")
    return [line.split() for line in text.splitlines() if not line.startswith("#")]
