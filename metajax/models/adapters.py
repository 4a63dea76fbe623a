"""From a user's network to a `Model`: one adapter each for Flax linen, Flax NNX and functions."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import nnx
from flax.core import DenyList

from metajax.types import Array, Key, Model, Params


def from_linen(module: nn.Module) -> Model:
    """The model of a Flax linen module; its parameters are the module's `params` collection.

    Other collections (the running averages of `nn.BatchNorm`) start anew in every call and what is
    written to them is dropped, so batch normalisation must use the batch: set
    `use_running_average=False`. If the module's `__call__` takes `weights`, the items' weights are
    passed on.

    Args:
      module: called as `module(inputs)`, `[items, ...] -> [items, ...]`.

    Raises:
      TypeError: `module` is not a linen module (an instance, not the class).
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is {module!r}; expected an instance of flax.linen.Module")
    weighted = _takes_weights(type(module).__call__)

    def init(key: Key, inputs: Array) -> Params:
        return module.init(key, inputs)["params"]

    def apply(params: Params, inputs: Array, weights: Array | None = None) -> Array:
        options: dict[str, Any] = {"weights": weights} if weighted else {}
        outputs, _ = module.apply({"params": params}, inputs, mutable=DenyList("params"), **options)
        return outputs

    return Model(init, apply)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The model of a Flax NNX module; its parameters are the module's `nnx.Param` state.

    Other state starts anew in every call, as in `from_linen`.

    >>> from flax import nnx
    >>> import metajax
    >>> model = metajax.models.from_nnx(lambda rngs: nnx.Linear(1, 1, rngs=rngs))

    Args:
      build: `rngs -> module`. It is called under tracing, so it must be pure.

    Raises:
      TypeError: `build` is not callable, or is a module already built.
    """
    if isinstance(build, nnx.Module) or not callable(build):
        raise TypeError(
            f"build is {build!r}; expected a function from nnx.Rngs to a module, such as "
            "lambda rngs: MyModule(rngs=rngs): a module already built cannot be initialised anew"
        )

    def init(key: Key, inputs: Array) -> Params:
        del inputs
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: Params, inputs: Array, weights: Array | None = None) -> Array:
        module = build(nnx.Rngs(0))
        graph, state, rest = nnx.split(module, nnx.Param, ...)
        nnx.replace_by_pure_dict(state, params)
        options = {"weights": weights} if _takes_weights(type(module).__call__) else {}
        return nnx.merge(graph, state, rest)(inputs, **options)

    return Model(init, apply)


def from_functions(init: Callable[[Key, Array], Params], apply: Callable[..., Array]) -> Model:
    """The model of a plain pair of functions, such as `hk.without_apply_rng(hk.transform(f))`.

    Args:
      init: `(key, inputs [items, ...]) -> params`.
      apply: `(params, inputs [items, ...]) -> outputs [items, ...]`. If it has an argument
        `weights`, the items' weights are passed on.

    Raises:
      TypeError: one of them is not callable.
    """
    if not callable(init) or not callable(apply):
        raise TypeError(f"got init={init!r}, apply={apply!r}; expected two functions")
    weighted = _takes_weights(apply)

    def weighted_apply(params: Params, inputs: Array, weights: Array | None = None) -> Array:
        options = {"weights": weights} if weighted else {}
        return apply(params, inputs, **options)

    return Model(init, weighted_apply)


def _takes_weights(function: Callable[..., Any]) -> bool:
    return "weights" in inspect.signature(function).parameters
