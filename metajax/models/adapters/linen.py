"""The model of a Flax linen module."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from metajax.models.adapters.given_state import depends_on
from metajax.models.adapters.linen_module import any_key, linen_module, state_of
from metajax.models.adapters.refusals import no_averages, not_given
from metajax.models.adapters.remembered import by_shapes
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing, State

_REMEDY = (
    'from_linen(module, frozen={"batch_stats": variables["batch_stats"]}) with the variables of a '
    "pre-trained module, or whatever the collection is called. Batch "
    "normalisation that shall use the batch at hand takes use_running_average=False in training"
)


def from_linen(module: nn.Module, *, frozen: Mapping[str, Any] | None = None) -> Model:
    """The model of a Flax linen module; its parameters are the module's `params` collection.

    With a key the module is in training mode: flags of its `__call__` (`train`, `training`,
    `is_training`, `deterministic`, `use_running_average`) say so, and it draws from the key: that
    is the stream `dropout`, and `jax.random.fold_in(key, 1)` stands in for any other. Without a key
    dropout is off whatever the module says; drawing anything else then raises a ValueError.

    Batch normalisation uses the running averages it was given, in training too. Without any it uses
    the batch, in evaluation too, and leaves items of weight 0 out. What a module writes to its
    state is dropped.

    >>> import flax.linen as nn
    >>> import metajax
    >>> module = nn.Sequential([nn.Dense(8), nn.BatchNorm(), nn.relu, nn.Dropout(0.1)])
    >>> model = metajax.models.from_linen(module)

    Args:
      module: called as `module(inputs)`, with flags, and with `weights` if it takes them;
        `[items, ...] -> [items, ...]`. Inputs may be a pytree.
      frozen: collections beside `params`, `{"batch_stats": ...}` say, as constants: of a
        checkpoint, or from `estimate_statistics`. A model whose outputs depend on state that was
        not given raises a ValueError as soon as it is applied.

    Raises:
      TypeError: `module` is no linen module (an instance, not the class), or `frozen` no dict.
      ValueError: `frozen` holds `params`.
    """
    pure = linen_module(module, frozen)
    declared = by_shapes(pure.declared)

    @by_shapes
    def check(params: Params, inputs: Inputs, weights: Array | None, key: Key | None) -> None:
        """Raises if outputs depend on what is missing, as applied or with the module's own way."""
        missing = unflatten_dict(declared(inputs).missing)

        def used(drawn: Key | None, natural: bool) -> list[str]:
            def outputs(state: State, params: Params, *rest: Any) -> Outputs:
                options = {"training": drawn is not None, "natural": natural}
                return pure.run(params, state, *rest, **options)[0]

            return depends_on(outputs, missing, params, inputs, weights, drawn)

        if lost := used(any_key(), True) or used(key, False):
            raise not_given(lost, _REMEDY)

    def init(key: Key, inputs: Inputs) -> Params:
        return pure.init(key, inputs).get("params", {})

    def apply(
        params: Params, inputs: Inputs, weights: Array | None = None, key: Key | None = None
    ) -> Outputs:
        missing = declared(inputs).missing
        if missing:
            check(params, inputs, weights, key)
        unused = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), missing)
        state = unflatten_dict(unused)
        return pure.run(params, state, inputs, weights, key, training=key is not None)[0]

    def sharing(params: Params, inputs: Inputs) -> Sharing:
        return "weighted" if pure.weighted or declared(inputs).normalised else "none"

    def statistics(params: Params, state: State, inputs: Inputs, weights: Array | None) -> State:
        # What is sown is a tuple, and grows.
        own = [path for path, x in declared(inputs).missing.items() if not isinstance(x, tuple)]
        if not own:
            raise no_averages()
        begun = state_of(pure.init(jax.random.key(0), inputs) if state is None else state)
        before = {path: begun[path] for path in own}
        after = pure.run(params, unflatten_dict(before), inputs, weights, None, training=True)[1]
        updated = jax.tree.map(
            lambda old, new: jnp.asarray(new, jnp.result_type(old)),
            before,
            {path: after[path] for path in own},
        )
        return unflatten_dict(pure.given | updated)

    return Model(init, apply, sharing=sharing, statistics=statistics)
