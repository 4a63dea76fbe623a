"""Policy and environment are made for one another: looked at by shapes, before anything is run."""

from typing import Any

import jax
import jax.numpy as jnp

from metajax.rl.environments import Environment
from metajax.rl.policies import Policy
from metajax.types import Key

_ITEMS = 7  # As many as hardly anything else.


def check_fitting(policy: Policy, environment: Environment) -> None:
    """Raises unless a policy can act in an environment, as shapes and dtypes tell.

    Raises:
      TypeError, ValueError: a function returns something else than it is to.
      ValueError: the policy takes no such observations, or the environment no such actions.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    task = jax.eval_shape(environment.sample_task, key)
    begun = jax.eval_shape(environment.reset, key, task)
    if not isinstance(begun, tuple) or len(begun) != 2:
        raise TypeError(
            f"the environment's reset returned {_kind(begun)}; expected (state, observation)"
        )
    state, observation = begun
    if not jax.tree.leaves(observation):
        raise TypeError(
            f"the environment's reset gave the observation {observation!r}; expected an array, or "
            "a pytree of them"
        )

    def act(key: Key, observation: Any) -> Any:
        items = jax.tree.map(lambda x: jnp.stack([x] * _ITEMS), observation)
        params = policy.init(key, items)
        distribution = policy.distribution(params, items)
        actions = distribution.sample(key)
        return distribution, actions, distribution.log_prob(actions)

    try:
        distribution, actions, log_probs = jax.eval_shape(act, key, observation)
    except Exception as error:
        raise ValueError(
            "the policy takes no observations like those of the environment, "
            f"{_shapes(observation)} each: {_why(error)}; expected a model of them"
        ) from error
    if any(jnp.shape(leaf)[:1] != (_ITEMS,) for leaf in jax.tree.leaves((distribution, actions))):
        raise ValueError(
            f"the policy's distribution of {_ITEMS} items holds {_shapes(distribution)}, and its "
            f"sample {_shapes(actions)}; expected arrays [items, ...], those that items share too"
        )
    if getattr(log_probs, "shape", None) != (_ITEMS,):
        raise ValueError(
            f"the policy's log_prob gave {_shapes(log_probs)} for {_ITEMS} items; expected "
            "[items], the sum over an action's components"
        )
    action = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), actions)
    try:
        stepped = jax.eval_shape(environment.step, key, state, action, task)
    except Exception as error:
        raise ValueError(
            f"the environment takes no actions like the policy's, {_shapes(action)} each: "
            f"{_why(error)}; expected a policy of as many components, or of as many actions"
        ) from error
    if not isinstance(stepped, tuple) or len(stepped) != 4:
        raise TypeError(
            f"the environment's step returned {_kind(stepped)}; expected (state, observation, "
            "reward, done)"
        )
    after, seen, reward, done = stepped
    _check_same("state", state, after)
    _check_same("observation", observation, seen)
    if jnp.shape(reward) != () or not jnp.issubdtype(jnp.result_type(reward), jnp.floating):
        raise ValueError(
            f"the environment's step gave the reward {_shapes(reward)}; expected a float of shape "
            "(): it knows one task, and no batch of them"
        )
    if jnp.shape(done) != ():
        raise ValueError(
            f"the environment's step gave done {_shapes(done)}; expected a bool of shape ()"
        )


def _check_same(what: str, before: Any, after: Any) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"the environment's reset gives a {what} of {jax.tree.structure(before)}, and its step "
            f"of {jax.tree.structure(after)}; expected the same structure"
        )
    if _shapes(before) != _shapes(after):
        raise ValueError(
            f"the environment's reset gives a {what} {_shapes(before)}, and its step "
            f"{_shapes(after)}; expected the same shapes and dtypes"
        )


def _shapes(tree: Any) -> str:
    return ", ".join(
        f"{jnp.result_type(leaf)}{[*jnp.shape(leaf)]}" for leaf in jax.tree.leaves(tree)
    )


def _kind(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {len(returned)}"
    return "an array" if hasattr(returned, "dtype") else f"a {type(returned).__name__}"


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
