"""Signatures as the source has them: `loss_fn: LossFn = cross_entropy`, not what the names mean.

Only a name for a choice, such as `Batching`, is written out, and so read at once.
"""

import ast
import inspect
import sys
import textwrap
import types
import typing
from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, str | None] | None:
    if what not in ("class", "function", "method"):
        return None
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
    node = _WrittenOut(sys.modules[obj.__module__]).visit(ast.parse(source).body[0])
    if isinstance(node, ast.ClassDef):
        made = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
        return _arguments(made[0]) if made else _fields(node), None
    assert isinstance(node, ast.FunctionDef)
    return _arguments(node), node.returns and ast.unparse(node.returns)


def _arguments(node: ast.FunctionDef) -> str:
    args = node.args
    if args.args and args.args[0].arg == "self":
        del args.args[0]
    return f"({ast.unparse(args)})"


def _fields(node: ast.ClassDef) -> str:
    """Those of a `NamedTuple`, a dataclass or a Flax module."""
    fields = [
        ast.unparse(x)
        for x in node.body
        if isinstance(x, ast.AnnAssign) and not ast.unparse(x.target).startswith("_")
    ]
    return f"({', '.join(fields)})" if fields else ""


class _WrittenOut(ast.NodeTransformer):
    """Puts literals and unions in place of the names that a module gives to them."""

    def __init__(self, module: types.ModuleType) -> None:
        self.names = vars(module)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        kind = typing.get_origin(self.names.get(node.id))
        if kind not in (typing.Literal, types.UnionType):
            return node
        written = str(self.names[node.id]).replace("typing.", "").replace("collections.abc.", "")
        return ast.parse(written, mode="eval").body
