"""Programs that travel in a file: arithmetic on arrays, and nothing else.

A program may come from a stranger, and XLA runs what it is given: calls of functions by name, of
Python's among them, are part of its language. So of what `jax.export` makes only the module of
StableHLO is kept, without trees of types, effects and derivatives, and without the names of files
that it was traced from. Its operations are those of a list, in which nothing is called by name,
sent or received; what it takes and returns has to be what its reader expects.

A module is kept as a text of StableHLO's versioned dialect, every operation in the one syntax that
all have, and the text is looked through before MLIR reads it: of modules in MLIR's own bytes of
which a few were turned, one in a hundred ended the process or kept it busy for ever.

What is left to a stranger: a program that never ends or asks for all memory, and the faults of
MLIR and of XLA's compiler, which were not written for hostile input. The digest over a file keeps
damage from them, and not malice: it does not say who wrote the file. So programs are for files of
people one trusts.
"""

import dataclasses
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.mlir as portable
import jax.numpy as jnp
from jax import export
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters.mlir import make_ir_context

from metajax.kinds import check_arrays, check_functions, in_brief
from metajax.pictures.program_checks import (
    MOST_BYTES,
    RefusedError,
    called_by,
    check_module,
    check_operation,
    names_of,
    operations_of,
    parsed_module,
)
from metajax.types import Array

_MAGIC, _FORMAT = b"metajax program\0", 1
# Magic, format, JAX's calling convention, whether one lowering serves every platform.
_HEADER = struct.Struct("<16sHHH")
_PLATFORMS = ("cpu", "cuda", "tpu")


def any_number(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """Any number of items, 1 or more: an array `[b, *shape]` of a program, for `pack` and `unpack`.

    Args:
      shape: of an item.
      dtype: of its numbers.
    """
    return jax.ShapeDtypeStruct((_items(), *shape), dtype)


@functools.cache
def _items() -> Any:
    return export.symbolic_shape("b")[0]


def pack(function: Callable[..., Any], *examples: Any) -> bytes:
    """A function as a program that `unpack` makes a function again, on any platform.

    Args:
      function: of arguments like the examples, to a pytree of arrays; it can be compiled, and does
        nothing but compute. What it closes over becomes part of the program.
      *examples: pytrees of arrays or `jax.ShapeDtypeStruct`, of which only shapes and dtypes
        matter; those of `any_number` stand for any number of items.

    Raises:
      TypeError: `function` is none, or an example holds something else than arrays.
      ValueError: it has effects, calls what StableHLO has no operation for, or is too large.
    """
    check_functions(function=function)
    leaves, structure = jax.tree.flatten(examples)
    for leaf in leaves:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            check_arrays(leaf, "examples")
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def flat(*leaves: Any) -> tuple[Any, ...]:
        return tuple(jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves))))

    compiled = jax.jit(flat, keep_unused=True)
    try:
        effects = compiled.trace(*shapes).jaxpr.effects
    except Exception as error:
        raise ValueError(_no_program(error)) from error
    if effects:
        raise ValueError(_no_program(f"it has an effect, {type(next(iter(effects))).__name__}"))
    why: Exception | None = None
    # Where a platform's own rules call a library, LAPACK say, another's may have operations.
    for platforms in (_PLATFORMS, ("tpu",)):
        everywhere = len(platforms) == 1
        try:
            exported = export.export(compiled, platforms=platforms)(*shapes)
            module = _written(exported.mlir_module_serialized)
            results = [jax.ShapeDtypeStruct(out.shape, out.dtype) for out in exported.out_avals]
            for out in results:
                if any(map(export.is_symbolic_dim, out.shape)) and not _any(out):
                    raise RefusedError(f"it returns {out.shape}, and not [b, ...]")
            check_module(module, shapes, results, everywhere)
            if len(module) > MOST_BYTES - _HEADER.size:
                raise RefusedError(f"it has {len(module)} bytes, of {MOST_BYTES} at most")
        except (NotImplementedError, ValueError, RefusedError) as error:
            why = why or error
            continue
        convention = exported.calling_convention_version
        return _HEADER.pack(_MAGIC, _FORMAT, convention, everywhere) + module
    raise ValueError(_no_program(why)) from why


def _no_program(why: object) -> str:
    said = " ".join(str(why).split())[:300]
    return (
        f"the function cannot be kept as a program: {said}; expected one that only computes, by "
        "operations that StableHLO has, for any number of items"
    )


def unpack(
    program: bytes,
    arguments: Sequence[jax.ShapeDtypeStruct],
    results: Sequence[jax.ShapeDtypeStruct],
) -> Callable[..., tuple[Array, ...]]:
    """The function of a program that `pack` made, compiled for each shape it is called with.

    Args:
      program: its bytes.
      arguments: what it is to take: the leaves of `pack`'s examples, in their order. Those of
        `any_number` have one number of items, `b`.
      results: what it is to return, likewise.

    Returns:
      `(*arguments) -> results`, a tuple of arrays; it can be traced.

    Raises:
      TypeError: `program` is no bytes.
      ValueError: it is no program, of another version of the library or of JAX, of other arguments
        or results, does something else than compute, or is too large.
    """
    if not isinstance(program, bytes):
        raise TypeError(f"program is {in_brief(program)}; expected bytes")
    if any(map(_any, results)) and not any(map(_any, arguments)):
        raise ValueError("results are of any number of items; expected an argument of as many")
    for array in (*arguments, *results):
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            raise ValueError(
                f"arrays of {array.dtype} are expected of the program, and JAX computes in 32 "
                "bits; set jax_enable_x64"
            )
    convention, everywhere = _read_header(program)
    module = program[_HEADER.size :]
    try:
        check_module(module, arguments, results, everywhere)
    except RefusedError as error:
        raise ValueError(
            f"the program is refused: {error}; expected the arithmetic that metajax writes"
        ) from error

    def stand_in(*leaves: Array) -> tuple[Array, ...]:
        items = next((x.shape[0] for x, y in zip(leaves, arguments, strict=True) if _any(y)), None)
        shapes = [(items, *out.shape[1:]) if _any(out) else out.shape for out in results]
        return tuple(jnp.zeros(s, out.dtype) for s, out in zip(shapes, results, strict=True))

    checks = [export.DisabledSafetyCheck.platform()] if everywhere else []
    platforms = ("cpu",) if everywhere else _PLATFORMS
    exported = export.export(
        jax.jit(stand_in, keep_unused=True), platforms=platforms, disabled_checks=checks
    )(*arguments)
    own = dataclasses.replace(
        exported,
        fun_name="program",
        mlir_module_serialized=module,
        calling_convention_version=convention,
    )
    return jax.jit(own.call)


def _any(array: jax.ShapeDtypeStruct) -> bool:
    """Whether it is `any_number` of items."""
    symbols = [axis for axis, size in enumerate(array.shape) if export.is_symbolic_dim(size)]
    return symbols == [0] and array.shape[0] == _items()


def _read_header(program: bytes) -> tuple[int, bool]:
    """The calling convention, and whether one lowering serves every platform."""
    if len(program) > MOST_BYTES:
        raise ValueError(f"the program has {len(program)} bytes; expected at most {MOST_BYTES}")
    if len(program) < _HEADER.size or not program.startswith(_MAGIC):
        raise ValueError("the bytes are no program; expected what metajax packed")
    _, form, convention, everywhere = _HEADER.unpack_from(program)
    oldest = export.minimum_supported_calling_convention_version
    newest = export.maximum_supported_calling_convention_version
    for what, package, found, least, most in (
        ("format", "metajax", form, _FORMAT, _FORMAT),
        ("calling convention", "jax", convention, oldest, newest),
    ):
        if found > most:
            raise ValueError(
                f"the program is of {what} {found} and {package} reads up to {most}: it was made "
                f"with a newer one; run: pip install -U {package}"
            )
        if found < least:
            raise ValueError(
                f"the program is of {what} {found} and {package} reads from {least} on: it was "
                "made with an older one; make it anew"
            )
    if everywhere not in (0, 1):
        raise ValueError("the program's header is damaged; copy its file anew")
    return convention, bool(everywhere)


def _written(module: bytes) -> bytes:
    """The text of a module that JAX exported, without names of files and checks that JAX makes."""
    with make_ir_context():
        parsed = parsed_module(module)
        for operation in list(operations_of(parsed.operation)):
            if operation.name != "func.func":
                if called_by(operation) == "shape_assertion":
                    operation.erase()
                else:
                    check_operation(operation)
        window = stablehlo.StablehloCompatibilityRequirement.WEEK_12
        version = stablehlo.get_version_from_compatibility_requirement(window)
        versioned = ir.Module.parse(portable.serialize_portable_artifact(parsed, version))
        for name in names_of(versioned.operation.attributes):
            del versioned.operation.attributes[name]
        text: Any = versioned.operation.get_asm(print_generic_op_form=True, enable_debug_info=False)
        return text.encode()
