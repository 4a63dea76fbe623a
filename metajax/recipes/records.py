"""What a recipe is: how an algorithm was trained, how it was tested, and what came out."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from metajax.checks.numbers import (
    check_integers,
    check_numbers,
    check_optional_integers,
    check_temperature,
)
from metajax.checks.settings import check_flags, check_texts
from metajax.data.episode_draws import Rotations
from metajax.kinds import check_words, in_brief
from metajax.query_batching import Batching, check_batching

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
Architecture = Literal["strided", "max_pool", "embedding", "relation", "perceptron"]

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
# By the names of `jax.nn.initializers`, with what they are called with.
INITIALIZERS = (
    "lecun_normal",
    "normal(0.01)",
    "normal(1)",
    "ones",
    "truncated_normal(0.01)",
    "truncated_normal(0.2)",
    "variance_scaling(1/3, fan_in, uniform)",
    "variance_scaling(2, fan_out, normal)",
    "xavier_uniform",
    "zeros",
)


_OF_ARCHITECTURE = {
    "strided": ("features",),
    "max_pool": ("pool_padding", "pool_first"),
    "relation": ("padding",),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, and what its parameters are drawn from.

    Attributes:
      architecture: `"strided"`, `"max_pool"`, `"embedding"`, `"relation"` or `"perceptron"`, see
        `metajax.models`.
      filters: channels of every block, 1 or more.
      features: of a strided network, see `metajax.models.strided_conv_net`.
      pool_padding: of a max-pooled network, see `metajax.models.max_pool_conv_net`.
      pool_first: of a max-pooled network, see there.
      padding: of the relation module's convolutions.
      use_scale: whether batch statistics have a scale beside the offset.
      epsilon: added to the variance, above 0.
      kernel_init: of convolutions; an initialiser by its name in `INITIALIZERS`.
      head_kernel_init: of dense layers; a truncated normal in perceptrons and in the heads of ANIL
        and BOIL, which are perceptrons' too.
      head_bias_init: of dense layers.
      widths: of a perceptron's hidden layers.
    """

    architecture: Architecture
    filters: int = 64
    features: Literal["mean", "flatten"] = "mean"
    pool_padding: Literal["SAME", "VALID"] = "VALID"
    pool_first: bool = False
    padding: Literal["SAME", "VALID"] = "SAME"
    use_scale: bool = True
    epsilon: float = 1e-5
    kernel_init: str = "lecun_normal"
    head_kernel_init: str = "lecun_normal"
    head_bias_init: str = "zeros"
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_words(Architecture.__args__, architecture=self.architecture)
        check_integers(1, filters=self.filters)
        check_words(("mean", "flatten"), features=self.features)
        check_words(("SAME", "VALID"), pool_padding=self.pool_padding, padding=self.padding)
        check_flags(pool_first=self.pool_first, use_scale=self.use_scale)
        _check_rates(1e-12, epsilon=self.epsilon)
        check_words(
            INITIALIZERS,
            kernel_init=self.kernel_init,
            head_kernel_init=self.head_kernel_init,
            head_bias_init=self.head_bias_init,
        )
        if not isinstance(self.widths, tuple):
            raise TypeError(f"widths is {in_brief(self.widths)}; expected a tuple of integers")
        check_integers(1, **{f"widths[{i}]": width for i, width in enumerate(self.widths)})
        for architecture, names in _OF_ARCHITECTURE.items():
            if self.architecture != architecture:
                _check_left_alone(self, names, f"{architecture} networks")
        if (self.architecture == "perceptron") != bool(self.widths):
            raise ValueError(
                f"architecture={self.architecture!r}, widths={self.widths!r}; expected widths for "
                "a perceptron, and for nothing else"
            )
        if self.architecture == "perceptron":
            _check_head_of_mlp(self, "a perceptron")


@dataclasses.dataclass(frozen=True)
class Inner:
    """How a task is adapted in training; `Testing` says how often it is at test.

    Attributes:
      rate: of the inner optimiser, above 0, for the mean of the items' losses.
      steps: 0 or more.
      optimizer: `"sgd"`, or Reptile's `"adam"` with beta1 = 0 (see `metajax.reptile`).
      batch_size: support items an inner step; None takes all.
      decay: of Adam's second moment, in (0, 1).
      carried: what a meta-step makes of the second moment at the end of its tasks: it is
        `"learned"`, as the model is, or `"replaced"` by their mean, see `metajax.reptile`.
      adapts: `"all"` parameters, or all `"but statistics"`: scales and offsets of batch
        statistics are meta-learned, and not adapted.
    """

    rate: float
    steps: int
    optimizer: Literal["sgd", "adam"] = "sgd"
    batch_size: int | None = None
    decay: float = 0.999
    carried: Literal["learned", "replaced"] = "learned"
    adapts: Literal["all", "but statistics"] = "all"

    def __post_init__(self) -> None:
        _check_rates(1e-12, rate=self.rate)
        check_integers(0, steps=self.steps)
        check_words(("sgd", "adam"), optimizer=self.optimizer)
        check_optional_integers(1, batch_size=self.batch_size)
        check_numbers(lambda x: 0 < x < 1, "a number in (0, 1)", decay=self.decay)
        check_words(("learned", "replaced"), carried=self.carried)
        check_words(("all", "but statistics"), adapts=self.adapts)
        if self.optimizer != "adam":
            _check_left_alone(self, ("decay", "carried"), "optimizer='adam'")


@dataclasses.dataclass(frozen=True)
class Outer:
    """The outer optimiser.

    Attributes:
      rate: at the beginning, above 0.
      optimizer: `"adam"`, or Reptile's `"sgd"`.
      schedule: `"constant"`, `"cosine"` or `"linear"` to 0 at the last iteration, or `"steps"`.
      every: of `"steps"`: iterations until the rate is multiplied.
      factor: of `"steps"`: by what, in (0, 1).
      clip: the most that the norm of a gradient may be, or None.
      clip_modules: clip each of the learner's modules by itself.
      clip_values: the most that an entry of the gradient may be, or None.
      weight_decay: added to the gradient, times the parameters; 0 or more.
    """

    rate: float
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "cosine", "linear", "steps"] = "constant"
    every: int | None = None
    factor: float = 0.5
    clip: float | None = None
    clip_modules: bool = False
    clip_values: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(1e-12, rate=self.rate)
        check_words(("adam", "sgd"), optimizer=self.optimizer)
        check_words(("constant", "cosine", "linear", "steps"), schedule=self.schedule)
        check_optional_integers(1, every=self.every)
        check_numbers(lambda x: 0 < x < 1, "a number in (0, 1)", factor=self.factor)
        for name in ("clip", "clip_values"):
            if getattr(self, name) is not None:
                _check_rates(1e-12, **{name: getattr(self, name)})
        check_flags(clip_modules=self.clip_modules)
        _check_rates(0.0, weight_decay=self.weight_decay)
        if self.schedule != "steps":
            _check_left_alone(self, ("factor",), "schedule='steps'")
        if (self.schedule == "steps") != (self.every is not None):
            raise ValueError(
                f"schedule={self.schedule!r}, every={self.every!r}; expected every=, the "
                "iterations until the rate falls, with schedule='steps' and with no other"
            )
        if self.clip_modules and self.clip is None:
            raise ValueError("clip_modules=True, clip=None; expected the norm to clip at")


@dataclasses.dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
      part: such as `"train"`, `"train_and_validation"` or `"test"`.
      protocol: of Omniglot, `"vinyals"`, `"lake"` or `"random"`; elsewhere the published one, "".
      seed: of a random split.
    """

    part: str
    protocol: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_texts(part=self.part, protocol=self.protocol)
        check_integers(0, seed=self.seed)
        if self.protocol != "random":
            _check_left_alone(self, ("seed",), "protocol='random'")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How episodes are drawn from a part of a data set.

    Attributes:
      split: the part.
      ways: classes, 1 or more; of a regression 1.
      shots: support items a class, 1 or more.
      queries: query items a class, 1 or more.
      rotations: see `metajax.data.image_episodes`.
      across_sources: see `metajax.data.image_episodes`.
    """

    split: Split
    ways: int
    shots: int
    queries: int
    rotations: Rotations = "none"
    across_sources: bool = False

    def __post_init__(self) -> None:
        _check_records(Split, split=self.split)
        check_integers(1, ways=self.ways, shots=self.shots, queries=self.queries)
        check_words(("none", "tasks", "classes", "episode"), rotations=self.rotations)
        check_flags(across_sources=self.across_sources)


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
        _check_records(Drawing, drawing=self.drawing)
        _check_records(Network, network=self.network)
        _check_records(Outer, outer=self.outer)
        check_integers(1, iterations=self.iterations, meta_batch=self.meta_batch)
        check_batching(self.query_batching)
        check_optional_integers(1, pixels=self.pixels)
        check_words(("both", "support"), normalize=self.normalize)
        check_temperature(self.temperature)
        check_words(("none", "zeros", "embedding"), full_context=self.full_context)
        if self.data in _OF_ONE_SIZE:
            _check_left_alone(self, ("pixels",), "data sets whose images have several sizes")
        adapts = self.algorithm in BY_GRADIENT
        if adapts:
            _check_records(Inner, inner=self.inner)
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
        _check_records(Drawing, drawing=self.drawing)
        check_integers(2, episodes=self.episodes)
        check_integers(0, steps=self.steps)
        check_optional_integers(1, batch_size=self.batch_size)
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
            _check_rates(0.0, interval=self.interval)
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
        _check_records(Training, training=self.training)
        _check_records(Testing, testing=self.testing)
        for name in ("published", "transductive"):
            if getattr(self, name) is not None:
                _check_records(Number, **{name: getattr(self, name)})
        if not isinstance(self.reproductions, tuple):
            what = in_brief(self.reproductions)
            raise TypeError(f"reproductions is {what}; expected a tuple of Numbers")
        _check_records(
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


def _check_left_alone(record: Any, names: Sequence[str], owner: str) -> None:
    """Raises unless what belongs to something else has its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(record)}
    for name in names:
        if (own := getattr(record, name)) != defaults[name]:
            raise ValueError(f"{name}={own!r}; expected {defaults[name]!r}: it is of {owner}")


def _check_records(kind: type, **given: object) -> None:
    for name, record in given.items():
        if not isinstance(record, kind):
            a = "an" if kind.__name__[0] in "IO" else "a"
            raise TypeError(f"{name} is {in_brief(record)}; expected {a} {kind.__name__}")


def _check_network(algorithm: Algorithm, network: Network) -> None:
    """Raises unless the algorithm is built with such a network."""
    architectures: tuple[Architecture, ...] = ("embedding",)
    if algorithm == "relation":
        architectures = ("relation",)
    elif algorithm in _IN_PARTS:
        architectures = ("strided",)
        _check_head_of_mlp(network, algorithm)
    elif algorithm in OF_FIXED_WAYS:
        architectures = ("max_pool", "perceptron", "strided")
    if network.architecture not in architectures:
        expected = " or ".join(repr(each) for each in architectures)
        raise ValueError(
            f"architecture={network.architecture!r} of {algorithm}; expected {expected}"
        )


def _check_head_of_mlp(network: Network, what: str) -> None:
    if not network.head_kernel_init.startswith("truncated_normal"):
        raise ValueError(
            f"head_kernel_init={network.head_kernel_init!r} of {what}; expected a truncated "
            "normal, which is what metajax.models.mlp draws from"
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


def _check_rates(least: float, **given: object) -> None:
    within: Callable[[float], bool] = lambda x: least <= x < math.inf  # noqa: E731
    check_numbers(within, "a finite number above 0" if least else "a number, 0 or more", **given)
