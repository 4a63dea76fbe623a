"""The model of a Flax NNX module."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.models.adapters.given_state import depends_on
from metajax.models.adapters.nnx_modes import named
from metajax.models.adapters.nnx_splitting import nnx_module
from metajax.models.adapters.refusals import no_averages, not_given, nothing_drawn_from
from metajax.models.adapters.remembered import by_shapes
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, State

_KEY = "the key"
_REMEDY = (
    "from_nnx(module, frozen=nnx.state(module, nnx.BatchStat)) of a pre-trained module, or the "
    "module itself, built and in evaluation, from_nnx(module) after module.eval(). Batch "
    "normalisation that shall use the batch at hand takes use_running_average=False in training"
)


def from_nnx(
    module: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    *,
    frozen: nnx.State | Mapping[Any, Any] | None = None,
) -> Model:
    """The model of a Flax NNX module; its parameters are the module's `nnx.Param` state.

    With a key the module is in training mode: attributes `deterministic` and the flags of its
    `__call__` say so, and each of its streams of random numbers gets a key made of it. Without a
    key dropout is off whatever the module says; drawing anything else then raises a ValueError.

    Batch normalisation uses the running averages it was given, in training too: `frozen`, or a
    built module's own after `module.eval()`. Without any it uses the batch, in evaluation too, and
    leaves items of weight 0 out. What a module writes to its state is dropped.

    >>> from flax import nnx
    >>> import metajax
    >>> model = metajax.models.from_nnx(lambda rngs: nnx.Linear(1, 1, rngs=rngs))

    Args:
      module: a function `rngs -> module`, called with a key of its own by `init`; or a module
        already built, whose weights are then what `init` returns and whose other state is constant.
        Called as `module(inputs)`, with flags, and with `weights` or `rngs` if it takes them;
        `[items, ...] -> [items, ...]`. Inputs may be a pytree.
      frozen: state beside the parameters as constants, `nnx.state(module, nnx.BatchStat)` say, or
        from `estimate_statistics`. A model whose outputs depend on state that was not given raises
        a ValueError as soon as it is applied; arrays that are no `nnx.Variable` are constants.

    Raises:
      TypeError: `module` is neither, or `frozen` no state.
      ValueError: `frozen` holds what the module does not keep, or parameters.
    """
    if isinstance(module, type) and issubclass(module, nnx.Module):
        module = functools.partial(_made, module)
    pure = nnx_module(module, frozen)
    own = nnx.to_pure_dict(nnx.state(module, nnx.Param)) if isinstance(module, nnx.Module) else None

    @by_shapes
    def check(params: Params, inputs: Inputs, weights: Array | None, key: Key | None) -> None:
        """Raises if outputs depend on what is missing, as applied or with the module's own way."""
        names = {"/".join(named(path)): path for path in pure.missing}
        missing = {name: pure.missing[path] for name, path in names.items()}
        any_key = jax.eval_shape(lambda: jax.random.key(0))

        def used(training: bool, natural: bool) -> list[str]:
            def outputs(state: State, *rest: Any) -> Outputs:
                values = unflatten_dict({path: state[name] for name, path in names.items()})
                options = {"training": training, "dropout": training, "natural": natural}
                params, inputs, weights = rest
                return pure.run(params, values, inputs, weights, state[_KEY], **options)[0]

            return depends_on(outputs, missing | {_KEY: any_key}, params, inputs, weights)

        natural = used(True, True) if missing else []
        applied = used(key is not None, False)
        if lost := [path for path in dict.fromkeys(natural + applied) if path != _KEY]:
            raise not_given(lost, _REMEDY)
        if key is None and _KEY in applied:
            raise nothing_drawn_from("from an nnx.RngStream")

    def init(key: Key, inputs: Inputs) -> Params:
        del inputs
        if own is not None:
            return jax.tree.map(jnp.array, own)  # Whoever donates them keeps the module.
        return nnx.to_pure_dict(nnx.state(cast(Any, module)(nnx.Rngs(key)), nnx.Param))

    def apply(
        params: Params, inputs: Inputs, weights: Array | None = None, key: Key | None = None
    ) -> Outputs:
        training = key is not None
        if pure.missing or (pure.draws and not training):
            check(params, inputs, weights, key)
        missing = unflatten_dict(pure.missing)
        options = {"training": training, "dropout": training}
        return pure.run(params, missing, inputs, weights, key, **options)[0]

    def statistics(params: Params, state: State, inputs: Inputs, weights: Array | None) -> State:
        if not pure.missing:
            raise no_averages()
        begun = pure.missing if state is None else flatten_dict(state)
        before = unflatten_dict({path: jnp.asarray(begun[path]) for path in pure.missing})
        options = {"training": True, "dropout": False}
        after = pure.run(params, before, inputs, weights, None, **options)[1]
        updated = jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), before, after)
        return unflatten_dict(pure.given | flatten_dict(updated))

    shared = pure.weighted or pure.normalised
    return Model(init, apply, sharing="weighted" if shared else "none", statistics=statistics)


def _made(kind: Any, rngs: nnx.Rngs) -> nnx.Module:
    """A module of a class that takes streams of random numbers alone, by keyword as they do."""
    return kind(rngs=rngs)
