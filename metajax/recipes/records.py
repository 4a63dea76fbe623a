"""What a recipe is: how an algorithm was trained, how it was tested, and what came out."""

import dataclasses
import math
from typing import Literal

from metajax.checks.numbers import (
    check_numbers,
    check_temperature,
)
from metajax.checks.settings import check_texts
from metajax.kinds import check_words, in_brief
from metajax.query_batching import Batching, check_batching
from metajax.recipes.settings import (
    LARGEST_COUNT,
    LARGEST_SIZE,
    Architecture,
    Drawing,
    Inner,
    Network,
    Outer,
    check_head_of_mlp,
    check_left_alone,
    check_optional_up_to,
    check_rates,
    check_records,
    check_up_to,
)

Algorithm = Literal[
    "anil",
    "boil",
    "fo_proto_maml",
    "fomaml",
    "maml",
    "matching",
    "meta_sgd",
    "proto_maml",
    "prototypical",
    "relation",
    "reptile",
    "ridge_head",
]
DataSet = Literal[
    "cifar_fs",
    "cub",
    "emoji",
    "glyphs",
    "mini_imagenet",
    "omniglot",
    "sinusoids",
    "tiered_imagenet",
]
ALGORITHMS: tuple[Algorithm, ...] = Algorithm.__args__
DATA_SETS: tuple[DataSet, ...] = DataSet.__args__
# Those that adapt by gradient steps, and of them those whose head has an output a way.
BY_GRADIENT = (
    "anil",
    "boil",
    "fo_proto_maml",
    "fomaml",
    "maml",
    "meta_sgd",
    "proto_maml",
    "reptile",
)
OF_FIXED_WAYS = ("anil", "boil", "fomaml", "maml", "meta_sgd", "reptile")
_IN_PARTS = ("anil", "boil")
# Their images are of one size, or there are none.
_OF_ONE_SIZE = ("glyphs", "omniglot", "sinusoids")


@dataclasses.dataclass(frozen=True)
class Training:
    """How the parameters came about: recipes that differ in their tests alone share one.

    Attributes:
      algorithm: one of `ALGORITHMS`.
      data: the data set, one of `DATA_SETS`.
      drawing: of the training episodes.
      network: the network, or the encoder.
      outer: the outer optimiser.
      iterations: meta-steps, 1 or more.
      meta_batch: tasks a meta-step, 1 or more.
      inner: how tasks are adapted; None for learners that compare.
      query_batching: which items share a batch with a query, see `metajax.apply_queries`.
      pixels: width and height of the images; None as the data set has them.
      normalize: of matching networks, which embeddings are normalised, see
        `metajax.matching_network`.
      temperature: of matching networks; None is 1.
      full_context: of matching networks, where Full Context Embeddings begin to read, see
        `metajax.models.full_context`, or `"none"` without.
    """

    algorithm: Algorithm
    data: DataSet
    drawing: Drawing
    network: Network
    outer: Outer
    iterations: int
    meta_batch: int = 1
    inner: Inner | None = None
    query_batching: Batching = "separate"
    pixels: int | None = None
    normalize: Literal["both", "support"] = "both"
    temperature: float | None = None
    full_context: Literal["none", "zeros", "embedding"] = "none"

    def __post_init__(self) -> None:
        check_words(ALGORITHMS, algorithm=self.algorithm)
        check_words(DATA_SETS, data=self.data)
        check_records(Drawing, drawing=self.drawing)
        check_records(Network, network=self.network)
        check_records(Outer, outer=self.outer)
        check_up_to(LARGEST_COUNT, 1, iterations=self.iterations)
        check_up_to(LARGEST_SIZE, 1, meta_batch=self.meta_batch)
        check_batching(self.query_batching)
        check_optional_up_to(LARGEST_SIZE, 1, pixels=self.pixels)
        check_words(("both", "support"), normalize=self.normalize)
        check_temperature(self.temperature)
        check_words(("none", "zeros", "embedding"), full_context=self.full_context)
        if self.data in _OF_ONE_SIZE:
            check_left_alone(self, ("pixels",), "data sets whose images have several sizes")
        adapts = self.algorithm in BY_GRADIENT
        if adapts:
            check_records(Inner, inner=self.inner)
        elif self.inner is not None:
            raise ValueError(f"inner={self.inner}; expected None: {self.algorithm} compares")
        _check_network(self.algorithm, self.network)
        if self.inner is not None:
            _check_inner(self.algorithm, self.inner)
        if self.outer.clip_modules and self.algorithm != "relation":
            raise ValueError(
                f"clip_modules=True of {self.algorithm}; expected a relation network, which has "
                "two modules"
            )
        usual = {"normalize": "both", "temperature": None, "full_context": "none"}
        for name, value in usual.items() if self.algorithm != "matching" else ():
            if (own := getattr(self, name)) != value:
                raise ValueError(
                    f"{name}={own!r}; expected {value!r}: it is of matching networks alone, and "
                    f"this is {self.algorithm}"
                )

    def scaled(self, factor: float) -> "Training":
        """The same in `factor` times the iterations, the schedule with them.

        Raises:
          TypeError: `factor` is no number.
          ValueError: it is not above 0.
        """
        check_numbers(lambda x: 0 < x < math.inf, "a finite number above 0", factor=factor)
        every = self.outer.every
        if every is not None:
            every = max(1, round(every * factor))
        outer = dataclasses.replace(self.outer, every=every)
        iterations = max(1, round(self.iterations * factor))
        return dataclasses.replace(self, outer=outer, iterations=iterations)


@dataclasses.dataclass(frozen=True)
class Testing:
    """How parameters are scored: the protocol.

    Attributes:
      drawing: of the test episodes.
      episodes: how many, 2 or more.
      steps: inner steps, 0 or more; of learners that compare 0.
      batch_size: support items an inner step; None takes all.
      query_batching: see `Training`.
    """

    drawing: Drawing
    episodes: int
    steps: int = 0
    batch_size: int | None = None
    query_batching: Batching = "separate"

    __test__ = False  # Of the library, not of its tests.

    def __post_init__(self) -> None:
        check_records(Drawing, drawing=self.drawing)
        check_up_to(LARGEST_COUNT, 2, episodes=self.episodes)
        check_up_to(LARGEST_COUNT, 0, steps=self.steps)
        check_optional_up_to(LARGEST_SIZE, 1, batch_size=self.batch_size)
        check_batching(self.query_batching)


@dataclasses.dataclass(frozen=True)
class Number:
    """A result that somebody reports.

    Attributes:
      value: accuracy in %, or for a regression the mean squared error.
      source: who reports it, and where.
      interval: half-width of its interval; None where none was given.
      note: what to know when comparing.
    """

    value: float
    source: str
    interval: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_numbers(lambda x: 0 <= x <= 100, "a number in [0, 100]", value=self.value)
        if self.interval is not None:
            check_rates(0.0, interval=self.interval)
        check_texts(source=self.source, note=self.note)

    def __str__(self) -> str:
        """Such as `98.7 ± 0.4`."""
        return f"{self.value}" if self.interval is None else f"{self.value} ± {self.interval}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One cell of a published table: an algorithm, how it is trained and how it is tested.

    Attributes:
      training: how the parameters come about.
      testing: the published protocol.
      source: where the settings come from.
      variant: what sets it apart from others of the same algorithm and cell, or "".
      published: what its authors report, or None.
      transductive: what they report where all queries are asked at once, if they report both.
      reproductions: what others report who ran it again.
      note: what is known to differ, or was chosen where the source says nothing.
    """

    training: Training
    testing: Testing
    source: str
    variant: str = ""
    published: Number | None = None
    transductive: Number | None = None
    reproductions: tuple[Number, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        check_records(Training, training=self.training)
        check_records(Testing, testing=self.testing)
        for name in ("published", "transductive"):
            if getattr(self, name) is not None:
                check_records(Number, **{name: getattr(self, name)})
        if not isinstance(self.reproductions, tuple):
            what = in_brief(self.reproductions)
            raise TypeError(f"reproductions is {what}; expected a tuple of Numbers")
        check_records(
            Number, **{f"reproductions[{i}]": each for i, each in enumerate(self.reproductions)}
        )
        check_texts(source=self.source, variant=self.variant, note=self.note)
        trained, tested = self.training.drawing.split, self.testing.drawing.split
        if (trained.protocol, trained.seed) != (tested.protocol, tested.seed):
            raise ValueError(
                f"training draws from {trained}, testing from {tested}; expected parts of one "
                "split: those of another overlap"
            )
        ways = self.training.drawing.ways
        if self.training.algorithm in OF_FIXED_WAYS and ways != self.testing.drawing.ways:
            raise ValueError(
                f"training of {ways} ways and testing of {self.testing.drawing.ways}; expected "
                f"as many: {self.training.algorithm} has an output a way"
            )
        if self.training.algorithm not in BY_GRADIENT and self.testing.steps:
            raise ValueError(
                f"steps={self.testing.steps} at test; expected 0: {self.training.algorithm} "
                "compares"
            )
        _check_batch_size(self.training.algorithm, self.testing.batch_size)

    @property
    def name(self) -> str:
        """Such as `maml-omniglot-5w1s`."""
        drawing, data = self.testing.drawing, self.training.data
        cell = f"{drawing.shots}s" if data == "sinusoids" else f"{drawing.ways}w{drawing.shots}s"
        parts = [self.training.algorithm, self.variant, data, cell]
        return "-".join(part for part in parts if part)


def _check_network(algorithm: Algorithm, network: Network) -> None:
    """Raises unless the algorithm is built with such a network."""
    architectures: tuple[Architecture, ...] = ("embedding",)
    if algorithm == "relation":
        architectures = ("relation",)
    elif algorithm in _IN_PARTS:
        architectures = ("strided",)
        check_head_of_mlp(network, algorithm)
    elif algorithm in OF_FIXED_WAYS:
        architectures = ("max_pool", "perceptron", "strided")
    if network.architecture not in architectures:
        expected = " or ".join(repr(each) for each in architectures)
        raise ValueError(
            f"architecture={network.architecture!r} of {algorithm}; expected {expected}"
        )


def _check_inner(algorithm: Algorithm, inner: Inner) -> None:
    """Raises if something is set that the algorithm does not have."""
    _check_batch_size(algorithm, inner.batch_size)
    none_of = {"meta_sgd": ("optimizer", "adapts"), "anil": ("adapts",), "boil": ("adapts",)}
    usual = {"optimizer": "sgd", "adapts": "all", "carried": "learned"}
    for name in (*none_of.get(algorithm, ()), *(() if algorithm == "reptile" else ("carried",))):
        if (own := getattr(inner, name)) != usual[name]:
            raise ValueError(f"{name}={own!r} of {algorithm}; expected {usual[name]!r}")


def _check_batch_size(algorithm: Algorithm, batch_size: int | None) -> None:
    if batch_size is not None and algorithm != "reptile":
        raise ValueError(f"batch_size={batch_size} of {algorithm}; expected None: it is Reptile's")
