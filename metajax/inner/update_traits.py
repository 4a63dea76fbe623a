"""What an inner optimiser would do to the meta-gradient, found by looking at its `update` once."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from metajax.inner.zero_gradient import Slope, equations, infinite_slope
from metajax.types import Array, Params
from metajax.user_warnings import warn_user

# So many paths at most are named.
_NAMED = 3


class UpdateTraits(NamedTuple):
    """What is to be known of an optimiser before one differentiates through its steps.

    Attributes:
      climbing: paths of the parameters whose update is the gradient itself, which would be added.
      infinite_slope: where the slope of the first updates is infinite, with exact steps with
        respect to gradient and parameters, else with respect to the parameters alone.
      searches: whether it searches along a line, by a loop that has no reverse derivative.
    """

    climbing: tuple[str, ...]
    infinite_slope: Slope
    searches: bool


def checked_update(
    optimizer: optax.GradientTransformation, params: Params, *, exact: bool
) -> Callable[..., tuple[Params, optax.OptState]]:
    """`optimizer.update` for an inner loop, after a warning of what it would do to the result.

    Args:
      optimizer: see `update_traits`.
      params: see `update_traits`.
      exact: whether a derivative is to go through the inner gradients; static.

    Returns:
      `(gradient, state, params, *, value, grad, value_fn, grad_fn) -> (updates, state)`. That of an
      optimiser that searches along a line raises a `ValueError` where it is differentiated, with
      `exact`, and has no derivative without; nor has then that of one which has none at any of its
      first steps, of the distance from where it began say (`optax.contrib.dog`).

    Raises:
      ValueError: see `update_traits`.
    """
    traits = update_traits(optimizer, params, exact=exact)
    if traits.climbing:
        rest = len(traits.climbing) - _NAMED
        named = ", ".join(path or "(the only leaf)" for path in traits.climbing[:_NAMED])
        warn_user(
            "the inner optimiser leaves the gradient as it is, which would be added to: "
            f"{named}{f' and {rest} more' if rest > 0 else ''}. To leave parameters alone, name "
            "those to adapt with adapt=..., or give the others optax.set_to_zero() by "
            "optax.partition; optax.masked passes on the gradient of what it masks out"
        )
    if exact and traits.infinite_slope == "at zero":
        warn_user(
            "the inner optimiser's update has an infinite slope where the gradient is exactly 0, "
            "which makes exact meta-gradients NaN as soon as a unit is dead (of a norm, as soon as "
            "all of the gradient is 0). Pass eps_root=1e-8 to optax.adam and its kin or "
            "eps_in_sqrt=True to optax.rmsprop, clip by value (optax.clip) in place of by norm, or "
            "take first_order=True"
        )
    if exact and traits.infinite_slope == "anywhere":
        warn_user(
            "the inner optimiser's update has an infinite slope in one of its first steps, "
            "whatever the gradient is, which makes exact meta-gradients NaN. Take "
            "first_order=True, or another optimiser"
        )
    update = accepting(optimizer)
    if exact:
        return _undifferentiated(update) if traits.searches else update
    steep = traits.infinite_slope == "anywhere"
    return _constant(update) if traits.searches or steep else update


@jax.disable_jit(False)  # A search cannot be traced without, nor a number be computed then.
def update_traits(
    optimizer: optax.GradientTransformation, params: Params, *, exact: bool = True
) -> UpdateTraits:
    """Traces `init` and `update`; no array of the size of a parameter is computed.

    Args:
      optimizer: any optax transformation that an inner loop can run.
      params: pytree of float arrays, traced or not; only their shapes are used.
      exact: whether a derivative goes through the gradients; static.

    Returns:
      The traits. Where numbers of the optimiser are traced, its slope is that for other numbers in
      (0, 1); where it is not known, as after a decomposition, it counts as finite.

    Raises:
      ValueError: the result of `optimizer` is another point than the one its steps are taken at
        (`optax.lookahead`, `optax.contrib.schedule_free`).
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    init, state = jax.make_jaxpr(optimizer.init, return_shape=True)(shapes)
    _check_state(state)
    call = accepting(optimizer)

    def update(gradient: Params, params: Params, state: optax.OptState) -> Any:
        def paraboloid(at: Params, grad_fn: Any = None) -> Array:
            gap = jax.tree.map(jnp.subtract, at, params)
            terms = jax.tree.map(lambda slope, x: ((slope + x / 2) * x).sum(), gradient, gap)
            return sum(jax.tree.leaves(terms), jnp.ones(()))

        return call(
            gradient,
            state,
            params,
            value=jnp.ones(()),
            grad=gradient,
            value_fn=paraboloid,
            grad_fn=lambda at, _: jax.grad(paraboloid)(at),
        )

    program = jax.make_jaxpr(update)(shapes, shapes, state)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    climbing = tuple(
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, _), given, change in zip(
            leaves, program.jaxpr.invars, program.jaxpr.outvars, strict=False
        )
        if change is given
    )
    searches = any(equation.primitive.name == "while" for equation in equations(program.jaxpr))
    slope = "nowhere" if searches else infinite_slope(init, program, through_gradient=exact)
    return UpdateTraits(climbing, slope, searches)


def _check_state(state: optax.OptState) -> None:
    """Raises where the state is one of an optimiser whose iterates are not its result."""
    refused = {
        optax.LookaheadState: "optax.lookahead needs parameters in pairs, fast and slow",
        optax.contrib.ScheduleFreeState: (
            "the result of optax.contrib.schedule_free is an average of what the loop returns"
        ),
    }

    def known(node: Any) -> bool:
        return type(node) in refused

    for node in jax.tree.leaves(state, is_leaf=known):
        if known(node):
            raise ValueError(
                f"{refused[type(node)]}, so it is no inner optimiser; expected one whose iterates "
                "are its result: use the optimiser within it"
            )


def accepting(optimizer: optax.GradientTransformation) -> Callable:
    """`optimizer.update`, given the extra arguments that it takes and no others."""
    update = optax.with_extra_args_support(optimizer).update
    parameters = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return update

    def accepting(gradient: Params, state: optax.OptState, params: Params, **extra: Any) -> Any:
        taken = {name: value for name, value in extra.items() if name in parameters}
        return update(gradient, state, params, **taken)

    return accepting


def _constant(update: Callable) -> Callable:
    """`update` without a derivative with respect to anything, given or closed over."""

    def constant(gradient: Params, state: optax.OptState, params: Params, **extra: Any) -> Any:
        arguments = gradient, state, params
        # What it closes over becomes an argument, so that no loop in it is differentiated.
        program, shapes = jax.make_jaxpr(
            lambda *arguments: update(*arguments, **extra), return_shape=True
        )(*arguments)
        constants, leaves = jax.lax.stop_gradient((program.consts, jax.tree.leaves(arguments)))
        outputs = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, constants))(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return constant


def _undifferentiated(update: Callable) -> Callable:
    """`update` that says, when it is differentiated, that it cannot be."""

    def undifferentiated(*arguments: Any, **extra: Any) -> Any:
        updates, state = update(*arguments, **extra)
        return _refuse_derivative(updates), state

    return undifferentiated


@jax.custom_jvp
def _refuse_derivative(updates: Params) -> Params:
    return updates


@_refuse_derivative.defjvp
def _raise(primals: tuple, tangents: tuple) -> Any:
    raise ValueError(
        "the inner optimiser searches along a line, by a loop that has no reverse derivative; "
        "expected first_order=True, or an optimiser without a search, such as "
        "optax.lbfgs(rate, scale_init_precond=False, linesearch=None)"
    )
