"""What the guide for contributors names is there, and its example is the library's own code."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import metajax as mj

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def _python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_example_is_anil() -> None:
    factory = ast.parse(inspect.getsource(mj.anil)).body[0]
    assert isinstance(factory, ast.FunctionDef)
    body = ast.Module(factory.body[1:], [])  # Below the docstring.
    assert ast.dump(ast.parse(_python_blocks()[0])) == ast.dump(body)


def test_the_row_is_anils() -> None:
    assert _python_blocks()[1].strip() in (ROOT / "tests/learners.py").read_text(encoding="utf-8")


def test_helpers_are_where_it_says() -> None:
    rows = re.findall(r"^\| `(\w+)\(.*?\)` \|.*\| `(metajax[\w.]+)` \|$", GUIDE, re.M)
    assert len(rows) >= 5
    for name, module in rows:
        assert callable(getattr(importlib.import_module(module), name))


def test_checks_are_there() -> None:
    names = set(re.findall(r"`(check_\w+)", GUIDE))
    kinds = (f"checks.{path.stem}" for path in (ROOT / "metajax" / "checks").glob("[a-z]*.py"))
    rooms = [
        importlib.import_module(f"metajax.{room}") for room in (*kinds, "kinds", "query_batching")
    ]
    assert len(names) >= 8
    assert {name for name in names if not any(hasattr(room, name) for room in rooms)} == set()


def test_files_are_there() -> None:
    files = set(re.findall(r"`((?:metajax|tests|docs|benchmarks|examples)/[\w/]+\.\w+)`", GUIDE))
    assert len(files) >= 8
    assert {file for file in files if not (ROOT / file).exists()} == set()
