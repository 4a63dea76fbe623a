"""From the functions of an algorithm to a learner: what is given is taken and checked in one place.

Arguments become JAX arrays before anything is computed: of NumPy arrays, a task read from a file
say, Python's operators would compute by NumPy, which rounds differently on some processors.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from metajax.checks import check_episode, check_examples, check_scalar
from metajax.types import Array, Aux, Episode, Examples, Key, Learner, Params, Task

T = TypeVar("T")


def make_learner(
    init: Callable[[Key, Array], Params],
    loss: Callable[[Params, Episode, Key | None], tuple[Array, Aux]],
    adapt: Callable[[Params, Examples, Key | None], Task],
    predict: Callable[[Params, Task, Array], Array],
    *,
    title: str,
) -> Learner:
    """A `Learner` of these functions, which get JAX arrays and whole sets alone.

    Args:
      init: see `Learner`.
      loss: see `Learner`.
      adapt: see `Learner`.
      predict: see `Learner`.
      title: what the learner is, with its settings, such as `"maml(num_steps=5, ...)"`.
    """

    def checked_init(key: Key, inputs: Array) -> Params:
        """Initial meta-parameters.

        Args:
          key: random key.
          inputs: `[items, ...]`; only their shape and dtype matter.
        """
        return init(key, jnp.asarray(inputs))

    def checked_loss(params: Params, episode: Episode, key: Key | None = None) -> tuple[Array, Aux]:
        """The meta-loss of one episode; `jax.grad` of it is the meta-gradient.

        Args:
          params: the meta-parameters.
          episode: the task, unbatched.
          key: for what is drawn (mini-batches, roll-outs, an order); None draws nothing.

        Returns:
          `[]` and an `Aux`: the outputs on the query set and named metrics.
        """
        params, episode, key = _as_arrays((params, episode, key))
        check_episode(episode)
        value, aux = loss(params, episode, key)
        check_scalar(value, "the meta-loss")
        return value, aux

    def checked_adapt(params: Params, support: Examples, key: Key | None = None) -> Task:
        """Fits one task.

        Args:
          params: the meta-parameters.
          support: the task's labelled items.
          key: see `loss`.

        Returns:
          The task, arrays in a pytree, for `predict`.
        """
        params, support, key = _as_arrays((params, support, key))
        check_examples(support, "support")
        return adapt(params, support, key)

    def checked_predict(params: Params, task: Task, inputs: Array) -> Array:
        """The outputs for new items of a task.

        Args:
          params: the meta-parameters.
          task: from `adapt`.
          inputs: `[items, ...]`.

        Returns:
          `[items, ...]`, for a classifier scores `[items, ways]`.
        """
        return predict(*_as_arrays((params, task, inputs)))

    return Learner(checked_init, checked_loss, checked_adapt, checked_predict, title)


def _as_arrays(tree: T) -> T:
    return jax.tree.map(jnp.asarray, tree)
