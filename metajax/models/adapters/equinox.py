"""From a module of Equinox to a `Model`."""

from collections import OrderedDict
from typing import Any

import jax

from metajax.models.adapters.equinox_calls import over_items
from metajax.models.adapters.equinox_layers import batch_norms
from metajax.models.adapters.equinox_modules import check_state, take_apart
from metajax.models.adapters.given_state import depends_on
from metajax.models.adapters.refusals import not_given, refuse_padding, updating
from metajax.models.adapters.remembered import by_shapes
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing, State


def from_equinox(module: Any, *, frozen: Any = None) -> Model:
    """The model of an Equinox module.

    Its parameters are the module with only its inexact arrays, so that `eqx.combine(params,
    module)` is the module that was learned. It is called on one item, `jax.vmap` over items, with
    `key`, `state` and flags such as `inference` where its `__call__` has parameters of these names.
    A model with a key is in training mode; without one dropout is off, whatever the module says.

    `eqx.nn.BatchNorm` is apart from that: with `frozen` it uses its running averages, without it
    the batch, in both modes; with `mode="ema"` it depends on its averages always.

    Args:
      module: a module already built, whose weights are where `init` begins: it ignores its key. Or
        a function, `key -> module` or `key -> (module, state)`, that builds one.
      frozen: the `eqx.nn.State` to use, for a module that keeps one. It stays as it is; what the
        module writes to it is dropped. None uses none: a model whose outputs depend on it raises
        ValueError when it is applied.

    Raises:
      ImportError: Equinox is missing.
      TypeError: it is neither a module nor a function that builds one, or cannot be called so.
      ValueError: a module already built keeps state and there is no `frozen`, or `frozen` is not
        its state.
    """
    try:
        import equinox  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"from_equinox needs Equinox, which cannot be imported ({error}); "
            'run: pip install "metajax[equinox]"'
        ) from error
    parts = take_apart(module)
    static = parts.static
    check_state(static, frozen, parts.state)
    state = parts.state if frozen is None else frozen
    sharing: Sharing = "batch" if frozen is None and batch_norms(static) else "none"
    modules = over_items(parts)

    def run(params: Params, state: State, inputs: Inputs, key: Key | None, given: Any) -> Outputs:
        training = key is not None
        return modules.outputs(
            params,
            state,
            inputs,
            given if key is None else key,
            training=training,
            drawing=training,
            averaging=frozen is not None,
        )

    @by_shapes
    def check(params: Params, inputs: Inputs, key: Key | None) -> None:
        """Raises where the outputs depend on what takes the place of what was not given."""
        hidden: dict[str, Any] = {"state": _by_name(state)} if frozen is None and state else {}
        if key is None and modules.stand_in is not None:
            hidden["key"] = modules.stand_in

        if not hidden:
            return

        def outputs(hidden: Any, params: Params, inputs: Inputs, key: Key | None) -> Outputs:
            values = jax.tree.leaves(hidden.get("state", state))
            own = jax.tree.unflatten(jax.tree.structure(state), values)
            return run(params, own, inputs, key, hidden.get("key"))

        paths = depends_on(outputs, hidden, params, inputs, key)
        if "key" in paths:
            raise ValueError(
                "the module draws without a key; expected a __call__ that draws by layers which "
                "have an inference attribute, such as eqx.nn.Dropout, or that takes key=None and "
                "then draws nothing"
            )
        if lost := [path.removeprefix("state/") for path in paths]:
            remedy = "from_equinox(module, frozen=state) of a pre-trained module"
            raise not_given(lost, remedy + _hint(static))

    def apply(
        params: Params, inputs: Inputs, weights: Array | None = None, key: Key | None = None
    ) -> Outputs:
        refuse_padding(sharing, weights)
        check(params, inputs, key)
        return run(params, state, inputs, key, modules.stand_in)

    def update(params: Params, state: State, inputs: Inputs) -> State:
        return modules.state(
            params,
            state,
            inputs,
            modules.stand_in,
            training=True,
            drawing=False,
            averaging=False,
        )

    def refuse(inputs: Inputs, weights: Array | None) -> None:
        refuse_padding("batch" if batch_norms(static) else "none", weights)

    statistics = updating(update, lambda inputs: state, refuse)
    return Model(
        lambda key, inputs: parts.init(key),
        apply,
        sharing=lambda params, inputs: sharing,
        statistics=statistics,
    )


def _by_name(state: State) -> OrderedDict[str, Any]:
    values, names = state.tree_flatten()
    return OrderedDict(zip(map(str, names), values, strict=True))


def _hint(static: Any) -> str:
    if all(norm.mode != "ema" for norm in batch_norms(static)):
        return ""
    return (
        '; batch norm with mode="ema" normalises by its averages in training too, with '
        'mode="batch" by the batch'
    )
