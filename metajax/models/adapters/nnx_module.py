"""An NNX module, split, as pure functions of its parameters and of what was not given."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.models.adapters.modes import mode_flags
from metajax.models.adapters.nnx_modes import Path, set_modes
from metajax.signatures import takes
from metajax.types import Array, Inputs, Key, Outputs, Params, State


class NNXModule(NamedTuple):
    """A split module.

    Attributes:
      call: its `__call__`, unbound.
      graph: what it is made of.
      params: shapes and dtypes of its parameters.
      rngs: its streams of random numbers.
      rest: everything else that it keeps, what was given in its place.
      given: the arrays in it, by path, that `frozen` gave.
      missing: those that nobody gave, at their initial values.
      averaged: paths of batch normalisations whose running averages were given.
      normalised: whether others normalise by statistics of the batch.
    """

    call: Callable[..., Any]
    graph: Any
    params: nnx.State
    rngs: nnx.State
    rest: nnx.State
    given: dict[Any, Array]
    missing: dict[Any, Array]
    averaged: set[Path]
    normalised: bool

    @property
    def weighted(self) -> bool:
        """Whether it takes the items' weights itself."""
        return takes(self.call, "weights")

    @property
    def draws(self) -> bool:
        """Whether it has streams of random numbers."""
        return bool(jax.tree.leaves(self.rngs)) or takes(self.call, "rngs")

    def run(
        self,
        params: Params,
        missing: State,
        inputs: Inputs,
        weights: Array | None,
        key: Key | None,
        *,
        training: bool,
        dropout: bool,
        natural: bool = False,
    ) -> tuple[Outputs, State]:
        """The outputs, and what was missing as it is after them.

        Args:
          params: the parameters, a pure dict.
          missing: values of what was not given, a pure dict.
          inputs: arrays `[items, ...]`.
          weights: `[items]` or None.
          key: what every stream's key is made of; without one no stream may matter.
          training: what the module's flags say.
          dropout: whether dropout drops.
          natural: leave batch normalisation without given averages to what the module says.
        """
        if key is None and self.draws:
            key = jax.random.key(0)
        module = nnx.merge(
            self.graph,
            with_values(self.params, params),
            _streams(self.rngs, key),
            with_values(self.rest, missing),
        )
        modes = {"dropout": dropout, "averaged": self.averaged, "natural": natural}
        set_modes(module, weights=weights, **modes)
        options = mode_flags(self.call, training=training)
        options |= {"weights": weights} if self.weighted else {}
        options |= {"rngs": nnx.Rngs(key)} if takes(self.call, "rngs") else {}
        outputs = module(inputs, **options)
        after = arrays(nnx.split(module, nnx.Param, nnx.RngState, ...)[-1])
        return outputs, unflatten_dict({path: after[path] for path in self.missing})


def arrays(state: nnx.State) -> dict[Any, Array]:
    """The arrays of a state, by path."""
    return cast(dict[Any, Array], flatten_dict(nnx.to_pure_dict(state)))


def with_values(state: nnx.State, values: Any) -> nnx.State:
    """A copy with these values in place of its own."""
    copy = jax.tree.map(lambda x: x, state)
    nnx.replace_by_pure_dict(copy, values)
    return copy


def _streams(rngs: nnx.State, key: Key | None) -> nnx.State:
    """Every stream at its beginning, each with a key of its own made of `key`."""
    if key is None:
        return rngs
    whole = key if _is_key(key) else jax.random.wrap_key_data(key)
    leaves, structure = jax.tree.flatten(rngs)
    indices = itertools.count()

    def anew(leaf: Array) -> Array:
        if not _is_key(leaf):
            return jnp.zeros_like(leaf)
        own = jax.random.fold_in(whole, next(indices))
        return own if leaf.shape == () else jax.random.split(own, leaf.shape)

    return jax.tree.unflatten(structure, map(anew, leaves))


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
