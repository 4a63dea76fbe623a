"""A linen module and the state it was given, as pure functions of everything else."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
from flax import nnx
from flax.core import DenyList, unfreeze
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.kinds import in_brief
from metajax.models.adapters.linen_interception import Modes, Path, interceptor
from metajax.models.adapters.modes import check_call, mode_flags
from metajax.models.adapters.refusals import check_given, nothing_drawn_from
from metajax.signatures import takes
from metajax.types import Array, Inputs, Key, Outputs, Params, State


class Declared(NamedTuple):
    """What a module keeps beside its parameters.

    Attributes:
      missing: shapes and dtypes, by path, of what was not given.
      normalised: whether it normalises by statistics of the batch.
    """

    missing: dict[Path, Any]
    normalised: bool


class LinenModule(NamedTuple):
    """The module, and the state it was given, by path."""

    module: nn.Module
    given: dict[Path, Any]

    @property
    def weighted(self) -> bool:
        """Whether it takes the items' weights itself."""
        return takes(type(self.module).__call__, "weights")

    def init(
        self, key: Key, inputs: Inputs, found: Callable[[Path], None] | None = None
    ) -> dict[str, Any]:
        """All variables, of the module in training mode; `found` hears of batch normalisations."""
        modes = Modes(dropout=True, found=found)
        options = self._options(True, None)
        with nn.intercept_methods(interceptor(modes)):
            variables = self.module.init(
                key, inputs, mutable=DenyList(("intermediates", modes.mark())), **options
            )
        return unfreeze(variables)

    def declared(self, inputs: Inputs) -> Declared:
        """What it keeps, found by tracing. Raises if it was given something else."""
        norms: list[Path] = []
        variables = jax.eval_shape(
            lambda key, inputs: self.init(key, inputs, norms.append), any_key(), inputs
        )
        state = state_of(variables)
        check_given(self.given, state)
        missing = {path: leaf for path, leaf in state.items() if path not in self.given}
        return Declared(missing, any(path not in self._averaged() for path in norms))

    def run(
        self,
        params: Params,
        state: State,
        inputs: Inputs,
        weights: Array | None,
        key: Key | None,
        *,
        training: bool,
        natural: bool = False,
    ) -> tuple[Outputs, dict[Path, Any]]:
        """The outputs, and the state after them, by path.

        Args:
          params: the parameters.
          state: collections of what was not given.
          inputs: arrays `[items, ...]`.
          weights: `[items]` or None.
          key: what is drawn; None drops nothing.
          training: what the module's flags say.
          natural: leave batch normalisation without given averages to what the module says.
        """
        modes = Modes(key is not None, self._averaged(), natural, weights)
        rngs = {} if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
        variables = unflatten_dict(flatten_dict(state) | self.given) | {"params": params}
        options = self._options(training, weights)
        options["mutable"] = DenyList(("params", modes.mark()))
        try:
            with nn.intercept_methods(interceptor(modes)):
                outputs, changed = self.module.apply(variables, inputs, rngs=rngs, **options)
        except InvalidRngError as error:
            if key is not None:
                raise
            raise nothing_drawn_from(str(error)) from error
        return outputs, state_of(changed)

    def _averaged(self) -> set[Path]:
        return {path[1:-1] for path in self.given if path[0] == "batch_stats"}

    def _options(self, training: bool, weights: Array | None) -> dict[str, Any]:
        flags = mode_flags(type(self.module).__call__, training=training)
        return flags | ({"weights": weights} if self.weighted else {})


def linen_module(module: object, frozen: Mapping[str, Any] | None) -> LinenModule:
    """The arguments of `from_linen`, checked."""
    if not isinstance(module, nn.Module) or not callable(module):
        remedy = ""
        if isinstance(module, type) and issubclass(module, nn.Module):
            remedy = f", not the class: {module.__name__}(...)"
        elif isinstance(module, nnx.Module):
            remedy = "; modules of Flax NNX go to metajax.models.from_nnx"
        raise TypeError(
            f"module is {in_brief(module)}; expected an instance of flax.linen.Module with a "
            f"__call__{remedy}"
        )
    check_call(module, "weights")
    if frozen is not None and not isinstance(frozen, Mapping):
        raise TypeError(
            f'frozen is {type(frozen).__name__}; expected a dict of collections, {{"batch_stats": '
            "...}, or None"
        )
    if "params" in (frozen or {}):
        raise ValueError(
            "frozen holds the collection 'params', which is learned; expected the others alone, "
            'such as {"batch_stats": variables["batch_stats"]}'
        )
    return LinenModule(module, state_of(frozen or {}))


def state_of(variables: Mapping[str, Any]) -> dict[Path, Any]:
    """All variables but the parameters, by path."""
    kept = {name: unfreeze(variables[name]) for name in variables if name != "params"}
    return cast(dict[Path, Any], flatten_dict(kept))


def any_key() -> Any:
    """The shape and dtype of a key."""
    return jax.eval_shape(lambda: jax.random.key(0))
