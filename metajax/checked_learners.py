"""From the functions of an algorithm to a learner: what is given is taken and checked in one place.

`adapt` and `predict` are compiled here, since they are called one task and one question at a time.
Values, such as labels, are unknown in a compiled program: they are looked at before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metajax.checks.episodes import check_items
from metajax.checks.labels import known_labels
from metajax.checks.numbers import check_scalar
from metajax.checks.objects import check_instance
from metajax.checks.parameters import check_floats, check_parameters
from metajax.checks.settings import check_optional_flags
from metajax.given_data import as_arrays, as_episode, as_examples
from metajax.items import count, take
from metajax.kinds import check_key, check_optional_key
from metajax.types import (
    Array,
    Aux,
    Episode,
    Examples,
    Inputs,
    Inspection,
    Key,
    Learner,
    Outputs,
    Params,
    Task,
)


def make_learner(
    init: Callable[[Key, Inputs], Params],
    loss: Callable[[Params, Episode, Key | None, bool], tuple[Array, Aux]],
    adapt: Callable[[Params, Examples, Key | None, bool], Task],
    predict: Callable[[Params, Task, Inputs], Outputs],
    *,
    title: str,
    task_kind: type = object,
    inspect: Callable[[Params, Episode, Key | None], Inspection] | None = None,
) -> Learner:
    """A `Learner` of these functions, which get JAX arrays and whole sets alone.

    Args:
      init: see `Learner`.
      loss: see `Learner`; the last argument says whether models are in training mode.
      adapt: see `Learner`; the last argument says the same.
      predict: see `Learner`.
      title: what the learner is, with its settings, such as `"maml(num_steps=5, ...)"`.
      task_kind: the class of its tasks.
      inspect: see `Inspect`.
    """
    adapt_compiled = jax.jit(adapt, static_argnums=3)
    predict_compiled = jax.jit(predict)
    checked, fitting, probed = set(), set(), set()

    def checked_init(key: Key, inputs: Inputs) -> Params:
        """Initial meta-parameters.

        Args:
          key: random key.
          inputs: `[items, ...]`; only their shape and dtype matter.
        """
        check_key(key)
        inputs = as_arrays(inputs, "inputs", lists=True)
        check_items(inputs, "inputs")
        params = as_arrays(init(key, inputs), "the parameters")
        check_floats(params)
        return params

    def checked_loss(
        params: Params, episode: Episode, key: Key | None = None, training: bool | None = None
    ) -> tuple[Array, Aux]:
        """The meta-loss of one episode; `jax.grad` of it is the meta-gradient.

        Args:
          params: the meta-parameters.
          episode: the task, unbatched.
          key: for what is drawn (mini-batches, roll-outs, an order, dropout); None draws nothing.
          training: whether models are in training mode, dropout on; None is if there is a key.
            Static.

        Returns:
          `[]` and an `Aux`: the outputs on the query set and named metrics.
        """
        check_optional_key(key)
        params = as_arrays(params, "the parameters")
        training = _mode(training, key)
        value, aux = loss(params, as_episode(episode), key, training)
        check_scalar(value, "the meta-loss")
        return value, aux

    def checked_adapt(
        params: Params, support: Examples, key: Key | None = None, training: bool = False
    ) -> Task:
        """Fits one task, by a program that is compiled once for sets of one shape.

        Args:
          params: the meta-parameters.
          support: the task's labelled items.
          key: see `loss`.
          training: see `loss`.

        Returns:
          The task, arrays in a pytree, for `predict`.
        """
        check_optional_key(key)
        params = as_arrays(params, "the parameters")
        support = as_examples(support, "support")
        training = _mode(training, key)
        given = (params, support, key)
        if _is_traced(given):
            return adapt(*given, training)
        if (case := (_kind(given), _span(known_labels(support)), training)) not in checked:
            # All that is checked of values is between which numbers labels lie.
            jax.eval_shape(lambda params, key: adapt(params, support, key, training), params, key)
            checked.add(case)
        return adapt_compiled(*given, training)

    def checked_predict(params: Params, task: Task, inputs: Inputs) -> Outputs:
        """The outputs for new items of a task, each as if it were asked alone.

        The program is compiled once for up to 2, 4, 8, 16, ... items.

        Args:
          params: the meta-parameters.
          task: from `adapt`.
          inputs: `[items, ...]`.

        Returns:
          `[items, ...]`, for a classifier scores `[items, ways]`.

        Raises:
          TypeError: `task` is none of this learner's.
          ValueError: there are no items, parameters, task and inputs are not for one model, or the
            outputs of an item depend on what else is asked.
        """
        params = as_arrays(params, "the parameters")
        check_instance(task, task_kind, "task", f"what adapt of {title} returned")
        task = as_arrays(task, "the task")
        inputs = as_arrays(inputs, "inputs", lists=True)
        items = check_items(inputs, "inputs")
        each = tuple((leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(inputs))
        if (given := (_kind(params), jax.tree.structure(inputs), each)) not in fitting:
            _check_fits(init, params, inputs)  # The same for any number of items.
            fitting.add(given)
        if _is_traced((params, task, inputs)):
            outputs = _of_task(predict, params, task, inputs)
            check_items(outputs, "outputs")
            return outputs
        size = max(2, 1 << (items - 1).bit_length())
        whole = _filled(inputs, size)
        case = _kind((params, task, whole))
        if case not in probed:
            _check_any_number(predict_compiled, params, task, inputs, whole)
        outputs = predict_compiled(params, task, whole)
        check_items(outputs, "outputs")
        if case not in probed and not _is_traced(outputs):
            half = size // 2
            others = predict_compiled(params, task, _among_zeros(whole))
            backwards = slice(None, half - 1, -1)
            _check_alone(take(outputs, slice(half)), take(others, backwards))
            if any(leaf.any() for leaf in jax.tree.leaves(take(whole, slice(half, None)))):
                probed.add(case)  # Zeros among zeros tell nothing.
        return outputs if size == items else take(outputs, slice(items))

    if inspect is None:
        return Learner(checked_init, checked_loss, checked_adapt, checked_predict, title)

    def checked_inspect(params: Params, episode: Episode, key: Key | None = None) -> Inspection:
        """What happens within one episode, see `Inspect`.

        Args:
          params: the meta-parameters.
          episode: the task, unbatched.
          key: see `loss`.
        """
        check_optional_key(key)
        return inspect(as_arrays(params, "the parameters"), as_episode(episode), key)

    return Learner(
        checked_init, checked_loss, checked_adapt, checked_predict, title, checked_inspect
    )


def _mode(training: object, key: Key | None) -> bool:
    check_optional_flags(training=training)
    if training is None:
        return key is not None
    if training and key is None:
        raise ValueError("training=True without a key, of which models draw then; expected both")
    return bool(training)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _kind(tree: Any) -> Any:
    """What a program is compiled for: structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)


def _span(labels: np.ndarray | None) -> tuple[int, int] | None:
    """The least and the largest label."""
    if labels is None or not labels.size:
        return None
    return int(labels.min()), int(labels.max())


def _filled(items: Inputs, size: int) -> Inputs:
    """`size` items, those after the given ones copies of the first."""
    rest = size - count(items)
    if not rest:
        return items
    return jax.tree.map(
        lambda x: jnp.concatenate([x, jnp.broadcast_to(x[:1], (rest, *x.shape[1:]))]), items
    )


def _among_zeros(items: Inputs) -> Inputs:
    """The items in opposite order, zeros in the place of the second half of them."""
    half = count(items) // 2
    return jax.tree.map(
        lambda x: jnp.concatenate([jnp.zeros_like(x[half:]), x[:half][::-1]]), items
    )


def _check_fits(init: Callable[[Key, Inputs], Params], params: Params, inputs: Inputs) -> None:
    """Raises unless parameters and inputs are for one model, as their shapes tell."""
    try:
        check_parameters(jax.eval_shape(init, jax.random.key(0), inputs), params)
    except Exception as error:
        raise ValueError(
            f"params and inputs of shape {_shapes(inputs)} are not for one model: {_why(error)}; "
            "expected this learner's parameters, and items like those of the support set, "
            "[items, ...]"
        ) from error


def _of_task(
    predict: Callable[[Params, Task, Inputs], Outputs], params: Params, task: Task, inputs: Inputs
) -> Outputs:
    """The outputs; raises where task and inputs are not for one model, as their shapes tell."""
    try:
        return predict(params, task, inputs)
    except Exception as error:
        if type(error) in (TypeError, ValueError) and "expected" in str(error):
            raise  # The library's own.
        raise ValueError(
            f"task and inputs of shape {_shapes(inputs)} are not for one model: {_why(error)}; "
            "expected what this learner's adapt returned for items like these"
        ) from error


def _shapes(inputs: Inputs) -> str:
    return ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(inputs))


def _why(error: Exception) -> str:
    """The beginning of what an error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_any_number(
    predict: Any, params: Params, task: Task, inputs: Inputs, whole: Inputs
) -> None:
    """Raises where a model takes the items, and not the larger number that is computed at once."""
    try:
        predict.eval_shape(params, task, whole)
    except Exception as error:
        _of_task(predict.eval_shape, params, task, inputs)  # Its error, of shapes as given.
        raise ValueError(
            f"the model takes {count(inputs)} items and not {count(whole)}: is it one item without "
            "an axis of items, inputs[None]? Expected [items, ...] for any number of items"
        ) from error


def _check_alone(outputs: Outputs, among_others: Outputs) -> None:
    """Raises unless outputs are the same whatever else is asked with their items."""
    for leaf, other in zip(*map(jax.tree.leaves, (outputs, among_others)), strict=True):
        x, y = (np.asarray(leaf, np.float64) for leaf in (leaf, other))
        scale = np.abs(x[np.isfinite(x)]).max(initial=0)
        if not np.allclose(x, y, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
            raise ValueError(
                f"an item's outputs depend on what is asked with it: {x.ravel()[:5]} or "
                f"{y.ravel()[:5]} (the first five numbers); expected a model that says that its "
                'items see each other: metajax.Model(..., sharing="batch"), or an apply that takes '
                "weights and leaves out items of weight 0"
            )
