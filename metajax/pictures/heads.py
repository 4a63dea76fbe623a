"""What tells classes apart by features: the heads that have a name, and learners of your own."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from metajax.algorithms.linear_probe import linear_probe
from metajax.algorithms.mahalanobis_head import mahalanobis_head
from metajax.algorithms.nearest_class_mean import nearest_class_mean
from metajax.algorithms.ridge_head import ridge_head
from metajax.calibration.rejection import Kind
from metajax.checks.objects import check_instance
from metajax.checks.parameters import check_floats
from metajax.kinds import in_brief
from metajax.metric import centred_features
from metajax.pictures.saved_programs import SavedTask
from metajax.types import Array, Learner, Model, Params


class Trained(NamedTuple):
    """A learner of features with its meta-parameters, as the head of a `FewShotClassifier`.

    Attributes:
      learner: one that classifies features `[items, features]` as the network gives them; neither
        centred nor brought to a length.
      params: its meta-parameters, trained by `metajax.train` say.
    """

    learner: Learner
    params: Params


class Temperatures(NamedTuple):
    """What scores are divided by before anything is known of their errors.

    Attributes:
      one: where each class has one item.
      several: where some have more.
      spread: how far it may be from there, as the standard deviation of its logarithm.
    """

    one: float
    several: float
    spread: float


class _Named(NamedTuple):
    """A head by its name.

    Attributes:
      make: from an encoder and a number of ways to the learner.
      temperatures: of its scores.
    """

    make: Callable[[Model, int], Learner]
    temperatures: Temperatures


# Strengths are those of features of length 1. Temperatures fit episodes of 2, 5 and 20 classes, one
# picture of each or five, by EfficientNet-Lite0 at 224: emoji of the validation groups.
_NAMED = {
    "ridge": _Named(
        lambda encoder, ways: ridge_head(
            encoder, strength=0.1, learn_strength=False, learn_scale=False, ways=ways
        ),
        Temperatures(0.7, 0.9, 0.3),
    ),
    "means": _Named(
        lambda encoder, ways: nearest_class_mean(encoder, unit=False, ways=ways),
        Temperatures(0.095, 0.051, 0.3),
    ),
    "mahalanobis": _Named(
        lambda encoder, ways: mahalanobis_head(encoder, ways=ways),
        Temperatures(0.045, 0.027, 0.3),
    ),
    "probe": _Named(
        lambda encoder, ways: linear_probe(encoder, strength=0.1, ways=ways),
        Temperatures(0.18, 0.3, 0.3),
    ),
}
_UNKNOWN = Temperatures(1.0, 1.0, 1.0)
_FEW = 10.0  # Fitted pictures, of which the mean is half of what it is of many.
HEADS = tuple(_NAMED)


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A learner for a number of classes, and how sure its answers are where nothing tells.

    Attributes:
      learner: of items, as the encoder gives them.
      params: its meta-parameters; of a head with a name their one array is what is taken from every
        item, the mean of those that are fitted, which `fitting` puts in its place.
      few: how many items of 0 are in that mean, too, see `head_of`; None of other heads.
      temperatures: of its scores.
      kind: of the score by which pictures are rejected, see `metajax.calibration`.
    """

    learner: Learner
    params: Params
    few: float | None
    temperatures: Temperatures
    kind: Kind

    @property
    def named(self) -> bool:
        """Whether it is a head with a name: for items of any number, with weights."""
        return self.few is not None


def check_head(head: object) -> None:
    """Raises unless it is a name of a head, or a learner with its parameters.

    Raises:
      TypeError: it is none of them.
      ValueError: a head of no such name, or one that came with a file as a program.
    """
    if isinstance(head, SavedTask):
        raise ValueError(
            f"head is {head.program.title} as a file has it, fitted to its pictures; expected the "
            "learner, to fit it again: load(path, head=metajax.pictures.Trained(learner, params))"
        )
    if isinstance(head, Trained):
        check_instance(head.learner, Learner, "head.learner", "a metajax.Learner of features")
        check_floats(head.params)
    elif isinstance(head, str):
        if head not in HEADS:
            names = ", ".join(f'"{name}"' for name in HEADS)
            raise ValueError(
                f"head={head!r}; expected one of {names}, or a "
                "metajax.pictures.Trained(learner, params)"
            )
    else:
        check_instance(
            head,
            Trained,
            "head",
            f"one of {', '.join(HEADS)} as a string, or a metajax.pictures.Trained(learner, "
            f"params), and not {in_brief(type(head).__name__)}",
        )


def head_of(head: str | Trained, width: int, ways: int, *, of_network: bool) -> Head:
    """The head for `ways` classes of features `[items, width]`.

    The mean of all features, which is taken away, tells strangers better; but the mean of a few
    pictures is mostly what they show, and costs accuracy. So that of a network's features, which
    are positive and were told apart without it, begins at 0; features of anything else may lie
    anywhere.
    """
    if isinstance(head, Trained):
        return own_head(head)
    learner = _learner(head, ways)
    one = jax.ShapeDtypeStruct((1, width), jnp.float32)
    params = jax.eval_shape(learner.init, jax.random.key(0), one)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    # Of what tells strangers, the largest score was best or as good in validation.
    return Head(learner, params, _FEW if of_network else 0.0, _NAMED[head].temperatures, "logit")


def own_head(head: Trained) -> Head:
    """The head that a learner of somebody's own is, of a run too."""
    return Head(head.learner, head.params, None, _UNKNOWN, "probability")


@functools.lru_cache(maxsize=64)
def _learner(name: str, ways: int) -> Learner:
    """Made once, so that its programs are compiled once."""
    return _NAMED[name].make(_centring(), ways)


@functools.cache
def _centring() -> Model:
    """Features less its parameter, brought to length 1."""

    def apply(params: Params, inputs: Array) -> Array:
        return centred_features(inputs, cast(Array, params), True)

    return Model(lambda key, inputs: jnp.zeros(inputs.shape[1:], inputs.dtype), apply)
