"""Who may import whom: the rooms of the library, kept apart."""

import ast
import subprocess
import sys
from pathlib import Path

import metajax

PACKAGE = Path(metajax.__file__).parent
# What a room may import of metajax, beside itself. A room is a module, or a folder of modules.
ALLOWED = {
    "types": set(),
    "losses": {"types"},
    "checks": {"types"},
    "batching": {"types"},
    "mixed": {"types"},
    "inner": {"types", "checks", "mixed"},
    "objectives": {"types", "checks", "losses", "batching"},
    "adaptation": {"types", "checks", "batching"},
    "metric": {"types"},
    "comparison": {"types", "checks", "losses", "batching"},
    "algorithms": {
        "types",
        "checks",
        "losses",
        "batching",
        "inner",
        "objectives",
        "adaptation",
        "metric",
        "comparison",
    },
    "models": {"types", "checks", "metric"},
    "streaming": {"types"},
    "data": {"types", "checks", "streaming"},
    "tasks": {"types"},
    "training": {
        "types",
        "checks",
        "losses",
        "batching",
        "objectives",
        "inner",
        "tasks",
        "algorithms",
    },
    "progress": set(),
    "parallel": {"types", "tasks", "training"},
    "checkpoint": {"types", "checks", "training", "parallel"},
    "dispatch": {"types", "tasks", "training", "parallel", "streaming"},
    "loop": {"types", "training", "progress", "parallel", "streaming", "dispatch", "checkpoint"},
    "evaluation": {"types", "tasks", "dispatch", "parallel", "streaming"},
}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _rooms() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            rooms.setdefault(room, []).append(path)
    return rooms


def test_every_room_is_listed() -> None:
    assert set(_rooms()) == set(ALLOWED)


def test_rooms_import_only_what_they_may() -> None:
    for room, paths in _rooms().items():
        for path in paths:
            for name in _imports(path):
                parts = name.split(".")
                if parts[0] != "metajax":
                    continue
                assert len(parts) > 1, f"{path} imports metajax itself"
                assert parts[1] in ALLOWED[room] | {room}, f"{path} imports {name}"


def test_algorithms_do_not_import_each_other() -> None:
    folder = PACKAGE / "algorithms"
    for path in folder.glob("*.py"):
        if path.stem != "__init__":
            assert not [name for name in _imports(path) if name.startswith("metajax.algorithms")]


def test_flax_lives_in_models_only() -> None:
    for room, paths in _rooms().items():
        if room != "models":
            for path in paths:
                assert not [name for name in _imports(path) if name.split(".")[0] == "flax"]


def test_training_names_no_algorithm_but_maml() -> None:
    algorithms = {
        name for name in _imports(PACKAGE / "training.py") if name.startswith("metajax.algorithms")
    }
    assert algorithms == {"metajax.algorithms.maml"}


def test_importing_computes_nothing() -> None:
    code = (
        "import jax, metajax\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names_exist_and_are_documented() -> None:
    for name in metajax.__all__:
        assert getattr(metajax, name).__doc__, name
