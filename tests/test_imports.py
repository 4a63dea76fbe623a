"""Who may import whom: the rooms of the library, kept apart."""

import ast
import importlib
import subprocess
import sys
import types
from pathlib import Path

import metajax

PACKAGE = Path(metajax.__file__).parent
# What a room may import of metajax, beside itself. A room is a module, or a folder of modules.
ALLOWED = {
    "kinds": set(),
    "signatures": {"kinds"},
    "types": {"signatures", "kinds"},
    "items": {"types"},
    "given_data": {"types", "checks", "kinds"},
    "losses": {"signatures", "types", "items", "checks", "kinds"},
    "checks": {"types", "kinds"},
    "chains": {"types", "checks"},
    "user_warnings": set(),
    "regular_files": set(),
    "version": set(),
    "keys": {"types", "kinds", "checks"},
    "exporting": {"types", "given_data", "checks"},
    "checked_learners": {"types", "items", "given_data", "checks", "kinds"},
    "query_batching": {"types", "items", "kinds", "checks"},
    "inner": {"types", "checks", "user_warnings", "kinds"},
    "task_objectives": {"types", "losses", "checks", "query_batching"},
    "inspection": {"types", "items", "losses", "checks", "keys", "query_batching"},
    "gradient_learners": {
        "types",
        "items",
        "checks",
        "keys",
        "checked_learners",
        "inner",
        "inspection",
        "kinds",
    },
    "metric": {"types", "kinds", "checks", "given_data"},
    "metric_learners": {
        "signatures",
        "types",
        "items",
        "losses",
        "checks",
        "keys",
        "checked_learners",
        "query_batching",
        "inspection",
        "metric",
        "kinds",
    },
    "algorithms": {
        "types",
        "items",
        "losses",
        "checks",
        "chains",
        "keys",
        "query_batching",
        "inner",
        "task_objectives",
        "gradient_learners",
        "metric",
        "metric_learners",
        "kinds",
    },
    "models": {
        "signatures",
        "types",
        "checks",
        "chains",
        "inner",
        "user_warnings",
        "regular_files",
        "keys",
        "metric",
        "kinds",
        "given_data",
    },
    "streaming": {"types", "checks", "kinds"},
    "data": {
        "types",
        "items",
        "given_data",
        "checks",
        "user_warnings",
        "regular_files",
        "keys",
        "streaming",
        "iterable_episodes",
        "models",
        "kinds",
    },
    "meta_gradients": {"types", "checks", "kinds"},
    "optimizer_states": {"types"},
    "training_step": {
        "types",
        "losses",
        "checks",
        "keys",
        "query_batching",
        "inner",
        "task_objectives",
        "algorithms",
        "meta_gradients",
        "optimizer_states",
        "kinds",
    },
    "stacked_runs": {"types", "meta_gradients", "training_step"},
    "parallel": {"types", "checks", "meta_gradients", "training_step", "kinds", "given_data"},
    "checkpoint": {
        "types",
        "checks",
        "user_warnings",
        "regular_files",
        "training_step",
        "stacked_runs",
        "parallel",
        "kinds",
    },
    "iterator_states": set(),
    "iterable_episodes": {
        "types",
        "given_data",
        "checks",
        "user_warnings",
        "meta_gradients",
        "iterator_states",
        "kinds",
    },
    "sample_checks": {
        "types",
        "given_data",
        "checks",
        "streaming",
        "iterable_episodes",
        "kinds",
        "signatures",
    },
    "training": {
        "types",
        "checks",
        "user_warnings",
        "regular_files",
        "keys",
        "streaming",
        "training_step",
        "stacked_runs",
        "parallel",
        "checkpoint",
        "iterable_episodes",
        "sample_checks",
        "kinds",
    },
    "evaluation_chunks": {"types", "inner", "meta_gradients"},
    "evaluated_episodes": {
        "types",
        "checks",
        "keys",
        "evaluation_chunks",
        "streaming",
        "stacked_runs",
        "parallel",
        "iterable_episodes",
        "sample_checks",
        "training",
    },
    "evaluation": {
        "types",
        "checks",
        "evaluated_episodes",
        "training_step",
        "stacked_runs",
        "sample_checks",
        "training",
        "user_warnings",
    },
    "calibration": {
        "types",
        "given_data",
        "checks",
        "kinds",
        "evaluated_episodes",
        "training_step",
        "stacked_runs",
        "sample_checks",
        "training",
        "user_warnings",
    },
    "diagnosis": {
        "types",
        "items",
        "given_data",
        "losses",
        "checks",
        "keys",
        "inspection",
        "metric",
        "streaming",
        "parallel",
        "iterable_episodes",
        "sample_checks",
        "stacked_runs",
        "training_step",
        "training",
    },
    "rl": {
        "signatures",
        "types",
        "given_data",
        "checks",
        "keys",
        "checked_learners",
        "inner",
        "gradient_learners",
        "meta_gradients",
        "optimizer_states",
        "training_step",
        "kinds",
    },
    "recipes": {
        "types",
        "losses",
        "checks",
        "query_batching",
        "inner",
        "gradient_learners",
        "algorithms",
        "models",
        "data",
        "kinds",
    },
    "runs": {
        "types",
        "checks",
        "kinds",
        "user_warnings",
        "regular_files",
        "version",
        "stacked_runs",
        "data",
        "models",
        "recipes",
        "training_step",
        "training",
        "checkpoint",
        "evaluation",
        "parallel",
    },
    "pictures": {
        "types",
        "checks",
        "kinds",
        "user_warnings",
        "regular_files",
        "version",
        "exporting",
        "given_data",
        "metric",
        "algorithms",
        "models",
        "data",
        "calibration",
        "recipes",
        "runs",
    },
    "__main__": {"command_line"},
    "command_line": {
        "types",
        "checks",
        "kinds",
        "regular_files",
        "data",
        "models",
        "recipes",
        "runs",
        "pictures",
        "version",
    },
}
# The modules in which public names are found, beside the package itself.
PUBLIC = ("calibration", "data", "metric", "models", "models.kernels", "models.pretrained")
PUBLIC += ("parallel", "pictures", "recipes", "rl", "runs")


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
        if path.stem not in ("__init__", "public_names"):
            assert not [name for name in _imports(path) if name.startswith("metajax.algorithms")]


def test_flax_lives_in_models_only() -> None:
    for room, paths in _rooms().items():
        if room != "models":
            for path in paths:
                assert not [name for name in _imports(path) if name.split(".")[0] == "flax"]


def test_training_names_no_algorithm_but_maml() -> None:
    algorithms = {
        name
        for name in _imports(PACKAGE / "training_step.py")
        if name.startswith("metajax.algorithms")
    }
    assert algorithms == {"metajax.algorithms.maml.maml"}


def test_scikit_learn_lives_in_the_classifier_only() -> None:
    found = {path.name for paths in _rooms().values() for path in paths if _has(path, "sklearn")}
    assert found == {"classifier.py"}


def _has(path: Path, package: str) -> bool:
    return any(name.split(".")[0] == package for name in _imports(path))


def test_importing_computes_nothing_and_loads_no_extra() -> None:
    code = """
import sys, jax, metajax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not {"sklearn", "tyro", "matplotlib", "PIL", "safetensors"} & {*sys.modules}
sys.modules["sklearn"] = None
try:
    metajax.pictures
except ImportError as error:
    assert 'pip install "metajax[pictures]"' in str(error), error
else:
    raise AssertionError("it was imported")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names_exist_are_documented_and_are_no_modules() -> None:
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    for module in ("metajax", *(f"metajax.{name}" for name in PUBLIC)):
        room = importlib.import_module(module)
        for name in room.__all__:
            public = getattr(room, name)
            assert public.__doc__, f"{module}.{name}"
            if not isinstance(public, types.ModuleType):
                assert f"{module}.{name}" not in modules


def test_no_two_folders_on_the_path_of_tests_hold_one_name() -> None:
    root = Path(__file__).parents[1]
    folders = [root / name for name in ("tests", "examples", "benchmarks")]
    names = [path.stem for folder in folders for path in folder.glob("*.py")]
    assert sorted(set(names)) == sorted(names)
