"""Equinox modules taken apart: parameters, what never reaches JAX, and state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.kinds import in_brief
from metajax.models.adapters.equinox_layers import state_indices
from metajax.signatures import takes
from metajax.types import Key, Params, State


class Parts(NamedTuple):
    """A module, taken apart.

    Attributes:
      init: `key -> params`: a module with its inexact arrays only.
      static: the module without them.
      join: `params -> module`, the whole.
      state: as it begins, an `eqx.nn.State`, or None where it is not known.
    """

    init: Callable[[Key], Params]
    static: Any
    join: Callable[[Params], Any]
    state: State | None


def take_apart(module: Any) -> Parts:
    """The parts of a module already built, or of what `key -> module` builds."""
    import equinox as eqx

    if not isinstance(module, eqx.Module):
        if not callable(module):
            raise TypeError(
                f"module is {in_brief(module)}; expected an eqx.Module, or a function key -> module"
            )
        return _of_builder(module)
    if any(jax.tree.leaves(index.init) for index in state_indices(module)):
        raise ValueError(
            "module keeps its initial state inside; expected the two apart, "
            "module, state = eqx.nn.make_with_state(MyModule)(...), and "
            "from_equinox(module, frozen=state)"
        )
    params, static = eqx.partition(module, eqx.is_inexact_array)
    join = _joining(static, jax.tree.structure(params))
    return Parts(lambda key: jax.tree.map(jnp.array, params), static, join, None)


def _of_builder(builder: Callable[..., Any]) -> Parts:
    import equinox as eqx

    def build(key: Key) -> tuple[Any, State]:
        made = builder(key=key) if takes(builder, "key") else builder(key)
        module, state = made if isinstance(made, tuple) else (made, None)
        if not isinstance(module, eqx.Module):
            raise TypeError(
                f"module built {in_brief(made)}; expected an eqx.Module, or (module, state) as "
                "eqx.nn.make_with_state builds it"
            )
        if state is not None:
            return module, state
        if any(not jax.tree.leaves(index.init) for index in state_indices(module)):
            raise ValueError(
                "module built a module without its state; expected (module, state), both that "
                "eqx.nn.make_with_state builds"
            )
        return eqx.nn.make_with_state(lambda: module)()

    @eqx.filter_jit
    def rest(key: Key) -> Any:
        module, state = build(key)
        params, static = eqx.partition(module, eqx.is_inexact_array)
        return static, state, jax.tree.structure(params)

    with jax.ensure_compile_time_eval():
        static, state, structure = rest(jax.random.key(0))

    def init(key: Key) -> Params:
        arrays = jax.tree.leaves(eqx.filter(build(key)[0], eqx.is_inexact_array))
        return jax.tree.unflatten(structure, arrays)

    return Parts(init, static, _joining(static, structure), state)


def _joining(static: Any, structure: Any) -> Callable[[Params], Any]:
    """Two modules built alike differ in the lambdas they make, so that one serves for all."""
    import equinox as eqx

    wanted = _paths(jax.tree.unflatten(structure, range(structure.num_leaves)))

    def join(params: Params) -> Any:
        if (got := _paths(params)) != wanted:
            odd = sorted({*got} ^ {*wanted})
            raise ValueError(
                f"params differ from the module's in {', '.join(odd) or 'their order'}; expected "
                "those of this model's init, or eqx.filter(module, eqx.is_inexact_array)"
            )
        return eqx.combine(jax.tree.unflatten(structure, jax.tree.leaves(params)), static)

    return join


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def check_state(static: Any, frozen: Any, initial: State | None) -> None:
    """Raises unless the module `static` has the state that it keeps, given or as it begins."""
    import equinox as eqx

    stateful = bool(state_indices(static))
    if frozen is None:
        if stateful and initial is None:
            raise ValueError(
                "module is already built and keeps state, which it cannot be called without; "
                "expected frozen=state, of module, state = eqx.nn.make_with_state(MyModule)(...), "
                "or for module the function that builds both, "
                "lambda key: eqx.nn.make_with_state(MyModule)(key)"
            )
        return
    if not isinstance(frozen, eqx.nn.State):
        raise TypeError(
            f"frozen is {in_brief(frozen)}; expected an eqx.nn.State, such as the second of what "
            "eqx.nn.make_with_state builds"
        )
    if not stateful:
        raise ValueError("frozen is given, and module keeps no state; expected frozen=None")
    try:
        frozen.substate(static)
    except KeyError as error:
        raise ValueError(
            f"frozen lacks {error}, which the module keeps; expected the state of this module, "
            "which the same call of eqx.nn.make_with_state builds"
        ) from None
