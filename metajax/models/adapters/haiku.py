"""From a function of Haiku to a `Model`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.kinds import in_brief
from metajax.models.adapters.given_state import depends_on
from metajax.models.adapters.haiku_calls import calls
from metajax.models.adapters.refusals import not_given, refuse_padding, updating
from metajax.models.adapters.remembered import by_shapes
from metajax.types import Array, Inputs, Key, Model, Outputs, Params, Sharing, State


def from_haiku(function: Callable[..., Any] | Any, *, frozen: Any = None) -> Model:
    """The model of a Haiku function; its parameters are Haiku's.

    A model with a key is in training mode, and draws from it by `hk.next_rng_key`. Where the
    function has parameters of these names it is given `weights` and flags such as `is_training`,
    with or without a default.

    `hk.BatchNorm` is apart from that, whatever it is told: with `frozen` it uses its running
    averages, without it the batch, in both modes.

    Args:
      function: `inputs [items, ...] -> outputs [items, ...]`, that makes Haiku modules. Or what
        `hk.transform`, `hk.transform_with_state` or `hk.without_apply_rng` made of one.
      frozen: the state to use, as `hk.transform_with_state` has it. It stays as it is; what is
        written to it is dropped. None uses none: a model whose outputs depend on it raises
        ValueError when it is applied.

    Raises:
      ImportError: Haiku is missing.
      TypeError: `function` is none of these, or cannot be called so; or `frozen` is no mapping.
    """
    try:
        import haiku  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"from_haiku needs Haiku, which cannot be imported ({error}); "
            'run: pip install "metajax[haiku]"'
        ) from error
    if frozen is not None and not isinstance(frozen, Mapping):
        raise TypeError(
            f"frozen is {in_brief(frozen)}; expected the state of hk.transform_with_state, "
            "a dictionary"
        )
    given = frozen is not None
    haiku_function = calls(function)

    @by_shapes
    def kept(inputs: Inputs) -> tuple[State, bool]:
        """The shapes of the state, and whether there is a batch norm."""
        norms: list[str] = []
        key = jax.eval_shape(lambda: jax.random.key(0))
        _, state = jax.eval_shape(
            lambda key, inputs: haiku_function.init(key, inputs, norms), key, inputs
        )
        if given and _shapes(frozen) != _shapes(state):
            odd = sorted(path for path, _ in {*_shapes(frozen).items()} ^ {*_shapes(state).items()})
            raise ValueError(
                f"frozen differs from the state that the function keeps in {', '.join(odd)}; "
                "expected all of it, in the same shapes"
            )
        return state, bool(norms)

    def sharing(params: Params, inputs: Inputs) -> Sharing:
        if kept(inputs)[1] and not given:
            return "batch"
        return "weighted" if haiku_function.weighted else "none"

    def run(state: State, *rest: Any) -> Outputs:
        params, inputs, weights, key = rest
        return haiku_function.outputs(params, state, inputs, weights, key, averaging=given)

    @by_shapes
    def check(params: Params, inputs: Inputs, weights: Array | None, key: Key | None) -> None:
        state, _ = kept(inputs)
        if state and not given:
            lost = depends_on(run, state, params, inputs, weights, key)
            if lost:
                raise not_given(lost, "from_haiku(function, frozen=state) of a pre-trained model")

    def apply(
        params: Params, inputs: Inputs, weights: Array | None = None, key: Key | None = None
    ) -> Outputs:
        refuse_padding(sharing(params, inputs), weights)
        check(params, inputs, weights, key)
        # Nothing depends on the zeros: that is what was checked.
        absent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept(inputs)[0])
        return run(frozen if given else absent, params, inputs, weights, key)

    def begin(inputs: Inputs) -> State:
        return haiku_function.init(jax.random.key(0), inputs, [])[1]

    def refuse(inputs: Inputs, weights: Array | None) -> None:
        refuse_padding("batch" if kept(inputs)[1] else "none", weights)

    return Model(
        lambda key, inputs: haiku_function.init(key, inputs, [])[0],
        apply,
        sharing=sharing,
        statistics=updating(haiku_function.state, begin, refuse),
    )


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
