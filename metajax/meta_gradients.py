"""A meta-batch of tasks: its mean meta-loss and the gradient of it, cut into chunks."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.checks.episodes import check_batched_weights, check_weights
from metajax.checks.numbers import check_optional_integers, check_scalar
from metajax.checks.objects import check_optional_optimizer
from metajax.checks.parameters import check_floats
from metajax.checks.settings import check_texts
from metajax.kinds import as_array, check_arrays, check_functions, check_keys
from metajax.types import Array, Aux, Episode, Key, Params

# MAML on two AVX-512 cores, 16 tasks and 3 exact steps: a task at a time is as fast as all at once
# for a strided net of 7,269 parameters, 1.5 times as slow for one of 1,909 or a perceptron of
# 1,761, and 1.3 to 1.7 times as fast for perceptrons from 10,401 parameters on.
_MANY_PARAMETERS = 8_000

TaskLoss = Callable[[Params, Episode, Key], tuple[Array, Aux]]


def meta_gradient(
    loss: TaskLoss,
    params: Params,
    episodes: Episode,
    keys: Key,
    *,
    chunk_size: int | None = None,
    task_transform: optax.GradientTransformation | None = None,
    task_weights: Array | None = None,
    axis_name: str | None = None,
) -> tuple[Params, tuple[Array, Mapping[str, Array]]]:
    """Gradient of the mean meta-loss over a batch of tasks.

    With task weights `w` and a transformation `f` of each task's gradient `g` it is
    `sum_t w_t f(g_t) / sum_t w_t`. Either of them takes one gradient a task, so that the memory is
    that of the gradients of a chunk.

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
      task_transform: applied to the gradient of each task before they are averaged, its state fresh
        for every task: `optax.clip(10.0)`, as the authors' code of CAVIA (Zintgraf et al. 2019)
        does, or `optax.clip_by_global_norm`. That of MAML++ (Antoniou et al. 2019) clamps the mean,
        which is for the outer optimiser. What draws noise would draw the same for every task.
        None leaves them as they are.
      task_weights: `[tasks]` finite and non-negative, of which gradient, meta-loss and metrics are
        weighted means. A task of weight 0 does not count, whatever it holds, NaN too. In a compiled
        program, where the values are not known, a negative weight and weights that are all 0 give
        NaN. None counts every task once.
      axis_name: the axis of `jax.pmap`, `jax.shard_map` or `jax.vmap` over whose devices, each with
        its own tasks, the mean is taken. The weights count over all devices: one may have no task
        of a weight above 0.

    Returns:
      The mean gradient, and the pair of the mean meta-loss and the metrics' means.

    Raises:
      TypeError: a number is no integer, `task_transform` is not an optax transformation, or
        another argument is of another kind.
      ValueError: `chunk_size` does not divide the number of tasks, the episodes have no task axis,
        the weights of the tasks or, where they are known, of items are not as above, or the
        meta-loss is no scalar.
    """
    check_functions(loss=loss)
    check_optional_integers(1, chunk_size=chunk_size)
    check_optional_optimizer(task_transform, "task_transform", "optax.clip(10.0)")
    if axis_name is not None:
        check_texts(axis_name=axis_name)
    check_floats(params)
    check_arrays(episodes, "episodes")
    tasks = count_tasks(episodes)
    check_batched_weights(episodes)
    check_keys(keys, tasks)
    if chunk_size is None:
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
        chunk_size = 1 if one_at_a_time(size) else tasks
    if tasks < 1 or tasks % chunk_size:
        raise ValueError(
            f"chunk_size={chunk_size} with {tasks} tasks; expected a divisor of the number of tasks"
        )
    cut = partial(_add_up, tasks=tasks, chunk_size=chunk_size)

    def task_loss(params: Params, episode: Episode, key: Key) -> tuple[Array, Aux]:
        value, aux = loss(params, episode, key)
        check_scalar(value, "the meta-loss")
        return value, aux

    if task_transform is None and task_weights is None:
        mean = cut(_mean_of_chunk(task_loss, params, chunk_size), (episodes, keys))
        if chunk_size < tasks:
            mean = jax.tree.map(lambda x: x / (tasks // chunk_size), mean)
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    if task_transform is None:
        task_transform = optax.identity()
    # Half precision would count few tasks, and overflow.
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    weights = jnp.ones(tasks, dtype)
    if task_weights is not None:
        task_weights = as_array(task_weights, "task_weights")
        check_weights(task_weights, (tasks,), "task_weights", "a task")
        weights = jnp.asarray(task_weights, dtype)
        weights = jnp.where(weights < 0, jnp.nan, weights)
    part = _weighted_sum_of_chunk(task_loss, params, chunk_size, task_transform)
    sums, count = cut(part, (episodes, keys, weights))
    if task_weights is None:
        count = tasks  # Known: the devices need not add it up.
    if axis_name is not None:
        sums, count = jax.lax.psum((sums, count), axis_name)
    gradient, reported = jax.tree.map(lambda x: x / count, sums)
    gradient = jax.tree.map(lambda x, like: x.astype(jnp.result_type(like)), gradient, params)
    return gradient, reported


def one_at_a_time(size: int) -> bool:
    """Whether tasks of a model of so many parameters fill the device one by one."""
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return alone and size >= _MANY_PARAMETERS


def _mean_of_chunk(loss: TaskLoss, params: Params, chunk_size: int) -> Callable[..., Any]:
    """The function `(episodes, keys)` to the gradient of the mean, and the means."""

    def chunk(episodes: Episode, keys: Key) -> tuple[Params, tuple[Array, Mapping[str, Array]]]:
        def mean_loss(params: Params) -> tuple[Array, Mapping[str, Array]]:
            if chunk_size == 1:  # A `vmap` over one task would still batch its matrix products.
                value, aux = loss(params, *jax.tree.map(lambda x: x[0], (episodes, keys)))
                # A mean over the one task, too, so that a count or a bool becomes a float.
                means = jax.tree.map(lambda x: jnp.asarray(x)[None].mean(axis=0), aux.metrics)
                return value, means
            values, aux = jax.vmap(loss, in_axes=(None, 0, 0))(params, episodes, keys)
            means = jax.tree.map(lambda metric: metric.mean(axis=0), aux.metrics)
            return values.mean(), means

        (value, metrics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        return gradient, (value, metrics)

    return chunk


def _weighted_sum_of_chunk(
    loss: TaskLoss, params: Params, chunk_size: int, transform: optax.GradientTransformation
) -> Callable[..., Any]:
    """The function `(episodes, keys, weights)` to weighted sums, and the sum of the weights.

    The gradients of the tasks are weighed, not their losses: through a loss that is not a number, a
    weight of 0 would make a gradient that is none, either.
    """

    def task(episode: Episode, key: Key) -> tuple[Params, tuple[Array, Mapping[str, Array]]]:
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params, episode, key)
        gradient, _ = transform.update(gradient, transform.init(params), params)
        return gradient, (value, aux.metrics)

    def chunk(episodes: Episode, keys: Key, weights: Array) -> tuple[Any, Array]:
        def weighted_sum(x: Array) -> Array:
            each = weights.reshape(-1, *[1] * (x.ndim - 1))
            return (jnp.where(each == 0, 0, x) * each).sum(axis=0)

        if chunk_size == 1:
            alone = task(*jax.tree.map(lambda x: x[0], (episodes, keys)))
            parts = jax.tree.map(lambda x: jnp.asarray(x)[None], alone)
        else:
            parts = jax.vmap(task)(episodes, keys)
        return jax.tree.map(weighted_sum, parts), weights.sum()

    return chunk


def _add_up(
    chunk: Callable[..., Any], data: tuple[Any, ...], *, tasks: int, chunk_size: int
) -> Any:
    """What `chunk` gives of each part of the data, arrays `[tasks, ...]`, added up."""
    if chunk_size == tasks:
        return chunk(*data)
    shape = (tasks // chunk_size, chunk_size)
    cut = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), data)
    first = jax.tree.map(lambda x: x[0], cut)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(chunk, *first))

    def add(total: Any, part: tuple[Any, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, chunk(*part)), None

    total, _ = jax.lax.scan(add, zero, cut)
    return total


def count_tasks(episodes: Episode) -> int:
    """The length of the task axis that all arrays of a meta-batch share.

    Raises:
      ValueError: they share none.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(episodes)}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"the episodes' arrays start with the axes {sorted(counts)}; expected one leading task "
            "axis on all of them: sample a batch with jax.vmap(sample)(keys), or make one of "
            "several episodes with metajax.data.pad_episodes"
        )
    return counts.pop()[0]
