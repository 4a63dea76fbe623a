"""What is given is of the kind that is expected."""

import optax

from metajax.types import Model


def check_model(model: object, name: str) -> None:
    """Raises unless `model`, an argument called `name`, is a `Model`."""
    if not isinstance(model, Model):
        raise TypeError(
            f"{name} is {in_brief(model)}; expected a metajax.Model: wrap a Flax module with "
            "metajax.models.from_linen or metajax.models.from_nnx, one of Equinox or Haiku with "
            "from_equinox or from_haiku, and a pair of functions is metajax.Model(init, apply)"
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


def in_brief(value: object) -> str:
    """What it is, for a message: a module would print all its layers, a tree all its arrays."""
    text = repr(value).split("\n")[0]
    return text if len(text) <= 80 else f"{text[:77]}..."
