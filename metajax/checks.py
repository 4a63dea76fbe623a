"""Errors for a user's slips, raised before anything is computed.

Each check says what was got, what was expected and what to do. Checks of values (labels) run only
where the values are known, that is outside a compiled program.
"""

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from metajax.types import Array, Episode, Examples, Model, Params


def is_integer(number: Any, least: int) -> bool:
    """Whether it is an integer, of Python or NumPy, of `least` or more; True and False are none."""
    return _is_whole(number) and number >= least


def check_integers(least: int, /, **given: object) -> None:
    """Raises unless every argument is an integer of `least` or more: the one rule for all of them.

    Raises:
      TypeError: one is no integer (1.5, 1.0, True, nan, an array).
      ValueError: one is below `least`.
    """
    for name, number in given.items():
        _check_integer(least, name, number, "")


def check_optional_integers(least: int, /, **given: object) -> None:
    """The same, of arguments that may be None."""
    for name, number in given.items():
        if number is not None:
            _check_integer(least, name, number, ", or None")


def _check_integer(least: int, name: str, number: object, otherwise: str) -> None:
    if is_integer(number, least):
        return
    why = ": it is part of the program, so no array" if isinstance(number, jax.Array) else ""
    message = f"{name}={number!r}; expected an integer of {least} or more{otherwise}{why}"
    raise ValueError(message) if _is_whole(number) else TypeError(message)


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_numbers(within: Callable[[Any], bool], expected: str, /, **given: object) -> None:
    """Raises unless every argument is a number that `within` accepts; nan is none.

    Args:
      within: whether a number is in range.
      expected: the range, in words.
      **given: the arguments.

    Raises:
      TypeError: one is no number.
      ValueError: one is out of range.
    """
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"{name}={number!r}; expected {expected}")
        if not within(number):
            raise ValueError(f"{name}={number!r}; expected {expected}")


def check_optimizer(optimizer: object, name: str, example: str = "optax.sgd(0.4)") -> None:
    """Raises unless `optimizer`, an argument called `name`, is an optax transformation."""
    if not isinstance(optimizer, optax.GradientTransformation):
        such = f"such as {example}"
        if isinstance(optimizer, optax.MultiSteps):
            such = "which its method gradient_transformation() returns"
        raise TypeError(
            f"{name} is {optimizer!r}; expected an optax.GradientTransformation, {such}"
        )


def check_scalar(value: Any, name: str) -> None:
    """Raises unless what is called `name` is a scalar `[]`."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}; expected a scalar of shape (), such as its mean"
        )


def check_metric_names(names: Iterable[str], *own: str) -> None:
    """Raises where metrics have names of a training record's own fields, or of `own`."""
    fields = {"finite", "seconds", "skipped", "step", "tasks_per_second", "validation", *own}
    if reserved := sorted(fields & set(names)):
        raise ValueError(
            f"metrics has the names {reserved}, which the library reports itself; rename them"
        )


def check_score_names(names: Iterable[str]) -> None:
    """Raises where scores of a task have names of what a learner or a step reports beside them."""
    check_metric_names(names, "loss", "query_loss", "grad_norm")
    if curves := [name for name in names if name.endswith("_per_step")]:
        raise ValueError(
            f"metrics has the names {curves}; those that end in _per_step are the library's own, "
            "of scores after every step: rename them"
        )


def check_metrics(metrics: Mapping[str, Any], *own: str) -> None:
    """Raises where metrics of a step cannot be in a record: their names, or what they are.

    Args:
      metrics: arrays, or their shapes and dtypes.
      *own: further names that are taken.

    Raises:
      TypeError: a metric is no array of real numbers.
      ValueError: one has a name of the library's own.
    """
    check_metric_names(metrics, *own)
    for name, value in metrics.items():
        dtype = getattr(value, "dtype", None)
        real = (bool, np.integer, np.floating)
        if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in real):
            shown = f"a {type(value).__name__}" if dtype is None else f"of {dtype}"
            raise TypeError(
                f"the metric {name!r} is {shown}; expected an array of real numbers, which a "
                "record can hold"
            )


def check_task_weights(weights: Any, tasks: int) -> None:
    """Raises unless there is one weight a task and, where known, none is negative and one not 0."""
    if np.shape(weights) != (tasks,):
        raise ValueError(
            f"task_weights have shape {np.shape(weights)} with {tasks} tasks; expected ({tasks},), "
            "one weight a task"
        )
    if isinstance(weights, Tracer):
        return
    known = np.asarray(weights)
    good = np.isfinite(known) & (known >= 0)
    if not good.all():
        raise ValueError(
            f"task_weights hold {known[~good][0]}; expected finite numbers of 0 or more"
        )
    if not known.any():
        raise ValueError(
            "task_weights are all 0, so that no task is left to average; expected one above 0"
        )


def check_items(items: Any, name: str) -> int:
    """The number of items that all arrays of what is called `name` have.

    Raises:
      ValueError: they have none, or differ in it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(items)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) != 1 or counts & {(), (0,)}:
        one = len(shapes) == 1
        shown = next(iter(shapes.values())) if one else shapes
        raise ValueError(
            f"{name} have {'shape' if one else 'the shapes'} {shown}; expected [items, ...], "
            "items > 0" + ("" if one else ", the same number of them everywhere")
        )
    return counts.pop()[0]


def check_examples(examples: Examples, name: str) -> None:
    """Raises unless inputs, targets and weights of the set called `name` count the same items."""
    inputs, targets, weights = examples
    items = check_items(inputs, f"{name} inputs")
    for target in jax.tree.leaves(targets) or [np.zeros(())]:
        if target.shape[:1] != (items,):
            raise ValueError(
                f"{name} has {items} inputs but targets of shape {target.shape}; expected one "
                "target an item: is it one item without an axis of items, inputs[None]?"
            )
    if weights is not None and weights.shape != (items,):
        raise ValueError(
            f"{name} has {items} inputs but weights of shape {weights.shape}; "
            "expected [items], 0 for padding"
        )


def check_episode(episode: Episode, within: str = "") -> None:
    """Raises unless the items of both whole sets are alike; `within` begins the message."""
    support, query = (_items_of(examples.inputs) for examples in episode)
    if support != query:
        raise ValueError(
            f"{within}support items have shape {support} but query items {query}; "
            "expected the same item shape in both"
        )


def _items_of(inputs: Any) -> Any:
    """The shape of an item, by path where there are several arrays."""
    shapes = _shapes(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs))
    return shapes[""] if [*shapes] == [""] else shapes


def known_labels(examples: Examples) -> np.ndarray | None:
    """The integer labels of the items that count, or None where they are not known yet."""
    targets, weights = examples.targets, examples.weights
    if isinstance(targets, Tracer) or not is_labels(targets):
        return None
    if weights is None:
        return np.asarray(targets)
    if isinstance(weights, Tracer):
        return None
    return np.asarray(targets)[np.asarray(weights) > 0]


def is_labels(targets: Any) -> bool:
    """Whether they are `[items]` integers."""
    dtype = getattr(targets, "dtype", None)
    return dtype is not None and targets.ndim == 1 and jnp.issubdtype(dtype, jnp.integer)


def check_labels(examples: Examples, outputs: int, name: str) -> None:
    """Raises if a known label of the set called `name` lies outside `[0, outputs)`."""
    labels = known_labels(examples)
    if labels is None:
        return
    outside = labels[(labels < 0) | (labels >= outputs)]
    if outside.size:
        raise ValueError(
            f"{name} has the label {outside[0]} but the model has {outputs} outputs; expected "
            f"labels in [0, {outputs}): relabel the classes of each episode from 0, or give the "
            "model one output a way"
        )


def check_classes(
    support: Examples, query: Examples | None = None, *, ways: int | None = None
) -> None:
    """Raises unless labels are integers and, where known, of classes that can be compared with.

    Those of the support set have to lie in `[0, ways)`, without `ways` in `[0, support items)`;
    those of the query set have to be among them.
    """
    for name, examples in (("support", support), ("query", query)):
        if examples is not None and not is_labels(examples.targets):
            targets = examples.targets
            shown = f"{targets.dtype} targets of shape {targets.shape}"
            if not isinstance(targets, jax.Array | np.ndarray):
                shown = f"targets that are a {type(targets).__name__}"
            raise ValueError(
                f"{name} has {shown}; expected [items] integer labels: a learner that compares "
                "classifies"
            )
    labels = known_labels(support)
    if labels is None:
        return
    classes = np.unique(labels)
    most = support.targets.shape[0] if ways is None else ways
    if (outside := classes[(classes < 0) | (classes >= most)]).size:
        room = f"there are {most} support items" if ways is None else f"the learner has ways={ways}"
        raise ValueError(
            f"support has the label {outside[0]} but {room}; expected labels in [0, {most}): "
            "relabel the classes of each episode from 0, or make the learner with more ways"
        )
    asked = None if query is None else known_labels(query)
    if asked is not None and (strangers := sorted(set(asked.tolist()) - set(classes.tolist()))):
        raise ValueError(
            f"query has the labels {strangers} but no support item has; expected at least one "
            "support item of every class"
        )


def in_brief(value: object) -> str:
    """What it is, for a message: a module would print all its layers, a tree all its arrays."""
    text = repr(value).split("\n")[0]
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_model(model: object, name: str) -> None:
    """Raises unless `model`, an argument called `name`, is a `Model`."""
    if not isinstance(model, Model):
        raise TypeError(
            f"{name} is {in_brief(model)}; expected a metajax.Model: wrap a Flax module with "
            "metajax.models.from_linen or metajax.models.from_nnx, one of Equinox or Haiku with "
            "from_equinox or from_haiku, and a pair of functions is metajax.Model(init, apply)"
        )


def check_embeddings(embeddings: Array, algorithm: str) -> None:
    """Raises unless the embeddings have one feature axis."""
    if embeddings.ndim != 2:
        raise ValueError(
            f"{algorithm} got embeddings of shape {embeddings.shape}; expected [items, features]: "
            "let the encoder flatten its maps or take their mean"
        )


def check_temperature(temperature: object) -> None:
    """Raises if a known temperature is not above 0."""
    if temperature is None or isinstance(temperature, Tracer):
        return
    if not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"temperature={temperature}; expected a number above 0, or None for 1")


def check_parameters(expected: Params, params: Params) -> None:
    """Raises unless `params` has the structure and the shapes of `expected`, and holds floats."""
    want = _shapes(expected)
    got = _shapes(params)
    whole = isinstance(params, Mapping) and "params" in params
    if whole and not (isinstance(expected, Mapping) and "params" in expected):
        rest = [name for name in params if name != "params"]
        raise ValueError(
            f"the parameters are the whole variables of a module, {[*params]}; expected those of "
            "'params' alone"
            + (f", and {rest} given to the adapter: from_linen(module, frozen=...)" if rest else "")
        )
    hint = ""
    if type(params).__module__.startswith("flax.nnx"):
        hint = ": expected nnx.to_pure_dict(nnx.state(module, nnx.Param))"
    for path in sorted(want.keys() | got.keys()):
        if path not in got:
            raise ValueError(f"the parameters lack {path or 'a leaf'}, which the model has{hint}")
        if path not in want:
            raise ValueError(
                f"the parameters hold {path or 'a leaf'}, which the model has not{hint}"
            )
        if want[path] != got[path]:
            raise ValueError(
                f"the parameter {path or '(the only leaf)'} has shape {got[path]}; the model "
                f"expects {want[path]}: were these parameters made for another model or input, or "
                "is it one item without an axis of items?"
            )
    check_floats(params)


def check_floats(params: Params) -> None:
    """Raises unless parameters are floats, which a gradient can move."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            raise TypeError(
                f"the parameter {place or '(the only leaf)'} is of {dtype}; expected floats, which "
                "a gradient can move: close over what is constant in apply; a module of Equinox "
                "becomes a model by metajax.models.from_equinox"
            )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in leaves
    }


def check_shared(params: Params, data: Examples | Episode) -> None:
    """Raises where a gradient would be summed over the devices of a `jax.shard_map`, unasked.

    With its check on, the gradient with respect to parameters that the devices share is a sum over
    them, that of an inner loop too.
    """
    shared, own = (
        {axis for leaf in jax.tree.leaves(tree) for axis in varying_axes(leaf)}
        for tree in (params, data)
    )
    if own - shared:
        axis = sorted(own - shared)[0]
        raise ValueError(
            f"under jax.shard_map the data differ along the axis {axis!r} and the parameters do "
            "not, so that its check would sum the inner gradients over the devices; expected "
            "jax.shard_map(..., check_vma=False), or metajax.parallel.mesh_step in its place"
        )


def varying_axes(x: Array) -> frozenset[str]:
    """The axes along which devices hold other values, as the check of `jax.shard_map` knows it."""
    kind: Any = jax.typeof(x)
    varying = getattr(getattr(kind, "manual_axis_type", kind), "varying", None)
    return frozenset(varying or getattr(kind, "vma", None) or ())


def check_floating(inputs: Array, model: str) -> None:
    """Raises unless `inputs` are floats; `model` names who needs them."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"{model} got {inputs.dtype} inputs; expected floats: convert them first, for example "
            "images.astype(jnp.float32) / 255"
        )
