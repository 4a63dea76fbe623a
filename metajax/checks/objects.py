"""What is given is of the kind that is expected."""

from typing import Any

import optax

from metajax.kinds import in_brief
from metajax.types import Learner, Model, Objective


def check_instance(value: object, kind: type, name: str, expected: str) -> None:
    """Raises a TypeError unless `value`, an argument called `name`, is of a class of the library.

    Args:
      value: the argument.
      kind: the class.
      name: of the argument.
      expected: what it is to be, and how that is made.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {in_brief(value)}; expected {expected}")


def check_model(model: object, name: str) -> None:
    """Raises unless `model`, an argument called `name`, is a `Model`."""
    check_instance(
        model,
        Model,
        name,
        "a metajax.Model: wrap a Flax module with metajax.models.from_linen or "
        "metajax.models.from_nnx, one of Equinox or Haiku with from_equinox or from_haiku, and a "
        "pair of functions is metajax.Model(init, apply)",
    )


def check_learner(learner: object) -> None:
    """Raises unless the argument `learner` is a `Learner`."""
    check_instance(
        learner, Learner, "learner", "a metajax.Learner, such as metajax.maml(model, ...)"
    )


def check_objective(objective: object) -> None:
    """Raises unless the argument `objective` is an `Objective`."""
    check_instance(
        objective,
        Objective,
        "objective",
        "a metajax.Objective, such as metajax.supervised(model, loss_fn)",
    )


def check_optimizer(optimizer: object, name: str, example: str = "optax.sgd(0.4)") -> None:
    """Raises unless `optimizer`, an argument called `name`, is an optax transformation."""
    if not isinstance(optimizer, optax.GradientTransformation):
        such = f"such as {example}"
        if isinstance(optimizer, optax.MultiSteps):
            such = "which its method gradient_transformation() returns"
        raise TypeError(
            f"{name} is {optimizer!r}; expected an optax.GradientTransformation, {such}"
        )


def check_optional_optimizer(optimizer: Any, name: str, example: str) -> None:
    """The same, of what may be None."""
    if optimizer is not None:
        check_optimizer(optimizer, name, example)
