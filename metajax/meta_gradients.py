"""A meta-batch of tasks: its mean meta-loss and the gradient of it, cut into chunks."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.checks import check_optional_integers
from metajax.types import Array, Aux, Episode, Key, Params

# MAML on two AVX-512 cores, 16 tasks and 3 exact steps: a task at a time is as fast as all at once
# for a strided net of 7,269 parameters, 1.5 times as slow for one of 1,909 or a perceptron of
# 1,761, and 1.3 to 1.7 times as fast for perceptrons from 10,401 parameters on.
_MANY_PARAMETERS = 8_000

TaskLoss = Callable[[Params, Episode, Key], tuple[Array, Aux]]


def meta_gradient(
    loss: TaskLoss, params: Params, episodes: Episode, keys: Key, *, chunk_size: int | None = None
) -> tuple[Params, tuple[Array, Mapping[str, Array]]]:
    """Gradient of the mean meta-loss over a batch of tasks.

    Args:
      loss: `(params, episode, key) -> (meta_loss, Aux)`, a learner's.
      params: the meta-parameters.
      episodes: an `Episode` whose arrays have a leading axis `[tasks, ...]`.
      keys: `[tasks]` keys.
      chunk_size: tasks that are run at once, under one `vmap`; must divide the number of tasks. A
        scan over chunks accumulates the gradient, so that memory is one chunk's. None is the number
        of tasks on accelerators, which want large programs, on several devices, and for small
        models; on a single CPU device 1 from 8,000 parameters on, since one task fills the cores
        and its arrays stay in the cache. Static.

    Returns:
      The mean gradient, and the pair of the mean meta-loss and the metrics' means.

    Raises:
      TypeError: a number is no integer.
      ValueError: `chunk_size` does not divide the number of tasks, or the episodes have no task
        axis.
    """
    check_optional_integers(1, chunk_size=chunk_size)
    tasks = count_tasks(episodes)
    if chunk_size is None:
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        alone = jax.default_backend() == "cpu" and jax.device_count() == 1
        one = alone and size >= _MANY_PARAMETERS
        chunk_size = 1 if one else tasks
    if tasks < 1 or tasks % chunk_size:
        raise ValueError(
            f"chunk_size={chunk_size} with {tasks} tasks; expected a divisor of the number of tasks"
        )

    def chunk(episodes: Episode, keys: Key) -> tuple[Params, tuple[Array, Mapping[str, Array]]]:
        def mean_loss(params: Params) -> tuple[Array, Mapping[str, Array]]:
            if chunk_size == 1:  # A `vmap` over one task would still batch its matrix products.
                value, aux = loss(params, *jax.tree.map(lambda x: x[0], (episodes, keys)))
                return value, aux.metrics
            values, aux = jax.vmap(loss, in_axes=(None, 0, 0))(params, episodes, keys)
            means = jax.tree.map(lambda metric: metric.mean(axis=0), aux.metrics)
            return values.mean(), means

        (value, metrics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        return gradient, (value, metrics)

    if chunk_size == tasks:
        return chunk(episodes, keys)
    chunks = tasks // chunk_size
    cut = jax.tree.map(lambda x: x.reshape(chunks, chunk_size, *x.shape[1:]), (episodes, keys))
    first = jax.tree.map(lambda x: x[0], cut)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(chunk, *first))

    def add(total: Any, part: tuple[Episode, Key]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, chunk(*part)), None

    total, _ = jax.lax.scan(add, zero, cut)
    return jax.tree.map(lambda x: x / chunks, total)


def count_tasks(episodes: Episode) -> int:
    """The length of the task axis that all arrays of a meta-batch share.

    Raises:
      ValueError: they share none.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(episodes)}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"the episodes' arrays start with the axes {sorted(counts)}; expected one leading task "
            "axis on all of them: sample a batch with jax.vmap(sample)(keys)"
        )
    return counts.pop()[0]
