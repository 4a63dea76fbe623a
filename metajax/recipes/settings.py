"""What is set in a training or a test: the network, the optimisers, what is drawn."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from metajax.checks.numbers import (
    check_integers,
    check_numbers,
    check_optional_integers,
)
from metajax.checks.settings import check_flags, check_texts
from metajax.data.episode_draws import Rotations
from metajax.kinds import check_words, in_brief

Architecture = Literal["strided", "max_pool", "embedding", "relation", "perceptron"]

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


# Of what is a side of an array, and of what is counted: steps are on devices.
LARGEST_SIZE = 2**16
LARGEST_COUNT = 2**31 - 1

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
        check_up_to(LARGEST_SIZE, 1, filters=self.filters)
        check_words(("mean", "flatten"), features=self.features)
        check_words(("SAME", "VALID"), pool_padding=self.pool_padding, padding=self.padding)
        check_flags(pool_first=self.pool_first, use_scale=self.use_scale)
        check_rates(1e-12, epsilon=self.epsilon)
        check_words(
            INITIALIZERS,
            kernel_init=self.kernel_init,
            head_kernel_init=self.head_kernel_init,
            head_bias_init=self.head_bias_init,
        )
        if not isinstance(self.widths, tuple):
            raise TypeError(f"widths is {in_brief(self.widths)}; expected a tuple of integers")
        widths = {f"widths[{i}]": width for i, width in enumerate(self.widths)}
        check_up_to(LARGEST_SIZE, 1, **widths)
        for architecture, names in _OF_ARCHITECTURE.items():
            if self.architecture != architecture:
                check_left_alone(self, names, f"{architecture} networks")
        if (self.architecture == "perceptron") != bool(self.widths):
            raise ValueError(
                f"architecture={self.architecture!r}, widths={self.widths!r}; expected widths for "
                "a perceptron, and for nothing else"
            )
        if self.architecture == "perceptron":
            check_head_of_mlp(self, "a perceptron")


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
        check_rates(1e-12, rate=self.rate)
        check_up_to(LARGEST_COUNT, 0, steps=self.steps)
        check_words(("sgd", "adam"), optimizer=self.optimizer)
        check_optional_up_to(LARGEST_SIZE, 1, batch_size=self.batch_size)
        check_numbers(lambda x: 0 < x < 1, "a number in (0, 1)", decay=self.decay)
        check_words(("learned", "replaced"), carried=self.carried)
        check_words(("all", "but statistics"), adapts=self.adapts)
        if self.optimizer != "adam":
            check_left_alone(self, ("decay", "carried"), "optimizer='adam'")


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
        check_rates(1e-12, rate=self.rate)
        check_words(("adam", "sgd"), optimizer=self.optimizer)
        check_words(("constant", "cosine", "linear", "steps"), schedule=self.schedule)
        check_optional_up_to(LARGEST_COUNT, 1, every=self.every)
        check_numbers(lambda x: 0 < x < 1, "a number in (0, 1)", factor=self.factor)
        for name in ("clip", "clip_values"):
            if getattr(self, name) is not None:
                check_rates(1e-12, **{name: getattr(self, name)})
        check_flags(clip_modules=self.clip_modules)
        check_rates(0.0, weight_decay=self.weight_decay)
        if self.schedule != "steps":
            check_left_alone(self, ("factor",), "schedule='steps'")
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
            check_left_alone(self, ("seed",), "protocol='random'")


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
        check_records(Split, split=self.split)
        check_up_to(LARGEST_SIZE, 1, ways=self.ways, shots=self.shots, queries=self.queries)
        check_words(("none", "tasks", "classes", "episode"), rotations=self.rotations)
        check_flags(across_sources=self.across_sources)


def check_up_to(most: int, least: int, /, **given: object) -> None:
    """Raises unless every argument is an integer of `least` to `most`.

    XLA ends the process, with no error that Python could catch, where the numbers of an array are
    more than it can count.
    """
    check_integers(least, **given)
    for name, number in given.items():
        if number > most:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"{name}={number!r}; expected an integer of {least} to {most:,}")


def check_optional_up_to(most: int, least: int, /, **given: object) -> None:
    """The same, of arguments that may be None."""
    check_optional_integers(least, **given)
    check_up_to(most, least, **{name: each for name, each in given.items() if each is not None})


def check_left_alone(record: Any, names: Sequence[str], owner: str) -> None:
    """Raises unless what belongs to something else has its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(record)}
    for name in names:
        if (own := getattr(record, name)) != defaults[name]:
            raise ValueError(f"{name}={own!r}; expected {defaults[name]!r}: it is of {owner}")


def check_records(kind: type, **given: object) -> None:
    """Raises a TypeError unless every argument is a record of this kind."""
    for name, record in given.items():
        if not isinstance(record, kind):
            a = "an" if kind.__name__[0] in "IO" else "a"
            raise TypeError(f"{name} is {in_brief(record)}; expected {a} {kind.__name__}")


def check_head_of_mlp(network: Network, what: str) -> None:
    """Raises a ValueError unless the head is drawn from what `what`, a perceptron, can have."""
    if not network.head_kernel_init.startswith("truncated_normal"):
        raise ValueError(
            f"head_kernel_init={network.head_kernel_init!r} of {what}; expected a truncated "
            "normal, which is what metajax.models.mlp draws from"
        )


def check_rates(least: float, **given: object) -> None:
    """Raises unless every argument is a finite number of `least` or more; see `check_numbers`."""
    within: Callable[[float], bool] = lambda x: least <= x < math.inf  # noqa: E731
    check_numbers(within, "a finite number above 0" if least else "a number, 0 or more", **given)
