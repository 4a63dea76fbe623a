"""Whether a program only computes: looked through as a text, then as StableHLO's operations."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.extend.mlir as portable
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.mlir import ir
from jax.interpreters.mlir import make_ir_context

_BEGINNING = '"builtin.module"()'
# Words of a module's text beside names: numbers, sizes and choices.
_WORD = re.compile(
    r"[0-9]{1,20}|[0-9]{1,20}\.[0-9]{1,20}([eE](\+[0-9]+)?)?|true|false"
    r"|[A-Z][A-Z0-9_]*|[a-z0-9_]+_v[0-9]+|([0-9?]+x)+"
)
# An attribute of numbers, and those whose numbers are not of 64 bits: MLIR does not look.
_NUMBERS = re.compile(
    r"\b([a-z_]+) = #vhlo\.(?:tensor|integer|float)_v1<"
    r"(?:dense<[^<>]*> : tensor<(?:[0-9]{1,20}x)*([a-z0-9]+|complex<f[0-9]+>)>"
    r"|[^<>]* : ([a-z0-9]+))>"
)
_OTHER_NUMBERS = {"window_reversal": "i1", "exponent_bits": "i32", "mantissa_bits": "i32"}
_DEEPEST = 100  # Brackets within each other in it.
MOST_BYTES = 2**30  # Of a program, and of each array within it for one item.
_MOST_OPERATIONS = 500_000  # With those of functions as often as they are called.
_OPERATIONS = (
    "abs add and atan2 batch_norm_inference bitcast_convert broadcast_in_dim case cbrt ceil "
    "cholesky clamp compare complex concatenate constant convert convolution cosine "
    "count_leading_zeros divide dot_general dynamic_broadcast_in_dim dynamic_conv "
    "dynamic_gather dynamic_iota dynamic_pad dynamic_reshape dynamic_slice dynamic_update_slice "
    "exponential exponential_minus_one fft floor gather get_dimension_size if imag iota "
    "is_finite log log_plus_one logistic map maximum minimum multiply negate not "
    "optimization_barrier or pad popcnt power real real_dynamic_slice reduce reduce_precision "
    "reduce_window remainder reshape return reverse rng_bit_generator round_nearest_afz "
    "round_nearest_even rsqrt scatter select select_and_scatter shift_left "
    "shift_right_arithmetic shift_right_logical sign sine slice sort sqrt subtract tan tanh "
    "transpose triangular_solve while xor"
)
_ATTRIBUTES = "jax."  # The beginning of those with a point, which are no operation's own.
_ALLOWED = {"func.call", "func.return", *(f"stablehlo.{n}" for n in _OPERATIONS.split(" "))}
_TYPES = {
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "ui8": np.uint8,
    "ui16": np.uint16,
    "ui32": np.uint32,
    "ui64": np.uint64,
    "f16": np.float16,
    "bf16": jnp.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
    "complex<f32>": np.complex64,
    "complex<f64>": np.complex128,
}


class RefusedError(Exception):
    """What a program does that it may not."""


def _check_text(module: bytes) -> None:
    """Raises unless it is a text in the syntax that all operations share, of versioned StableHLO.

    Other parts of MLIR's syntax are not needed, and each has a reader of its own.
    """
    text = module.decode("ascii", "replace")
    if not text.startswith(_BEGINNING) or re.search(r"[^\x20-\x5b\x5d-\x7e\n]", text):
        raise RefusedError("its module is no text of StableHLO")
    names = set(re.findall(r'"([^"\n]*)"\s*\(', text))
    if other := [name for name in names if not re.fullmatch(r"vhlo\.\w+|builtin\.module", name)]:
        raise RefusedError(f"it has the operation {other[0][:100]!r}")
    bare = re.sub(r'"[^"\n]*"', "", text)
    for name, array, number in set(_NUMBERS.findall(bare)):
        kind, wanted = array or number, _OTHER_NUMBERS.get(name, "i64")
        if kind not in _TYPES if name == "value" else kind != wanted:
            raise RefusedError(f"it has {name[:100]} of the type {kind[:100]}")
    bare = re.sub(r"[!#]vhlo(\.\w+)?|%\w+(#\d+)?|\^bb\d+|->", " ", _NUMBERS.sub("", bare))
    words = set(re.findall(r"[^\s()\[\]{}<>=:,-]+", re.sub(r"\b[a-z_]+ = ", " ", bare)))
    if other := [word for word in words if not _WORD.fullmatch(word)]:
        raise RefusedError(f"its text has the word {other[0][:100]!r}")
    depth, brackets = 0, re.findall(r"[(\[{<>}\])]", bare)
    for bracket in brackets:
        depth += 1 if bracket in "([{<" else -1
        if not 0 <= depth <= _DEEPEST:
            raise RefusedError("its text is too deep, or lacks brackets")


def parsed_module(module: bytes) -> ir.Module:
    """A module of the context that is entered; raises where there is none."""
    try:
        # Nobody listens to what MLIR says of errors: in JAX 0.12 the process dies of a listener.
        parsed = portable.deserialize_portable_artifact(module)
        parsed.operation.verify()
    except Exception as error:  # Of a type that JAX does not show.
        raise RefusedError(
            "this JAX cannot read its module, which is damaged or of another version "
            f"({str(error)[:200]})"
        ) from error
    return parsed


def check_module(
    module: bytes,
    arguments: Sequence[jax.ShapeDtypeStruct],
    results: Sequence[jax.ShapeDtypeStruct],
    everywhere: bool,
) -> None:
    """Raises unless a module computes results of arguments, and does nothing else."""
    _check_text(module)
    with make_ir_context():
        parsed = parsed_module(module)
        functions = {}
        for operation in parsed.body.operations:
            if operation.operation.name != "func.func":
                raise RefusedError(f"it has {operation.operation.name} beside functions")
            functions[ir.StringAttr(operation.attributes["sym_name"]).value] = operation.operation
        costs = {name: _check_function(each) for name, each in functions.items()}
        _check_costs(costs)
        if "main" not in functions:
            raise RefusedError("it has no function main")
        kind = ir.FunctionType(ir.TypeAttr(functions["main"].attributes["function_type"]).value)
        inputs = list(kind.inputs)
        if not everywhere:  # The first is the number of the platform.
            if not inputs or str(inputs[0]) not in ("tensor<i32>", "tensor<i64>"):
                raise RefusedError("it is not told its platform")
            del inputs[0]
        _check_types(inputs, arguments, "takes")
        _check_types(list(kind.results), results, "returns")


def operations_of(top: Any) -> Iterator[Any]:
    """All operations within one, without recursion."""
    left = [top]
    while left:
        for region in left.pop().regions:
            for block in region.blocks:
                inner = [each.operation for each in block.operations]
                yield from inner
                left += inner


def _check_function(function: Any) -> tuple[int, list[str]]:
    """How many operations a function has and which functions it calls; raises unless all may be."""
    if not any(len(region.blocks) for region in function.regions):
        raise RefusedError("it has a function without a body")
    _check_attributes(function.attributes, "the attribute")
    for which in ("arg_attrs", "res_attrs"):
        if which in function.attributes:
            for attributes in ir.ArrayAttr(function.attributes[which]):
                _check_attributes(ir.DictAttr(attributes), "the attribute of an argument")
    count, calls = 0, []
    for operation in operations_of(function):
        count += 1
        check_operation(operation)
        _check_attributes(operation.attributes, "the attribute")
        if operation.name == "func.call":
            calls.append(ir.FlatSymbolRefAttr(operation.attributes["callee"]).value)
        for result in operation.results:
            _check_size(result.type)
    return count, calls


def called_by(operation: Any) -> str | None:
    """What an operation that calls by name calls."""
    if operation.name != "stablehlo.custom_call":
        return None
    return ir.StringAttr(operation.attributes["call_target_name"]).value


def check_operation(operation: Any) -> None:
    """Raises unless an operation is one of those that only compute."""
    if (called := called_by(operation)) is not None:
        raise RefusedError(f"it calls {called[:100]!r}, which is no operation of StableHLO")
    if operation.name not in _ALLOWED:
        raise RefusedError(f"it has the operation {operation.name}")


def _check_attributes(attributes: Any, what: str) -> None:
    for name in names_of(attributes):
        if "." in name and not name.startswith(_ATTRIBUTES):
            raise RefusedError(f"it has {what} {name[:100]}")


def names_of(attributes: Any) -> list[str]:
    """Of attributes, which some versions of MLIR give themselves instead."""
    return [getattr(each, "name", each) for each in attributes]


def _check_costs(costs: dict[str, tuple[int, list[str]]]) -> None:
    """Raises where functions call themselves, or each other so often that it grows out of hand."""
    whole: dict[str, int] = {}
    for start in costs:
        path, left = {start}, [(start, iter(costs[start][1]))]
        while left:
            name, calls = left[-1]
            called = next((call for call in calls if call not in whole), None)
            if called is None:
                left.pop()
                path.discard(name)
                whole[name] = costs[name][0] + sum(whole[call] for call in costs[name][1])
                if whole[name] > _MOST_OPERATIONS:
                    raise RefusedError(
                        f"it has {whole[name]} operations, of {_MOST_OPERATIONS} at most"
                    )
            elif called in path or called not in costs:
                raise RefusedError("its functions call themselves, or one that is not there")
            else:
                path.add(called)
                left.append((called, iter(costs[called][1])))


def _check_size(kind: Any) -> None:
    """Raises unless a value is an array of numbers that memory holds; unknown sizes count as 1."""
    if not isinstance(kind, ir.RankedTensorType) or str(kind.element_type) not in _TYPES:
        raise RefusedError(f"it has a value of the type {str(kind)[:100]}")
    sizes = [size or 1 for size in _shape(kind)]
    size = math.prod(sizes) * np.dtype(_TYPES[str(kind.element_type)]).itemsize
    if size > MOST_BYTES:
        raise RefusedError(f"it has an array of {size} bytes, of {MOST_BYTES} at most")


def _shape(array: Any) -> list[int | None]:
    return [
        None if array.is_dynamic_dim(axis) else array.get_dim_size(axis)
        for axis in range(array.rank)
    ]


def _check_types(kinds: Sequence[Any], expected: Sequence[jax.ShapeDtypeStruct], what: str) -> None:
    """Raises unless types of a module are those of arrays."""
    if len(kinds) != len(expected):
        raise RefusedError(f"it {what} {len(kinds)} arrays, and {len(expected)} are expected")
    for kind, array in zip(kinds, expected, strict=True):
        _check_size(kind)
        dtype = np.dtype(_TYPES[str(kind.element_type)])
        shape = [None if export.is_symbolic_dim(size) else size for size in array.shape]
        if _shape(kind) != shape or dtype != array.dtype:
            shown = f"{[*array.shape]} of {array.dtype}"
            raise RefusedError(f"it {what} {str(kind)[:100]}, and {shown} is expected")
