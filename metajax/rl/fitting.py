"""Policy and environment are made for one another: looked at by shapes, before anything is run."""

import contextlib
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.parameters import check_floats, check_parameters
from metajax.kinds import check_key, in_brief, is_array
from metajax.rl.environments import Environment
from metajax.rl.policies import Policy
from metajax.types import Inputs, Key, Params, Task

_METHODS = ("sample", "mode", "log_prob", "entropy", "kl")
_ITEMS = 7  # As many as hardly anything else.


class Shapes(NamedTuple):
    """Of what a policy and an environment take, `jax.ShapeDtypeStruct` in the places of arrays.

    Attributes:
      params: the policy's parameters.
      task: one task.
      observation: one observation.
    """

    params: Params
    task: Task
    observation: Inputs


def check_fitting(policy: Policy, environment: Environment) -> Shapes:
    """Raises unless a policy can act in an environment, as shapes and dtypes tell.

    Returns:
      What they take.

    Raises:
      TypeError, ValueError: a function returns something else than it is to.
      ValueError: the policy takes no such observations, or the environment no such actions.
    """

    def act_once(key: Key) -> tuple[Any, ...]:
        task = _arrays("sample_task", "the task", environment.sample_task(key))
        state, observation = _checked_reset(environment.reset(key, task))
        items = jax.tree.map(lambda x: jnp.stack([x] * _ITEMS), observation)
        given = _shapes(observation)
        with _saying(
            f"the policy takes no observations like those of the environment, {given} each",
            "a model of them",
        ):
            params = policy.init(key, items)
            distribution: Any = policy.distribution(params, items)
        _check_distribution(distribution)
        actions = distribution.sample(key)
        if any(size[:1] != (_ITEMS,) for size in _sizes((distribution, actions))):
            raise ValueError(
                f"the policy's distribution of {_ITEMS} items holds {_shapes(distribution)}, and "
                f"its sample {_shapes(actions)}; expected arrays [items, ...], those that items "
                "share too"
            )
        log_probs = distribution.log_prob(actions)
        if jnp.shape(log_probs) != (_ITEMS,):
            raise ValueError(
                f"the policy's log_prob gave {_shapes(log_probs)} for {_ITEMS} items; expected "
                "[items], the sum over an action's components"
            )
        action = jax.tree.map(lambda x: x[0], actions)
        with _saying(
            f"the environment takes no actions like the policy's, {_shapes(action)} each",
            "a policy of as many components, or of as many actions",
        ):
            stepped = environment.step(key, state, action, task)
        _check_step(stepped, state, observation)
        return params, task, observation

    return Shapes(*jax.eval_shape(act_once, jax.eval_shape(lambda: jax.random.key(0))))


def check_given(shapes: Shapes, params: Params, task: Task, key: Key) -> None:
    """Raises unless a policy with these parameters can act in this task.

    Raises:
      TypeError, ValueError: the parameters are not the policy's, the task is not one of the
        environment's, or `key` no key.
    """
    check_params(shapes, params)
    same = jax.tree.structure(task) == jax.tree.structure(shapes.task)
    same &= all(is_array(x) or isinstance(x, numbers.Number) for x in jax.tree.leaves(task))
    if not same or _sizes(task) != _sizes(shapes.task):
        raise ValueError(
            f"the task is {_shapes(task) if same else in_brief(task)}; expected one of the "
            f"environment's, {_shapes(shapes.task)}, as its sample_task draws it: a function of "
            "one takes several under jax.vmap"
        )
    check_key(key)


def check_params(shapes: Shapes, params: Params) -> None:
    """Raises a TypeError or ValueError unless parameters are a policy's."""
    check_floats(params)
    check_parameters(shapes.params, params)


def check_observations(shapes: Shapes, observations: Inputs) -> None:
    """Raises a ValueError unless they are observations `[items, ...]` of the environment."""
    same = jax.tree.structure(observations) == jax.tree.structure(shapes.observation)
    if not same or [size[1:] for size in _sizes(observations)] != _sizes(shapes.observation):
        raise ValueError(
            f"inputs are {_shapes(observations)}; expected observations [items, ...] of the "
            f"environment, {_shapes(shapes.observation)} each"
        )


def _checked_reset(begun: Any) -> tuple[Any, Any]:
    if not isinstance(begun, tuple) or len(begun) != 2:
        raise TypeError(
            f"the environment's reset returned {_kind(begun)}; expected (state, observation)"
        )
    state = _arrays("reset", "the state", begun[0], some=False)
    return state, _arrays("reset", "the observation", begun[1])


def _check_step(stepped: Any, state: Any, observation: Any) -> None:
    if not isinstance(stepped, tuple) or len(stepped) != 4:
        raise TypeError(
            f"the environment's step returned {_kind(stepped)}; expected (state, observation, "
            "reward, done)"
        )
    after, seen, reward, done = stepped
    _check_same("state", state, _arrays("step", "the state", after, some=False))
    _check_same("observation", observation, _arrays("step", "the observation", seen))
    reward, done = _arrays("step", "the reward", reward), _arrays("step", "done", done)
    if reward.shape != () or not jnp.issubdtype(reward.dtype, jnp.floating):
        raise ValueError(
            f"the environment's step gave the reward {_shapes(reward)}; expected a float of shape "
            "(): it knows one task, and no batch of them"
        )
    if done.shape != ():
        raise ValueError(
            f"the environment's step gave done {_shapes(done)}; expected a bool of shape ()"
        )


def _check_same(what: str, before: Any, after: Any) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"the environment's reset gives the {what} {jax.tree.structure(before)}, and its step "
            f"{jax.tree.structure(after)}; expected the same structure"
        )
    if _shapes(before) != _shapes(after):
        raise ValueError(
            f"the environment's reset gives the {what} {_shapes(before)}, and its step "
            f"{_shapes(after)}; expected the same shapes and dtypes"
        )


def _arrays(function: str, what: str, tree: Any, *, some: bool = True) -> Any:
    leaves = jax.tree.leaves(tree)
    for leaf in leaves or [tree] * some:
        if not (is_array(leaf) or isinstance(leaf, numbers.Number)):
            raise TypeError(
                f"the environment's {function} gave {what} {in_brief(leaf)}; expected an array, or "
                "a pytree of them"
            )
    return jax.tree.map(jnp.asarray, tree)


def _check_distribution(distribution: Any) -> None:
    if not all(callable(getattr(distribution, method, None)) for method in _METHODS):
        raise TypeError(
            f"the policy's distribution returned {_kind(distribution)}; expected a "
            "metajax.rl.Distribution, such as metajax.rl.Gaussian(mean, log_std), with the methods "
            f"{', '.join(_METHODS)}"
        )


@contextlib.contextmanager
def _saying(what: str, expected: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        end = "" if "expected" in why else f"; expected {expected}"
        raise ValueError(f"{what}: {why}{end}") from error


def _sizes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _shapes(tree: Any) -> str:
    return ", ".join(
        f"{getattr(leaf, 'dtype', type(leaf).__name__)}{[*jnp.shape(leaf)]}"
        for leaf in jax.tree.leaves(tree)
    )


def _kind(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {len(returned)}"
    return "an array" if hasattr(returned, "dtype") else f"a {type(returned).__name__}"
