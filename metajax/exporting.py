"""Programs of `jax.export`: of a fitted task, and the names of the library's tuples in any."""

import contextlib
import functools
from collections.abc import Callable
from types import ModuleType

import jax
from jax import export

from metajax.checks.episodes import check_items
from metajax.checks.objects import check_learner
from metajax.given_data import as_arrays
from metajax.types import Array, Inputs, Learner, Outputs, Params, Task

_PLATFORMS = ("cpu", "cuda", "tpu")


def export_predict(learner: Learner, params: Params, task: Task, inputs: Inputs) -> export.Exported:
    """`predict` of a fitted task as a program that JAX alone loads and runs.

    Parameters and task are part of it. It takes arrays `[b, ...]` of any number of items and
    returns arrays `[b, ...]`, so that nobody who runs it needs this library:

        program = metajax.export_predict(learner, params, task, inputs)
        pathlib.Path("task.bin").write_bytes(program.serialize())

        program = jax.export.deserialize(bytearray(pathlib.Path("task.bin").read_bytes()))
        outputs = program.call(images)

    Whoever loads such a file runs what it holds: load those of people you trust.

    Args:
      learner: any learner.
      params: its meta-parameters.
      task: what `learner.adapt(params, support)` returned.
      inputs: `[items, ...]` like those that are to be asked, of which only shapes and dtypes
        matter. Of a pytree, the program takes each array as an argument of its own, in the order of
        `jax.tree.leaves`.

    Returns:
      The program, for CPU, CUDA and TPU where the model's operations have all three, or else for
      the platform that JAX runs on. It returns one array, or a tuple of those of a pytree. To
      `serialize` it takes `pip install "metajax[export]"`.

    Raises:
      TypeError: an argument is of another kind.
      ValueError: parameters, task and inputs are not for one model, or the model does not take any
        number of items.
    """
    check_learner(learner)
    inputs = as_arrays(inputs, "inputs", lists=True)
    check_items(inputs, "inputs")
    return export_questions(functools.partial(learner.predict, params, task), inputs)


def export_questions(ask: Callable[[Inputs], Outputs], inputs: Inputs) -> export.Exported:
    """A function of items `[items, ...]` to as many outputs, see `export_predict`.

    Args:
      ask: the function, which can be traced.
      inputs: arrays, or `jax.ShapeDtypeStruct`, see `export_predict`.

    Raises:
      ValueError: it does not take any number of items.
    """
    jax.eval_shape(ask, inputs)  # Its errors are of shapes as given.
    leaves, structure = jax.tree.flatten(inputs)

    def predict(*leaves: Array) -> Array | tuple[Array, ...]:
        outputs = jax.tree.leaves(ask(structure.unflatten(leaves)))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    (b,) = export.symbolic_shape("b")
    asked = [jax.ShapeDtypeStruct((b, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
    own = export.default_export_platform()
    try:
        try:
            platforms = tuple(dict.fromkeys((own, *_PLATFORMS)))
            return export.export(jax.jit(predict), platforms=platforms)(*asked)
        except NotImplementedError:  # A platform lacks one of the operations.
            return export.export(jax.jit(predict))(*asked)
    except (TypeError, ValueError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"predict takes {leaves[0].shape[0]} items, and cannot be exported for any number of "
            f"them: {why}; expected a model whose shapes follow from x.shape[0], of operations "
            "that jax.export knows"
        ) from error


def register(*modules: ModuleType) -> None:
    """Lets `jax.export` serialise programs whose arguments or results are public named tuples.

    In such a program a tuple `Name` is called `metajax.Name`. One that is registered, or whose name
    is taken, is left as it is: the module was loaded before.

    Args:
      *modules: whose public names are looked through; they know no tuples but the library's.
    """
    for module in modules:
        for name, kind in vars(module).items():
            if not name.startswith("_") and _is_named_tuple(kind):
                with contextlib.suppress(ValueError):
                    export.register_namedtuple_serialization(
                        kind, serialized_name=f"metajax.{kind.__name__}"
                    )


def _is_named_tuple(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
