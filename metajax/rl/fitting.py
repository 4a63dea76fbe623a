"""Policy and environment are made for one another: looked at by shapes, before anything is run."""

import contextlib
import numbers
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.checks.parameters import check_floats, check_parameters
from metajax.kinds import check_key, in_brief, is_array
from metajax.rl.distributions import Categorical
from metajax.rl.environments import Environment
from metajax.rl.policies import Policy
from metajax.types import Inputs, Key, Params, Task

_METHODS = ("sample", "mode", "log_prob", "entropy", "kl")
_ITEMS = 7  # As many as hardly anything else.


class Fitting(NamedTuple):
    """A policy and an environment that fit, and shapes of what they take.

    Attributes:
      policy: the policy.
      environment: the environment.
      params: the policy's parameters, `jax.ShapeDtypeStruct` in the places of arrays.
      task: one task.
      observation: one observation.
    """

    policy: Policy
    environment: Environment
    params: Params
    task: Task
    observation: Inputs


def check_fitting(policy: Policy, environment: Environment) -> Fitting:
    """Raises unless a policy can act in an environment, as shapes and dtypes tell.

    Returns:
      The two, and what they take.

    Raises:
      TypeError, ValueError: a function returns something else than it is to.
      ValueError: the policy takes no such observations, or the environment no such actions.
    """

    def act(key: Key) -> tuple[Params, Task, Inputs]:
        task = _arrays("sample_task", "the task", environment.sample_task(key))
        return _acted(policy, environment, None, task, key)

    return Fitting(policy, environment, *_shapes_of(act))


def check_given(fitting: Fitting, params: Params, task: Task, key: Key) -> None:
    """Raises unless the policy with these parameters can act in this task.

    Raises:
      TypeError, ValueError: the parameters are not the policy's, the task is not one of the
        environment's, either has dtypes that policy and environment do not take, or `key` is none.
    """
    check_params(fitting, params)
    same = jax.tree.structure(task) == jax.tree.structure(fitting.task)
    same &= all(is_array(x) or isinstance(x, numbers.Number) for x in jax.tree.leaves(task))
    expected = f"expected one of the environment's, {_shapes(fitting.task)}, as its sample_task"
    if not same or _sizes(task) != _sizes(fitting.task):
        raise ValueError(
            f"the task is {_shapes(task) if same else in_brief(task)}; {expected} draws it: a "
            "function of one takes several under jax.vmap"
        )
    check_key(key)
    if _dtypes(task) != _dtypes(fitting.task):
        with _saying(f"the task is {_shapes(task)}; {expected} draws it", why=False):
            _try(fitting, fitting.params, task)
    if _dtypes(params) != _dtypes(fitting.params):
        dtypes = " and ".join(sorted({str(dtype) for dtype in _dtypes(params)}))
        with _saying(f"the parameters are of {dtypes}, unlike those of init", "those of init"):
            _try(fitting, params, task)


def _try(fitting: Fitting, params: Params, task: Task) -> None:
    """Raises where policy and environment do not take dtypes that are not those of their own."""

    def act(key: Key, params: Params, task: Task) -> Any:
        task = jax.tree.map(jnp.asarray, task)
        return _acted(fitting.policy, fitting.environment, params, task, key)

    _shapes_of(act, params, task)


def _acted(
    policy: Policy, environment: Environment, params: Params | None, task: Task, key: Key
) -> tuple[Params, Task, Inputs]:
    """What one action takes, of parameters of the policy's own where there are none."""
    state, observation = _checked_reset(environment.reset(key, task))
    items = jax.tree.map(lambda x: jnp.stack([x] * _ITEMS), observation)
    given = _shapes(observation)
    with _saying(
        f"the policy takes no observations like those of the environment, {given} each",
        "a model of them",
    ):
        params = policy.init(key, items) if params is None else params
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
    _check_action(environment, distribution, action)
    with _saying(
        f"the environment's step failed on an action {_shapes(action)} of the policy's",
        "a step that takes such actions, or a policy of as many components, or of as many actions",
    ):
        stepped = environment.step(key, state, action, task)
    _check_step(stepped, state, observation)
    return params, task, observation


def _check_action(environment: Environment, distribution: Any, action: Any) -> None:
    """Raises where an environment says of its actions that the policy's are others."""
    number, size = environment.num_actions, environment.action_size
    if number is not None:
        _check_kind(action, (), jnp.integer, f"an integer [], one of its {number} actions")
        chosen = isinstance(distribution, Categorical)
        if chosen and (given := jnp.shape(distribution.logits)[-1]) != number:
            raise ValueError(
                f"the policy chooses one of {given} actions, and the environment has {number}; "
                f"expected a policy of {number}, whose model has as many outputs"
            )
    if size is not None:
        _check_kind(action, (size,), jnp.floating, f"floats [{size}], as many components")


def _check_kind(action: Any, shape: tuple[int, ...], kind: Any, expected: str) -> None:
    fits = is_array(action) and jnp.shape(action) == shape and jnp.issubdtype(action.dtype, kind)
    if not fits:
        raise ValueError(
            f"the environment takes no actions like the policy's, {_shapes(action)} each; expected "
            f"{expected}"
        )


def _shapes_of(act: Callable[..., Any], *given: Any) -> Any:
    """The shapes of what `act(key, *given)` gives; nothing is computed."""
    return jax.eval_shape(act, jax.eval_shape(lambda: jax.random.key(0)), *given)


def check_params(fitting: Fitting, params: Params) -> None:
    """Raises a TypeError or ValueError unless parameters are a policy's."""
    check_floats(params)
    check_parameters(fitting.params, params)


def check_observations(fitting: Fitting, observations: Inputs) -> None:
    """Raises a ValueError unless they are observations `[items, ...]` of the environment."""
    same = jax.tree.structure(observations) == jax.tree.structure(fitting.observation)
    if not same or [size[1:] for size in _sizes(observations)] != _sizes(fitting.observation):
        raise ValueError(
            f"inputs are {_shapes(observations)}; expected observations [items, ...] of the "
            f"environment, {_shapes(fitting.observation)} each"
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
def _saying(what: str, expected: str = "", *, why: bool = True) -> Iterator[None]:
    """Says first what is wrong where something fails, then, with `why`, how it failed."""
    try:
        yield
    except Exception as error:
        if not why:
            raise ValueError(what) from error
        said = " ".join(str(error).split())[:200]
        if "expected" in said:  # As the library's errors say.
            raise ValueError(f"{what}: {said}") from error
        kind = f"{type(error).__name__} {said}".strip()
        raise ValueError(f"{what}: {kind}; expected {expected}") from error


def _sizes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _dtypes(tree: Any) -> list[Any]:
    return [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]


def _shapes(tree: Any) -> str:
    return ", ".join(
        f"{getattr(leaf, 'dtype', type(leaf).__name__)}{[*jnp.shape(leaf)]}"
        for leaf in jax.tree.leaves(tree)
    )


def _kind(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {len(returned)}"
    return "an array" if hasattr(returned, "dtype") else f"a {type(returned).__name__}"
